"""Decide whether texts lose their capitals and accents, from a tokenizer's files, its vocabulary, or the user's setting.

A tokenizer that changes a letter never finds the tokens with that letter. So a vocabulary whose words have capitals was made
for texts that keep capitals, and one whose words have accents for texts that keep accents.

`tokenizer_config.json` counts first, as in transformers; then `tokenizer.json`, which transformers 5 does not read; then the
vocabulary. The user's setting counts if the files say nothing or contradict each other. `tokenizer` loads the files.
"""

from __future__ import annotations

import logging
import re
import unicodedata
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jaxbert.errors import UserError
from jaxbert.plain import shown

Options = dict[str, bool | None]
"""BertTokenizer's `do_lower_case`, `strip_accents` (None: if texts are lower-cased) and `tokenize_chinese_chars`."""
_SPECIAL = re.compile(r"\[.+\]|<.+>", re.DOTALL)
_CASED_SHARE = 0.02
"""From this share of words with capitals, a vocabulary is cased; BERT's cased vocabularies have 0.33 to 0.38."""
_STRAY_SHARE = 0.0005
"""Below this share of words with capitals, a vocabulary is uncased: ten added tokens in BERT's 30,522."""
_ACCENTED_SHARE = 0.001
_EXAMPLES = 3

logger = logging.getLogger("jaxbert")


@dataclass(frozen=True)
class Casing:
    """The casing of texts that fits a vocabulary."""

    lower_case: bool | None
    """Whether texts are lower-cased; None if there are so few capitals that they may be added tokens."""
    strip_accents: bool | None
    """False if its tokens have accents but no capitals; None: the same as `lower_case`."""
    why: str
    """The reason, for messages."""
    capitals: int
    """The number of words with capitals."""
    letters: int
    """The number of words with letters that have a case."""


def casing_of(tokens: Collection[str], piece_marker: str) -> Casing:
    """Return the casing of texts that fits a vocabulary; special tokens and word pieces do not count."""
    words = [t for t in tokens if t and not (t.startswith(piece_marker) or _SPECIAL.fullmatch(t))]
    capitals = [word for word in words if word != word.lower()]
    letters = len(capitals) + sum(word == word.lower() != word.upper() for word in words)
    share = len(capitals) / max(letters, 1)
    why = f"{len(capitals):,} of {letters:,} words in it have capitals" if capitals else "no word in it has capitals"
    if share >= _CASED_SHARE:
        return Casing(False, None, why, len(capitals), letters)
    if capitals:
        why += f" ({', '.join(map(shown, capitals[:_EXAMPLES]))})"
    accented = sum(word != _without_accents(word) for word in words)
    kept = False if accented > _ACCENTED_SHARE * len(words) else None
    if kept is False:
        why += f", {accented:,} have accents"
    return Casing(True if share < _STRAY_SHARE else None, kept, why, len(capitals), letters)


def _without_accents(text: str) -> str:
    """Return a text as BERT's tokenizer strips its accents: decomposed, without combining marks."""
    if text.isascii():
        return text
    return "".join(c for c in unicodedata.normalize("NFD", text) if unicodedata.category(c) != "Mn")


def by_vocabulary(
    name: str, casing: Casing, settings: Mapping[str, Any], wanted: bool | None, where: str | Path = ""
) -> Options:
    """Decide for a vocabulary without a `tokenizer.json`, and warn of a guess.

    Args:
      name: the vocabulary's name in messages.
      casing: the casing that fits it.
      settings: the content of `tokenizer_config.json`; empty for none.
      wanted: `model.lower_case`.
      where: the path of the settings.

    Raises:
      UserError: if the user contradicts the settings, or nothing decides the casing.
    """
    stated, strips = settings.get("do_lower_case"), settings.get("strip_accents")
    if wanted is not None and stated is not None:
        _check_wanted(wanted, [stated], f"{where} says do_lower_case {_spelled(stated)}")
    lowers = stated if wanted is None else wanted
    if lowers is not None:
        warn_of_misfit(name, casing, lower_case=lowers)
    elif casing.lower_case is None:
        raise UserError(
            f"{name}: {casing.why}, too few for a cased vocabulary and too many for chance, and nothing else says whether "
            "texts keep their capitals: set model.lower_case (for predict and evaluate --lower_case) to true or false"
        )
    else:
        lowers = casing.lower_case
    keeps_accents = strips is None and stated is None and lowers and casing.strip_accents is False
    if (wanted is None and stated is None and casing.letters) or keeps_accents:
        became = "are lower-cased" if lowers else "keep their capitals"
        logger.warning(
            "%s: %s: texts %s%s (model.lower_case)",
            *(name, casing.why, became, " and keep their accents" if keeps_accents else ""),
        )
    return {"do_lower_case": lowers, "strip_accents": False if keeps_accents else strips}


