"""Raw text becomes documents, sentences and pairs: nothing is lost or reaches over a document's end, half are true pairs."""

from __future__ import annotations

import json
import random
from collections import Counter
from itertools import chain, islice, pairwise

import numpy as np
import pytest
from transformers import BertTokenizer

from jaxbert.config import DataConfig, PretrainConfig
from jaxbert.data.tokens import Encoded, Shard
from jaxbert.errors import UserError
from jaxbert.tasks.pretraining import corpus as corpora
from jaxbert.tasks.pretraining.corpus import INSIDE_WORD, count_tokens, read_corpus
from jaxbert.tasks.pretraining.documents import open_documents
from jaxbert.tasks.pretraining.pairs import Recipe, make_pair_examples
from jaxbert.tasks.pretraining.sentences import split_sentences
from jaxbert.tasks.pretraining.vocabulary import train_vocabulary, write_vocabulary

WORDS = [f"w{i}" for i in range(200)]
SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
CLS, SEP = 2, 3


def read(path, limit=None, **keys) -> list[str]:
    data = {key: keys.pop(key) for key in ("text", "text_pair", "columns") if key in keys}
    documents = open_documents(str(path), DataConfig(**data), PretrainConfig(**keys), limit=limit)
    return list(documents.lines())


def write(path, text):
    path.write_text(text, "utf-8")
    return path


@pytest.fixture
def tokenizer(tmp_path):
    vocab = write(tmp_path / "vocab.txt", "\n".join([*SPECIAL, *WORDS, *"我喜欢北京。你好", "."]) + "\n")
    return BertTokenizer(vocab=str(vocab))


TEXT = "= One =\n\na\nb\n= = Part = =\n\nc\n\n\n# Two\nd\n## Part\ne\n"
DIVIDED = {
    "blank": ["= One =", "", "a", "b", "= = Part = =", "", "c", "", "# Two", "d", "## Part", "e", ""],
    "heading": ["a", "b", "c", "", "d", "e", ""],
    "line": [
        "= One =",
        "",
        "a",
        "",
        "b",
        "",
        "= = Part = =",
        "",
        "c",
        "",
        "# Two",
        "",
        "d",
        "",
        "## Part",
        "",
        "e",
        "",
    ],
    "file": ["= One =", "a", "b", "= = Part = =", "c", "# Two", "d", "## Part", "e", ""],
}


@pytest.mark.parametrize("how", DIVIDED)
def test_a_text_file_is_divided(tmp_path, how):
    assert read(write(tmp_path / "a.txt", TEXT), documents=how) == DIVIDED[how]


def test_wikitext_has_an_article_a_document(shared_data):
    lines = read(shared_data / "wikitext2" / "valid.txt", documents="heading")
    assert lines.count("") == 60
    assert lines[0].startswith("Homarus gammarus , known as the European lobster")


def test_several_files_and_rows_of_tables(tmp_path):
    write(tmp_path / "b.txt", "b\n\nc")
    write(tmp_path / "a.txt", "a")
    write(tmp_path / "t.jsonl", '{"title": "x", "body": "y\\n\\nz"}\n{"title": "u", "body": "v"}\n')
    assert read(tmp_path / "*.txt") == ["a", "", "b", "", "c", ""]
    table = read(tmp_path / "t.jsonl", text="title", text_pair="body")
    assert table == ["x", "y", "z", "", "u", "v", ""]
    assert read(tmp_path / "t.jsonl", text="title", text_pair="body", limit=1) == ["x", "y", "z", ""]
    assert read(tmp_path / "*.txt", limit=2) == ["a", "", "b", ""]
    assert read(write(tmp_path / "c.txt", "one\t1\n"), columns=["text", "label"]) == ["one", ""]
    (tmp_path / "folder").mkdir()
    write(tmp_path / "folder" / "x.txt", "x")
    assert read(tmp_path / "folder") == ["x", ""]


SENTENCES = {
    "It came . Then it left.": ["It came .", "Then it left."],
    'He said: "Go!" Then he left (in 3.5 min.). Yes': ['He said: "Go!"', "Then he left (in 3.5 min.).", "Yes"],
    "Mr. Smith saw H. americanus, e.g. in Fig. 3. 4 men": ["Mr. Smith saw H. americanus, e.g. in Fig. 3.", "4 men"],
    "Wait... what? no end": ["Wait... what? no end"],
    "我喜欢北京。你呢？“好！”他说……走了": ["我喜欢北京。", "你呢？", "“好！”", "他说……", "走了"],
    "  ": [],
}


@pytest.mark.parametrize("line", SENTENCES)
def test_sentences(line):
    assert split_sentences(line) == SENTENCES[line]


