"""Load the tokenizer in a model's folder, or make one from a vocabulary; no file runs code.

In a vocabulary file, with one token a line, the index of a line, from 0, is its token's id.

`tokenizer_config.json` could name any class, code to import, other files to open and templates to run. Keys that are no
setting of a tokenizer are refused or left out here; the libraries read the rest.

Whether texts lose their capitals and accents is decided from the files, the vocabulary, or the user's setting. A tokenizer
that changes a letter never finds the tokens with that letter. So a vocabulary whose words have capitals was made for texts
that keep capitals, and one whose words have accents for texts that keep accents. `tokenizer_config.json` counts first, as in
transformers; then `tokenizer.json`, which transformers 5 does not read; then the vocabulary. The user's setting counts if
the files say nothing or contradict each other.
"""

from __future__ import annotations

import codecs
import copy
import logging
import re
import unicodedata
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import transformers
from transformers import AutoTokenizer, BertConfig, BertTokenizer, PreTrainedTokenizerBase, TokenizersBackend
from transformers.tokenization_utils_base import get_fast_tokenizer_file

from jaxbert.errors import UserError, foreign_errors
from jaxbert.models.families import DEFAULT, family_of
from jaxbert.models.families.base import Family
from jaxbert.plain import read_bytes, read_json, shown

_SETTINGS = "tokenizer_config.json"
_FILE = "tokenizer.json"
_VOCABULARY = "vocab.txt"
_OTHER_SOURCES = ("init_inputs", "vocab", "merges", "gguf_file", "tokenizer_object")
"""Settings that would build a tokenizer from other data than the files of its folder."""
_CLASS = re.compile(r"\w*Tokenizer(Fast)?|TokenizersBackend|PythonBackend")
_PROBES = ("", "a", "\u4e2d\u0416\U0001f600")
_MOST_BYTES = 32 * 2**20
_EXAMPLES = 3
_FEWER = 0.02
"""The share of the model's tokens that a tokenizer may lack without a warning: some models have a few unused ids."""

logger = logging.getLogger("jaxbert")


@dataclass(frozen=True)
class Vocabulary:
    """The tokens of a file."""

    name: str
    """The file's name in messages."""
    tokens: tuple[str, ...]
    """The token of each id, without surrounding white space; empty for a blank line."""

    def repeated(self) -> dict[str, list[int]]:
        """Return the tokens that are on several lines, with their line numbers, from 1."""
        if len(set(self.tokens)) == len(self.tokens):
            return {}
        lines: dict[str, list[int]] = {}
        for line, token in enumerate(self.tokens, 1):
            lines.setdefault(token, []).append(line)
        return {token: places for token, places in lines.items() if token and len(places) > 1}

    def ids(self) -> dict[str, int]:
        """Return the id of each token; for a repeated token, the last id.

        A blank or repeated line keeps its id, under a name that no text can have.
        """
        last = {token: index for index, token in enumerate(self.tokens)}
        return {
            token if token and last[token] == index else f"[unused-line-{index + 1}]": index
            for index, token in enumerate(self.tokens)
        }

    def check_special(self, wanted: Iterable[str]) -> None:
        """Check that the vocabulary has the special tokens.

        Raises:
          UserError: with the missing tokens.
        """
        missing = [token for token in wanted if token not in self.tokens]
        if missing:
            line, first = next(((i, shown(t)) for i, t in enumerate(self.tokens, 1) if t), (1, "empty"))
            raise UserError(
                f"{self.name} lacks {', '.join(missing)} (line {line} is {first}): give a BERT vocabulary, one token on "
                "each line"
            )

    def warn_of_repeated(self) -> None:
        """Warn of tokens that are on several lines."""
        repeated = self.repeated()
        if repeated:
            logger.warning("%s holds %s twice: the last line gives the id", self.name, _places(repeated))

    def refuse_repeated(self) -> None:
        """Check that no token is on several lines, which is a mistake in a new model's vocabulary.

        Raises:
          UserError: with the lines.
        """
        repeated = self.repeated()
        if repeated:
            raise UserError(f"{self.name} holds a token twice, {_places(repeated)}: remove one of the lines")


