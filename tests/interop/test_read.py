"""Every format and age of checkpoint gives the same tensors; every broken one gives one line that names it."""

from __future__ import annotations

import json
import subprocess
import sys

import ml_dtypes
import numpy as np
import pytest
from flax import serialization, traverse_util
from safetensors.numpy import save_file
from tiny import assert_same_tensors, write_tensors

from jaxbert.errors import UserError
from jaxbert.interop import names
from jaxbert.interop.read import read_tensors


def only(folder, name):
    """Remove all weights but one file."""
    for path in folder.glob("*model*"):
        if path.name != name:
            path.unlink()


def write_shards(folder, tensors, suffix=".safetensors", save=None):
    """Write two shards and their index."""
    only(folder, None)
    stem = "model" if suffix == ".safetensors" else "pytorch_model"
    listed = sorted(tensors)
    weight_map = {}
    for i, part in enumerate((listed[::2], listed[1::2])):
        name = f"{stem}-0000{i + 1}-of-00002{suffix}"
        (save or save_file)({n: np.ascontiguousarray(tensors[n]) for n in part}, folder / name)
        weight_map |= dict.fromkeys(part, name)
    index = folder / f"{stem}{suffix}.index.json"
    index.write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))
    return index


def save_bin(tensors, path, **kwargs):
    torch = pytest.importorskip("torch")
    torch.save({n: torch.from_numpy(np.ascontiguousarray(t)) for n, t in tensors.items()}, path, **kwargs)


def error_of(path) -> str:
    """Return the message, after checking that it is one line."""
    with pytest.raises(UserError) as caught:
        read_tensors(path)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_safetensors(folder, tensors):
    assert_same_tensors(read_tensors(folder), tensors)
    assert_same_tensors(read_tensors(folder / "model.safetensors"), tensors)


def test_sharded_safetensors(folder, tensors):
    write_shards(folder, tensors)
    assert_same_tensors(read_tensors(folder), tensors)


@pytest.mark.parametrize("legacy_zip", [True, False])
def test_bin(folder, tensors, legacy_zip):
    only(folder, None)
    save_bin(tensors, folder / "pytorch_model.bin", _use_new_zipfile_serialization=legacy_zip)
    assert_same_tensors(read_tensors(folder), tensors)


def test_sharded_bin(folder, tensors):
    pytest.importorskip("torch")
    write_shards(folder, tensors, ".bin", save_bin)
    assert_same_tensors(read_tensors(folder), tensors)


def test_msgpack(folder, tensors):
    tree = names.unstack_layers(names.from_torch(tensors))
    only(folder, None)
    (folder / "flax_model.msgpack").write_bytes(serialization.to_bytes(tree))
    assert_same_tensors(read_tensors(folder), tensors)


def test_sharded_msgpack(folder, tensors):
    flat = traverse_util.flatten_dict(names.unstack_layers(names.from_torch(tensors)), sep="/")
    only(folder, None)
    listed, weight_map = sorted(flat), {}
    for i, part in enumerate((listed[::2], listed[1::2])):
        name = f"flax_model-0000{i + 1}-of-00002.msgpack"
        tree = traverse_util.unflatten_dict({n: flat[n] for n in part}, sep="/")
        (folder / name).write_bytes(serialization.to_bytes(tree))
        weight_map |= dict.fromkeys(part, name)
    (folder / "flax_model.msgpack.index.json").write_text(json.dumps({"weight_map": weight_map}))
    assert_same_tensors(read_tensors(folder), tensors)


def test_safetensors_with_flax_names(folder, tensors):
    flat = traverse_util.flatten_dict(names.unstack_layers(names.from_torch(tensors)), sep=".")
    contiguous = {name: np.ascontiguousarray(tensor) for name, tensor in flat.items()}
    save_file(contiguous, folder / "model.safetensors", metadata={"format": "flax"})
    assert_same_tensors(read_tensors(folder), tensors)


