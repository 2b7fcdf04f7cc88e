"""Reading raw text to pretrain on: `task: pretraining`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from transformers import BertConfig

from jaxbert.config import Config, DataConfig
from jaxbert.data.cache import cache_folder
from jaxbert.data.examples import Examples
from jaxbert.data.label_fit import Head
from jaxbert.data.overview import TRAIN, Overview, View, lower_cases, view_corpus
from jaxbert.data.pretraining.corpus import Corpus, read_corpus
from jaxbert.data.pretraining.documents import Documents, open_documents
from jaxbert.data.pretraining.masking import Masking, Vocabulary
from jaxbert.data.pretraining.pairs import Recipe, make_examples
from jaxbert.data.sources import Role
from jaxbert.errors import UserError
from jaxbert.tasks.base import Task
from jaxbert.tasks.pretraining import NOT_FINE_TUNED, Pretraining
from jaxbert.train.inputs import named_sets, set_name, training_spec
from jaxbert.train.kinds.base import Feed, Inputs, settings_of, with_settings
from jaxbert.train.processes import tokenizing_share
from jaxbert.train.report import Reading

# Keeps this draw apart from the other draws of the same seed.
_PURPOSE = 0x646F6373


class PretrainingKind:
    """Documents of raw text."""

    def read(self, config: Config, tokenizer: Any, max_length: int, head: Head | None = None) -> Inputs:
        """Read all corpora, the small ones first."""
        data, pretrain, seed = config.data, config.pretrain, config.train.seed
        vocabulary = Vocabulary.of(tokenizer)
        recipe = Recipe(max_length, pretrain.next_sentence, tokenizer.cls_token_id, tokenizer.sep_token_id, seed)
        if max_length < recipe.specials + 2:
            raise UserError(f"data.max_length is {max_length}, but a pair needs at least {recipe.specials + 2} tokens")
        folder = cache_folder(data.cache_dir)

        def find(specs: dict[str, str], role: Role) -> dict[str, Documents]:
            return {name: open_documents(spec, data, pretrain, role=role) for name, spec in specs.items()}

        def tokenize(documents: Documents) -> Corpus:
            with Reading(documents.name) as reading:
                share = tokenizing_share()
                return read_corpus(documents, tokenizer, pretrain, folder=folder, on_documents=reading.add, share=share)

        views: list[View] = []

        def examples(name: str, corpus: Corpus, chosen: np.ndarray | None = None) -> Examples:
            views.append(view_corpus(name, corpus, chosen, max_length))
            return _examples(corpus, recipe, folder, chosen)

        def read(role: str, found: dict[str, Documents]) -> dict[str, Examples]:
            return {name: examples(set_name(role, name), tokenize(documents)) for name, documents in found.items()}

        train = open_documents(training_spec(data), data, pretrain, limit=data.limit)
        validation = find(named_sets(data.validation, "validation"), "validation")
        test = find(named_sets(data.test, "test"), "test")
        read_validation, read_test = read("validation", validation), read("test", test)
        corpus, kept = tokenize(train), None
        if data.validation_fraction:
            kept, held_out = split_documents(len(corpus), data.validation_fraction, seed)
            read_validation["validation"] = examples("validation", corpus, held_out)
        masking = Masking(vocabulary, pretrain.masking_probability, pretrain.mask == "word", recipe.specials, seed)
        return Inputs(
            train=examples(TRAIN, corpus, kept),
            validation=read_validation,
            test=read_test,
            task=Pretraining(pretrain.next_sentence),
            dress=masking.dress,
            overview=Overview(views, lower_cases(tokenizer)),
        )

    def configure(self, bert_config: BertConfig, task: Task) -> BertConfig:
        """Name the task."""
        assert isinstance(task, Pretraining)
        return with_settings(bert_config, "pretraining", next_sentence=task.next_sentence)

    def reopen(self, bert_config: BertConfig) -> Pretraining:
        """Take what was predicted."""
        return Pretraining(bool(settings_of(bert_config).get("next_sentence", True)))

    def reading_length(self, task: Task) -> int | None:
        """Leave it to the model."""
        return None

    def read_for(self, task: Task, spec: str, data: DataConfig, tokenizer: Any, max_length: int) -> Examples:
        """Refuse: a pretrained model is there to be fine-tuned."""
        raise UserError(NOT_FINE_TUNED)

    def feed(
        self, task: Task, spec: str, data: DataConfig, tokenizer: Any, max_length: int, kept: tuple[str, ...]
    ) -> Feed:
        """Refuse, as `read_for` does."""
        raise UserError(NOT_FINE_TUNED)


def _examples(corpus: Corpus, recipe: Recipe, folder: Path | None, chosen: np.ndarray | None) -> Examples:
    stored = make_examples(corpus, recipe, chosen=chosen, folder=folder)
    assert stored.labels is not None
    return Examples(stored.tokens, stored.labels.codes if recipe.next_sentence else None)


def split_documents(count: int, fraction: float, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the sorted documents of training and of validation, which gets `fraction` of them, and at least one.

    Raises:
      UserError: if training would be left without a document.
    """
    taken = max(1, round(count * fraction))
    if taken >= count:
        raise UserError(
            f"data.validation_fraction is {fraction}, but there is only {count} document to split: "
            "give more documents, or data.validation"
        )
    order = np.random.default_rng([seed, _PURPOSE]).permutation(count)
    return np.sort(order[taken:]), np.sort(order[:taken])
