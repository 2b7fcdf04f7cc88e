"""Decide the meaning of a source's tags: those of a scheme mark spans, plain tags count one by one.

The decision is made for all tags of a source together. Inside the program, the tags of a scheme are written `O`, `B-PER`;
files may write them differently (`0`, `B_PER`, `PER-B`, `b-per`). `scheme` converts tags to spans.
"""

from __future__ import annotations

import logging
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from jaxbert.data.label_column import find_places, fold
from jaxbert.errors import UserError, quoted
from jaxbert.tasks.token_classification.scheme import OUTSIDE, SCHEMES, Scheme

_OUTSIDES = (OUTSIDE, "0", "o")
"""The spellings of the tag for a word in no span."""
_LETTERS = "BIMELUS"
_AROUND = re.compile("^[\\s\u00ad\u200b-\u200f\u2060\ufeff]+|[\\s\u00ad\u200b-\u200f\u2060\ufeff]+$")
_HALF = re.compile(f"[{_LETTERS}][-_:/]")
_NAMES = ", ".join(scheme.name for scheme in SCHEMES)
_OR_PLAIN = ", or set data.tag_scheme to plain, which takes each tag as it is"
_SPECIAL = {"X", "PAD", "[PAD]", "<pad>", "[CLS]", "[SEP]", "[UNK]", "[MASK]", "<s>", "</s>"}
"""Further tags in models of other programs, for tokens that do not begin a word."""

logger = logging.getLogger("jaxbert")


@dataclass(frozen=True)
class TagSet:
    """The distinct tags of a source."""

    names: tuple[str, ...]
    """The tags in our spelling, sorted."""
    scheme: Scheme | None
    """None for plain tags."""
    read_as: dict[str, str] = field(default_factory=dict)
    """Tags that the source writes differently, each with our spelling."""
    new_head: bool = False
    """Whether the model's trained head has none of these tags, so that a new head is drawn."""


class Notation(NamedTuple):
    """The spelling of a scheme's tags: the separator of letter and label, and whether the letter comes first."""

    separator: str = "-"
    letter_first: bool = True
    capital: bool = True

    def read(self, tag: str) -> str | None:
        """Return a tag in our spelling; None if it is no tag of this notation."""
        if self.letter_first:
            letter, separator, label = tag.partition(self.separator)
        else:
            label, separator, letter = tag.rpartition(self.separator)
        capital = letter if self.capital else letter.upper()
        if len(letter) != 1 or capital not in _LETTERS or (not self.capital and letter == capital):
            return None
        if not separator:
            return capital if self.letter_first and self.separator == "-" else None
        known = label if self == CANONICAL else re.search(r"\w", label)
        return f"{capital}-{label}" if known else None

    def read_all(self, tags: Iterable[str]) -> dict[str, str] | None:
        """Return tags in our spelling, by the given tag; None unless all are of this notation and of one scheme."""
        found = {}
        for tag in tags:
            read = self.read(tag)
            if read is None:
                return None
            found[tag] = read
        return found if scheme_of(found.values()) else None


CANONICAL = Notation()
NOTATIONS = tuple(
    Notation(separator, first, capital) for capital in (True, False) for first in (True, False) for separator in "-_:/"
)


def scheme_of(tags: Iterable[str]) -> Scheme | None:
    """Return the first scheme that has the letters of all these tags, in our spelling; None if there is none."""
    letters = {tag[0] for tag in tags}
    return next((scheme for scheme in SCHEMES if letters <= scheme.letters), None)


def looks_like_scheme(tags: Iterable[str]) -> bool:
    """Return whether tags mark spans with a first or an inner unit, in any notation."""
    marking = set(tags).difference(_OUTSIDES)
    for notation in NOTATIONS:
        read = notation.read_all(marking)
        if read and (_begins(read.values()) or (notation == CANONICAL and any(tag[0] in "BI" for tag in marking))):
            return True
    return False


def clean_tag(tag: str) -> str:
    """Return a tag without blanks and invisible characters at its ends."""
    return _AROUND.sub("", tag)


