"""The identity of a run: its data, label names, tokenizer and model, kept in the run folder and compared at each start.

Paths of files and the way to read them may change as long as the content is the same. The content is compared here, before
the run writes anything.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from etils import epath
from transformers import BertConfig

from jaxbert.bucket import write_whole
from jaxbert.config import Config
from jaxbert.data.examples import Content, content_of
from jaxbert.errors import UserError, quoted
from jaxbert.interop.read import find_weights
from jaxbert.plain import flat, read_json, shown
from jaxbert.runs.folder import RunFolder
from jaxbert.tasks.base import Inputs

_ARCHITECTURE = (
    "vocab_size",
    "hidden_size",
    "num_hidden_layers",
    "num_attention_heads",
    "intermediate_size",
    "hidden_act",
    "max_position_embeddings",
    "type_vocab_size",
    "layer_norm_eps",
    "hidden_dropout_prob",
    "attention_probs_dropout_prob",
    "classifier_dropout",
)
"""The keys of a model's configuration that decide its computation."""
FILLS = "fills "
"""The beginning of `Identity.teacher` where a model fills words (`train.augment`)."""
_SAMPLE = 1 << 16
_MOST_NAMES = 10

logger = logging.getLogger("jaxbert")


@dataclass(frozen=True)
class Identity:
    """A summary of the data, labels, tokenizer and model of a run."""

    labels: list[str]
    """The label names in the order of the model's outputs; empty if the task has no labels."""
    tokenizer: dict[str, Any]
    model: dict[str, Any]
    """The model's given name, the keys that decide its computation, and a checksum of samples of its weights."""
    sets: dict[str, Content]
    """A summary of each data set by its configuration key; one of several sets also has its own name after the key."""
    steps: int
    """The optimizer steps of the whole run."""
    loss: str | None = None
    """The name of a Python program's own loss; None for the task's loss."""
    teacher: str | None = None
    """A text that changes with the weights of the teacher, or of the model that fills words, and the rows without labels."""
    changes: list[str] = field(default_factory=list)
    """Messages about data that changed during the run, the earliest first."""

    @property
    def checksum(self) -> bytes:
        """A checksum of 16 bytes that changes with data, labels and tokenizer."""
        content = [self.labels, self.tokenizer, {name: dataclasses.astuple(found) for name, found in self.sets.items()}]
        return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).digest()[:16]

    def write(self, path: epath.Path) -> None:
        """Write it as JSON."""
        write_whole(path, json.dumps(dataclasses.asdict(self), indent=2, ensure_ascii=False) + "\n")

    def _check(self) -> None:
        """Raise the errors that a comparison of damaged content would meet."""
        flat(self.tokenizer["settings"])
        flat(self.model["architecture"])
        ", ".join(self.labels + self.changes)
        if (
            not {*self.tokenizer, *self.model} >= {"tokens", "vocabulary", "name", "weights"}
            or type(self.steps) is not int
        ):
            raise KeyError

    @classmethod
    def read(cls, path: epath.Path) -> Identity | None:
        """Read a file of `write`; return None if there is none.

        Raises:
          UserError: if it is damaged.
        """
        if not path.exists():
            return None
        content = read_json(path)
        try:
            sets = {str(name): Content(**values) for name, values in content.pop("sets").items()}
            found = cls(sets=sets, **content)
            found._check()
        except (TypeError, AttributeError, KeyError) as error:
            raise UserError(f"{path} is damaged: remove it to resume without comparing the data") from error
        return found


def identify(
    config: Config, bert_config: BertConfig, tokenizer: Any, model: Path | None, inputs: Inputs, steps: int
) -> Identity:
    """Summarize the data and the model that a start has read.

    Args:
      config: the run's configuration.
      bert_config: the configuration of the model that it starts from.
      tokenizer: the tokenizer of that model.
      model: the folder of that model; None for a new one.
      inputs: the run's inputs.
      steps: the optimizer steps of the whole run.
    """
    labels = inputs.task.output_names
    architecture = {key: getattr(bert_config, key, None) for key in _ARCHITECTURE}
    weights = None if model is None else _weights(model)
    return Identity(
        labels=list(labels),
        tokenizer=identify_tokenizer(tokenizer),
        model={"name": config.model.name_or_path, "architecture": architecture, "weights": weights},
        sets=_contents(config, inputs),
        steps=steps,
    )


