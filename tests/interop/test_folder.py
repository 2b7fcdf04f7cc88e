"""A name finds its folder, from here or from the Hub, and a configuration that cannot be computed is refused."""

from __future__ import annotations

import json

import pytest
from tiny import write_tiny

from jaxbert.errors import UserError
from jaxbert.interop.folder import Hub, read_config, resolve

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
    assert "no folder" in (message := error_of(resolve, name)) or "is no model" in message


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
        ({"model_type": ...}, "model_type None"),
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


@pytest.mark.parametrize("content", ["", "{", "[]", "\udcff", '{"model_type": "bert"'])
def test_broken_json_is_refused(edit, content):
    folder = edit()
    (folder / "config.json").write_bytes(content.encode("utf-8", "surrogateescape"))
    assert "config.json" in error_of(read_config, folder)
