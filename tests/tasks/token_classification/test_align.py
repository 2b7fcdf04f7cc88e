"""Words, characters and tokens find each other, in texts of one window and of many."""

from __future__ import annotations

import random

import numpy as np
import pytest
from transformers import BertTokenizer

from jaxbert.errors import UserError
from jaxbert.tasks.token_classification.align import align
from jaxbert.tasks.token_classification.marks import Marks, fit_tags, join_words, marked_spans, say_odd, tag_units
from jaxbert.tasks.token_classification.read import TaggedText, TaggedTexts
from jaxbert.tasks.token_classification.scheme import Span
from jaxbert.tasks.token_classification.tag_sets import fit_tag_set

PIECES = ["a", "b", "c", "##a", "##b", "##c", "高", "勇", ".", "-"]


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    path = tmp_path_factory.mktemp("vocab") / "vocab.txt"
    path.write_text("\n".join(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *PIECES]) + "\n")
    return BertTokenizer(vocab=str(path))


def random_words(rng, most=30):
    return ["".join(rng.choices("abc", k=rng.randint(1, 4))) for _ in range(rng.randint(1, most))]


def random_tags(rng, count):
    return rng.choices(["B-X", "I-X", "B-Y", "I-Y", "O"], k=count)


def windows_of(aligned, document):
    tokens = aligned.tokens
    for window in range(aligned.first_windows[document], aligned.first_windows[document + 1]):
        at = slice(tokens.begins[window], tokens.begins[window] + tokens.lengths[window])
        yield tokens.ids[at], aligned.units.of_tokens[at]


def test_labels_stand_where_hugging_faces_recipe_puts_them(tokenizer):
    """The first token of each word, told by the tokenizer's own word ids; the rest has none."""
    rng = random.Random(0)
    items = [TaggedText(i, words=(words := random_words(rng)), tags=random_tags(rng, len(words))) for i in range(40)]
    documents = TaggedTexts("a", items)
    aligned = align(documents, tokenizer, 512, stride=4, by="word")
    documents, tag_set = fit_tags(documents, None)
    names = tag_set.names
    labels = aligned.units.scatter(tag_units(documents, aligned.units, tag_set)[0], -100)
    assert len(aligned.tokens) == len(items)
    for i, item in enumerate(items):
        encoded = tokenizer(item.words, is_split_into_words=True)
        begin, length = aligned.tokens.begins[i], aligned.tokens.lengths[i]
        assert aligned.tokens.ids[begin : begin + length].tolist() == encoded["input_ids"]
        expected, last = [], None
        for word in encoded.word_ids():
            expected.append(-100 if word is None or word == last else names.index(item.tags[word]))
            last = word
        assert labels[begin : begin + length].tolist() == expected


@pytest.mark.parametrize("by", ["word", "token"])
@pytest.mark.parametrize("worded", [True, False])
def test_each_unit_speaks_once_and_where_it_has_most_around_it(tokenizer, by, worded):
    rng = random.Random(1)
    lists = [random_words(rng, 60) for _ in range(30)]
    items = [TaggedText(0, words=ws) if worded else TaggedText(0, text=" ".join(ws)) for ws in lists]
    documents = TaggedTexts("a", items)
    whole = align(documents, tokenizer, 512, stride=4, by=by)
    cut = align(documents, tokenizer, 20, stride=8, by=by)
    assert len(whole.tokens) == 30 < len(cut.tokens)
    for name in ("first", "starts", "ends"):
        np.testing.assert_array_equal(getattr(cut.units, name), getattr(whole.units, name))
    spoken = np.concatenate([cut.units.of_tokens[cut.units.of_tokens >= 0]])
    assert sorted(spoken.tolist()) == list(range(len(cut.units.starts)))
    ids_of_units = whole.units.gather(whole.tokens.ids, 0, 0, 30)
    np.testing.assert_array_equal(cut.units.gather(cut.tokens.ids, 0, 0, 30), ids_of_units)
    some = cut.units.gather(cut.tokens.ids[cut.units.tokens(4, 9)], 0, 4, 9)
    np.testing.assert_array_equal(some, ids_of_units[cut.units.first[4] : cut.units.first[9]])
    for document in range(30):
        chosen = {}
        best = {}
        found = [(ids, unit) for ids, unit in windows_of(cut, document)]
        texts = ["".join(map(chr, ids[1:-1])) for ids, _ in found]
        everything = "".join(map(chr, next(windows_of(whole, document))[0][1:-1]))
        at, low = [], 0
        for text in texts:  # windows are found again in the whole text, each not before the last
            low = everything.index(text, low)
            at.append(low)
        unit_at = np.flatnonzero(next(windows_of(whole, document))[1][1:-1] >= 0)
        for number, (ids, unit) in enumerate(found):
            assert ids[0] == tokenizer.cls_token_id
            assert ids[-1] == tokenizer.sep_token_id
            assert len(ids) <= 20
            for token in np.flatnonzero(unit >= 0):
                chosen[at[number] + token - 1] = number
            for token in unit_at:
                inside = min(token - at[number], at[number] + len(ids) - 3 - token)
                if inside >= 0 and inside > best.get(token, (-1, 0))[0]:
                    best[token] = (inside, number)
        if len(set(at)) == len(at):  # else a repeated text makes the places uncertain
            assert chosen == {token: number for token, (_, number) in best.items()}


