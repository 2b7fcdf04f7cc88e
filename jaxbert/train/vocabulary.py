"""The vocabulary that a run trains for its new model, before anything else is read."""

from __future__ import annotations

import dataclasses
from pathlib import Path

from jaxbert.config import Config, ModelConfig
from jaxbert.errors import UserError
from jaxbert.models.families import SIZES
from jaxbert.processes import is_main, wait_for_all
from jaxbert.runs.folder import RunFolder
from jaxbert.tasks.pretraining.documents import open_documents
from jaxbert.tasks.pretraining.vocabulary import train_vocabulary, write_vocabulary
from jaxbert.tasks.reading import training_spec
from jaxbert.terminal import console


def with_vocabulary(config: Config) -> ModelConfig:
    """Return the model's settings, with the vocabulary that the run has trained or trains now in its folder.

    Raises:
      UserError: if the model is not new, or the text too small.
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
    if is_main() and not path.exists():
        documents = open_documents(training_spec(config.data), config.data, config.pretrain, limit=config.data.limit)
        console.print(f"training a vocabulary on {documents.name}", highlight=False, soft_wrap=True)
        tokens = train_vocabulary(documents.lines, size, lower_case=lower_case)
        write_vocabulary(tokens, path)
        became = "texts are lower-cased" if lower_case else "texts keep their capitals"
        console.print(f"{len(tokens):,} tokens in {path}, {became} (model.lower_case)", highlight=False, soft_wrap=True)
    wait_for_all("the vocabulary is there")
    return dataclasses.replace(config.model, vocab=str(path), lower_case=lower_case)