def test_old_names_no_prefix_and_buffers(folder, tensors):
    def old(name):
        if "LayerNorm" in name:
            name = name.replace("LayerNorm.weight", "LayerNorm.gamma").replace("LayerNorm.bias", "LayerNorm.beta")
        return name.removeprefix("bert.")

    renamed = {old(name): tensor for name, tensor in tensors.items()}
    assert "embeddings.LayerNorm.gamma" in renamed
    write_tensors(folder, renamed | {"embeddings.position_ids": np.arange(40)[None]})
    assert_same_tensors(read_tensors(folder), tensors)


WRAPPERS = ["module.", "model.", "_orig_mod.", "bert.", "module._orig_mod.model.", "0.auto_model."]


@pytest.mark.parametrize("wrapper", WRAPPERS)
@pytest.mark.parametrize("bare", [False, True])
def test_a_prefix_of_all_names_is_taken_off_and_said(folder, tensors, wrapper, bare, caplog):
    if bare:
        tensors = {name: tensor for name, tensor in tensors.items() if name.startswith("bert.")}
    named = {wrapper + name.removeprefix("bert." if bare else ""): tensor for name, tensor in tensors.items()}
    write_tensors(folder, named)
    assert_same_tensors(read_tensors(folder), tensors)
    usual = bare and wrapper == "bert."
    said = f"the name of every tensor begins with {wrapper}, which is removed"
    assert [message.partition(": ")[2] for message in caplog.messages] == ([] if usual else [said])


def test_a_prefix_of_some_names_stays(folder, tensors):
    named = {"model." + n.removeprefix("bert.") if n.startswith("bert.") else n: t for n, t in tensors.items()}
    write_tensors(folder, named)
    assert read_tensors(folder).keys() == named.keys()


def test_two_encoders_keep_their_names(folder, tensors):
    two = {f"{side}.{name}": tensor for side in ("student", "teacher") for name, tensor in tensors.items()}
    write_tensors(folder, two)
    assert read_tensors(folder).keys() == two.keys()


def test_a_name_in_both_spellings_is_refused(folder, tensors):
    write_tensors(folder, tensors | {"bert.embeddings.LayerNorm.gamma": tensors["bert.embeddings.LayerNorm.weight"]})
    assert "bert.embeddings.LayerNorm.weight twice" in error_of(folder)


@pytest.mark.parametrize("dtype", [np.float16, ml_dtypes.bfloat16, np.float64])
def test_other_precisions_become_float32(folder, tensors, dtype):
    narrow = {name: tensor.astype(dtype) for name, tensor in tensors.items()}
    write_tensors(folder, narrow)
    assert_same_tensors(read_tensors(folder), {name: tensor.astype(np.float32) for name, tensor in narrow.items()})


def test_bfloat16_bin(folder, tensors):
    torch = pytest.importorskip("torch")
    only(folder, None)
    narrow = {name: torch.from_numpy(np.ascontiguousarray(t)).bfloat16() for name, t in tensors.items()}
    torch.save(narrow, folder / "pytorch_model.bin")
    assert_same_tensors(read_tensors(folder), {name: t.float().numpy() for name, t in narrow.items()})


def test_integers_are_refused(folder, tensors):
    write_tensors(folder, tensors | {"classifier.bias": np.arange(3)})
    assert "classifier.bias as int64" in error_of(folder)


@pytest.mark.parametrize("shard", ["../x.safetensors", "/x.safetensors", "a/x.safetensors", "x.bin", "..", "", "..\\x"])
def test_an_index_names_files_of_its_own_folder_only(folder, tensors, shard):
    write_tensors(folder.parent, tensors)
    (folder.parent / "model.safetensors").rename(folder.parent / "x.safetensors")
    index = write_shards(folder, tensors)
    index.write_text(json.dumps({"weight_map": dict.fromkeys(tensors, shard)}))
    assert f"{index} names the shard {shard!r}" in error_of(folder)


