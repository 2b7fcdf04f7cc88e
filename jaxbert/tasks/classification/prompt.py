"""Classification by a prompt: the text stands in a template, and words that the model puts at its [MASK] name the label.

Everything but the reading and the head is `Classification`. The tokens of the template go around those of a text, which
alone is cut. The head (`models.heads.PromptHead`) scores the words of each label; packed rows, losses, metrics and answers
stay as they are. The export is a model of masked words with the prompt in its `config.json`.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Self, cast

import numpy as np
from transformers import BertConfig

from jaxbert.config import Config, DataConfig
from jaxbert.config.few_labels import MASK, TEXT, Prompt
from jaxbert.data.examples import Examples
from jaxbert.data.label_column import LabelRules, Labels, as_name, find_places, whole_number
from jaxbert.data.labels import Head, renamed
from jaxbert.data.memory import hold
from jaxbert.data.overview import TRAIN
from jaxbert.data.store import Stored
from jaxbert.data.table import Table
from jaxbert.data.tokens import Reading, Tokens
from jaxbert.errors import UserError, quoted
from jaxbert.models.heads import PromptHead
from jaxbert.tasks import SETTINGS, label_names, settings_of
from jaxbert.tasks.base import Inputs
from jaxbert.tasks.classification.task import Classification
from jaxbert.tasks.decision import Tuning
from jaxbert.tasks.reading import TextInputs, named_sets

_LEAST = 3
"""The least length of a text with its special tokens."""


@dataclass(frozen=True)
class TokenPrompt:
    """A prompt as tokens."""

    prompt: Prompt
    before: tuple[int, ...]
    after: tuple[int, ...]
    """The tokens before and after the text, without the special tokens at both ends."""
    mask: int
    """The id of [MASK]."""
    words: tuple[tuple[tuple[int, ...], ...], ...]
    """The token ids of each word of each label, in the order of the prompt's labels."""

    @classmethod
    def of(cls, prompt: Prompt, tokenizer: Any) -> Self:
        """Tokenize a prompt.

        Raises:
          UserError: for a word that has not one token for each [MASK], or that the tokenizer does not know.
        """
        mask, unknown = tokenizer.mask_token_id, tokenizer.unk_token_id
        if mask is None:
            raise UserError(
                "train.method prompt needs a token [MASK], but the model's tokenizer has none: take another"
            )

        def ids_of(text: str) -> tuple[int, ...]:
            parts = [tokenizer.encode(part, add_special_tokens=False) for part in text.split(MASK)]
            return tuple(parts[0] + [token for part in parts[1:] for token in (mask, *part)])

        before, after = (ids_of(part) for part in prompt.template.split(TEXT))
        masks = (before + after).count(mask)
        for label, words in prompt.verbalizers:
            for word in words:
                ids = ids_of(word)
                if unknown in ids:
                    raise UserError(
                        f"train.prompt: the model does not know the word {word!r} of {label!r}: take another"
                    )
                if len(ids) != masks:
                    pieces = " ".join(tokenizer.convert_ids_to_tokens(list(ids)))
                    raise UserError(
                        f"train.prompt: the word {word!r} of {label!r} has {len(ids)} tokens ({pieces}), but the template "
                        f"has {masks} {MASK}: take words of as many tokens, or change the template"
                    )
        words_of = tuple(tuple(ids_of(word) for word in words) for _, words in prompt.verbalizers)
        return cls(prompt, before, after, mask, words_of)

    @property
    def length(self) -> int:
        """The number of tokens that the template adds to a text."""
        return len(self.before) + len(self.after)

    @property
    def labels(self) -> tuple[str, ...]:
        """The names of the labels."""
        return tuple(label for label, _ in self.prompt.verbalizers)

    @property
    def places(self) -> list[int]:
        """The places of [MASK] in a segment: from its first token, or negative from behind its last one."""
        first = [1 + place for place, token in enumerate(self.before) if token == self.mask]
        return first + [place - len(self.after) - 1 for place, token in enumerate(self.after) if token == self.mask]

    def room(self, max_length: int) -> int:
        """Return how long a text may be, with its special tokens, for segments of `max_length`.

        Raises:
          UserError: if the template leaves no room.
        """
        if (room := max_length - self.length) < _LEAST:
            raise UserError(
                f"train.prompt: the template has {self.length} tokens, which leave no room for a text in {max_length}: "
                "raise data.max_length, or shorten the template"
            )
        return room

    def around(self, tokens: Tokens) -> Tokens:
        """Return segments with the template's tokens around their texts, behind the first and before the last token."""
        lengths = tokens.lengths.astype(np.int64)
        grown = lengths + self.length
        ends = np.cumsum(grown)
        starts, before, after = ends - grown, len(self.before), len(self.after)
        ids = np.zeros(int(grown.sum()), np.int32)
        ids[starts], ids[ends - 1] = tokens.ids[tokens.begins], tokens.ids[tokens.begins + lengths - 1]
        ids[(starts + 1)[:, None] + np.arange(before)] = np.array(self.before, np.int32)
        ids[(ends - 1 - after)[:, None] + np.arange(after)] = np.array(self.after, np.int32)
        body = lengths - 2
        within = np.arange(body.sum()) - np.repeat(np.cumsum(body) - body, body)
        ids[np.repeat(starts + 1 + before, body) + within] = tokens.ids[np.repeat(tokens.begins + 1, body) + within]
        return Tokens.from_lengths(ids, grown.astype(np.int32), grown.astype(np.int32))


