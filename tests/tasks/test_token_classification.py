"""Losses over tagged tokens, and entities as metrics and answers."""

from __future__ import annotations

import dataclasses
import random

import jax.numpy as jnp
import numpy as np
import pytest
from seqeval.metrics.sequence_labeling import f1_score, get_entities, precision_recall_fscore_support
from sklearn.metrics import accuracy_score
from sklearn.metrics import precision_recall_fscore_support as precision_recall_fscore

from jaxbert.data.examples import Examples
from jaxbert.data.tokens import Tokens
from jaxbert.tasks.token_classification.align import Units
from jaxbert.tasks.token_classification.marks import Marks, marked_spans
from jaxbert.tasks.token_classification.read import TaggedText, TaggedTexts
from jaxbert.tasks.token_classification.task import PlainTags, TokenClassification

NAMES = ("B-X", "B-Y", "I-X", "I-Y", "O")


def without_silent(tags: list[str], spoken: list[bool]) -> list[str]:
    """Return tags whose entities are those that seqeval finds in the words with a token, with what lies between these."""
    places = [i for i, own in enumerate(spoken) if own]
    result = ["O"] * len(tags)
    for label, first, last in get_entities([tags[i] for i in places]) if places else []:
        inside = range(places[first] + 1, places[last] + 1)
        result[places[first]] = f"B-{label}"
        for i in inside:
            result[i] = f"I-{label}"
    return result


def made_up(count: int, seed: int, silent: float = 0.0):
    """Texts of words of one token each, some without a token, whose predicted tags are mostly the true ones."""
    rng = random.Random(seed)
    items, found = [], []
    for i in range(count):
        tags = rng.choices(NAMES, k=rng.randint(1, 12))
        items.append(TaggedText(i, words=[f"w{j}" for j in range(len(tags))], tags=tags))
        found.append([tag if rng.random() < 0.7 else rng.choice(NAMES) for tag in tags])
    counts = np.array([len(tags) for tags in found])
    first = np.concatenate([[0], np.cumsum(counts)])
    units = Units(
        first,
        np.concatenate([np.arange(n) for n in counts]),
        np.concatenate([np.arange(n) + 1 for n in counts]),
        np.where(np.random.default_rng(seed).random(first[-1]) < silent, -1, np.arange(first[-1])),
        first,
    )
    documents = TaggedTexts("a", items)
    spoken = units.of_tokens >= 0
    labels = np.array([NAMES.index(tag) for item in items for tag in item.tags])
    wanted = np.array([NAMES.index(tag) for tags in found for tag in tags])
    logits = np.random.default_rng(seed).normal(size=(len(wanted), len(NAMES))).astype(np.float32)
    logits[np.arange(len(wanted)), wanted] += 9
    log_probabilities = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
    examples = Examples(
        Tokens.from_lengths(np.zeros(first[-1], np.int32), counts.astype(np.int32), counts.astype(np.int32)),
        token_labels=np.where(spoken, labels, -100),
        extra=Marks(None, documents, units, labels, marked_spans(documents)),
    )
    flat = iter(spoken)
    predicted = [without_silent(tags, [next(flat) for _ in tags]) for tags in found]
    return examples, log_probabilities, [item.tags for item in items], predicted