def test_a_missing_shard_is_named(folder, tensors):
    write_shards(folder, tensors)
    (folder / "model-00002-of-00002.safetensors").unlink()
    assert "model-00002-of-00002.safetensors is missing" in error_of(folder)


def test_a_shard_that_lacks_a_tensor_is_an_error(folder, tensors):
    index = write_shards(folder, tensors)
    weight_map = json.loads(index.read_text())["weight_map"]
    index.write_text(json.dumps({"weight_map": weight_map | {"bert.lost.weight": "model-00001-of-00002.safetensors"}}))
    assert "bert.lost.weight" in error_of(folder)


@pytest.mark.parametrize("content", ["", "{", "[]", '{"weight_map": []}', '{"weight_map": {}}', "\x00"])
def test_a_broken_index_is_named(folder, tensors, content):
    write_shards(folder, tensors).write_text(content)
    assert "model.safetensors.index.json" in error_of(folder)


def write_format(folder, tensors, name):
    only(folder, "model.safetensors")
    if name == "pytorch_model.bin":
        save_bin(tensors, folder / name)
    elif name == "flax_model.msgpack":
        (folder / name).write_bytes(serialization.to_bytes(names.unstack_layers(names.from_torch(tensors))))
    only(folder, name)
    return folder / name


FORMATS = ["model.safetensors", "pytorch_model.bin", "flax_model.msgpack"]


@pytest.mark.parametrize("name", FORMATS)
@pytest.mark.parametrize("keep", [0, 1, 7, 8, 100, 0.5, -1])
def test_a_truncated_file_is_named(folder, tensors, name, keep):
    path = write_format(folder, tensors, name)
    content = path.read_bytes()
    path.write_bytes(content[: int(keep * len(content)) if isinstance(keep, float) else keep])
    assert str(path) in error_of(folder)


@pytest.mark.parametrize("name", FORMATS)
@pytest.mark.parametrize("garbage", [b"hello, world\n" * 50, b"\x00" * 500, b"\xff" * 500, b"PK\x03\x04" + b"a" * 200])
def test_garbage_is_named(folder, tensors, name, garbage):
    path = write_format(folder, tensors, name)
    path.write_bytes(garbage)
    assert str(path) in error_of(folder)


def test_a_git_lfs_pointer_is_explained(folder, tensors):
    (folder / "model.safetensors").write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n")
    assert "git lfs pull" in error_of(folder)


def test_a_bit_flipped_in_a_bin_is_found(folder, tensors):
    pytest.importorskip("torch")
    path = write_format(folder, tensors, "pytorch_model.bin")
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 4
    path.write_bytes(content)
    assert str(path) in error_of(folder)


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_numbers_that_are_not_finite_are_named(folder, tensors, value):
    tensors["classifier.bias"][1] = value
    write_tensors(folder, tensors)
    assert "classifier.bias" in error_of(folder)


def test_an_unknown_layout_is_refused(folder, tensors):
    contiguous = {name: np.ascontiguousarray(tensor) for name, tensor in tensors.items()}
    save_file(contiguous, folder / "model.safetensors", metadata={"format": "tf"})
    assert "'tf'" in error_of(folder)


def test_nothing_but_tensors_is_unpickled(folder, tensors):
    torch = pytest.importorskip("torch")

    class Trap:
        def __reduce__(self):
            return (open, (str(folder / "opened"), "w"))

    only(folder, None)
    torch.save({"bert.x": Trap()}, folder / "pytorch_model.bin")
    assert "pytorch_model.bin" in error_of(folder)
    assert not (folder / "opened").exists()


def test_a_bin_without_torch_says_what_to_install(folder, tensors):
    only(folder, None)
    (folder / "pytorch_model.bin").write_bytes(b"PK\x03\x04")
    program = (
        "import sys; sys.modules['torch'] = None\n"
        "from pathlib import Path\n"
        "from jaxbert.interop.formats import read_tensor_file\n"
        f"read_tensor_file(Path({str(folder / 'pytorch_model.bin')!r}))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert "pip install 'jaxbert[torch]'" in done.stderr
