"""The model repository for Triton: Triton's own schema reads its configuration, and its graph answers as `predict` does."""

from __future__ import annotations

import importlib.util
import logging
from importlib.metadata import PackageNotFoundError, distribution

import numpy as np
import pytest
from google.protobuf import text_format
from runs import small_config, write_model
from transformers import AutoTokenizer

import jaxbert
from jaxbert.errors import UserError
from jaxbert.serve.formats import check_graphs
from jaxbert.serve.onnx_engine import open_session
from jaxbert.tasks import task_class

pytestmark = pytest.mark.usefixtures("shared_programs")
TEXTS = ["good w1", "w3 poor w4 w5 w6", "w2"]


@pytest.fixture(scope="module")
def schema():
    """Triton's messages; the package itself asks for older libraries than ours, so that only this module is loaded."""
    try:
        files = distribution("tritonclient").files or []
    except PackageNotFoundError:
        pytest.skip("tritonclient is not installed: scripts/test.sh installs it")
    (found,) = (file for file in files if str(file) == "tritonclient/grpc/model_config_pb2.py")
    spec = importlib.util.spec_from_file_location("model_config_pb2", str(found.locate()))
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return jaxbert.load(write_model(tmp_path_factory.mktemp("model")))


@pytest.mark.parametrize("quantize", [None, "int8"])
def test_triton_gets_what_it_needs(model, schema, tmp_path, quantize):
    """Its schema reads the configuration, whose inputs are those of the graph; joined requests get the answers of each."""
    folder = model.export(tmp_path / "x", format="triton", quantize=quantize) / "triton" / "jaxbert"
    config = text_format.Parse((folder / "config.pbtxt").read_text(), schema.ModelConfig())
    assert config.name == folder.name
    session = open_session(folder / "1" / "model.onnx", 1)
    (ends,) = config.batch_input
    names = [each.name for each in config.input] + list(ends.target_name)
    assert sorted(names) == sorted(each.name for each in session.get_inputs())
    assert list(ends.source_input) == [config.input[0].name]
    assert all(each.allow_ragged_batch for each in config.input)
    (logits,) = config.output
    labels = (folder / logits.label_filename).read_text().splitlines()
    assert len(labels) == logits.dims[0]
    assert config.max_batch_size >= len(TEXTS)

    requests = [AutoTokenizer.from_pretrained(tmp_path / "x")(text) for text in TEXTS]
    joined = {name: np.concatenate([r[name] for r in requests]).astype(np.int32) for name in names[:2]}
    counts = np.array([len(r["input_ids"]) for r in requests])
    (found,) = session.run([logits.name], joined | {names[2]: counts.cumsum().astype(np.int32)})
    odds = np.exp(found) / np.exp(found).sum(-1, keepdims=True)
    for row, answer in zip(odds, model.predict(TEXTS), strict=True):
        tolerance = 1e-5 if quantize is None else 0.05
        assert dict(zip(labels, row.tolist(), strict=True)) == pytest.approx(answer["probabilities"], abs=tolerance)


def test_a_batch_of_the_longest_texts_is_limited(tmp_path):
    longest = jaxbert.load(write_model(tmp_path / "model", max_position_embeddings=700))
    text = (longest.export(tmp_path / "x", format="triton") / "triton/jaxbert/config.pbtxt").read_text()
    assert "max_batch_size: 2 " in text


def test_graphs_of_older_weights_go(model, tmp_path, caplog):
    folder = model.export(tmp_path / "x", format="triton")
    with caplog.at_level(logging.WARNING, "jaxbert"):
        model.export(folder)
    assert not (folder / "triton").exists()
    assert "the model repository of older weights is removed" in caplog.text


def test_other_tasks_are_told(model):
    for task in ("token_classification", "multiple_choice"):
        with pytest.raises(UserError, match=f"not for {task}: use --format onnx"):
            check_graphs(task_class(task).reopen(small_config()), "triton")
    check_graphs(model._trained.task, "triton")
