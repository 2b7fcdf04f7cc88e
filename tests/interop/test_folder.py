"""A name finds its folder, from here or from the Hub, and a configuration that cannot be computed is refused."""

from __future__ import annotations

import json

import pytest
from tiny import write_tiny

from jaxbert.errors import UserError
from jaxbert.interop.bert_config import read_config
from jaxbert.interop.folder import Hub, resolve

COMMIT = "a" * 40


def error_of(function, *args) -> str:
    with pytest.raises(UserError) as caught:
        function(*args)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def put_in_cache(cache, name="org/tiny"):
    """Lay out a snapshot as the Hub's library does."""
    repo = cache / f"models--{name.replace('/', '--')}"
    (repo / "refs").mkdir(parents=True)
    (repo / "refs" / "main").write_text(COMMIT)
    write_tiny(repo / "snapshots" / COMMIT)
    return repo / "snapshots" / COMMIT


def test_an_existing_folder_is_local(tmp_path, monkeypatch):
    write_tiny(tmp_path / "org" / "tiny")
    monkeypatch.chdir(tmp_path)
    assert resolve("org/tiny").samefile(tmp_path / "org" / "tiny")
    assert resolve("./org/tiny").samefile(tmp_path / "org" / "tiny")
    assert resolve(tmp_path / "org" / "tiny").samefile(tmp_path / "org" / "tiny")


def test_a_cached_hub_name_needs_no_network(tmp_path):
    snapshot = put_in_cache(tmp_path)
    assert resolve("org/tiny", Hub(cache_dir=tmp_path)).samefile(snapshot)
    assert read_config(snapshot).num_labels == 3


def test_a_cached_model_in_another_format_is_found(tmp_path):
    snapshot = put_in_cache(tmp_path)
    (snapshot / "model.safetensors").rename(snapshot / "flax_model.msgpack")
    assert resolve("org/tiny", Hub(cache_dir=tmp_path)).samefile(snapshot)


def test_a_hub_name_that_is_not_cached_is_one_line_offline(tmp_path):
    message = error_of(resolve, "org/other", Hub(cache_dir=tmp_path))
    assert "'org/other'" in message
    assert "cannot be reached" in message


@pytest.mark.parametrize("name", ["./none", "/none/here", "a/b/c", "..", "~/none here", "name with blanks", ""])
def test_a_missing_folder_is_one_line(name, tmp_path, monkeypatch):
    (tmp_path / "inner").mkdir()
    monkeypatch.chdir(tmp_path / "inner")
    assert "not a folder" in (message := error_of(resolve, name)) or "is not a model" in message


def test_a_folder_that_is_no_model_says_what_it_lacks(tmp_path):
    assert "no config.json and no weights" in error_of(resolve, tmp_path)
    (tmp_path / "config.json").write_text("{}")
    assert "it has no weights" in error_of(resolve, str(tmp_path))


def test_a_file_is_no_folder(tmp_path):
    write_tiny(tmp_path / "model")
    assert "is a file" in error_of(resolve, str(tmp_path / "model" / "model.safetensors"))


@pytest.fixture
def edit(tmp_path):
    """Change entries of a good config.json; return its folder."""
    write_tiny(tmp_path / "model")
    path = tmp_path / "model" / "config.json"

    def change(**changes):
        content = json.loads(path.read_text()) | changes
        path.write_text(json.dumps({key: value for key, value in content.items() if value is not ...}))
        return tmp_path / "model"

    return change


def test_a_good_config_is_read_whatever_the_folder_is_called(edit):
    config = read_config(edit(architectures=["RobertaModel"], _name_or_path="hfl/chinese-roberta-wwm-ext"))
    assert (config.model_type, config.num_hidden_layers, config.id2label[2]) == ("bert", 3, "good")


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"model_type": "roberta"}, "'roberta'"),
        ({"model_type": ..., "vocab_size": ...}, "has no model_type and lacks vocab_size"),
        ({"model_type": ..., "architectures": ["RobertaModel"]}, "has architectures ['RobertaModel']: only BERT"),
        ({"model_type": ..., "embedding_size": 16}, "embedding_size like ALBERT or ELECTRA"),
        ({"model_type": ..., "type_vocab_size": 1}, "type_vocab_size 1 like RoBERTa"),
        ({"model_type": ..., "use_relative_position": True}, "like NEZHA: only BERT is supported"),
        ({"position_embedding_type": "relative_key"}, "'relative_key'"),
        ({"hidden_act": "mish"}, "'mish'"),
        ({"hidden_act": ["gelu"]}, "hidden_act"),
        ({"is_decoder": True}, "is_decoder"),
        ({"add_cross_attention": True}, "add_cross_attention"),
        ({"hidden_size": "wide"}, "hidden_size"),
        ({"hidden_size": 30}, "num_attention_heads"),
        ({"num_hidden_layers": 0}, "num_hidden_layers"),
        ({"id2label": ["a"]}, "config.json"),
    ],
)
def test_a_config_that_cannot_be_computed_is_refused(edit, changes, expected):
    message = error_of(read_config, edit(**changes))
    assert expected in message
    assert "config.json" in message


