"""Whether texts lose their capitals and accents, by the files of a tokenizer, by its vocabulary, or as the user says.

What `tokenizer_config.json` says comes first, as in transformers; then `tokenizer.json`, which transformers 5 do not ask;
then the vocabulary. A user's word counts where the files leave it open or contradict each other.
"""

from __future__ import annotations

import logging
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from jaxbert.errors import UserError
from jaxbert.interop.vocab_file import Casing, casing_of

Options = dict[str, bool | None]
"""BertTokenizer's `do_lower_case`, `strip_accents` (None: where texts are lower-cased) and `tokenize_chinese_chars`."""

logger = logging.getLogger("jaxbert")


def by_vocabulary(
    name: str, tokens: Collection[str], settings: Mapping[str, Any], wanted: bool | None, where: str | Path = ""
) -> Options:
    """Decide for a vocabulary without a `tokenizer.json`, and say what was guessed.

    Args:
      name: how messages call the vocabulary.
      tokens: its tokens.
      settings: the content of `tokenizer_config.json`, empty for none.
      wanted: `model.lower_case`.
      where: the path of the settings.

    Raises:
      UserError: if the user contradicts the settings, or the vocabulary leaves it open.
    """
    stated, strips = settings.get("do_lower_case"), settings.get("strip_accents")
    if wanted is not None and stated is not None:
        _check_wanted(wanted, [stated], f"{where} says do_lower_case {_spelled(stated)}")
    casing = casing_of(tokens)
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
    tokens: Collection[str],
    settings: Mapping[str, Any],
    normalizer: Mapping[str, Any],
    wanted: bool | None,
) -> Options:
    """Decide where there is a `tokenizer.json` with BERT's normalizer, and say where the files contradict each other.

    Raises:
      UserError: if the user contradicts both.
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
            "%s: texts keep their capitals, as tokenizer.json says: transformers 5 would lower-case them, for want of a "
            "word in tokenizer_config.json",
            folder,
        )
    warn_of_misfit(str(folder), casing_of(tokens), lower_case=lowers)
    strips = _choose(folder, settings.get("strip_accents"), normalizer.get("strip_accents"), "strip_accents", lowers)
    chinese = _choose(
        *(folder, settings.get("tokenize_chinese_chars"), normalizer.get("handle_chinese_chars")),
        *("tokenize_chinese_chars", True),
    )
    return {"do_lower_case": lowers, "strip_accents": strips, "tokenize_chinese_chars": chinese is not False}


def check_pipeline(folder: Path, backend: Any, wanted: bool | None) -> None:
    """Compare `model.lower_case` with what a tokenizer of another kind does.

    Raises:
      UserError: if it does the opposite.
    """
    if wanted is not None:
        normalizer = getattr(backend, "normalizer", None)
        lowers = normalizer is not None and normalizer.normalize_str("A") == "a"
        _check_wanted(wanted, [lowers], f"the tokenizer in {folder} {'lower-cases' if lowers else 'keeps capitals'}")


def warn_of_misfit(name: str, casing: Casing, *, lower_case: bool) -> None:
    """Say where texts become what the vocabulary does not have."""
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
    """Return what `tokenizer_config.json` states, or what `tokenizer.json` has, and say where they differ in effect."""
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
