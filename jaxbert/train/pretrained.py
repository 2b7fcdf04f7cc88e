"""The start of a run: the model's configuration, its tokenizer and its first parameters."""

from __future__ import annotations

import dataclasses
import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jax import Array
from transformers import BertConfig

from jaxbert.bucket import fetched, in_bucket, to_path
from jaxbert.config import Config, ModelConfig
from jaxbert.data.labels import Head
from jaxbert.data.sources import checksum_of
from jaxbert.errors import UserError
from jaxbert.interop.bert_config import read_config
from jaxbert.interop.folder import resolve
from jaxbert.interop.load import load_params
from jaxbert.interop.read import find_weights, has_classifier, has_word_scores
from jaxbert.interop.tokenizer import load_tokenizer, new_tokenizer
from jaxbert.models.families import SIZES, family_of, sized_config
from jaxbert.models.functional import FunctionalModel, Params, init_params
from jaxbert.processes import main_decides
from jaxbert.runs.folder import RunFolder
from jaxbert.tasks import label_names
from jaxbert.tasks.base import Task
from jaxbert.tasks.pretraining.documents import open_documents
from jaxbert.tasks.pretraining.vocabulary import train_vocabulary, write_vocabulary
from jaxbert.tasks.reading import training_spec
from jaxbert.terminal import console
from jaxbert.train.sharding import make_key

logger = logging.getLogger("jaxbert")


@dataclass(frozen=True)
class Pretrained:
    """A model before its first step; `folder` is None for a new model."""

    bert_config: BertConfig
    tokenizer: Any
    folder: Path | None
    layers: tuple[int, ...] | None = None
    """The layers of the model in `folder` that are taken; None for all."""

    def trained_head(self, task: type[Task], config: ModelConfig) -> Head | None:
        """Return the checkpoint's trained head with labels, if the run keeps it, else None."""
        if self.folder is None or not task.label_names_in_head or self.draws_head(str(task.architecture), config):
            return None
        found = has_classifier(self.folder, family_of(self.bert_config))
        return Head(label_names(self.bert_config), self.folder.name) if found else None

    def draws_head(self, architecture: str, config: ModelConfig) -> bool:
        """Return whether to draw a new head although the checkpoint has one: as asked for, or because its kind differs."""
        family, written = family_of(self.bert_config), self.bert_config.architectures or ()
        others = {family.class_of(head) for head in family.classifiers} - {family.class_of(architecture)}
        return config.head == "new" or bool(others & set(written))

    def check_words(self) -> None:
        """Check that the model has learned to score words.

        Raises:
          UserError: if it is new, or has no head for masked words.
        """
        if self.folder is None or not has_word_scores(self.folder, family_of(self.bert_config)):
            name = "a new model" if self.folder is None else str(self.folder)
            raise UserError(
                f"train.method prompt needs a trained head for masked words, but {name} has none: name a model that "
                "predicts masked words, such as one of `jaxbert pretrain`"
            )

    def params(
        self, model: FunctionalModel, seed: int, shardings: Params, key: Array, *, new_head: bool = False
    ) -> Params:
        """Load the checkpoint's parameters on the host, or draw new ones directly on their devices.

        The user is told once which parameters of a loaded model are new; those are drawn on the host from `seed`.

        Args:
          model: the model that the parameters belong to.
          seed: the seed of new parameters.
          shardings: the shardings of new parameters.
          key: `make_key(seed)` on the devices of `shardings`.
          new_head: whether to draw a new head although the checkpoint has one.
        """
        if self.folder is None:
            return init_params(model, key, shardings)
        params, report = load_params(self.folder, model, key=make_key(seed), new_head=new_head, layers=self.layers)
        if report.fresh:
            logger.warning("%s: %s", self.folder.name, report)
        return params


