"""A checkpoint of any head gives what it has to any other, and the vocabulary's weights may lie in a file in any way."""

from __future__ import annotations

import jax
import numpy as np
import pytest
from tiny import assert_same_tensors, random_params, tiny_config, write_tensors

from jaxbert.errors import UserError
from jaxbert.interop import names
from jaxbert.interop.load import fit_params, load_params, replace_misshapen
from jaxbert.interop.read import read_tensors
from jaxbert.interop.write import save_folder
from jaxbert.models import heads
from jaxbert.models.functional import make_model

KEY = jax.random.key(3)
WORDS, DECODER = "bert.embeddings.word_embeddings.weight", "cls.predictions.decoder.weight"
BIAS, DECODER_BIAS = "cls.predictions.bias", "cls.predictions.decoder.bias"
POOLER = {"bert.pooler"}
PARTS = {
    heads.BertModel: POOLER,
    heads.SequenceClassificationHead: POOLER | {"classifier"},
    heads.TokenClassificationHead: {"classifier"},
    heads.QuestionAnsweringHead: {"qa_outputs"},
    heads.MaskedLM: {"cls.predictions"},
    heads.NextSentencePrediction: POOLER | {"cls.seq_relationship"},
    heads.PreTraining: POOLER | {"cls.predictions", "cls.seq_relationship"},
}
"""What each model has besides embeddings and layers."""


def make(head, **changes):
    return make_model(head, tiny_config(num_hidden_layers=1, **changes))


def write(folder, head, **changes):
    model = make(head, **changes)
    params = random_params(model)
    save_folder(folder, params, model.config, architecture="BertModel" if head is heads.BertModel else "")
    return names.to_torch(params)


def parts(tensor_names):
    return {".".join(name.split(".")[: 2 if name.startswith(("bert.", "cls.")) else 1]) for name in tensor_names}


@pytest.mark.parametrize("theirs", PARTS, ids=lambda head: head.__name__)
def test_every_head_starts_from_every_checkpoint(theirs, tmp_path):
    tensors = write(tmp_path, theirs)
    for ours, wanted in PARTS.items():
        params, report = load_params(tmp_path, make(ours), key=KEY)
        assert parts(report.fresh) == wanted - PARTS[theirs], ours
        assert parts(report.unused) == PARTS[theirs] - wanted, ours
        found = names.to_torch(params)
        assert_same_tensors({n: found[n] for n in report.loaded}, {n: tensors[n] for n in report.loaded})
        assert {*report.loaded, *report.fresh} == found.keys()


def test_a_pooler_too_much_is_no_error_even_for_prediction(tmp_path):
    pooler = {f"bert.pooler.dense.{name}": np.ones(2, np.float32) for name in ("weight", "bias")}
    write_tensors(tmp_path, write(tmp_path, heads.TokenClassificationHead) | pooler)
    _, report = load_params(tmp_path, make(heads.TokenClassificationHead))
    assert (report.fresh, set(report.unused)) == ((), set(pooler))


def test_one_copy_of_tied_weights_is_written(tmp_path):
    tensors = write(tmp_path, heads.MaskedLM)
    assert not {DECODER, DECODER_BIAS} & tensors.keys()
    assert read_tensors(tmp_path).keys() == tensors.keys()


@pytest.mark.parametrize("added", [{DECODER}, {DECODER_BIAS}, {DECODER, DECODER_BIAS}])
@pytest.mark.parametrize("dropped", [set(), {WORDS, BIAS}])
def test_tied_copies_are_read_from_either_name(tmp_path, added, dropped):
    tensors = write(tmp_path, heads.MaskedLM)
    copies = {DECODER: tensors[WORDS], DECODER_BIAS: tensors[BIAS]}
    lost = {name for name in dropped if {WORDS: DECODER, BIAS: DECODER_BIAS}[name] in added}
    kept = {name: tensor for name, tensor in tensors.items() if name not in lost}
    write_tensors(tmp_path, kept | {name: copies[name] for name in added})
    params, report = load_params(tmp_path, make(heads.MaskedLM))
    assert (report.fresh, report.unused) == ((), ())
    assert_same_tensors(names.to_torch(params), tensors)
    params, report = load_params(tmp_path, make(heads.TokenClassificationHead), key=KEY)
    np.testing.assert_array_equal(names.to_torch(params)[WORDS], tensors[WORDS])


def test_of_two_biases_the_decoder_adds_its_own(tmp_path):
    tensors = write(tmp_path, heads.MaskedLM)
    write_tensors(tmp_path, tensors | {DECODER_BIAS: tensors[BIAS] + 1})
    params, _ = load_params(tmp_path, make(heads.MaskedLM))
    np.testing.assert_array_equal(params["cls"]["predictions"]["bias"], tensors[BIAS] + 1)


def test_tables_that_differ_are_not_tied(tmp_path):
    tensors = write(tmp_path, heads.MaskedLM)
    write_tensors(tmp_path, tensors | {DECODER: tensors[WORDS] + 1})
    with pytest.raises(UserError, match="tie_word_embeddings to false"):
        load_params(tmp_path, make(heads.MaskedLM), key=KEY)
    load_params(tmp_path, make(heads.TokenClassificationHead), key=KEY)
    params, _ = load_params(tmp_path, make(heads.MaskedLM, tie_word_embeddings=False))
    np.testing.assert_array_equal(params["cls"]["predictions"]["decoder"]["kernel"], tensors[WORDS].T + 1)


def test_an_untied_decoder_is_written_with_both_biases(tmp_path):
    tensors = write(tmp_path, heads.MaskedLM, tie_word_embeddings=False)
    assert read_tensors(tmp_path).keys() == tensors.keys() | {DECODER_BIAS}
    params, report = load_params(tmp_path, make(heads.MaskedLM, tie_word_embeddings=False))
    assert report.unused == ()
    assert_same_tensors(names.to_torch(params), tensors)


def test_another_vocabulary_starts_both_tables_anew(tmp_path):
    tensors = write(tmp_path, heads.MaskedLM)
    larger = make(heads.MaskedLM, vocab_size=150)
    resized, changed = replace_misshapen(tensors | {DECODER: tensors[WORDS]}, larger, key=KEY, source="here")
    assert changed == [f"{WORDS} [120, 32] instead of [150, 32]", f"{BIAS} [120] instead of [150]"]
    _, report = fit_params(resized, larger, key=None, source="here")
    assert (report.fresh, report.unused) == ((), ())


def test_half_of_a_head_is_damage(tmp_path):
    tensors = write(tmp_path, heads.PreTraining)
    write_tensors(tmp_path, {n: x for n, x in tensors.items() if n != "cls.predictions.transform.LayerNorm.bias"})
    with pytest.raises(UserError, match=r"missing: cls\.predictions\.transform\.LayerNorm\.bias"):
        load_params(tmp_path, make(heads.PreTraining), key=KEY)
    _, report = load_params(tmp_path, make(heads.NextSentencePrediction), key=KEY)
    assert report.fresh == ()
