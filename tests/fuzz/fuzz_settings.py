"""Damaged settings: the files of a tokenizer, the YAML of a run, and the small files of a run folder."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from random import Random
from typing import Any

import transformers
import yaml
from fuzz_mutations import damage_bytes, damage_value, set_keys, write_json
from runs import SPECIAL, VOCAB, small_config
from transformers import BertTokenizer

from jaxbert.cli.parsing import make_parser, parse
from jaxbert.config import Config
from jaxbert.data.tokens import encode_texts
from jaxbert.errors import foreign_errors
from jaxbert.interop.tokenizer import load_tokenizer
from jaxbert.runs.folder import RunFolder
from jaxbert.settings import add_config, to_config

_TEXTS = ["w1 w2 unknown good", "\u4e2d\u6587 caf\u00e9 \U0001f600", "x" * 300, "[MASK] [CLS]"]
_PARTS: tuple[Any, ...] = (
    {"type": "Replace", "pattern": {"Regex": "(a"}, "content": "b"},
    {"type": "Replace", "pattern": {"String": ""}, "content": "b"},
    {"type": "Sequence", "normalizers": [{"type": "NFC"}, {"type": "Strip", "strip_left": True, "strip_right": True}]},
    {"type": "Precompiled", "precompiled_charsmap": "AAAAAP//////////"},
    {"type": "Split", "pattern": {"String": " "}, "behavior": "Removed", "invert": False},
    {"type": "Metaspace", "replacement": "\u2581", "prepend_scheme": "always", "split": True},
    {"type": "ByteLevel", "add_prefix_space": True, "trim_offsets": True, "use_regex": True},
    {
        "type": "RobertaProcessing",
        "sep": ["</s>", 2],
        "cls": ["<s>", 10**6],
        "trim_offsets": True,
        "add_prefix_space": True,
    },
    {"type": "BPE", "vocab": {"a": 0, "b": 7, "ab": 2**32 - 1}, "merges": [["a", "b"], ["x", "y"]], "unk_token": "a"},
    {"type": "Unigram", "unk_id": 9, "vocab": [["a", -1.0], ["b", float("nan")]], "byte_fallback": True},
    {"type": "WordLevel", "vocab": {"a": 0, "[UNK]": 1}, "unk_token": "[UNK]"},
    {"strategy": {"Fixed": 10**12}, "direction": "Right", "pad_id": 0, "pad_type_id": 0, "pad_token": "[PAD]"},
    {"direction": "Right", "max_length": 2, "strategy": "LongestFirst", "stride": 5},
    {
        "id": 10**9,
        "content": "w1",
        "single_word": False,
        "lstrip": False,
        "rstrip": False,
        "normalized": True,
        "special": True,
    },
)


class Tokenizer:
    """`tokenizer.json`, `tokenizer_config.json` and `vocab.txt`, one of them damaged, another sometimes absent."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder / "model"
        self._folder.mkdir()
        vocab = folder / "vocab.txt"
        vocab.write_text("\n".join(VOCAB) + "\n")
        BertTokenizer(vocab=str(vocab)).save_pretrained(self._folder)
        self._seeds = {path.name: path.read_bytes() for path in self._folder.iterdir()}
        self._seeds["vocab.txt"] = vocab.read_bytes()
        secret = folder / "secret.txt"
        secret.write_text("\n".join((*SPECIAL, "secretword")) + "\n")
        evil = self._folder / "evil.py"
        evil.write_text(f"open({str(folder / 'canary')!r}, 'w')\n")
        classes = (
            "BertTokenizer",
            "BertModel",
            "AutoTokenizer",
            "T5Tokenizer",
            "XLMTokenizer",
            "PreTrainedTokenizerFast",
            "Trainer",
        )
        keys = (
            "vocab",
            "vocab_file",
            "tokenizer_file",
            "merges_file",
            "init_inputs",
            "gguf_file",
            "tokenizer_class",
            "auto_map",
        )
        more = (
            "chat_template",
            "fast_tokenizer_files",
            "extra_special_tokens",
            "added_tokens_decoder",
            "[UNK]",
            "save_pretrained",
        )
        for name in ("T5Tokenizer", "XLMTokenizer"):
            getattr(transformers, name)  # what is imported for the first time is no case's memory
        self._keys = (*keys, *more)
        self._values = (*[str(secret)] * 6, [str(secret)], {"AutoTokenizer": ["evil.T", "evil.T"]}, *classes)
        self._words = (
            str(secret),
            [str(secret)],
            {"AutoTokenizer": ["evil.T", "evil.T"]},
            *classes,
            *keys,
            *more,
            *_PARTS,
        )
        self._config = small_config()

    def write(self, rng: Random) -> list[Path]:
        """Write the files, one of them damaged."""
        files = dict(self._seeds)
        files.pop(rng.choice(("tokenizer.json", "vocab.txt", "")), None)
        name = rng.choice(list(files))
        if rng.random() < 0.35:
            name = "tokenizer_config.json"
            files[name] = write_json(rng, set_keys(rng, json.loads(files[name]), self._keys, self._values))
        elif name.endswith(".json") and rng.random() < 0.75:
            files[name] = write_json(rng, damage_value(rng, json.loads(files[name]), self._words))
        else:
            files[name] = damage_bytes(rng, files[name], (b"\n", b"\r\n", b" ", b"[UNK]", b'"', b"{", b"##", b"\xff"))
        for path in self._folder.glob("[!e]*"):
            path.unlink()
        for file, content in files.items():
            (self._folder / file).write_bytes(content)
        return [self._folder / file for file in files]

    def read(self) -> None:
        """Load the tokenizer and encode texts, as `prepare` does."""
        tokenizer = load_tokenizer(self._folder, self._config)
        assert "secretword" not in tokenizer.get_vocab(), "a vocabulary from outside"
        with foreign_errors("prepare"):
            encoded = encode_texts(tokenizer, _TEXTS, _TEXTS[::-1], 20)
        assert encoded.ids.max(initial=0) < self._config.vocab_size
        assert encoded.lengths.min() > 0
        assert encoded.first_lengths.min() >= 0