def load_pretrained(config: ModelConfig, teacher: str | None = None) -> Pretrained:
    """Find the model, or make the configuration of a new one, and load its tokenizer.

    A new model without a vocabulary of its own takes the tokenizer of its `teacher`.

    Raises:
      UserError: if the model does not exist, or a new one has no usable vocabulary.
    """
    if config.name_or_path in SIZES and not Path(config.name_or_path).is_dir():
        if config.layers is not None:
            raise UserError(
                f"model.layers chooses layers of a trained model, but {config.name_or_path} is a new one: leave it out"
            )
        if config.vocab is None and teacher is not None:
            folder = model_folder(teacher)
            tokenizer = load_tokenizer(folder, read_config(folder), config.lower_case)
            return Pretrained(sized_config(config.name_or_path, len(tokenizer)), tokenizer, None)
        if config.vocab is None:
            raise UserError(
                f"a new model ({config.name_or_path}) needs a vocabulary: set model.vocab to a file with one token on "
                "each line (`jaxbert pretrain` can train one: pretrain.vocab_size)"
            )
        tokenizer = new_tokenizer(fetched(to_path(config.vocab)), config.lower_case)
        return Pretrained(sized_config(config.name_or_path, len(tokenizer)), tokenizer, None)
    folder = model_folder(config.name_or_path)
    bert_config = read_config(folder)
    tokenizer = load_tokenizer(folder, bert_config, config.lower_case)
    if config.layers is None:
        return Pretrained(bert_config, tokenizer, folder)
    layers = chosen_layers(config.layers, bert_config.num_hidden_layers)
    bert_config.num_hidden_layers = len(layers)
    return Pretrained(bert_config, tokenizer, folder, layers)


def chosen_layers(wanted: int | list[int], whole: int) -> tuple[int, ...]:
    """Return the layers that `model.layers` names, of a model with `whole` layers.

    A number of layers is spread evenly over the model, with its first and its last layer, as in DistilBERT: of 12 the six
    layers 0, 2, 4, 7, 9 and 11. A single layer is the first.

    Raises:
      UserError: if the model has not so many.
    """
    layers = (
        tuple(wanted)
        if not isinstance(wanted, int)
        else tuple(int(place) for place in np.floor(np.linspace(0, whole - 1, wanted) + 0.5))
    )
    if len(layers) > whole or layers[-1] >= whole:
        raise UserError(f"model.layers is {wanted}, but the model has {whole} layers, 0 to {whole - 1}: name fewer")
    return layers


def with_vocabulary(config: Config) -> ModelConfig:
    """Return the model's settings; with `pretrain.vocab_size`, train the vocabulary in the run folder unless it exists.

    Raises:
      UserError: if the model is not new, or the text is too small.
    """
    size = config.pretrain.vocab_size
    if config.task != "pretraining" or size is None:
        return config.model
    if config.model.name_or_path not in SIZES or Path(config.model.name_or_path).is_dir():
        raise UserError(
            f"pretrain.vocab_size trains a vocabulary for a new model, but {config.model.name_or_path} has its own: "
            f"leave the key out, or set model.name_or_path to one of {', '.join(SIZES)}"
        )
    path, lower_case = RunFolder(config.train.output_dir).vocabulary, config.model.lower_case is not False

    def train() -> None:
        if path.exists():
            return
        documents = open_documents(training_spec(config.data), config.data, config.pretrain, limit=config.data.limit)
        console.print(f"training a vocabulary on {documents.name}", highlight=False, soft_wrap=True)
        tokens = train_vocabulary(documents.lines, size, lower_case=lower_case)
        write_vocabulary(tokens, path)
        became = "texts are lower-cased" if lower_case else "texts keep their capitals"
        console.print(f"{len(tokens):,} tokens in {path}, {became} (model.lower_case)", highlight=False, soft_wrap=True)

    main_decides(train)
    return dataclasses.replace(config.model, vocab=str(path), lower_case=lower_case)


def weights_checksums(folder: Path) -> list[str]:
    """Return the checksum of each file of weights of a model."""
    first = find_weights(folder)
    assert first is not None, "a model has weights"
    stem, suffix = first.name.removesuffix(".index.json").rsplit(".", 1)
    files = sorted(folder.glob(f"{stem}-*.{suffix}")) if first.suffix == ".json" else [first]
    return [checksum_of(path, str(path)) for path in files]


def model_folder(name: str) -> Path:
    """Return the folder of a model: an exported folder, a run's export, or a download from the Hub.

    Raises:
      UserError: if there is no such model, or the run has not finished.
    """
    run = RunFolder(name)
    if not run.config.exists():
        return resolve(fetched(run.path) if in_bucket(run.path) else name)
    run.check_one_model()
    if not run.export.is_dir():
        raise UserError(
            f"{name} is a run that has not finished: run it again, or export a checkpoint with "
            f"`jaxbert export --run {name} --step last --output DIR`"
        )
    return resolve(fetched(run.export))
