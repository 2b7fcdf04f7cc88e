"""What docs/security.md promises: nothing in a file runs, nothing outside its folder is opened, no size is believed."""

from __future__ import annotations

import json
import pickle
import subprocess
import sys
from pathlib import Path

import msgpack
import numpy as np
import pytest
from flax import serialization
from runs import SPECIAL, VOCAB, small_config, write_model
from tiny import write_tiny

from jaxbert.cli.main import main
from jaxbert.errors import UserError
from jaxbert.interop.bert_config import parse_config, read_config
from jaxbert.interop.read import read_tensors
from jaxbert.interop.tokenizer import load_tokenizer
from jaxbert.plain import MOST_JSON, read_json, read_yaml


def error_of(function, *args, **kwargs) -> str:
    with pytest.raises(UserError) as caught:
        function(*args, **kwargs)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def change(path: Path, **changes) -> None:
    """Change keys of a JSON file."""
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


@pytest.fixture
def model(tmp_path):
    """A whole model, in whose folder lies code that leaves a trace if anything imports it."""
    folder = write_model(tmp_path / "model")
    for name in ("evil.py", "modeling_evil.py"):
        code = f"open({str(tmp_path / 'trace')!r}, 'w')\nclass Evil:\n    from_pretrained = from_dict = print\n"
        (folder / name).write_text(code)
    return folder


@pytest.fixture(autouse=True)
def untouched(tmp_path, monkeypatch):
    """Nothing runs, and nobody is asked whether it may."""
    monkeypatch.setattr("builtins.input", lambda *_: pytest.fail("asked on the terminal"))
    yield
    assert not (tmp_path / "trace").exists()