def fit_tag_set(tags: Iterable[str], source: str, setting: str = "auto") -> TagSet:
    """Return the tag set of a source; warn if its meaning is not certain.

    Args:
      tags: all tags that occur.
      source: the source's name in messages.
      setting: `data.tag_scheme`.

    Raises:
      UserError: if two meanings are possible, or no tag marks anything.
    """
    written = set(tags)
    outsides = [tag for tag in _OUTSIDES if tag in written]
    marking = sorted(written - set(outsides))
    if not marking:
        raise UserError(f"{source}: every tag is {'/'.join(outsides)!r}: at least one word must be marked")
    if setting == "plain":
        return _plain(written, source)
    found = _scheme_tags(marking, bool(outsides), source, setting)
    if found is None:
        _refuse_mixtures(marking, outsides, source)
        tag_set = _plain(written, source)
        numbers = ": numbers; data.label_names names them" if all(tag.isdecimal() for tag in written) else ""
        logger.warning(
            "%s: the tags (%s%s) have no prefix of %s: each word's tag counts by itself, words are not joined to entities",
            *(source, quoted(sorted(written), 5), numbers, _NAMES),
        )
        return tag_set
    if len(outsides) > 1:
        raise _both(outsides, source)
    scheme = _scheme(found, setting)
    read_as = found | dict.fromkeys(outsides, OUTSIDE)
    say_readings(read_as, source)
    return TagSet(tuple(sorted({OUTSIDE, *read_as.values()})), scheme, _differing(read_as))


def _plain(written: set[str], source: str) -> TagSet:
    if len(written) == 1:
        raise UserError(
            f"{source}: every word has the tag {min(written)!r}: at least two are needed; data.tag_column names "
            "another column"
        )
    return TagSet(tuple(sorted(written)), None)


def _scheme(found: dict[str, str], setting: str) -> Scheme:
    named = next((scheme for scheme in SCHEMES if scheme.name == setting), None)
    scheme = named or scheme_of(found.values())
    assert scheme is not None
    return scheme


def _scheme_tags(marking: Sequence[str], has_outside: bool, source: str, setting: str) -> dict[str, str] | None:
    """Return our spelling of the marking tags; None for plain tags.

    Without a setting, a notation counts if it is our own, or if a span begins in it.
    """
    readings = {notation: read for notation in NOTATIONS if (read := notation.read_all(marking)) is not None}
    if setting != "auto":
        letters = next(scheme.letters for scheme in SCHEMES if scheme.name == setting)
        readings = {n: read for n, read in readings.items() if {tag[0] for tag in read.values()} <= letters}
        if not readings:
            odd = [tag for tag in marking if (CANONICAL.read(tag) or " ")[0] not in letters]
            raise UserError(
                f"{source}: tags that are not of data.tag_scheme {setting} ({quoted(odd)}): correct them, or set it "
                "to auto or plain"
            )
    own = readings.pop(CANONICAL, None)
    if own is not None:
        if setting == "auto":
            _check_certain(own, has_outside, source)
        return own
    likely = [read for read in readings.values() if setting != "auto" or _begins(read.values())]
    if len(likely) > 1:
        one, other = (read[marking[0]] for read in likely[:2])
        raise UserError(
            f"{source}: the tag {marking[0]!r} can be read as {one!r} and as {other!r}: write the tags as "
            f"B-LABEL{_OR_PLAIN}"
        )
    return likely[0] if likely else None


def _begins(tags: Iterable[str]) -> bool:
    """Return whether some tag begins a span, in tags that are all of a scheme; letters alone need a second letter."""
    known = set(tags)
    return any(tag[0] == "B" for tag in known) and (any(len(tag) > 1 for tag in known) or len(known) > 1)


def _check_certain(tags: dict[str, str], has_outside: bool, source: str) -> None:
    """Raise `UserError` for tags that look like ends and singles of a scheme without its first or inner units."""
    letters = {tag[0] for tag in tags}
    alone = all(len(tag) == 1 for tag in tags)
    if not letters & {"B", "I"} and (alone or not has_outside):
        raise UserError(
            f"{source}: the tags {quoted(sorted(tags))} can be plain, or of a scheme, of which no tag begins with B or "
            "I: set data.tag_scheme to plain or to the scheme"
        )