def test_no_character_is_lost(shared_data):
    for line in read(shared_data / "wikitext2" / "test.txt"):
        assert "".join("".join(split_sentences(line)).split()) == "".join(line.split())


def random_text(documents: int = 40, seed: int = 0, longest: int = 30) -> str:
    rng = random.Random(seed)
    parts = []
    for _ in range(documents):
        sentences = [" ".join(rng.choices(WORDS, k=rng.randint(4, longest))) for _ in range(rng.randint(1, 12))]
        parts.append("\n".join(sentences))
    return "\n\n".join(parts)


def make_corpus(path, tokenizer, folder=None, shard=Shard(), **keys):  # noqa: B008
    pretrain = PretrainConfig(**({"sentences": "line"} | keys))
    documents = open_documents(str(path), DataConfig(), pretrain)
    return read_corpus(documents, tokenizer, pretrain, folder=folder, shard=shard)


@pytest.fixture
def corpus(tmp_path, tokenizer):
    return make_corpus(write(tmp_path / "text.txt", random_text()), tokenizer)


def bodies(stored) -> list[list[list[int]]]:
    """Return the segments of each example, checked for their special tokens."""
    found = []
    tokens = stored.tokens
    for begin, length, first in zip(tokens.begins, tokens.lengths, tokens.first_lengths, strict=True):
        row = tokens.ids[begin : begin + length].tolist()
        parts = [row[1 : first - 1], row[first:-1]] if first < length else [row[1:-1]]
        assert [row[0], row[first - 1], row[-1]] == [CLS, SEP, SEP]
        assert all(part and SEP not in part and CLS not in part for part in parts)
        found.append(parts)
    return found


def documents_of(corpus) -> list[list[int]]:
    """Return the tokens of each document."""
    sentences = corpus.sentences
    firsts, lasts = sentences.begins[corpus.ends[:-1] + 1], sentences.begins[corpus.ends[1:]]
    return [sentences.ids[begin:end].tolist() for begin, end in zip(firsts, lasts, strict=True)]


def contains(whole: list[int], part: list[int]) -> bool:
    return f" {' '.join(map(str, part))} " in f" {' '.join(map(str, whole))} "


def test_texts_without_pairs_hold_every_token_once(corpus):
    found = bodies(make_pair_examples(corpus, Recipe(32, False, CLS, SEP, 0)))
    assert max(len(body) for (body,) in found) == 30
    joined = [token for (body,) in found for token in body]
    assert joined == list(chain(*documents_of(corpus)))
    for (body,) in found:
        assert sum(contains(document, body) for document in documents_of(corpus)) == 1


def test_pairs(corpus):
    stored = make_pair_examples(corpus, Recipe(64, True, CLS, SEP, 0))
    assert stored.tokens.lengths.max() <= 64
    documents, firsts = documents_of(corpus), []
    for (first, second), label in zip(bodies(stored), stored.labels.codes, strict=True):
        (home,) = [i for i, document in enumerate(documents) if contains(document, first)]
        assert contains(documents[home], first + second) == (label == 0)
        if label:
            assert any(contains(document, second) for i, document in enumerate(documents) if i != home)
        firsts += first + (second if label == 0 else [])
    assert firsts == list(chain(*documents))


def even_text(*lengths: int, documents: int = 30) -> str:
    """Return documents whose sentences have so many words, no word twice in one."""
    rng = random.Random(0)
    parts = []
    for _ in range(documents):
        words = iter(rng.sample(WORDS, sum(lengths)))
        parts.append("\n".join(" ".join(islice(words, length)) for length in lengths))
    return "\n\n".join(parts)


def test_examples_are_filled_to_the_last_token(tmp_path, tokenizer):
    singles = make_corpus(write(tmp_path / "t.txt", even_text(10, 10, 10)), tokenizer)
    assert set(make_pair_examples(singles, Recipe(32, False, CLS, SEP, 0)).tokens.lengths) == {32}
    pairs = make_corpus(write(tmp_path / "p.txt", even_text(15, 15)), tokenizer)
    stored = make_pair_examples(pairs, Recipe(33, True, CLS, SEP, 0))
    assert {len(part) for parts in bodies(stored) for part in parts} == {15}, "a sentence that fits was cut"