class Trap:
    """Opens a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self):
        return open, (str(self.path), "w")


@pytest.mark.parametrize("kind", ["zip", "legacy", "plain pickle", "shard"])
def test_a_pickled_program_does_not_run(tmp_path, kind):
    torch = pytest.importorskip("torch")
    write_tiny(tmp_path / "model")
    path = tmp_path / "model" / "pytorch_model.bin"
    (tmp_path / "model" / "model.safetensors").unlink()
    content = {"bert.x": torch.zeros(2), "bert.y": Trap(tmp_path / "trace")}
    if kind == "plain pickle":
        path.write_bytes(pickle.dumps(content))
    elif kind == "shard":
        torch.save(content, path.with_name("pytorch_model-00001-of-00001.bin"))
        index = path.with_name("pytorch_model.bin.index.json")
        index.write_text(json.dumps({"weight_map": {"bert.x": "pytorch_model-00001-of-00001.bin"}}))
    else:
        torch.save(content, path, _use_new_zipfile_serialization=kind == "zip")
    assert "pytorch_model" in error_of(read_tensors, tmp_path / "model")


@pytest.mark.parametrize(("version", "refused"), [("2.9.1+cpu", True), ("1.13.1", True), ("2.10.0a0+git1", False)])
def test_a_torch_that_is_too_old_reads_nothing(tmp_path, monkeypatch, version, refused):
    torch = pytest.importorskip("torch")
    path = tmp_path / "pytorch_model.bin"
    torch.save({"bert.x": torch.zeros(2)}, path)
    monkeypatch.setattr(torch, "__version__", version)
    if refused:
        monkeypatch.setattr(torch, "load", lambda *_, **__: pytest.fail("read"))
        assert f"torch {version} cannot read one safely: `pip install 'torch>=2.10'`" in error_of(read_tensors, path)
    else:
        assert read_tensors(path).keys() == {"bert.x"}


def test_a_bin_cannot_claim_more_than_it_holds(tmp_path):
    torch = pytest.importorskip("torch")
    path = tmp_path / "pytorch_model.bin"
    torch.save({"bert.x": torch.zeros(1).expand(10**12)}, path)
    assert "overlap" in error_of(read_tensors, path)
    same = torch.zeros(10_000, dtype=torch.bfloat16)
    torch.save({f"bert.{i}": same for i in range(3)}, path)
    assert "overlap" in error_of(read_tensors, path)
    torch.save({"bert.x": torch.zeros(2).to_sparse()}, path)
    assert str(path) in error_of(read_tensors, path)
    torch.save({"bert.x": torch.zeros(2, device="meta")}, path)
    assert str(path) in error_of(read_tensors, path)


def test_a_compressed_bin_is_refused(tmp_path):
    torch = pytest.importorskip("torch")
    import zipfile

    torch.save({"bert.x": torch.zeros(100_000)}, tmp_path / "stored.bin")
    path = tmp_path / "pytorch_model.bin"
    with zipfile.ZipFile(tmp_path / "stored.bin") as stored, zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as packed:
        for entry in stored.infolist():
            packed.writestr(entry.filename, stored.read(entry))
    assert "it is compressed" in error_of(read_tensors, path)


CODE = {
    "auto_map": {
        "AutoConfig": "evil.Evil",
        "AutoTokenizer": ["evil.Evil", "evil.Evil"],
        "AutoModel": "modeling_evil.Evil",
    },
    "trust_remote_code": True,
}


@pytest.mark.parametrize(
    "files", [["config.json"], ["tokenizer_config.json"], ["config.json", "tokenizer_config.json"]]
)
@pytest.mark.parametrize("more", [{}, {"tokenizer_class": "EvilTokenizer"}, {"auto_map": ["evil.Evil", "evil.Evil"]}])
def test_code_in_a_models_folder_is_never_imported(model, files, more):
    for name in files:
        change(model / name, **CODE | more)
    tokenizer = load_tokenizer(model, read_config(model))
    assert len(tokenizer) == len(VOCAB)
    tokenizer.save_pretrained(model.parent / "saved")
    assert "auto_map" not in (model.parent / "saved" / "tokenizer_config.json").read_text()


def test_no_other_configuration_is_looked_for(model):
    change(model / "config.json", configuration_files=["config.4.0.0.json"])
    (model / "config.4.0.0.json").write_text(json.dumps({"model_type": "evil"} | CODE))
    change(model / "tokenizer_config.json", **CODE)
    assert len(load_tokenizer(model, read_config(model))) == len(VOCAB)


def test_predicting_runs_nothing_either(model, tmp_path, capsys):
    change(model / "config.json", **CODE)
    change(model / "tokenizer_config.json", **CODE)
    (tmp_path / "in.txt").write_text("w1 w2\n")
    assert main(["predict", "--model", str(model), "--input", str(tmp_path / "in.txt")]) == 0
    assert '"label"' in capsys.readouterr().out


@pytest.mark.parametrize(
    "name", ["BertModel", "AutoModel", "AutoTokenizer", "RagTokenizer", "Trainer", "pipeline", 3, ["a"]]
)
@pytest.mark.parametrize("file", ["tokenizer_config.json", "config.json"])
def test_a_tokenizers_class_must_be_one(model, name, file):
    if file == "config.json":
        change(model / "tokenizer_config.json", tokenizer_class=None)
    change(model / file, tokenizer_class=name)
    assert "tokenizer_class" in error_of(lambda: load_tokenizer(model, read_config(model)))


@pytest.mark.parametrize(
    ("key", "value"), [("vocab", "SECRET"), ("init_inputs", ["SECRET"]), ("gguf_file", "SECRET"), ("merges", "SECRET")]
)
def test_a_tokenizer_opens_no_other_files(model, tmp_path, key, value):
    secret = tmp_path / "secret.txt"
    secret.write_text("\n".join((*SPECIAL, "secret")))
    (model / "tokenizer.json").unlink()
    (model / "vocab.txt").write_text("\n".join(VOCAB))
    change(model / "tokenizer_config.json", **{key: json.loads(json.dumps(value).replace("SECRET", str(secret)))})
    assert f"tokenizer_config.json has {key}" in error_of(load_tokenizer, model, small_config())


def test_paths_of_a_tokenizers_own_files_are_not_believed(model, tmp_path):
    secret = tmp_path / "secret.txt"
    secret.write_text("\n".join((*SPECIAL, "secret")))
    names = ("vocab_file", "tokenizer_file", "special_tokens_map_file", "added_tokens_file")
    change(model / "tokenizer_config.json", **dict.fromkeys(names, str(secret)))
    assert "secret" not in load_tokenizer(model, small_config()).get_vocab()
    change(model / "tokenizer_config.json", fast_tokenizer_files=["../tokenizer.1.0.json"])
    assert "only files of its own folder" in error_of(load_tokenizer, model, small_config())


def test_chat_templates_are_neither_run_nor_handed_on(model, tmp_path):
    change(model / "tokenizer_config.json", chat_template="{{ ().__class__ }}")
    (model / "chat_template.jinja").write_text("{{ ().__class__ }}")
    load_tokenizer(model, small_config()).save_pretrained(tmp_path / "saved")
    assert "__class__" not in "".join(path.read_text() for path in (tmp_path / "saved").iterdir())


@pytest.mark.parametrize("ids", [[10**6], [2**31]])
def test_a_tokenizers_ids_must_have_an_embedding(model, ids):
    content = json.loads((model / "tokenizer.json").read_text())
    special = content["post_processor"]["special_tokens"]["[CLS]"]
    special["ids"] = ids
    (model / "tokenizer.json").write_text(json.dumps(content))
    change(model / "tokenizer_config.json", tokenizer_class="PreTrainedTokenizerFast")
    assert "token ids" in error_of(load_tokenizer, model, small_config())


SIZES = {
    "vocab_size": [0, -1, 10**12, "many", None, 1.5],
    "hidden_size": [10**9, -4],
    "num_hidden_layers": [10**9],
    "intermediate_size": [10**12],
    "max_position_embeddings": [0, 10**12],
    "type_vocab_size": [0, 10**9],
    "num_labels": [0, -1, 10**12, "3", 2.5, True],
    "id2label": [{}, [], {"1": "a"}, {"0": "a", "x": "b"}, {"0": ["a"]}, "ab"],
    "hidden_dropout_prob": [1, -0.1, float("nan"), "0.1"],
    "classifier_dropout": [2, float("inf")],
    "layer_norm_eps": [-1.0, float("nan"), float("inf")],
    "dtype": ["load", "nn", 32, ["float32"]],
    "to_dict": [1],
    "save_pretrained": [None],
    "__class__": ["x"],
}


@pytest.mark.parametrize(("key", "value"), [(key, value) for key, values in SIZES.items() for value in values])
def test_no_number_in_a_configuration_is_believed(key, value):
    content = json.loads(json.dumps(small_config().to_dict())) | {key: value}
    if key == "num_labels":
        del content["id2label"]
    assert key in error_of(parse_config, content, "config.json")


PICKLED = b"\x80\x04cos\nmkdir\n(S'trace'\ntR."


def test_msgpack_holds_tensors_only(tmp_path):
    path = tmp_path / "flax_model.msgpack"
    array = serialization.to_bytes({"bert": {"x": np.zeros(3, np.float32)}})
    nested = b"\x81\xa1a" * 2000
    arrays = b"\xdd\x00\x01\x00\x00" * 900 + b"\0" * 60_000
    inner = msgpack.packb(([3], "object", PICKLED))
    cases = [array[:-1], nested, arrays, msgpack.packb({"a": msgpack.ExtType(1, inner)}), msgpack.packb({"a": [1]})]
    cases += [
        msgpack.packb({"a": msgpack.ExtType(1, msgpack.packb(parts))})
        for parts in (
            ([3], "float32", b"\0" * 11),
            ([-1], "float32", b"\0" * 4),
            ([2**62, 4], "float32", b""),
            ([], "float32"),
            ([1], "V4", b"\0" * 4),
        )
    ]
    cases += [b"\x81\xa1a\xc7\xff\x01" + arrays, b"\xdf\xff\xff\xff\xff", b"\x81\xa1a\xc9\xff\xff\xff\xff\x01", PICKLED]
    for content in cases:
        path.write_bytes(content)
        assert "is not a complete Flax msgpack file" in error_of(read_tensors, path)
    path.write_bytes(array)
    assert read_tensors(path).keys() == {"bert.x"}


def header(content: object, length: int | None = None, numbers: int = 16) -> bytes:
    text = json.dumps(content).encode()
    return (len(text) if length is None else length).to_bytes(8, "little") + text + b"\0" * numbers


def tensor(begin: int, end: int, shape: list[int], dtype: str = "F32") -> dict:
    return {"dtype": dtype, "shape": shape, "data_offsets": [begin, end]}


@pytest.mark.parametrize(
    "content",
    [
        header({"a": tensor(0, 16, [4])}, length=2**60),
        header({"a": tensor(0, 16, [4])}, length=9 * 2**20),
        header({"a": tensor(0, 16, [4]), "b": tensor(8, 16, [2])}),
        header({"a": tensor(0, 2**60, [2**58])}),
        header({"a": tensor(16, 0, [4])}),
        header({"a": tensor(0, 16, [2**32, 2**32])}),
        header({"a": tensor(0, 16, [4], "F999")}),
        header({"a": tensor(0, 16, [-4])}),
        header({"a": tensor(0, 8, [2])}),
        header([]),
        header({"a": tensor(0, 16, [16], "F8_E4M3")}),
        header({"a": tensor(0, 16, [2], "C64")}),
    ],
)
def test_safetensors_headers_are_checked(tmp_path, content):
    path = tmp_path / "model.safetensors"
    path.write_bytes(content)
    assert str(path) in error_of(read_tensors, path)


def test_settings_files_have_bounds(tmp_path):
    path = tmp_path / "x"
    path.write_bytes(b"[" * (MOST_JSON + 1))
    assert "larger than 32768 KiB" in error_of(read_json, path)
    path.write_text("a: " + "x" * 2**18)
    assert "larger than 256 KiB" in error_of(read_yaml, path, "x")
    for content in (
        "[" * 5000,
        "&a [*a]",
        "a: !!python/object/apply:os.mkdir [trace]",
        "!!bool x",
        "2001-99-99",
        "\0",
        "\t- x",
    ):
        path.write_text(content)
        assert "cannot be read as YAML" in (message := error_of(read_yaml, path, "x")) or "values" in message


def test_an_alias_of_aliases_does_not_grow(tmp_path):
    path = tmp_path / "x.yaml"
    lines = ["a0: &a0 [1, 1]"] + [f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9)}]" for i in range(1, 30)]
    path.write_text("\n".join(lines))
    assert "more than 10000 values" in error_of(read_yaml, path, "x")
    path.write_text("a: &a [1, 2]\nb: *a\n")
    assert read_yaml(path, "x") == {"a": [1, 2], "b": [1, 2]}


def test_names_in_files_do_not_reach_the_terminal_raw(tmp_path, capsys):
    path = tmp_path / "run.yaml"
    path.write_text('train:\n  "\\e[31mred\\e[0m\\u202e": 1\n')
    assert main(["train", "--config", str(path)]) == 2
    assert "\x1b" not in (said := capsys.readouterr().err)
    assert "\u202e" not in said


_MEASURE = """
import sys
from pathlib import Path
from jaxbert.interop.read import read_tensors
read_tensors(Path(sys.argv[1]))
def kib(key):
    return next(int(line.split()[1]) for line in open("/proc/self/status") if line.startswith(key))
before = kib("VmRSS")
open("/proc/self/clear_refs", "w").write("5")
tensors = read_tensors(Path(sys.argv[2]))
print(kib("VmHWM") - before, sum(tensor.nbytes for tensor in tensors.values()) // 1024)
"""


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="the kernel's own count is Linux's")
@pytest.mark.parametrize("kind", ["safetensors", "msgpack"])
def test_reading_takes_at_most_twice_the_file(tmp_path, kind):
    """The peak of the resident memory in a process of its own; the pages of a mapped file count."""
    from safetensors.numpy import save

    def write(size: int) -> Path:
        tensors = {f"bert.{i}": np.ones(size, np.float32) for i in range(16)}
        path = tmp_path / f"{size}.{kind}"
        path.write_bytes(save(tensors) if kind == "safetensors" else serialization.to_bytes(tensors))
        return path

    small, large = write(10), write(2**20)
    command = [sys.executable, "-c", _MEASURE, str(small), str(large)]
    peak, held = map(int, subprocess.run(command, capture_output=True, text=True, check=True).stdout.split())
    size = large.stat().st_size // 1024
    assert held >= size - 10
    assert peak <= 2 * size + 8 * 1024, f"{peak} KiB for a file of {size} KiB"