def load_tokenizer(folder: Path, bert_config: BertConfig, lower_case: bool | None = None) -> Any:
    """Load the tokenizer in a model's folder; a guess is told to the user.

    Args:
      folder: the folder of the model.
      bert_config: the model's configuration.
      lower_case: whether texts are lower-cased, if the folder does not say so; None to guess from the vocabulary.

    Raises:
      UserError: if it is missing or damaged, has token ids that the model lacks, or contradicts `lower_case`.
    """
    unusable = f"{folder} has no usable tokenizer ({_FILE} or {_VOCABULARY})"
    with foreign_errors(unusable):
        settings = _check_settings(folder, bert_config)
    config = copy.copy(bert_config)
    config._name_or_path = ""  # the library has exceptions for some names
    with foreign_errors(unusable):
        tokenizer = _load(folder, config, settings, lower_case)
        size, largest = len(tokenizer), max(tokenizer.get_vocab().values(), default=-1)
    _check_size(folder, size, bert_config.vocab_size)
    with foreign_errors(unusable):
        _check_tokens(tokenizer, bert_config.vocab_size, largest)
    _forget_programs(tokenizer)
    return tokenizer


def new_tokenizer(path: Path, lower_case: bool | None) -> Any:
    """Make the tokenizer of a new model from a vocabulary file; without `lower_case`, guess from the vocabulary and warn.

    Raises:
      UserError: if it is no vocabulary of BERT, or does not decide the casing.
    """
    vocabulary = read_vocabulary(path, f"model.vocab {path}")
    vocabulary.check_special(DEFAULT.special_tokens.values())
    vocabulary.refuse_repeated()
    casing = casing_of(vocabulary.tokens, DEFAULT.piece_marker)
    options: Any = by_vocabulary(vocabulary.name, casing, {}, lower_case)
    with foreign_errors(f"{vocabulary.name} is not a BERT vocabulary, one token on each line"):
        return BertTokenizer(vocab=vocabulary.ids(), **options)


def _check_size(folder: Path, size: int, expected: int) -> None:
    if size > expected:
        raise UserError(
            f"{folder}: the tokenizer has {size} tokens, but the model only {expected}: "
            "put the model's own tokenizer there"
        )
    if expected - size > max(128, _FEWER * expected):
        logger.warning(
            "%s: the tokenizer has %d tokens, but the model %d: check that it belongs to the model",
            folder,
            size,
            expected,
        )


def _load(folder: Path, config: BertConfig, settings: dict[str, Any], lower_case: bool | None) -> Any:
    path, family = folder / _file_of(settings), family_of(config)
    kind = settings.get("tokenizer_class") or getattr(config, "tokenizer_class", None)
    berts = _is_berts(kind or family.tokenizer)
    if not path.is_file():
        if berts:
            return _of_vocabulary(folder, config, settings, lower_case)
        if kind in ("PreTrainedTokenizerFast", "TokenizersBackend"):
            raise UserError(f"{folder} has no {_FILE}, which its tokenizer_class {kind} needs: copy it there")
        tokenizer = _auto(folder, config)
    else:
        content = read_json(path)
        tokens = content["model"]["vocab"]
        _check_same_vocabulary(folder, tokens)
        if berts and _is_berts_pipeline(content, family):
            casing = casing_of(tokens, family.piece_marker)
            options = by_files(folder, casing, settings, content["normalizer"], lower_case)
            return _auto(folder, config, **options)
        if berts:
            logger.warning("%s is not BERT's usual tokenizer: it is used without changes", path)
            named, usual = _named_special(folder, settings, family), family.special_tokens
            special: Any = {kind: token for kind, token in usual.items() if kind not in named and token in tokens}
            tokenizer = TokenizersBackend.from_pretrained(
                folder, **special, model_input_names=BertTokenizer.model_input_names
            )
        else:
            tokenizer = _auto(folder, config)
    check_pipeline(folder, getattr(tokenizer, "backend_tokenizer", None), lower_case)
    return tokenizer


def _auto(folder: Path, config: BertConfig, **options: Any) -> Any:
    # Given the configuration, the library does not look for another one in the folder.
    return AutoTokenizer.from_pretrained(folder, config=config, trust_remote_code=False, **options)


def _file_of(settings: dict[str, Any]) -> str:
    """Return the name of the file that the library reads as `tokenizer.json`."""
    return get_fast_tokenizer_file(settings["fast_tokenizer_files"]) if settings.get("fast_tokenizer_files") else _FILE


def _is_berts(name: str) -> bool:
    """Return whether the library would use BERT's own tokenizer, which it builds from a vocabulary and options."""
    found = getattr(transformers, name.removesuffix("Fast"), None)
    return isinstance(found, type) and issubclass(found, BertTokenizer)


def _is_berts_pipeline(content: dict[str, Any], family: Family) -> bool:
    """Return whether a `tokenizer.json` is equivalent to BERT's own tokenizer with the same options."""
    model, normalizer, splitter = (content.get(part) or {} for part in ("model", "normalizer", "pre_tokenizer"))
    marker = family.piece_marker
    defaults = {"type": "WordPiece", "continuing_subword_prefix": marker, "max_input_chars_per_word": 100}
    return (
        all(model.get(key, default) == default for key, default in defaults.items())
        and normalizer.get("type") == "BertNormalizer"
        and normalizer.get("clean_text", True) is True
        and splitter.get("type") == "BertPreTokenizer"
        and _is_berts_template(content.get("post_processor") or {})
    )


