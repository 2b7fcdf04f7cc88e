"""What a run starts from: the model's configuration, its tokenizer and its first parameters."""

from __future__ import annotations

import copy
import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.sharding import Mesh, NamedSharding
from transformers import BertConfig

from jaxbert.bucket import fetched, in_bucket, to_path
from jaxbert.config import ModelConfig, PrecisionConfig
from jaxbert.data.labels import Head
from jaxbert.errors import UserError
from jaxbert.interop.bert_config import read_config
from jaxbert.interop.folder import resolve
from jaxbert.interop.load import load_params
from jaxbert.interop.read import has_classifier
from jaxbert.interop.tokenizer import load_tokenizer, new_tokenizer
from jaxbert.models.attention.base import Hardware
from jaxbert.models.attention.select import Attention
from jaxbert.models.encoder import Call
from jaxbert.models.families import SIZES, family_of, sized_config
from jaxbert.models.functional import Model, Params, init_params
from jaxbert.runs.folder import RunFolder
from jaxbert.tasks.base import Task
from jaxbert.tasks.exported import label_names
from jaxbert.train.sharding import attention_spread, place, platform_of, row_sharding

logger = logging.getLogger("jaxbert")


@dataclass(frozen=True)
class Start:
    """A model before its first step; `folder` is None for a new one."""

    bert_config: BertConfig
    tokenizer: Any
    folder: Path | None

    def trained_head(self, task: type[Task], config: ModelConfig) -> Head | None:
        """Return the trained head with labels that goes on; None where there is none, or it does not go on."""
        if self.folder is None or not task.label_names_in_head or self.draws_head(str(task.architecture), config):
            return None
        found = has_classifier(self.folder, family_of(self.bert_config))
        return Head(label_names(self.bert_config), self.folder.name) if found else None

    def draws_head(self, architecture: str, config: ModelConfig) -> bool:
        """Say whether a head is drawn whatever the checkpoint has: as asked for, or because its own is of another kind."""
        family, written = family_of(self.bert_config), self.bert_config.architectures or ()
        others = {family.class_of(head) for head in family.classifiers} - {family.class_of(architecture)}
        return config.head == "new" or bool(others & set(written))

    def params(self, model: Model, seed: int, shardings: Params, key: Array, *, new_head: bool = False) -> Params:
        """Load the checkpoint's parameters on the host, or draw new ones where they belong.

        What is new in a loaded model is said once, and drawn on the host from `seed`.

        Args:
          model: whose parameters.
          seed: of new ones.
          shardings: where new parameters lie.
          key: `make_key(seed)` on the devices of `shardings`.
          new_head: whether a head is drawn where the checkpoint has one.
        """
        if self.folder is None:
            return init_params(model, key, shardings)
        params, report = load_params(self.folder, model, key=make_key(seed), new_head=new_head)
        if report.fresh:
            logger.warning("%s: %s", self.folder.name, report)
        return params


def make_key(seed: int, sharding: NamedSharding | None = None) -> Array:
    """Return `jax.random.key(seed)`, made on the host: JAX compiles two programs for it."""
    words: Any = np.array([0, seed % 2**32], np.uint32)
    if sharding is not None:
        words = place(words, sharding)
    return jax.random.wrap_key_data(words, impl="threefry2x32")


def open_start(config: ModelConfig) -> Start:
    """Find the model or make a new configuration, and load its tokenizer.

    Raises:
      UserError: if there is no such model, or a new one has no usable vocabulary.
    """
    if config.name_or_path in SIZES and not Path(config.name_or_path).is_dir():
        tokenizer = _new_tokenizer(config)
        return Start(sized_config(config.name_or_path, len(tokenizer)), tokenizer, None)
    folder = model_folder(config.name_or_path)
    bert_config = read_config(folder)
    return Start(bert_config, load_tokenizer(folder, bert_config, config.lower_case), folder)


def model_folder(name: str) -> Path:
    """Return the folder of a model: an exported one, a run's (its export), or what the Hub has under this name.

    Raises:
      UserError: if there is none, or the run has not finished.
    """
    run = RunFolder(name)
    if not run.config.exists():
        return resolve(fetched(run.path) if in_bucket(run.path) else name)
    if not run.export.is_dir():
        raise UserError(
            f"{name} is a run that has not finished: run it again, or export a checkpoint with "
            f"`jaxbert export --run {name} --step last --output DIR`"
        )
    return resolve(fetched(run.export))


def _new_tokenizer(config: ModelConfig) -> Any:
    if config.vocab is None:
        raise UserError(
            f"a new model ({config.name_or_path}) needs a vocabulary: set model.vocab to a file, one token a line "
            "(`jaxbert pretrain` can train one: pretrain.vocab_size)"
        )
    return new_tokenizer(fetched(to_path(config.vocab)), config.lower_case)


def with_dropout(bert_config: BertConfig, config: ModelConfig) -> BertConfig:
    """Return a copy with the dropout rates that `config` sets."""
    changed = copy.deepcopy(bert_config)
    if config.dropout is not None:
        changed.hidden_dropout_prob = changed.attention_probs_dropout_prob = config.dropout
        changed.classifier_dropout = config.dropout
    if config.attention_dropout is not None:
        changed.attention_probs_dropout_prob = config.attention_dropout
    return changed


def compute_dtype(config: PrecisionConfig, mesh: Mesh) -> Any:
    """Return the dtype of the matrix products on the mesh's devices."""
    if config.compute == "auto":
        return jnp.float32 if platform_of(mesh) == "cpu" else jnp.bfloat16
    return jnp.dtype(config.compute)


def check_fp8(config: PrecisionConfig, device: Any) -> None:
    """Check that the device multiplies float8, if it is asked to.

    Raises:
      UserError: for anything but an NVIDIA GPU of compute capability 9.0 (H100, H200).
    """
    capability = str(getattr(device, "compute_capability", None))
    if config.fp8 and not (device.platform in ("gpu", "cuda") and capability == "9.0"):
        raise UserError(f"precision.fp8 needs an H100 or H200, but this is {device.device_kind}: leave it out")


def layer_call(config: ModelConfig, mesh: Mesh) -> Call:
    """Return how the layers run: unrolled on CPU, where a loop copies its carried arrays, else as one compiled loop.

    With remat they run as a loop everywhere: unrolled, XLA for CPU (jax 0.10) recomputes early and saves no memory.
    """
    on_cpu = platform_of(mesh) == "cpu"
    unrolled = on_cpu and config.remat == "none"
    scan = not unrolled if config.scan_layers is None else config.scan_layers
    attention = Attention(config.attention, Hardware.of(mesh.devices.flat[0]), attention_spread(mesh))
    return Call(
        scan_layers=scan,
        remat=config.remat,
        fuse_lookup=on_cpu and mesh.size == 1,
        attention=attention,
        rows=row_sharding(mesh),
    )
