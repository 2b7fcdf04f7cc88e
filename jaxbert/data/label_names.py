"""Names of labels: when two spellings are one name, what the user's own map makes of them, and which have a trained head.

Where a data set or a model brings names, they decide; how its numbers become indices is the part of `labels`.
"""

from __future__ import annotations

import logging
import re
import unicodedata
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from jaxbert.bucket import fetched, to_path
from jaxbert.config import DataConfig
from jaxbert.data.table import nearest, quoted
from jaxbert.errors import UserError
from jaxbert.plain import read_json, read_yaml, shown

WHOLE = re.compile(r"[+-]?(?:0|[1-9][0-9]{0,17})")
"""A whole number: "007" is a name, and the bound on the digits keeps the number within int64."""
_NUMBER = re.compile(r"[+-]?[0-9]*[.,]?[0-9]+")
_BETWEEN_WORDS = re.compile(r"(?<=[^\W_])[\s_\-\u2010-\u2015]+(?=[^\W_])")

logger = logging.getLogger("jaxbert")


class LabelRules(NamedTuple):
    """What the configuration says of the labels of all sources."""

    names: list[str] | None = None
    """`data.label_names`"""
    format: str = "auto"
    """`data.label_format`"""
    map: Mapping[str, str] = {}
    """`data.label_map`, read."""
    separator: str = ","
    """`data.label_separator`"""

    @classmethod
    def of(cls, data: DataConfig) -> LabelRules:
        """Read them.

        Raises:
          UserError: for a map that is none.
        """
        return cls(data.label_names, data.label_format, _read_map(data.label_map), data.label_separator)

    def rename(self, name: str) -> str:
        """Return the name that the user's map gives to one."""
        return self.map.get(name, name)


def _read_map(given: str | dict[str, Any] | None) -> dict[str, str]:
    """Return `data.label_map` as texts, from a YAML or JSON file where it is a path."""
    content: Any = given or {}
    if isinstance(given, str):
        if given.lstrip().startswith("{"):
            raise UserError(f"data.label_map {shown(given)} must map names to names: write each in quotes")
        path = Path(fetched(to_path(given)))
        content = (
            read_json(path) if path.suffix.lower() == ".json" else read_yaml(path, f"data.label_map {shown(given)}")
        )
    if not isinstance(content, dict):
        raise UserError(f"data.label_map {shown(given)} must map names to names, as {{pos: positive}}")
    for name in (name for pair in content.items() for name in pair):
        if type(name) not in (str, int):  # YAML reads `no` as false
            raise UserError(f"data.label_map: {shown(name)} is no name of a label: write it in quotes")
    return {str(name).strip(): str(meant).strip() for name, meant in content.items()}


def check_map(rules: LabelRules, written: Iterable[str], known: Sequence[str]) -> None:
    """Check that each entry of the user's map renames something, and makes a known label of it.

    Args:
      rules: with the map.
      written: all names in the sources, as they were written.
      known: the labels of the model.

    Raises:
      UserError: for the first entry that does not.
    """
    there = set(written) if rules.map else set()
    for name, meant in rules.map.items():
        if name not in there:
            near = nearest(name, sorted(there))
            hint = f"; did you mean {near!r}?" if near else ""
            raise UserError(f"data.label_map renames {name!r}, which is no label of the data{hint}")
        if meant not in known:
            raise UserError(f"data.label_map makes {name!r} {meant!r}, but the labels are {quoted(known)}")


def fold(name: str) -> str:
    """Return what the spellings of one name share: case, the kind of a gap between words and the Unicode form are left out.

    Signs at the ends stay: "A-" is not "A", and -1 is not 1.
    """
    text = unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", name).casefold())
    text = "".join(c for c in text if unicodedata.category(c) != "Cf").strip()  # joiners and marks without a shape
    if _NUMBER.fullmatch(text):
        return str(int(text)) if text.lstrip("+-").isdecimal() else text
    return _BETWEEN_WORDS.sub(" ", text) or name


def find_places(written: Iterable[str], known: Sequence[str], source: str) -> dict[str, int]:
    """Return the index in `known` of each name that is known, if need be in another spelling, which is said.

    Spellings are compared where they leave no doubt: not where two of `known`, or two of `written`, fold together.

    Raises:
      UserError: where two of `known` are equal.
    """
    exact = {name: index for index, name in enumerate(known)}
    if len(exact) < len(known):
        raise UserError(
            f"{source}: two labels of the model have one name ({quoted(known)}): rename one in its id2label"
        )
    written = list(dict.fromkeys(written))
    if all(name in exact for name in written):
        return {name: exact[name] for name in written}
    times, known_times = Counter(map(fold, written)), Counter(map(fold, known))
    folded = {fold(name): index for name, index in exact.items()}
    places, respelled = {}, []
    for name in written:
        if name in exact:
            places[name] = exact[name]
        elif (key := fold(name)) in folded and times[key] == known_times[key] == 1:
            places[name] = folded[key]
            respelled.append(f"{name!r} is {known[folded[key]]!r}")
    if respelled:
        more = f" and {len(respelled) - 5} more" if len(respelled) > 5 else ""
        logger.warning("%s: labels are known in another spelling: %s%s", source, ", ".join(respelled[:5]), more)
    return places


def is_generic(names: Sequence[str]) -> bool:
    """Say whether names only number the labels: LABEL_0, LABEL_1, ... or 0, 1, ..."""
    numbers = [str(index) for index in range(len(names))]
    return list(names) in (numbers, [f"LABEL_{number}" for number in numbers])


def numbers_mean(names: Sequence[str]) -> str | None:
    """Return what a whole number is beside these labels: an "index", a "name", or None where it can be either.

    It is "likely" an index where no name is a number.
    """
    whole = [name for name in names if WHOLE.fullmatch(name)]
    if is_generic(names):
        return "index"
    if len(whole) < len(names):
        return None if whole else "likely"
    return None if set(map(int, whole)) == set(range(len(names))) else "name"


def both_lists(own: Sequence[str], known: Sequence[str], whose: str = "the model") -> str:
    """Show the names of a source beside those that are known, and the way out, for the end of a message."""
    lacking = [name for name in own if fold(name) not in set(map(fold, known))]
    free = [name for name in known if fold(name) not in set(map(fold, own))]
    example = f"{{{(lacking or list(own))[0]}: {(free or list(known))[0]}}}"
    return (
        f"the data has the labels {quoted(own)}, {whose} {quoted(known)}: say by data.label_map which is which, "
        f"for instance {example}"
    )