def test_a_partner_from_elsewhere_is_cut_only_where_the_example_is_full(tmp_path, tokenizer):
    text = f"{even_text(10, 10, 9, documents=20)}\n\n{even_text(15, 15, documents=400)}"
    corpus = make_corpus(write(tmp_path / "t.txt", text), tokenizer)
    sentences = [
        [corpus.sentences.ids[b : b + n].tolist() for b, n in zip(begins, lengths, strict=True)]
        for begins, lengths in (
            (corpus.sentences.begins[low + 1 : high], corpus.sentences.lengths[low + 1 : high])
            for low, high in pairwise(corpus.ends)
        )
    ]
    whole = {tuple(chain(*s[i:j])) for s in sentences for i in range(len(s)) for j in range(i + 1, len(s) + 1)}
    stored = make_pair_examples(corpus, Recipe(33, True, CLS, SEP, 0))
    random_pairs = [p for p, label in zip(bodies(stored), stored.labels.codes, strict=True) if label]
    cut = [len(first) + len(second) for first, second in random_pairs if tuple(second) not in whole]
    assert cut
    assert set(cut) == {30}


def test_a_true_pair_leaves_no_sentence_alone(tmp_path, tokenizer):
    corpus = make_corpus(write(tmp_path / "t.txt", even_text(10, 10, 10, 10)), tokenizer)
    stored = make_pair_examples(corpus, Recipe(33, True, CLS, SEP, 0))
    documents = documents_of(corpus)
    behind = Counter()
    for (first, second), label in zip(bodies(stored), stored.labels.codes, strict=True):
        if label == 0:
            (home,) = [document for document in documents if contains(document, first + second)]
            behind[(len(home) - home.index(second[-1]) - 1) // 10] += 1
    assert behind[0]
    assert behind[2]
    assert not behind[1]


def test_half_of_the_pairs_are_true_and_length_does_not_tell(tmp_path, tokenizer):
    corpus = make_corpus(write(tmp_path / "t.txt", random_text(1500)), tokenizer)
    stored = make_pair_examples(corpus, Recipe(64, True, CLS, SEP, 0))
    label = stored.labels.codes
    assert len(label) > 3000
    assert abs(label.mean() - 0.5) < 0.03
    second = stored.tokens.lengths - stored.tokens.first_lengths
    assert abs(second[label == 0].mean() / second[label == 1].mean() - 1) < 0.1


def test_examples_depend_on_the_seed_alone(corpus):
    one, again, other = (make_pair_examples(corpus, Recipe(48, True, CLS, SEP, seed)) for seed in (0, 0, 1))
    np.testing.assert_array_equal(one.tokens.ids, again.tokens.ids)
    np.testing.assert_array_equal(one.labels.codes, again.labels.codes)
    assert len(other.tokens) != len(one.tokens) or (other.labels.codes != one.labels.codes).any()


def test_some_documents_alone(corpus):
    chosen = np.array([3, 5, 9])
    found = bodies(make_pair_examples(corpus, Recipe(48, False, CLS, SEP, 0), chosen=chosen))
    documents = documents_of(corpus)
    assert list(chain(*(body for (body,) in found))) == list(chain(*(documents[i] for i in chosen)))
    counts = count_tokens(corpus, 200, chosen)
    assert Counter(dict(enumerate(counts.tolist()))) == Counter(chain(*(documents[i] for i in chosen)))
    assert count_tokens(corpus, 200).sum() == sum(map(len, documents))


def test_a_second_start_takes_tokens_and_examples_from_the_cache(tmp_path, tokenizer, monkeypatch):
    path, folder = write(tmp_path / "text.txt", random_text()), tmp_path / "cache"
    recipe = Recipe(48, True, CLS, SEP, 0)

    def start():
        corpus = make_corpus(path, tokenizer, folder)
        return corpus, make_pair_examples(corpus, recipe, folder=folder)

    first, examples = start()
    assert len(list(folder.iterdir())) == 2
    with monkeypatch.context() as patch:
        patch.setattr("jaxbert.data.store.new_folder", None)
        second, again = start()
    np.testing.assert_array_equal(first.sentences.ids, second.sentences.ids)
    np.testing.assert_array_equal(examples.tokens.ids, again.tokens.ids)
    write(path, random_text(seed=1))
    assert len(start()[0].sentences.ids) != len(first.sentences.ids)
    for other in (Recipe(40, True, CLS, SEP, 0), Recipe(48, True, CLS, SEP, 1), Recipe(48, False, CLS, SEP, 0)):
        make_pair_examples(first, other, folder=folder)
    assert len(list(folder.iterdir())) == 7


def test_processes_share_the_tokenizing(tmp_path, tokenizer, monkeypatch):
    monkeypatch.setattr(corpora, "in_parts", lambda sentences: iter([["w1 w2", "", "w3", ""], ["w4"], ["w5 w6", ""]]))
    alone = make_corpus(write(tmp_path / "t.txt", "x"), tokenizer)
    sent: list[list[Encoded]] = []
    for index in range(3):
        mine: list[Encoded] = []
        make_corpus_share(tmp_path, tokenizer, index, mine)
        sent.append(mine)
    together = [encoded for turn in zip(*sent, strict=True) for encoded in turn]
    np.testing.assert_array_equal(np.concatenate([e.ids for e in together]), alone.sentences.ids)
    np.testing.assert_array_equal(np.concatenate([e.lengths for e in together]), alone.sentences.lengths)


def make_corpus_share(folder, tokenizer, index, mine) -> None:
    def gather(encoded: Encoded) -> list[Encoded]:
        mine.append(encoded)
        lengths = np.array([1, 0], np.int32)
        return [Encoded(np.ones(1, np.int32), lengths, lengths, cut=0, windows=np.zeros(0, np.int32))]

    make_corpus(folder / "t.txt", tokenizer, shard=Shard(index, 3, gather))


def test_chinese_words_are_marked_where_spaces_separate_them(tmp_path, tokenizer):
    path = write(tmp_path / "t.txt", "我 喜欢 北京。w1 你好\n")
    marked = make_corpus(path, tokenizer, mask="word", segmented=True).sentences
    assert (marked.ids[: marked.lengths[0]] >= INSIDE_WORD).tolist() == [0, 0, 1, 0, 1, 0, 0, 0, 1]
    plain = make_corpus(path, tokenizer, mask="word").sentences
    np.testing.assert_array_equal(plain.ids, marked.ids & (INSIDE_WORD - 1))


def test_special_tokens_in_a_text_are_text(tmp_path, tokenizer):
    tokens = make_corpus(write(tmp_path / "t.txt", "w1 [SEP] [MASK] w2"), tokenizer).sentences
    assert not {2, 3, 4} & set(tokens.ids.tolist())


BAD = {
    "empty": ("", {}, "t.txt: no text: at least one sentence is needed"),
    "blank": (" \n\n", {}, "t.txt: no text: at least one sentence is needed"),
    "one document": ("w1\nw2\nw3", {}, "1 document, but next-sentence prediction needs two"),
    "single sentences": ("w1\n\nw2\n\nw3", {}, "no document has two sentences.*pretrain.next_sentence to false"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_text(tmp_path, tokenizer, name):
    text, keys, message = BAD[name]
    with pytest.raises(UserError, match=message):
        make_pair_examples(
            make_corpus(write(tmp_path / "t.txt", text), tokenizer, **keys), Recipe(32, True, CLS, SEP, 0)
        )


def test_bad_sources(tmp_path):
    for spec, message in (("none.txt", "no such file"), ("x/*.txt", "no file to read there")):
        with pytest.raises(UserError, match=message):
            read(tmp_path / spec)
    write(tmp_path / "t.jsonl", json.dumps({"content": "a"}))
    with pytest.raises(UserError, match=r"no column 'text' \(data.text\)"):
        read(tmp_path / "t.jsonl")


def test_a_vocabulary(tmp_path, shared_data):
    lines = read(shared_data / "wikitext2" / "test.txt", limit=400)
    tokens = train_vocabulary(lambda: iter(lines), 2000, lower_case=True)
    assert tokens == train_vocabulary(lambda: iter(lines), 2000, lower_case=True)
    assert tokens[:5] == list(SPECIAL)
    assert len(tokens) == len(set(tokens)) == 2000
    assert {"the", "##ing", "of", "##s"} <= set(tokens)
    assert all(token == token.lower() for token in tokens[5:])
    write_vocabulary(tokens, tmp_path / "new" / "vocab.txt")
    tokenizer = BertTokenizer(vocab=str(tmp_path / "new" / "vocab.txt"))
    assert len(tokenizer) == 2000
    ids = tokenizer(lines[0])["input_ids"]
    assert ids.count(tokenizer.unk_token_id) == 0
    cased = train_vocabulary(lambda: iter(lines), 2000, lower_case=False)
    assert "The" in cased


def test_a_chinese_vocabulary_has_characters(shared_data):
    lines = [line.split("\t")[0] for line in (shared_data / "thucnews" / "dev.txt").read_text("utf-8").splitlines()]
    tokens = train_vocabulary(lambda: iter(lines), 8000, lower_case=True)
    characters = {character for line in lines for character in line if corpora.is_chinese_character(character)}
    assert len(characters) > 2500
    assert characters <= set(tokens)
    assert not [token for token in tokens if token.startswith("##") and corpora.is_chinese_character(token[2])]


def test_text_without_words_makes_no_vocabulary():
    with pytest.raises(UserError, match="too small for a vocabulary"):
        train_vocabulary(lambda: iter([" "]), 100, lower_case=True)