def by_files(
    folder: Path,
    casing: Casing,
    settings: Mapping[str, Any],
    normalizer: Mapping[str, Any],
    wanted: bool | None,
) -> Options:
    """Decide for a `tokenizer.json` with BERT's normalizer, and warn if the files contradict each other.

    Raises:
      UserError: if the user contradicts both files.
    """
    stated, found = settings.get("do_lower_case"), normalizer.get("lowercase", True)
    lowers = found if stated is None else stated
    if wanted is not None:
        said = "tokenizer.json" if stated is None else "tokenizer_config.json"
        _check_wanted(wanted, [lowers, found], f"{folder}/{said} says that texts {_became(lowers)}")
        lowers = wanted
    elif stated is not None and stated != found:
        logger.warning(
            "%s: tokenizer_config.json says that texts %s, tokenizer.json that they %s: they %s, as in transformers "
            "(model.lower_case)",
            *(folder, _became(stated), _became(found), _became(lowers)),
        )
    elif not lowers and stated is None:
        logger.warning(
            "%s: texts keep their capitals, as tokenizer.json says: transformers 5 would lower-case them, because "
            "tokenizer_config.json does not say it",
            folder,
        )
    warn_of_misfit(str(folder), casing, lower_case=lowers)
    strips = _choose(folder, settings.get("strip_accents"), normalizer.get("strip_accents"), "strip_accents", lowers)
    chinese = _choose(
        *(folder, settings.get("tokenize_chinese_chars"), normalizer.get("handle_chinese_chars")),
        *("tokenize_chinese_chars", True),
    )
    return {"do_lower_case": lowers, "strip_accents": strips, "tokenize_chinese_chars": chinese is not False}


def check_pipeline(folder: Path, backend: Any, wanted: bool | None) -> None:
    """Check `model.lower_case` against a tokenizer of another kind.

    Raises:
      UserError: if the tokenizer does the opposite.
    """
    if wanted is not None:
        normalizer = getattr(backend, "normalizer", None)
        lowers = normalizer is not None and normalizer.normalize_str("A") == "a"
        _check_wanted(wanted, [lowers], f"the tokenizer in {folder} {'lower-cases' if lowers else 'keeps capitals'}")


def warn_of_misfit(name: str, casing: Casing, *, lower_case: bool) -> None:
    """Warn if the casing of texts does not fit the vocabulary."""
    if lower_case and casing.lower_case is False:
        message = "%s: texts are lower-cased, but %d of %d words of the vocabulary have capitals and are never found"
        logger.warning(message, name, casing.capitals, casing.letters)
    elif not lower_case and casing.letters and not casing.capitals:
        logger.warning(
            "%s: texts keep their capitals, but no word of the vocabulary has any: words with capitals become [UNK]",
            name,
        )


def _check_wanted(wanted: bool, said: list[bool], who: str) -> None:
    if wanted not in said:
        raise UserError(f"lower_case is {_spelled(wanted)}, but {who}: leave it out, or change the file")


def _choose(folder: Path, stated: bool | None, found: bool | None, key: str, default: bool) -> bool | None:
    """Return the setting of `tokenizer_config.json`, else that of `tokenizer.json`; warn if their effects differ."""
    if stated is None:
        return found
    in_effect = default if found is None else found
    if stated != in_effect:
        logger.warning(
            "%s: tokenizer_config.json says %s %s, tokenizer.json %s: the first counts, as in transformers",
            *(folder, key, _spelled(stated), _spelled(in_effect)),
        )
    return stated


def _became(lowers: bool) -> str:
    return "are lower-cased" if lowers else "keep their capitals"


def _spelled(value: object) -> str:
    return str(value).lower()
