"""A model repository for NVIDIA Triton: the ragged graph, and a configuration by which requests are joined without padding.

Triton puts the tokens of the requests of a batch one after the other, and tells the graph where each ends. The repository is
the folder `triton` of an exported folder, whose tokenizer the clients use.
"""

from __future__ import annotations

import json

from etils import epath
from transformers import BertConfig

from jaxbert.bucket import fetched, staged
from jaxbert.errors import UserError
from jaxbert.interop.bert_config import read_config
from jaxbert.interop.load import load_params
from jaxbert.interop.names import to_torch
from jaxbert.models.functional import make_model
from jaxbert.models.heads import SequenceClassificationHead
from jaxbert.options import Quantize
from jaxbert.processes import is_main, wait_for_all
from jaxbert.runs.export import TRITON
from jaxbert.serve.onnx_export import require_onnx, serialized_graph, write_bytes_whole
from jaxbert.tasks import label_names, task_of_model
from jaxbert.tasks.base import Task

_MODEL = "jaxbert"
"""The name of the model in the repository."""
_ROW_TOKENS, _MOST_TEXTS = 2048, 32
"""The most tokens of a batch, all texts together, and the most texts. Attention takes the square of the tokens, and Triton
limits the number of texts alone: it is such that the longest ones fit."""
_CONFIG = """\
# Triton joins the texts of waiting requests without padding ("ragged batching"): each request has one text, a row of tokens.
# tritonserver --model-repository .../triton
name: "{name}"
backend: "onnxruntime"
max_batch_size: {most}  # texts; with texts of at most {longest} tokens, a batch has at most {tokens} tokens
input [
  {{ name: "input_ids" data_type: TYPE_INT32 dims: [ -1 ] allow_ragged_batch: true }},
  {{ name: "token_type_ids" data_type: TYPE_INT32 dims: [ -1 ] allow_ragged_batch: true }}
]
batch_input [
  {{ kind: BATCH_ACCUMULATED_ELEMENT_COUNT target_name: "ends" data_type: TYPE_INT32 source_input: "input_ids" }}
]
output [
  {{ name: "logits" data_type: TYPE_FP32 dims: [ {scores} ]{labels} }}
]
dynamic_batching {{ }}
"""


def check_triton(task: Task) -> None:
    """Check that the answers of a task are scores of a whole text.

    Raises:
      UserError: if they are not.
    """
    if task.head is not SequenceClassificationHead:
        raise UserError(
            f"--format triton is for tasks that score a whole text (classification, multi_label, regression), not for "
            f"{task.name}: use --format onnx, whose padded graphs Triton opens too"
        )


def write_repository(folder: epath.Path, quantize: Quantize | None = None) -> epath.Path:
    """Write the model repository of an exported folder into it; return the repository.

    Args:
      folder: the folder, on this machine or in a bucket.
      quantize: the number format of the graph; None for float32.

    Raises:
      UserError: if onnx is not installed, the task's answers are no scores of texts, or a file cannot be written.
    """
    require_onnx("onnx")
    if is_main():
        local = fetched(folder)
        config = read_config(local)
        task = task_of_model(config).reopen(config)
        check_triton(task)
        tensors = to_torch(load_params(local, make_model(task.head, config))[0])
        graph = serialized_graph(task, config, tensors, "ragged", quantize)
        named = task.name != "regression"
        with staged(folder / TRITON) as scratch:
            write_bytes_whole(scratch / _MODEL / "1" / "model.onnx", graph)
            if named:
                labels = "".join(f"{_one_line(name)}\n" for name in label_names(config))
                write_bytes_whole(scratch / _MODEL / "labels.txt", labels.encode())
            write_bytes_whole(scratch / _MODEL / "config.pbtxt", _config_text(task, config, named=named).encode())
    wait_for_all("the repository is written")
    return folder / TRITON


def _config_text(task: Task, config: BertConfig, *, named: bool) -> str:
    longest = task.reading_length or config.max_position_embeddings
    most = max(1, min(_MOST_TEXTS, _ROW_TOKENS // longest))
    return _CONFIG.format(
        name=_MODEL,
        most=most,
        longest=longest,
        tokens=most * longest,
        scores=config.num_labels,
        labels=' label_filename: "labels.txt"' * named,
    )


def _one_line(name: str) -> str:
    """Return the name of a label for a file of one name a line."""
    return name if len(name.splitlines()) == 1 else json.dumps(name, ensure_ascii=False)