def _is_berts_template(processor: dict[str, Any]) -> bool:
    """Return whether texts become [CLS] A [SEP], pairs [CLS] A [SEP] B [SEP], and the second text's tokens type 1."""
    if processor.get("type") == "BertProcessing":
        return True

    def types(pieces: list[dict[str, Any]]) -> list[int]:
        return [int(part["type_id"]) for piece in pieces for part in piece.values()]

    if processor.get("type") != "TemplateProcessing":
        return False
    return types(processor["single"]) == [0, 0, 0] and types(processor["pair"]) == [0, 0, 0, 1, 1]


def _named_special(folder: Path, settings: dict[str, Any], family: Family) -> dict[str, str]:
    """Return the special tokens that the folder's settings name, by their kind, such as `cls_token`."""
    path = folder / "special_tokens_map.json"
    named = (read_json(path) if path.is_file() else {}) | settings
    given = {kind: named[kind] for kind in family.special_tokens if named.get(kind)}
    return {kind: str(token["content"] if isinstance(token, dict) else token) for kind, token in given.items()}


def _check_same_vocabulary(folder: Path, tokens: Mapping[str, int]) -> None:
    """Raise `UserError` if `vocab.txt` and `tokenizer.json` have different vocabularies, as when only one was edited."""
    path = folder / _VOCABULARY
    if not path.is_file():
        return
    known = {token.strip(): index for token, index in tokens.items()}
    listed = {token: i for i, token in enumerate(read_vocabulary(path).tokens) if token}
    differing = [(i, token) for token, i in listed.items() if known.get(token) != i]
    if differing:
        index, token = differing[0]
        there = next((shown(t) for t, i in known.items() if i == index), "nothing")
        raise UserError(
            f"{folder}: {_FILE} and {_VOCABULARY} are two vocabularies, which differ in {len(differing)} ids: {index} is "
            f"{there} in the first and {shown(token)} in the second: remove the one that the model was not trained with"
        )


def _of_vocabulary(folder: Path, config: BertConfig, settings: dict[str, Any], lower_case: bool | None) -> Any:
    """Build BERT's own tokenizer from `vocab.txt`, each token with its line's id."""
    path = folder / _VOCABULARY
    if not path.is_file():
        others = sorted(p.name for p in folder.glob("*vocab*"))[:3]
        hint = f"; is it {' or '.join(others)}? Then rename it" if others else ""
        raise UserError(f"{folder} has no tokenizer: put {_FILE} or {_VOCABULARY} of the model there{hint}")
    if settings.get("do_basic_tokenize") is False:
        raise UserError(
            f"{folder / _SETTINGS} says do_basic_tokenize false (words end at blanks only), which is not supported: "
            "remove the key to have them split at punctuation, or save the tokenizer with a tokenizer.json"
        )
    vocabulary = read_vocabulary(path)
    added = folder / "added_tokens.json"
    known = {*vocabulary.tokens, *(read_json(added) if added.is_file() else ())}
    family = family_of(config)
    special = {**family.special_tokens, **_named_special(folder, settings, family)}
    missing = {kind: token for kind, token in special.items() if token not in known}
    # The library would add them after all others, as tokens that the model was never trained on.
    if len(known) + len(missing) > config.vocab_size or missing.keys() & {"unk_token", "cls_token", "sep_token"}:
        vocabulary.check_special(missing.values())
    vocabulary.warn_of_repeated()
    casing = casing_of(vocabulary.tokens, family.piece_marker)
    options = by_vocabulary(vocabulary.name, casing, settings, lower_case, folder / _SETTINGS)
    return _auto(folder, config, vocab=vocabulary.ids(), **options)


def _check_settings(folder: Path, bert_config: BertConfig) -> dict[str, Any]:
    """Check and return the content of `tokenizer_config.json`; empty if there is no such file."""
    path = folder / _SETTINGS
    settings = read_json(path) if path.is_file() else {}
    for key in _OTHER_SOURCES:
        if settings.get(key):
            raise UserError(f"{path} has {key}: a tokenizer is read from the files of its folder only; remove the key")
    names = settings.get("fast_tokenizer_files")
    if names and not (isinstance(names, list) and all(Path(str(name)).name == name for name in names)):
        raise UserError(f"{path} has fast_tokenizer_files {shown(names)}: only files of its own folder are read")
    _check_class(settings.get("tokenizer_class"), path)
    _check_class(getattr(bert_config, "tokenizer_class", None), folder / "config.json")
    for key in ("do_lower_case", "strip_accents", "tokenize_chinese_chars"):
        if not (settings.get(key) is None or isinstance(settings[key], bool)):
            raise UserError(f"{path} has {key} {shown(settings[key])}, but it must be true or false")
    return settings


