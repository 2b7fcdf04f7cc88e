"""What is written loads in PyTorch as it is, and comes back bit for bit."""

from __future__ import annotations

import json
import stat

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import traverse_util
from safetensors import safe_open
from tiny import assert_same_tensors, random_params, tiny_config, tiny_model, write_tiny

from jaxbert.errors import UserError
from jaxbert.interop import names
from jaxbert.interop.load import load_params
from jaxbert.interop.read import read_tensors
from jaxbert.interop.write import save_folder


@pytest.fixture
def folder(tmp_path):
    return tmp_path / "model"


def write_tokenizer(folder):
    from transformers import BertTokenizerFast

    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "a", "good", "bad", "film"]
    return BertTokenizerFast(vocab={word: i for i, word in enumerate(words)})


def test_the_export_holds_what_pytorch_expects(folder):
    write_tiny(folder)
    assert sorted(path.name for path in folder.iterdir()) == ["config.json", "model.safetensors"]
    with safe_open(folder / "model.safetensors", framework="np") as file:
        assert file.metadata() == {"format": "pt"}
        assert not [name for name in file.keys() if "position_ids" in name]  # noqa: SIM118 (not a mapping)
    content = json.loads((folder / "config.json").read_text())
    assert content["architectures"] == ["BertForSequenceClassification"]
    assert content["id2label"] == {"0": "bad", "1": "fair", "2": "good"}
    assert content["label2id"] == {"bad": 0, "fair": 1, "good": 2}
    assert (content["model_type"], content["problem_type"]) == ("bert", "single_label_classification")
    assert content["dtype"] == "float32"


def test_weights_are_as_readable_as_the_config(folder):
    write_tiny(folder)
    modes = {stat.S_IMODE(path.stat().st_mode) for path in folder.iterdir()}
    assert len(modes) == 1


def test_labels_beyond_ascii_and_the_problem_type_are_kept(folder):
    write_tiny(folder, id2label={0: "财经", 1: "体育"}, label2id=None, problem_type="multi_label_classification")
    text = (folder / "config.json").read_text(encoding="utf-8")
    assert "财经" in text
    assert json.loads(text)["label2id"] == {"财经": 0, "体育": 1}
    assert json.loads(text)["problem_type"] == "multi_label_classification"


def test_import_then_export_is_bit_identical(folder, tmp_path):
    tensors = write_tiny(folder)
    params, _ = load_params(folder, tiny_model())
    save_folder(tmp_path / "again", params, tiny_config())
    assert_same_tensors(read_tensors(tmp_path / "again"), tensors)
    assert (tmp_path / "again/model.safetensors").read_bytes() == (folder / "model.safetensors").read_bytes()


def test_arrays_on_devices_are_written(folder):
    model = tiny_model()
    params = random_params(model)
    save_folder(folder, jax.tree.map(jnp.asarray, params), model.config)
    assert_same_tensors(read_tensors(folder), names.to_torch(params))


def test_bfloat16_parameters_stay_bfloat16(folder):
    model = tiny_model()
    params = jax.tree.map(lambda x: jnp.asarray(x, jnp.bfloat16), random_params(model))
    save_folder(folder, params, model.config)
    assert json.loads((folder / "config.json").read_text())["dtype"] == "bfloat16"
    widened = {name: tensor.astype(np.float32) for name, tensor in names.to_torch(params).items()}
    assert_same_tensors(read_tensors(folder), widened)


def test_a_failed_write_leaves_the_old_files(folder, monkeypatch):
    tensors = write_tiny(folder)

    def fail(*_, **__):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("jaxbert.interop.write.save_file", fail)
    with pytest.raises(UserError, match="No space left on device"):
        write_tiny(folder, seed=1)
    assert sorted(path.name for path in folder.iterdir()) == ["config.json", "model.safetensors"]
    assert_same_tensors(read_tensors(folder), tensors)


@pytest.mark.parametrize("file", [1, 2])
def test_a_stop_while_files_go_to_the_disk_leaves_the_old_ones(folder, monkeypatch, file):
    """Else new weights would be read with the settings of the old ones, such as a threshold."""
    tensors, calls = write_tiny(folder), []

    def stop(number):
        calls.append(number)
        if len(calls) == file:
            raise KeyboardInterrupt

    monkeypatch.setattr("jaxbert.interop.write.os.fsync", stop)
    with pytest.raises(KeyboardInterrupt):
        write_tiny(folder, seed=1)
    assert_same_tensors(read_tensors(folder), tensors)


def test_a_file_in_the_way_is_one_line(folder):
    folder.write_text("")
    with pytest.raises(UserError, match="cannot be written"):
        write_tiny(folder)


def test_a_torch_checkpoint_comes_back_bit_for_bit(folder, tmp_path):
    pytest.importorskip("torch")
    from transformers import BertForSequenceClassification

    model = BertForSequenceClassification(tiny_config())
    model.save_pretrained(folder)
    params, _ = load_params(folder, tiny_model())
    save_folder(tmp_path / "again", params, tiny_config())
    expected = {name: tensor.numpy() for name, tensor in model.state_dict().items()}
    assert_same_tensors(read_tensors(tmp_path / "again"), expected)


def test_pytorch_loads_the_export_with_nothing_missing(folder):
    torch = pytest.importorskip("torch")
    from transformers import AutoModelForSequenceClassification

    tensors = write_tiny(folder)
    model, info = AutoModelForSequenceClassification.from_pretrained(folder, output_loading_info=True)
    assert not any(info.values()), info
    assert model.dtype == torch.float32
    assert_same_tensors({name: tensor.numpy() for name, tensor in model.state_dict().items()}, tensors)


def test_the_pipeline_loads_the_export(folder):
    torch = pytest.importorskip("torch")
    from transformers import pipeline

    model = tiny_model()
    save_folder(folder, random_params(model), model.config, write_tokenizer(folder))
    classify = pipeline("text-classification", str(folder), device="cpu")
    answer = classify("a good film", top_k=None)
    assert {entry["label"] for entry in answer} == {"bad", "fair", "good"}
    ids = classify.tokenizer("a good film")["input_ids"]
    assert ids == [2, 5, 6, 8, 3]
    with torch.no_grad():
        scores = classify.model(torch.tensor([ids])).logits.softmax(-1)[0]
    assert max(entry["score"] for entry in answer) == pytest.approx(float(scores.max()), abs=1e-6)


def test_stacked_tree_survives_the_trip_through_a_folder(folder):
    model = tiny_model()
    params = random_params(model)
    save_folder(folder, params, model.config)
    loaded, _ = load_params(folder, model)
    flat = traverse_util.flatten_dict
    assert_same_tensors(flat(loaded), flat(params))