@pytest.mark.parametrize("silent", [0.0, 0.2])
@pytest.mark.parametrize("seed", range(4))
def test_metrics_are_those_of_seqeval(seed, silent):
    examples, predictions, expected, predicted = made_up(60, seed, silent)
    metrics = TokenClassification(NAMES).metrics(predictions, examples)
    assert metrics["f1"] == pytest.approx(f1_score(expected, predicted), abs=1e-12)
    for average, names in (("micro", ("precision", "recall", "f1")), ("macro", (None, None, "f1_macro"))):
        scores = precision_recall_fscore_support(expected, predicted, average=average)
        for name, score in zip(names, scores, strict=False):
            assert name is None or metrics[name] == pytest.approx(score, abs=1e-12)
    precision, recall, f1, support = precision_recall_fscore_support(expected, predicted)
    for i, name in enumerate("XY"):
        found = metrics["per_class"][name]
        assert [*found.values()] == pytest.approx([f1[i], precision[i], recall[i], support[i]], abs=1e-12)
    tagged = examples.token_labels >= 0
    right = predictions[tagged].argmax(-1) == examples.token_labels[tagged]
    assert metrics["accuracy"] == pytest.approx(right.mean())
    picked = [row[label] for row, label in zip(predictions[tagged], examples.token_labels[tagged], strict=True)]
    assert metrics["loss"] == pytest.approx(-np.mean(picked), rel=1e-5)
    assert metrics["examples"] == 60
    assert {name for name, value in metrics.items() if isinstance(value, float)} == set(
        TokenClassification(NAMES).metric_names()
    )


POS = ("ADJ", "NOUN", "O", "VERB", "X")


@pytest.mark.parametrize("names", [POS, ("ADJ", "DET", "NOUN", "VERB", "X")])
@pytest.mark.parametrize("seed", range(3))
def test_plain_tags_are_counted_as_scikit_learn_counts_them(seed, names):
    """A word without a token is outside where there is such a tag, and wrong where there is none."""
    examples, predictions, expected, _ = made_up(60, seed, 0.2)
    units = examples.extra.units
    gold = np.array([NAMES.index(tag) for tags in expected for tag in tags])
    gold[::7] = -100  # words without a tag
    gold[gold == names.index("X")] = 0  # a tag that may be found and never occurs
    examples = dataclasses.replace(
        examples,
        token_labels=units.scatter(gold, -100),
        extra=dataclasses.replace(examples.extra, tags=gold, spans=None),
    )
    found = np.where(units.of_tokens >= 0, predictions.argmax(-1), names.index("O") if "O" in names else 5)
    metrics = PlainTags(names).metrics(predictions, examples)
    known = gold >= 0
    true, predicted = gold[known], found[known]
    assert metrics["accuracy"] == pytest.approx(accuracy_score(true, predicted), abs=1e-12)
    labels = sorted({*true, *predicted} - {5})
    precision, recall, f1, support = precision_recall_fscore(true, predicted, labels=labels, zero_division=0)
    assert metrics["f1_macro"] == pytest.approx(f1.mean(), abs=1e-12)
    assert list(metrics["per_class"]) == [names[label] for label in labels]
    for i, scores in enumerate(metrics["per_class"].values()):
        assert [*scores.values()] == pytest.approx([f1[i], precision[i], recall[i], support[i]], abs=1e-12)
    if "O" in names:
        inside = [i for i, name in enumerate(names) if name != "O"]
        micro = precision_recall_fscore(true, predicted, labels=inside, average="micro")
        assert metrics["f1"] == pytest.approx(micro[2], abs=1e-12)
    taught = examples.token_labels >= 0
    assert metrics["loss"] == pytest.approx(-predictions[taught, examples.token_labels[taught]].mean(), rel=1e-5)
    assert metrics["words"] == known.sum() > taught.sum()
    assert {name for name, value in metrics.items() if isinstance(value, float)} == set(PlainTags(names).metric_names())


def test_plain_tags_are_answered_word_by_word():
    examples, predictions, *_ = made_up(6, 3)
    task = PlainTags(POS)
    answers = task.answers(predictions, examples, 2, 5)
    assert answers == task.answers(predictions, examples, 0, 6)[2:5]
    first = examples.extra.units.first
    for document, answer in enumerate(answers, 2):
        chosen = predictions[first[document] : first[document + 1]]
        assert answer == {
            "tags": [
                {
                    "text": f"w{i}",
                    "label": POS[row.argmax()],
                    "start": i,
                    "end": i + 1,
                    "score": pytest.approx(np.exp(row.max()), abs=1e-6),
                }
                for i, row in enumerate(chosen)
            ]
        }