@dataclass(frozen=True)
class Prompted(Classification):
    """Give each example the label whose words fit best at the template's [MASK]."""

    last_layer = None  # type: ignore[assignment]
    explains = None  # type: ignore[assignment]
    head = PromptHead  # type: ignore[assignment]
    asks_tokenizer = True
    architecture = "ForMaskedLM"

    prompt: TokenPrompt | None = None

    @classmethod
    def read(cls, config: Config, tokenizer: Any, max_length: int, head: Head | None = None) -> Inputs:
        """Read all data sets of a run; the labels are those of the prompt."""
        prompt = TokenPrompt.of(Prompt.of(config.train.prompt or {}), tokenizer)
        names = config.data.label_names or list(prompt.labels)
        if sorted(names) != sorted(prompt.labels):
            raise UserError(
                f"data.label_names are {', '.join(names)}, but train.prompt has words for {', '.join(prompt.labels)}: name "
                "the same labels"
            )
        data, room = dataclasses.replace(config.data, label_names=names), prompt.room(max_length)
        if (
            config.data.label_names is None
            and data.label_format == "auto"
            and all(whole_number(name) is None for name in names)
        ):
            data = dataclasses.replace(data, label_format="names")  # the order of a prompt gives numbers no meaning
        model = dataclasses.replace(config.model, num_labels=len(names))  # a label without a row has its words
        config = dataclasses.replace(config, model=model)
        if data.train is not None or config.train.epochs or config.train.max_steps:
            return super().read(dataclasses.replace(config, data=data), tokenizer, room, head)
        with _no_rows(data) as changed:
            inputs = super().read(dataclasses.replace(config, data=changed), tokenizer, room, head)
        views = [view for view in inputs.overview.views if view.name != TRAIN]
        overview = dataclasses.replace(inputs.overview, views=views)
        return dataclasses.replace(inputs, train=inputs.train.take(np.arange(1)), overview=overview)

    @classmethod
    def fit(
        cls, labels: Labels, config: Config, rules: LabelRules, head: Head | None, reading: Reading
    ) -> tuple[Self, bool]:
        """Return the task with the labels of the prompt; a label without words is refused."""
        vocabulary, names = renamed(labels, rules).vocabulary, rules.names or []
        seen = vocabulary.names or [as_name(value) for value in vocabulary.values]
        if rules.format == "names" and (strange := set(seen) - find_places(seen, names, labels.source).keys()):
            raise UserError(
                f"{labels.source}: train.prompt has no words for the label {min(strange)!r}, only for {quoted(names)}: add "
                "them; or, if labels are numbers from 0 or true and false, give their names in that order: data.label_names"
            )
        task, new_head = super().fit(labels, config, rules, head, reading)
        return cast(Self, task), new_head

    def prepared(self, config: Config, tokenizer: Any) -> Self:
        """Return the task with the prompt's tokens, its labels in the order of the task's."""
        assert config.train.prompt is not None
        given = Prompt.of(config.train.prompt)
        missing = sorted(set(self.label_names) - {label for label, _ in given.verbalizers})
        if missing:
            raise UserError(f"train.prompt: verbalizers has no words for the label {missing[0]!r}: add some")
        words = dict(given.verbalizers)
        prompt = Prompt(given.template, tuple((name, words[name]) for name in self.label_names))
        return dataclasses.replace(self, prompt=TokenPrompt.of(prompt, tokenizer))

    def read_for(self, spec: str, data: DataConfig, tokenizer: Any, max_length: int) -> Examples:
        return super().read_for(spec, data, tokenizer, self._tokens.room(max_length))

    def open_inputs(
        self, spec: str, data: DataConfig, tokenizer: Any, max_length: int, kept: tuple[str, ...]
    ) -> TextInputs:
        feed = super().open_inputs(spec, data, tokenizer, self._tokens.room(max_length), kept)
        fields = {field.name: getattr(feed, field.name) for field in dataclasses.fields(feed)}
        return _PromptInputs(**fields, prompt=self._tokens)

    def _labelled(self, stored: Stored, rules: LabelRules) -> Examples:
        examples = super()._labelled(stored, rules)
        return dataclasses.replace(examples, tokens=self._tokens.around(examples.tokens))

    @property
    def _tokens(self) -> TokenPrompt:
        assert self.prompt is not None
        return self.prompt

    def configure(self, bert_config: BertConfig) -> BertConfig:
        """Add the label names, and the prompt with its tokens."""
        configured, prompt = super().configure(bert_config), self._tokens
        content = {
            **prompt.prompt.to_dict(),
            "before": list(prompt.before),
            "after": list(prompt.after),
            "mask": prompt.mask,
            "places": prompt.places,
            "words": [[list(ids) for ids in words] for words in prompt.words],
        }
        setattr(configured, SETTINGS, settings_of(configured) | {"prompt": content})
        return configured

    @classmethod
    def reopen(cls, bert_config: BertConfig) -> Self:
        """Return the task of an export with a prompt."""
        content = settings_of(bert_config)["prompt"]
        try:
            prompt = TokenPrompt(
                prompt=Prompt.of({name: content[name] for name in ("template", "verbalizers")}),
                before=tuple(map(int, content["before"])),
                after=tuple(map(int, content["after"])),
                mask=int(content["mask"]),
                words=tuple(tuple(tuple(map(int, ids)) for ids in words) for words in content["words"]),
            )
        except (KeyError, TypeError, ValueError) as error:
            raise UserError(
                f"config.json has a prompt that cannot be read ({error}): export the model again"
            ) from error
        if prompt.labels != label_names(bert_config):
            raise UserError("config.json has a prompt with other labels than id2label: export the model again")
        return dataclasses.replace(cast(Self, super().reopen(bert_config)), prompt=prompt)

    def check_tuning(self, tuning: Tuning) -> None:
        """Check that no temperature is asked for, which needs a last layer of its own."""
        tuning.refuse("train.method prompt", threshold=True)
        super().check_tuning(tuning)


@contextmanager
def _no_rows(data: DataConfig) -> Iterator[DataConfig]:
    """Yield the settings with a source in the place of training rows that are not there: the shapes alone need a text."""
    held_out = [spec for sets in (data.validation, data.test) for spec in named_sets(sets, "").values()]
    if held_out:
        yield dataclasses.replace(data, train=held_out[0])
        return
    rows = [{data.text or "text": name, str(data.label or "label"): name} for name in data.label_names or ()]
    with hold(rows, "nothing") as spec:
        yield dataclasses.replace(data, train=spec)


@dataclass
class _PromptInputs(TextInputs):
    """The texts of a source for prediction, with the template around them."""

    prompt: TokenPrompt | None = None

    def tokenize(self, parts: Sequence[Table]) -> Examples:
        examples = super().tokenize(parts)
        assert self.prompt is not None
        return dataclasses.replace(examples, tokens=self.prompt.around(examples.tokens))