def _contents(config: Config, inputs: Inputs) -> dict[str, Content]:
    """Return the content of each data set by its configuration key."""
    sets = {"data.train": [inputs.train if inputs.labelled is None else inputs.labelled]}
    validation = inputs.validation
    if config.data.validation_fraction:
        sets["data.train"] += validation.values()
        validation = {}
    for key, found in (("validation", validation), ("test", inputs.test)):
        sets |= {f"data.{key}" if [name] == [key] else f"data.{key} {name}": [part] for name, part in found.items()}
    return {name: content_of(parts, inputs.task.output_names) for name, parts in sets.items()}


def check_data(folder: RunFolder, config: Config, inputs: Inputs) -> None:
    """Check that the data of a complete run, read again, are those that it learned from and was measured on.

    Raises:
      UserError: if they have changed.
    """
    before = Identity.read(folder.data)
    changes = [] if before is None else _changed_sets(before.sets, _contents(config, inputs))
    if changes:
        raise UserError(
            f"the data of the run in {folder.path} have changed since it ended ({'; '.join(changes)}): give the same data, "
            "or train again"
        )


def identify_tokenizer(tokenizer: Any) -> dict[str, Any]:
    """Return the size of the vocabulary, its checksum, and the tokenizer's settings in plain values."""
    backend = getattr(tokenizer, "backend_tokenizer", None)
    settings: dict[str, Any] = {"class": type(tokenizer).__name__}
    if backend is None:
        words: Any = tokenizer.get_vocab()
    else:
        state = json.loads(backend.to_str())
        words = [state["model"].pop("vocab", None), state.get("added_tokens")]
        settings = {name: state.get(name) for name in ("normalizer", "pre_tokenizer", "post_processor", "model")}
    checksum = hashlib.sha256(json.dumps(words, sort_keys=True).encode()).hexdigest()[:32]
    return {"tokens": len(tokenizer), "vocabulary": checksum, "settings": settings}


def check_same_tokenizer(said: str, theirs: Any, ours: Any) -> None:
    """Check that another model reads texts as a run's model does; `said` names it in messages.

    Raises:
      UserError: for another vocabulary, or other settings of the tokenizer.
    """
    there, here = identify_tokenizer(theirs), identify_tokenizer(ours)
    if there["vocabulary"] != here["vocabulary"]:
        sizes = f"{there['tokens']:,} tokens there, {here['tokens']:,} here"
        raise UserError(f"{said} has another vocabulary ({sizes}): train a model that has the same one")
    for kind in ("normalizer", "pre_tokenizer", "post_processor"):
        if there["settings"].get(kind) != here["settings"].get(kind):
            raise UserError(f"{said} reads texts in another way ({kind} of the tokenizer): set model.lower_case alike")


