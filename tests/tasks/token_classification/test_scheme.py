"""Spans are those that seqeval counts."""

from __future__ import annotations

import random
import warnings

import pytest
from seqeval.metrics import sequence_labeling

from jaxbert.tasks.token_classification.scheme import SCHEMES, Span, spans_of, tags_of

COMMON = str.maketrans("MLU", "IES")


def random_tags(rng: random.Random, letters: str) -> list[str]:
    marking = [f"{letter}-{label}" for letter in letters for label in ("X", "Y-Z")]
    return [rng.choice([*marking, "O"]) for _ in range(rng.randint(1, 12))]


def told_by_runs(tags: list[str]) -> list[Span]:
    """Say for each pair of neighbours whether they belong together, and collect the runs."""
    parts = [("O", "") if tag == "O" else tuple(tag.translate(COMMON).split("-", 1)) for tag in tags]
    spans: list[list[int]] = []
    for i, (letter, label) in enumerate(parts):
        if letter == "O":
            continue
        before = parts[i - 1] if i else ("O", "")
        goes_on = before[0] in ("B", "I") and before[1] == label and letter in ("I", "E")
        if goes_on:
            spans[-1][1] = i + 1
        else:
            spans.append([i, i + 1])
    return [Span(a, b, parts[a][1]) for a, b in spans]


@pytest.mark.parametrize("scheme", SCHEMES, ids=lambda scheme: scheme.name)
def test_spans_are_those_of_a_plain_reading_and_of_seqeval(scheme):
    """Also for sequences that the scheme does not allow, which models predict."""
    rng = random.Random(7)
    for _ in range(2000):
        tags = random_tags(rng, "".join(sorted(scheme.letters)))
        spans = spans_of(tags)
        assert spans == told_by_runs(tags), tags
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            counted = sequence_labeling.get_entities([tag[0].translate(COMMON) + tag[1:] for tag in tags])
        assert [(span.label, span.start, span.end - 1) for span in spans] == counted, tags


@pytest.mark.parametrize("scheme", SCHEMES, ids=lambda scheme: scheme.name)
def test_spans_become_tags_and_tags_the_same_spans(scheme):
    rng = random.Random(3)
    for _ in range(300):
        edges = sorted(rng.sample(range(16), 2 * rng.randint(0, 4)))
        spans = [Span(a, b, rng.choice("XY")) for a, b in zip(edges[::2], edges[1::2], strict=True)]
        tags = tags_of(spans, 16, scheme)
        assert spans_of(tags) == spans
        assert {tag[0] for tag in tags} <= scheme.letters | {"O"}
    assert tags_of([Span(0, 1, "X"), Span(1, 4, "Y")], 5, scheme)[1:] == [
        f"{scheme.first}-Y",
        f"{scheme.inner}-Y",
        f"{scheme.last}-Y",
        "O",
    ]


def test_spans_without_labels():
    assert spans_of(list("BMESBE")) == [Span(0, 3, "_"), Span(3, 4, "_"), Span(4, 6, "_")]