def _check_class(name: object, path: Path) -> None:
    """Refuse the name of a class that is no tokenizer: the library would load any of its classes from the folder."""
    if name is None:
        return
    if not isinstance(name, str) or not _CLASS.fullmatch(name):  # looking a name up imports its module
        raise UserError(f"{path} has tokenizer_class {shown(name)}, which is not a tokenizer")
    for variant in {name, f"{name}Fast", name.removesuffix("Fast")}:
        found = getattr(transformers, variant, None)
        if found is not None and not (isinstance(found, type) and issubclass(found, PreTrainedTokenizerBase)):
            raise UserError(f"{path} has tokenizer_class {shown(name)}, which is not a tokenizer")


def _check_tokens(tokenizer: Any, vocab_size: int, largest: int) -> None:
    """Encode a few texts, to find a damaged tokenizer and token ids without an embedding."""
    if largest >= vocab_size:
        raise ValueError(f"it has the token id {largest}, but the model only ids below {vocab_size}")
    for pairs in (None, list(_PROBES)):
        encoded = tokenizer(list(_PROBES), pairs, padding=False, return_token_type_ids=True, verbose=False)
        for ids, types in zip(encoded["input_ids"], encoded["token_type_ids"], strict=True):
            if not ids or max(ids) >= vocab_size or min(ids) < 0:
                raise ValueError(
                    f"a text becomes the token ids {shown(ids)}, but they must be from 0 to {vocab_size - 1}"
                )
            if len(types) != len(ids) or not set(types) <= {0, 1}:
                raise ValueError(f"a text becomes the token types {shown(types)}, but they must be 0 or 1")


def _forget_programs(tokenizer: Any) -> None:
    """Remove chat templates and the names of code, which a classifier does not use, so that no export has them."""
    tokenizer.chat_template = None
    for key in ("chat_template", "auto_map"):
        tokenizer.init_kwargs.pop(key, None)


def _places(repeated: dict[str, list[int]]) -> str:
    named = [f"{shown(t)} in lines {' and '.join(map(str, p))}" for t, p in list(repeated.items())[:_EXAMPLES]]
    return ", ".join(named) + (f" and {len(repeated) - _EXAMPLES} others" if len(repeated) > _EXAMPLES else "")


def read_vocabulary(path: Path, name: str | None = None) -> Vocabulary:
    r"""Read a file of tokens; a line ends with `\n`, `\r\n` or, in a file without `\n`, `\r`.

    Other characters at which Python ends a line are tokens of BERT's Chinese vocabulary. A byte-order mark, and blank lines
    at the end, are left out.

    Raises:
      UserError: if it cannot be read as text.
    """
    name = name or str(path)
    try:
        text = _decoded(read_bytes(path, _MOST_BYTES), name)
    except FileNotFoundError as error:
        raise UserError(f"{name} does not exist") from error
    except (OSError, ValueError) as error:
        raise UserError(f"{name} cannot be read: {getattr(error, 'strerror', None) or error}") from error
    lines = text.split("\n") if "\n" in text else text.split("\r")
    tokens = [line.strip() for line in lines]
    while tokens and not tokens[-1]:
        tokens.pop()
    return Vocabulary(name, tuple(tokens))


def _decoded(content: bytes, name: str) -> str:
    if content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        encoding = "utf-16"
    else:
        encoding, content = "utf-8", content.removeprefix(codecs.BOM_UTF8)
    try:
        return content.decode(encoding)
    except UnicodeDecodeError as error:
        line = content[: error.start].count(b"\n") + 1
        raise UserError(
            f"{name} cannot be read as UTF-8 text: line {line} has the byte 0x{content[error.start]:02x}: save it as UTF-8"
        ) from error


Options = dict[str, bool | None]
"""BertTokenizer's `do_lower_case`, `strip_accents` (None: if texts are lower-cased) and `tokenize_chinese_chars`."""
_SPECIAL = re.compile(r"\[.+\]|<.+>", re.DOTALL)
_CASED_SHARE = 0.02
"""From this share of words with capitals, a vocabulary is cased; BERT's cased vocabularies have 0.33 to 0.38."""
_STRAY_SHARE = 0.0005
"""Below this share of words with capitals, a vocabulary is uncased: ten added tokens in BERT's 30,522."""
_ACCENTED_SHARE = 0.001


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
