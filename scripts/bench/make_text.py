"""Write random text and its vocabulary, to time pretraining where there is no corpus: text.txt and vocab.txt in a folder.

  python scripts/bench/make_text.py FOLDER [--toy]

Half a million words in documents of sixty sentences, drawn evenly from a vocabulary of BERT's size.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from recipe import VOCABULARY

_SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", ".")
_WORDS, _SENTENCES = 20, 60


def write_text(folder: Path, documents: int, vocabulary: int) -> None:
    """Write both files."""
    words = [f"w{i}" for i in range(vocabulary - len(_SPECIAL))]
    (folder / "vocab.txt").write_text("\n".join((*_SPECIAL, *words)) + "\n", "utf-8")
    drawn = np.random.default_rng(0).integers(0, len(words), (documents, _SENTENCES, _WORDS))
    texts = ("".join(" ".join(words[i] for i in sentence) + " .\n" for sentence in document) for document in drawn)
    (folder / "text.txt").write_text("\n".join(texts), "utf-8")


def main(arguments: Sequence[str] | None = None) -> None:
    """Write the files of the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument("folder", type=Path)
    parser.add_argument("--toy", action="store_true", help="20 documents and 200 words")
    values = parser.parse_args(arguments)
    write_text(values.folder, *((20, 200) if values.toy else (400, VOCABULARY)))


if __name__ == "__main__":
    main()