def test_words_without_tokens_have_tags_and_no_token(tokenizer):
    documents = TaggedTexts(
        "a", [TaggedText(1, words=["a", "\u200b", "b"], tags=["B-X", "I-X", "O"]), TaggedText(5, words=[], tags=[])]
    )
    aligned = align(documents, tokenizer, 16, stride=4, by="word")
    assert aligned.units.of_tokens.tolist() == [-1, 0, 2, -1, -1, -1]
    assert aligned.units.gather(np.arange(6), -7, 0, 2).tolist() == [1, -7, 2]
    tags, _ = tag_units(documents, aligned.units, fit_tag_set(("B-X", "I-X", "O"), "a"))
    assert tags.tolist() == [0, 1, 2]
    assert aligned.units.scatter(tags, -100).tolist() == [-100, 0, 2, -100, -100, -100]


def test_spans_of_characters_become_tags_of_tokens_and_return(tokenizer):
    text = "高勇 abc-a b."
    spans = [Span(0, 2, "PER"), Span(3, 8, "X")]
    documents = TaggedTexts("a", [TaggedText(1, text=text, spans=spans)])
    aligned = align(documents, tokenizer, 32, stride=4, by="token")
    documents, tag_set = fit_tags(documents, None)
    names = tag_set.names
    assert names == ("B-PER", "B-X", "I-PER", "I-X", "O")
    numbers, _ = tag_units(documents, aligned.units, tag_set)
    tags = [names[i] for i in numbers]
    #              高      勇       a      ##b    ##c    -      a      b    .
    assert tags == ["B-PER", "I-PER", "B-X", "I-X", "I-X", "I-X", "I-X", "O", "O"]
    marks = Marks(None, documents, aligned.units, numbers, marked_spans(documents))
    found = [span for span, _ in marks.spans_of(tags, 0)]
    assert found == spans == marks.spans[0]
    assert [marks.text_of(0, span.start, span.end) for span in found] == ["高勇", "abc-a"]


def test_random_spans_return_unchanged_in_many_windows(tokenizer):
    rng = random.Random(2)
    items = []
    for _ in range(20):
        text = " ".join(random_words(rng, 60))
        edges = sorted(rng.sample(range(len(text) + 1), 2 * rng.randint(0, min(5, len(text) // 4))))
        pairs = [(a, b) for a, b in zip(edges[::2], edges[1::2], strict=True) if text[a] != " " and text[b - 1] != " "]
        items.append(TaggedText(0, text=text, spans=[Span(a, b, rng.choice("XY")) for a, b in pairs]))
    documents = TaggedTexts("a", items)
    aligned = align(documents, tokenizer, 16, stride=4, by="token")
    documents, tag_set = fit_tags(documents, None)
    numbers, _ = tag_units(documents, aligned.units, tag_set)
    tags = [tag_set.names[i] for i in numbers]
    first = aligned.units.first
    marks = Marks(None, documents, aligned.units, numbers, marked_spans(documents))
    for i, item in enumerate(items):
        assert [span for span, _ in marks.spans_of(tags[first[i] : first[i + 1]], i)] == item.spans


def test_a_span_inside_a_token_is_taught_as_the_token_and_said(tokenizer, caplog):
    documents = TaggedTexts("a", [TaggedText(1, text="高a ab", spans=[Span(1, 2, "X"), Span(3, 4, "Y")])])
    aligned = align(documents, tokenizer, 16, stride=4, by="word")
    documents, tag_set = fit_tags(documents, None)
    numbers, odd = tag_units(documents, aligned.units, tag_set)
    assert [tag_set.names[i] for i in numbers] == ["O", "B-X", "B-Y"]
    say_odd(documents.source, odd)
    assert "1 spans begin or end inside a token" in caplog.text


def test_texts_by_words(tokenizer):
    documents = TaggedTexts("a", [TaggedText(1, text="abc ab-高勇")])
    units = align(documents, tokenizer, 16, stride=4, by="word").units
    assert list(zip(units.starts.tolist(), units.ends.tolist(), strict=True)) == [
        (0, 3),
        (4, 6),
        (6, 7),
        (7, 8),
        (8, 9),
    ]


def test_unknown_tags_are_named(tokenizer):
    train = TaggedTexts("train", [TaggedText(1, words=["a"], tags=["B-X"])])
    dev = TaggedTexts(
        "dev.conll", [TaggedText(1, words=["a"], tags=["O"]), TaggedText(4, words=["a"], tags=["B-Z"], rows=[4])]
    )
    names = fit_tags(train, None)[1]
    assert names.names == ("B-X", "O")
    units = align(dev, tokenizer, 16, stride=4, by="word").units
    with pytest.raises(UserError, match=r"dev\.conll, row 4: tag 'B-Z' is unknown; .* 'B-X', 'O': list all tags in"):
        tag_units(dev, units, names)
    assert tag_units(dev, units, fit_tags(train, ["O", "B-X", "B-Z"])[1])[0].tolist() == [0, 2]
    later = TaggedTexts("dev.conll", [TaggedText(7, words=["a", "b"], tags=["O", "B-Z"], rows=range(7, 9))])
    with pytest.raises(UserError, match=r"dev\.conll, row 8: tag 'B-Z'"):
        tag_units(later, align(later, tokenizer, 16, stride=4, by="word").units, names)
    with pytest.raises(UserError, match=r"train: tags that data\.label_names lacks: 'B-X'"):
        fit_tags(train, ["O", "B-Y"])
    with pytest.raises(UserError, match="names a tag twice"):
        fit_tags(train, ["O", "B-X", "B-X"])


def test_words_are_joined_as_they_are_written():
    assert join_words(["New", "York"]) == "New York"
    assert join_words(list("高勇，男")) == "高勇，男"
    assert join_words(["高", "Java", "勇"]) == "高 Java 勇"
    assert join_words([]) == ""