def _refuse_mixtures(marking: Sequence[str], outsides: Sequence[str], source: str) -> None:
    """Raise `UserError` if only some tags are those of a scheme: a mistake, or plain tags that look like a scheme's."""
    half = [tag for tag in marking if _HALF.fullmatch(tag)]
    if half:
        raise UserError(f"{source}: {quoted(half)} lack a label after the letter: complete them{_OR_PLAIN}")
    if {OUTSIDE, "0"} <= set(outsides):
        raise _both(outsides, source)
    for notation in NOTATIONS:
        read = {tag: name for tag in marking if (name := notation.read(tag)) is not None}
        others = [tag for tag in marking if tag not in read]
        telling = [tag for tag, name in read.items() if not others or re.search(r"\w", name[2:])]
        letters = {read[tag][0] for tag in telling}
        begun, going_on = (
            {read[tag][1:] for tag in telling if (read[tag][0] == "B") == first} for first in (True, False)
        )
        if not letters & {"B", "I"} or (notation != CANONICAL and begun.isdisjoint(going_on)):
            continue  # I_D and E_MAIL are names
        if others:
            raise UserError(
                f"{source}: some tags have the prefix of a scheme ({quoted(telling, 5)}), others have none "
                f"({quoted(others, 5)}): correct them{_OR_PLAIN}"
            )
        nearest = max(SCHEMES, key=lambda scheme: len(letters & scheme.letters))
        odd = [tag for tag in marking if read[tag][0] not in nearest.letters]
        raise UserError(
            f"{source}: the tags mix schemes ({quoted(odd)} are not {nearest.name}): use one of {_NAMES}{_OR_PLAIN}"
        )


def _both(outsides: Sequence[str], source: str) -> UserError:
    return UserError(
        f"{source}: both {outsides[0]!r} and {outsides[1]!r} are tags: write one of them for words that are not "
        f"marked{_OR_PLAIN}"
    )


def _differing(read_as: dict[str, str]) -> dict[str, str]:
    return {tag: name for tag, name in read_as.items() if tag != name}


def say_readings(read_as: dict[str, str], source: str) -> None:
    """Tell the user once how tags in another spelling are read."""
    differing = sorted(_differing(read_as).items(), key=lambda pair: pair[1] == OUTSIDE)
    examples = [pair for pair in differing if pair[1] != OUTSIDE][:1] + [p for p in differing if p[1] == OUTSIDE]
    if examples:
        shown = ", ".join(f"{tag!r} is read as {name!r}" for tag, name in examples)
        logger.warning("%s: the tag %s%s", source, shown, ", and so on" if len(differing) > len(examples) else "")


def spell_as(tags: Iterable[str], names: Sequence[str], source: str) -> dict[str, str]:
    """Return the tags of another source that `names` has in another spelling, each with that spelling; tell the user.

    The decision is made for all tags together: nothing changes unless all tags are then known.
    """
    written, known = set(tags), set(names)
    if written <= known:
        return {}
    numbered = {str(number): name for number, name in enumerate(names)}
    if written <= set(numbered) and written != {"0"} and not any(name.isdecimal() for name in names):
        logger.warning("%s: the tags are numbers, and are read as the tags known from training, in order", source)
        return numbered
    outsides = [tag for tag in _OUTSIDES if tag in written]
    marking = written - set(outsides)
    for notation in NOTATIONS if OUTSIDE in known and len(outsides) < 2 else ():
        read = notation.read_all(marking)
        if read is not None and known.issuperset(read.values()):
            read |= dict.fromkeys(outsides, OUTSIDE)
            say_readings(read, source)
            return _differing(read)
    folded = Counter(map(fold, written))
    if not set(folded) <= set(map(fold, known)) or max(folded.values()) > 1:
        return {}
    return _differing({tag: names[at] for tag, at in find_places(written, names, source).items()})


def reopen_tag_set(names: Sequence[str], scheme: str | None) -> TagSet:
    """Return the tag set of a model, in the order of its outputs; `scheme` is the scheme in our own export.

    Raises:
      UserError: if only some names are those of a scheme.
    """
    if scheme == "plain" or len(names) < 2:
        return TagSet(tuple(names), None)
    special = _SPECIAL & set(names)
    rest = CANONICAL.read_all(set(names) - special - {OUTSIDE})
    if special and rest and _begins(rest.values()):
        return TagSet(tuple(names), scheme_of(rest.values()))
    known = [each.name for each in SCHEMES]
    fitted = fit_tag_set(names, "the model's id2label", scheme if scheme in known else "auto")
    return TagSet(tuple(fitted.read_as.get(name, name) for name in names), fitted.scheme)