def _weights(folder: Path) -> str | None:
    """Return a checksum of the size, beginning, middle and end of each file of weights."""
    first = find_weights(folder)
    if first is None:
        return None
    stem, suffix = first.name.removesuffix(".index.json").rsplit(".", 1)
    sum_ = hashlib.sha256()
    for path in sorted(folder.glob(f"{stem}-*.{suffix}")) if first.suffix == ".json" else [first]:
        size = path.stat().st_size
        sum_.update(str(size).encode())
        with path.open("rb") as file:
            for place in (0, size // 2, max(0, size - _SAMPLE)):
                file.seek(place)
                sum_.update(file.read(_SAMPLE))
    return sum_.hexdigest()[:32]


def known_labels(folder: RunFolder, before: Identity | None) -> list[str]:
    """Return the label names that a run has learned; those of an older run are in its start configuration."""
    if before is not None:
        return before.labels
    path = folder.start / "config.json"
    names = read_json(path).get("id2label") if path.exists() else None
    if not isinstance(names, dict) or not all(index.isdecimal() for index in names):
        return []
    return [str(names[index]) for index in sorted(names, key=int)]


def go_on(folder: RunFolder, before: Identity | None, now: Identity, *, learned: bool, accepts: bool) -> Identity:
    """Compare the kept identity with the one of this start; return the identity to keep from now on.

    Args:
      folder: the run folder.
      before: the kept identity; None if there is none.
      now: the identity that was just read.
      learned: whether there is a checkpoint.
      accepts: `train.accept_changed_data`.

    Raises:
      UserError: for differences with which the run cannot resume, or not without `accepts`.
    """
    if before is None:
        if not learned:
            return now
        logger.warning(
            "%s was begun by an older version, which did not record its data: it is not known whether the data are the same",
            folder.path,
        )
        before = dataclasses.replace(now, labels=now.labels and known_labels(folder, None))
    never = _never_accepted(before, now)
    changes = [*never, *_changed_sets(before.sets, now.sets, only_counts=bool(never))]
    if changes and not learned:
        logger.warning("%s: no checkpoint was saved yet, so the run begins again: %s", folder.path, "; ".join(changes))
        return now
    if never or (changes and not accepts):
        raise UserError(
            f"the run in {folder.path} began with other data or another model ({'; '.join(changes)}): use the same ones"
            + (folder.way_out() if never else ", or set train.accept_changed_data to continue with the new data")
        )
    if changes:
        steps = f"; {now.steps} steps in all, not {before.steps}: the learning rate follows"
        steps = steps if now.steps != before.steps else ""
        logger.warning("%s continues with changed data (%s%s)", folder.path, "; ".join(changes), steps)
    changes = [*before.changes, *(["; ".join(changes)] if changes else [])]
    return dataclasses.replace(now, model=_kept_model(before.model, now.model), changes=changes)


def _never_accepted(before: Identity, now: Identity) -> list[str]:
    """List the changes to which the weights do not fit any more."""
    found = []
    if before.labels != now.labels:
        found.append(_changed_labels(before.labels, now.labels))
    if before.tokenizer["vocabulary"] != now.tokenizer["vocabulary"]:
        sizes = before.tokenizer["tokens"], now.tokenizer["tokens"]
        found.append("another vocabulary (" + "{:,} tokens there, {:,} now)".format(*sizes))
    if before.loss != now.loss:
        found.append(
            "another loss ({} there, {} now)".format(*(loss or "the task's own" for loss in (before.loss, now.loss)))
        )
    if before.teacher != now.teacher:
        fills = any(text is not None and text.startswith(FILLS) for text in (before.teacher, now.teacher))
        found.append("another model that fills words" if fills else "another teacher, or other rows without labels")
    found += _changed_values("tokenizer", before.tokenizer["settings"], now.tokenizer["settings"])
    architecture = _changed_values("model", before.model["architecture"], now.model["architecture"])
    other = before.model["name"] != now.model["name"] and before.model["weights"] != now.model["weights"]
    if other and not architecture:
        names = shown(before.model["name"]), shown(now.model["name"])
        architecture = ["model.name_or_path: {} there, {} now, with other weights".format(*names)]
    return found + architecture


def _changed_labels(before: Sequence[str], now: Sequence[str]) -> str:
    said = f"labels {quoted(before, _MOST_NAMES)} there, {quoted(now, _MOST_NAMES)} now"
    if max(len(before), len(now)) <= _MOST_NAMES:
        return said
    gone, new = sorted(set(before) - set(now)), sorted(set(now) - set(before))
    differing = [f"{word} {quoted(names, _MOST_NAMES)}" for word, names in (("without", gone), ("with", new)) if names]
    return f"{len(before):,} labels there, {len(now):,} now, {' and '.join(differing) or 'in another order'}"


def _changed_values(name: str, before: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """Compare the keys that both have: another version of a library may add settings."""
    old, new = flat(before), flat(now)
    return [
        f"{name}: {key} {shown(old[key])} there, {shown(new[key])} now"
        for key in old
        if old[key] != new.get(key, old[key])
    ]


def _changed_sets(before: Mapping[str, Content], now: Mapping[str, Content], *, only_counts: bool = False) -> list[str]:
    found = []
    for name in dict.fromkeys((*before, *now)):
        old, new = before.get(name), now.get(name)
        if old is None or new is None:
            there = old or new
            assert there is not None
            found.append(
                f"{name}: {there.examples:,} examples {'now, none there' if old is None else 'there, none now'}"
            )
        elif old.examples != new.examples:
            found.append(f"{name}: {old.examples:,} examples there, {new.examples:,} now")
        elif old != new and not only_counts:
            found.append(f"{name}: {new.examples:,} examples as before, but other texts or labels")
    return found


def _kept_model(before: dict[str, Any], now: dict[str, Any]) -> dict[str, Any]:
    """Return the model with which the run began, under the name that it has now."""
    if before["weights"] != now["weights"]:
        logger.warning(
            "the weights in %s have changed since the run began from them: the run keeps its own", now["name"]
        )
        return before
    return now