_YAML_PIECES = (
    *("&a [*a]", "*a", "&a ", "<<: *a", "<<: [*a, *a]", "!!bool x", "!!int x", "!!float x", "!!binary x", "!!set {a}"),
    *(
        "!!timestamp x",
        "2001-99-99",
        "!!python/object/apply:os.mkdir [canary]",
        "!!python/name:os.system",
        "? ",
        "? [a]",
    ),
    *(
        "\t",
        "---\n",
        "...\n",
        "%YAML 9.9\n",
        "\ufeff",
        "\0",
        "\x85",
        "\u2028",
        "{{ 7 * 7 }}",
        "${HOME}",
        "0x1F",
        "1:30",
    ),
    *(
        ".inf",
        ".nan",
        "1e999",
        "9" * 5000,
        "0o17",
        "~",
        "|\n  text",
        ">-\n",
        "[",
        "{",
        "- ",
        ": ",
        "#",
        "'",
        '"',
        "@",
        "`",
    ),
)


def _bomb(rng: Random) -> str:
    """Return aliases of aliases: a few hundred bytes that stand for more values than there are atoms."""
    kind, depth = rng.randrange(3), rng.choice((3, 8, 20))
    if kind == 0:
        lines = [f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9)}]" for i in range(1, depth)]
        return "a0: &a0 [1]\n" + "\n".join(lines) + f"\ndata:\n  columns: *a{depth - 1}\n"
    if kind == 1:
        lines = [f"  a{i}: &a{i} {{{', '.join([f'<<: [*a{i - 1}, *a{i - 1}]'])}}}" for i in range(1, depth)]
        return "data:\n  a0: &a0 {x: 1}\n" + "\n".join(lines) + "\n"
    lists = (
        "".join(f"&a{i} [" for i in range(depth)) + "1" + "".join(f"]{f', *a{i}' * 3}" for i in range(depth - 1, 0, -1))
    )
    return f"data:\n  columns: {lists}]\n"


class Yaml:
    """A file behind `--config`."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / "run.yaml"
        self._seed = {
            "model": {"name_or_path": "tiny", "num_labels": 2, "dropout": 0.1, "vocab": "vocab.txt"},
            "data": {"train": "a.csv", "text": "text", "columns": ["text", "label"], "label_names": ["a", "b"]},
            "train": {"batch_size": 16, "epochs": 2, "class_weights": [0.5, 1.0], "output_dir": "run"},
            "optimizer": {"learning_rate": 1e-4, "schedule": "linear"},
        }
        self._parser = make_parser("train", "")
        add_config(self._parser)
        fields = dataclasses.asdict(Config())
        self._words = (*fields, *(key for values in fields.values() for key in values), "null", "1e-3", "true", "-1")

    def write(self, rng: Random) -> list[Path]:
        """Write a damaged configuration."""
        kind = rng.randrange(10)
        if kind == 0:
            content = _bomb(rng).encode()
        elif kind < 6:
            value = damage_value(rng, self._seed, self._words)
            content = write_json(rng, value) if rng.random() < 0.5 else _as_yaml(value)
        else:
            content = _as_yaml(self._seed)
            for _ in range(rng.choice((1, 1, 2))):
                content = damage_bytes(rng, content, tuple(piece.encode() for piece in _YAML_PIECES))
        self.path.write_bytes(content)
        return [self.path]

    def read(self) -> None:
        """Read it as a verb does, up to the checks of single values."""
        to_config(parse(self._parser, ["--config", str(self.path)]))


def _as_yaml(value: Any) -> bytes:
    try:
        return yaml.safe_dump(value, allow_unicode=True).encode("utf-8", "surrogatepass")
    except (yaml.YAMLError, ValueError):  # numbers of more digits than Python spells out
        return repr(value)[: 2**16].encode("utf-8", "replace")


class RunFiles:
    """The configuration and the metrics of a run that is to go on."""

    def __init__(self, folder: Path) -> None:
        self._run = RunFolder(folder / "run")
        self._files = [Path(self._run.metrics), Path(self._run.config)]
        self._config = Config()
        self._run.create(self._config)
        self._yaml = self._run.config.read_bytes()
        lines = [json.dumps({"step": i, "time": 1.5, "train_loss": 0.1}) for i in range(6)]
        self._metrics = ("\n".join(lines) + "\n").encode()

    def write(self, rng: Random) -> list[Path]:
        """Damage one of the two files."""
        words = (b'"step"', b"null", b"{", b"[", b"\n", b"\xff", b"\xe2\x80\xa8", b"NaN", b"1e999")
        which = rng.randrange(3)
        metrics = damage_bytes(rng, self._metrics, words) if which == 0 else self._metrics
        pieces = tuple(piece.encode() for piece in _YAML_PIECES)
        config = damage_bytes(rng, self._yaml, pieces) if which == 1 else self._yaml
        if which == 2:
            config = (
                _bomb(rng).encode() if rng.random() < 0.2 else _as_yaml(damage_value(rng, yaml.safe_load(self._yaml)))
            )
        for path, content in zip(self._files, (metrics, config), strict=True):
            path.write_bytes(content)
        return self._files

    def read(self) -> None:
        """Do what happens before a run goes on."""
        self._run.rewind(3)
        left = self._files[0].read_text("utf-8").split("\n")
        assert all(json.loads(line)["step"] <= 3 for line in left if line)
        self._run.check(self._config)