OLDEST = ("vocab_size", "hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size", "hidden_act")
OLDEST += ("max_position_embeddings", "type_vocab_size", "hidden_dropout_prob", "attention_probs_dropout_prob")


@pytest.mark.parametrize("name", ["config.json", "bert_config.json"])
def test_a_config_of_the_shape_of_bert_is_taken_for_one(edit, name, caplog):
    folder = edit()
    path = folder / "config.json"
    content = json.loads(path.read_text())
    path.rename(folder / name).write_text(json.dumps({k: content[k] for k in OLDEST} | {"directionality": "bidi"}))
    config = read_config(resolve(folder))
    assert (config.model_type, config.num_hidden_layers, config.vocab_size) == ("bert", 3, 120)
    assert caplog.messages == [f"{folder / name} has no model_type: it is taken for that of a BERT"]


def test_a_whole_config_by_googles_name_is_said(edit, caplog):
    folder = edit()
    (folder / "config.json").rename(folder / "bert_config.json")
    assert read_config(resolve(folder)).id2label[2] == "good"
    assert caplog.messages == [f"{folder / 'bert_config.json'} is used, because there is no config.json"]


@pytest.mark.parametrize("below", ["checkpoint-500", "0_Transformer", "export", f"snapshots/{COMMIT}"])
def test_the_only_model_one_folder_below_is_taken_and_said(tmp_path, below, caplog):
    write_tiny(tmp_path / below)
    (tmp_path / "optimizer").mkdir()
    (tmp_path / "1_Pooling").mkdir()
    (tmp_path / "1_Pooling" / "config.json").write_text('{"pooling_mode_cls_token": true}')
    write_tiny(tmp_path / "2_Dense")
    (tmp_path / "2_Dense" / "config.json").write_text('{"in_features": 32}')
    assert resolve(tmp_path) == tmp_path / below
    assert caplog.messages == [f"the folder {tmp_path} is not a model itself: its subfolder {below} is used"]


def test_a_model_of_sentence_transformers_says_so(tmp_path, caplog):
    write_tiny(tmp_path)
    (tmp_path / "modules.json").write_text("[]")
    assert resolve(tmp_path) == tmp_path
    assert "sentence-transformers: only its BERT is used" in caplog.text


def test_a_model_is_taken_before_those_below(tmp_path, caplog):
    write_tiny(tmp_path)
    write_tiny(tmp_path / "checkpoint-500")
    assert (resolve(tmp_path), caplog.messages) == (tmp_path, [])


def test_several_models_below_are_listed_by_their_numbers(tmp_path):
    for step in (1500, 500, 1000):
        write_tiny(tmp_path / f"checkpoint-{step}")
    expected = "holds 3 models: name one of them (checkpoint-500, checkpoint-1000, checkpoint-1500)"
    assert expected in error_of(resolve, tmp_path)


def test_of_several_snapshots_the_main_one_is_taken(tmp_path):
    main = put_in_cache(tmp_path)
    write_tiny(main.with_name("b" * 40))
    assert resolve(main.parents[1]) == main


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        (("bert_config.json", "bert_model.ckpt.index"), "no weights (model.safetensors, pytorch_model.bin, flax_model"),
        (("bert_config.json", "bert_model.ckpt.index"), "TensorFlow's weights: convert them once"),
        (("uncased_L-2/bert_model.ckpt.meta",), "transformers-cli convert --model_type bert"),
        (("config.json", "tf_model.h5"), "AutoModel.from_pretrained(FOLDER, from_tf=True)"),
        (("adapter_config.json", "adapter_model.safetensors"), "an adapter (PEFT, LoRA) to 'org/base': merge the two"),
        (("config.json", "onnx/model.onnx"), "an ONNX graph"),
        (("config.json", "model.fp16.safetensors"), "weights by another name: rename them to model.safetensors"),
        (("model.safetensors",), "is not a model: it has no config.json"),
    ],
)
def test_what_is_no_model_is_named_for_what_it_is(tmp_path, files, expected):
    for name in files:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text('{"base_model_name_or_path": "org/base"}')
    message = error_of(resolve, tmp_path)
    assert expected in message
    assert str(tmp_path) in message


@pytest.mark.parametrize("content", ["", "{", "[]", "\udcff", '{"model_type": "bert"'])
def test_broken_json_is_refused(edit, content):
    folder = edit()
    (folder / "config.json").write_bytes(content.encode("utf-8", "surrogateescape"))
    assert "config.json" in error_of(read_config, folder)