def test_tags_that_no_scheme_has_mark_nothing():
    """As in models made elsewhere, which have names for tokens that are no words."""
    names = ("B-X", "X", "I-X", "[CLS]", "O")
    examples, predictions, *_ = made_up(4, 0)
    task = TokenClassification(names)
    assert task.labels == ["X"]
    assert {e["label"] for a in task.answers(predictions, examples, 0, 4) for e in a["entities"]} == {"X"}


def test_pieces_in_any_order_have_the_same_metrics():
    examples, predictions, *_ = made_up(20, 3)
    task = TokenClassification(NAMES)
    tally = task.tally(examples)
    for ids in np.array_split(np.random.default_rng(0).permutation(len(predictions)), 7):
        tally.add(ids, predictions[ids])
    assert tally.metrics() == task.metrics(predictions, examples)


def test_nothing_found_and_nothing_there():
    examples, predictions, *_ = made_up(1, 0)
    outside = np.log(np.where(np.arange(len(NAMES)) == 4, 0.96, 0.01))[None].repeat(len(predictions), 0)
    metrics = TokenClassification(NAMES).metrics(outside, examples)
    assert (metrics["f1"], metrics["precision"], metrics["recall"]) == (0.0, 0.0, 0.0)


def test_answers_name_the_entities():
    examples, predictions, _, predicted = made_up(20, 1, 0.1)
    task = TokenClassification(NAMES)
    answers = task.answers(predictions, examples, 5, 9)
    assert answers == task.answers(predictions, examples, 0, 20)[5:9]
    first = examples.extra.units.first
    for document, answer in enumerate(answers, 5):
        words = examples.extra.documents.items[document].words
        found = []
        for label, start, last in get_entities(predicted[document]):
            units = range(first[document] + start, first[document] + last + 1)
            sure = [np.exp(predictions[u].max()) for u in units if examples.extra.units.of_tokens[u] >= 0]
            score = pytest.approx(np.mean(sure), abs=1e-6)
            text = " ".join(words[start : last + 1])
            found.append({"text": text, "label": label, "start": start, "end": last + 1, "score": score})
        assert answer == {"entities": found}


def test_the_loss_is_the_mean_over_tagged_tokens_of_a_whole_step():
    rng = np.random.default_rng(0)
    logits = rng.normal(size=(4, 6, len(NAMES))).astype(np.float32)
    labels = np.where(rng.random((4, 6)) < 0.5, rng.integers(0, len(NAMES), (4, 6)), -100)
    mask = np.array([[True, True], [True, False], [True, True], [False, False]])
    batch = {"token_labels": jnp.asarray(labels), "example_mask": jnp.asarray(mask)}
    log_probabilities = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
    picked = [log_probabilities[row, token, labels[row, token]] for row, token in np.argwhere(labels >= 0)]
    task = TokenClassification(NAMES)
    totals = task.totals(batch)
    sums = task.sums({"logits": jnp.asarray(logits)}, batch, totals, train=True)
    assert sums["loss"] / totals["examples"] == pytest.approx(-np.mean(picked), rel=1e-6)
    halves = [
        task.sums({"logits": jnp.asarray(logits[s])}, {k: v[s] for k, v in batch.items()}, totals, train=True)
        for s in (slice(0, 2), slice(2, 4))
    ]
    assert sum(float(half["loss"]) for half in halves) == pytest.approx(float(sums["loss"]), rel=1e-6)


def test_smoothing_counts_in_training_only():
    batch = {"token_labels": jnp.array([[0, -100]]), "example_mask": jnp.array([[True]])}
    outputs = {"logits": jnp.array([[[2.0, 0.0, 0.0, 0.0, 0.0], [9.0, 0.0, 0.0, 0.0, 0.0]]])}
    plain, smooth = TokenClassification(NAMES), TokenClassification(NAMES, label_smoothing=0.2)
    totals = plain.totals(batch)
    one, other = (task.sums(outputs, batch, totals, train=False)["loss"] for task in (plain, smooth))
    assert one == other
    assert smooth.sums(outputs, batch, totals, train=True)["loss"] > one
