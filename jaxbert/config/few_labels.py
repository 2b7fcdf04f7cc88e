"""Training with a few labels a class (`train.method`): what goes together, and the template and words of a prompt."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Self

from jaxbert.errors import UserError

if TYPE_CHECKING:
    from jaxbert.config import Config

TEXT, MASK = "{text}", "[MASK]"
_FORM = 'write {template: "{text} It was [MASK].", verbalizers: {good: [great], bad: [terrible]}}'


@dataclass(frozen=True)
class Prompt:
    """A text with room for the answer, and the words that stand for each label."""

    template: str
    verbalizers: tuple[tuple[str, tuple[str, ...]], ...]
    """The words of each label, in the order in which they were given."""

    @classmethod
    def of(cls, values: Mapping[str, Any]) -> Self:
        """Read `train.prompt`.

        Raises:
          UserError: for anything that is no prompt.
        """
        if not isinstance(values, Mapping) or set(values) != {"template", "verbalizers"}:
            given = ", ".join(map(str, values)) if isinstance(values, Mapping) else repr(values)
            raise UserError(f"train.prompt has {given or 'nothing'}, but it needs template and verbalizers: {_FORM}")
        template, words = values["template"], values["verbalizers"]
        if not isinstance(template, str) or template.count(TEXT) != 1 or MASK not in template:
            raise UserError(
                f"train.prompt: template is {template!r}, but it must hold {TEXT} once, where the text stands, and {MASK} "
                "for each token of the answer"
            )
        if not isinstance(words, Mapping) or len(words) < 2:
            raise UserError(f"train.prompt: verbalizers must give words to each of two labels or more: {_FORM}")
        found = tuple((str(label), _words(str(label), given)) for label, given in words.items())
        seen: dict[str, str] = {}
        for label, own in found:
            for word in own:
                if word in seen:
                    where = f"twice for {label!r}" if seen[word] == label else f"for {seen[word]!r} and for {label!r}"
                    raise UserError(f"train.prompt: verbalizers has the word {word!r} {where}: name it once")
                seen[word] = label
        return cls(template, found)

    def to_dict(self) -> dict[str, Any]:
        """Return plain values, as in a configuration."""
        return {"template": self.template, "verbalizers": {label: list(words) for label, words in self.verbalizers}}


def _words(label: str, given: Any) -> tuple[str, ...]:
    words: Any = [given] if isinstance(given, str) else given
    if not isinstance(words, list | tuple) or not words or not all(isinstance(w, str) and w.strip() for w in words):
        raise UserError(f"train.prompt: verbalizers: {label!r} has {given!r}, but it needs a word or a list of words")
    return tuple(word.strip() for word in words)


_WITHOUT: dict[str, tuple[str, ...]] = {
    "contrastive": (
        "r_drop",
        "label_smoothing",
        "focal_gamma",
        "adversarial",
        "accumulation_steps",
        "teacher",
        "prune",
        "ema",
    ),
    "prompt": ("teacher", "prune", "augment", "self_training"),
}
"""The keys of `train` that each method does not work with."""
_WHY = {
    "contrastive": "which compares all texts of a step and fits the classifier apart",
    "prompt": "whose answers come from the model's words",
}


def check_method(config: Config) -> None:
    """Check that `train.method` fits the rest of a configuration.

    Raises:
      UserError: for keys that do not go together.
    """
    train, defaults = config.train, type(config.train)
    method = train.method
    if config.task != "classification":
        raise UserError(
            f"train.method is {method}, which works only with task classification, but task is {config.task}: leave it out"
        )
    for key in _WITHOUT[method]:
        if getattr(train, key) != getattr(defaults, key):
            raise UserError(f"train.{key} does not work with train.method {method}, {_WHY[method]}: leave it out")
    if method == "contrastive" and train.batch_size < 2:
        raise UserError(
            "train.batch_size is 1, but train.method contrastive compares the texts of a step: take 2 or more, such as 32"
        )
    if config.data.long_texts == "windows":
        raise UserError(
            f"data.long_texts is windows, which does not work with train.method {method}: take cut or head_tail"
        )
    if config.optimizer.train_only is not None and method == "contrastive":
        raise UserError(
            "optimizer.train_only does not work with train.method contrastive, whose steps train no head: leave one of "
            "them out"
        )
    if method == "prompt" and config.data.text_pair is not None:
        raise UserError("train.method prompt reads one text, but data.text_pair names a second one: leave it out")
    if method == "prompt" and config.model.head == "new":
        raise UserError(
            "model.head is new, but train.method prompt needs the words that the model has learned: leave it out"
        )
