"""Explanations: weights of words that add up, whatever they are packed with, and that say where the words stand."""

from __future__ import annotations

import json
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from python_runs import SETTINGS, rows_of
from runs import LABELS, VOCAB, Problem, random_rows, small_config, write_csv
from tiny import random_params
from transformers import BertTokenizer

import jaxbert
from jaxbert.cli.main import main
from jaxbert.data.examples import Examples, Windows
from jaxbert.data.table import Table
from jaxbert.data.tokens import LongTexts, Reading, Tokens, encode_texts
from jaxbert.errors import UserError
from jaxbert.interop.write import save_folder
from jaxbert.models.functional import make_model
from jaxbert.options import ExplainOptions
from jaxbert.tasks.base import Outcome, Task
from jaxbert.tasks.classification.task import Classification
from jaxbert.tasks.decision import Decision
from jaxbert.tasks.multi_label.task import MultiLabel
from jaxbert.tasks.multiple_choice.task import MultipleChoice
from jaxbert.tasks.question_answering.task import QuestionAnswering
from jaxbert.tasks.regression.task import Regression
from jaxbert.tasks.token_classification.task import PlainTags
from jaxbert.understand import explain, neighbours
from jaxbert.understand.attribution import Attributions
from jaxbert.understand.explain import Explanation, WordEffects
from jaxbert.understand.explain_page import page_pieces
from jaxbert.understand.items import items_of
from jaxbert.understand.words import Items

TEXTS = [text for text, _ in random_rows(9, seed=5)]
CUT = LongTexts()


def log_odds(probability: float) -> float:
    return float(np.log(probability) - np.log1p(-probability))


def write_task(folder: Path, task: Task, outputs: int = 2) -> jaxbert.Model:
    """Write an export with random parameters, and open it."""
    folder.mkdir()
    (folder / "vocab.txt").write_text("\n".join(VOCAB) + "\n")
    names = task.output_names or tuple(f"LABEL_{i}" for i in range(outputs))
    config = task.configure(small_config(id2label=dict(enumerate(names)), label2id={n: i for i, n in enumerate(names)}))
    model = make_model(task.head, config)
    tokenizer = BertTokenizer(vocab=str(folder / "vocab.txt"))
    save_folder(folder, random_params(model, seed=3), model.config, tokenizer, architecture=task.architecture)
    return jaxbert.load(folder)


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> jaxbert.Result:
    """A trained classifier with its run folder."""
    problem = Problem.write(tmp_path_factory.mktemp("explain"))
    keys = SETTINGS | {"epochs": 1, "output_dir": problem.folder / "run"}
    return jaxbert.finetune(str(problem.folder / "train.csv"), problem.folder / "model", **keys)


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> jaxbert.Model:
    """A classifier with random parameters, whose answers are far from linear."""
    return write_task(tmp_path_factory.mktemp("random") / "model", Classification(LABELS))


def test_an_explanation_has_the_score_of_predict_and_adds_up(model):
    for found, answer in zip(model.explain(TEXTS, steps=64), model.predict(TEXTS), strict=True):
        assert (found["label"], found["score"]) == (answer["label"], answer["score"])
        assert found["value"] == pytest.approx(log_odds(found["score"]), abs=1e-3)
        total = sum(word["weight"] for word in found["words"])
        assert total == pytest.approx(found["value"] - found["baseline_value"], rel=0.01)
        assert 0 <= found["completeness_error"] < 0.01


def test_the_other_label_has_the_opposite_weights(model):
    (good,), (bad,) = (model.explain(TEXTS[:1], label=label, method="occlusion") for label in ("good", "bad"))
    assert (good["label"], bad["label"]) == ("good", "bad")
    assert good["score"] + bad["score"] == pytest.approx(1, abs=1e-5)
    for word, opposite in zip(good["words"], bad["words"], strict=True):
        assert word["weight"] == pytest.approx(-opposite["weight"], abs=2e-6)
        assert abs(word["weight"]) > 1e-4


@pytest.mark.parametrize("method", ["integrated_gradients", "occlusion"])
def test_what_a_text_is_packed_with_changes_nothing(model, method):
    """Also a leak test: the gradient of one segment must not touch the words of another in its row."""
    together = model.explain(TEXTS, method=method, steps=4)
    for text, found in zip(TEXTS, together, strict=True):
        alone = model.explain([text], method=method, steps=4)[0]
        weights = [[word["weight"] for word in answer["words"]] for answer in (found, alone)]
        np.testing.assert_allclose(*weights, atol=3e-5)
        assert np.abs(weights[0]).max() > 1e-3


@pytest.mark.parametrize(("baseline", "token"), [("pad", "[PAD]"), ("mask", "[MASK]")])
def test_occlusion_is_what_predict_loses_without_the_word(model, baseline, token):
    words = TEXTS[0].split()
    found = model.explain(TEXTS[0], method="occlusion", baseline=baseline)
    assert [word["text"] for word in found["words"]] == words
    for place, word in enumerate(found["words"]):
        without = " ".join([*words[:place], token, *words[place + 1 :]])
        score = model.predict(without)["probabilities"][found["label"]]
        assert word["weight"] == pytest.approx(log_odds(found["score"]) - log_odds(score), abs=2e-3)


def test_the_label_that_a_threshold_gives_is_explained(tmp_path):
    decided = Classification(LABELS, decision=Decision(positive=LABELS.index("good"), threshold=0.999))
    model = write_task(tmp_path / "model", decided)
    answers, found = model.predict(TEXTS), model.explain(TEXTS, method="gradient_x_input")
    assert any(answer["score"] < 0.5 for answer in answers)
    assert [(f["label"], f["score"]) for f in found] == [(answer["label"], answer["score"]) for answer in answers]


def test_a_text_without_words_misses_nothing(model):
    found = model.explain([TEXTS[0], "\u200b"], steps=4)[1]
    assert (found["words"], found["completeness_error"]) == ([], 0.0)
    nothing: Any = SimpleNamespace(first=[0, 0], words=[[]])
    rounded = Attributions(np.zeros(0), np.array([0.3 + 3e-7]), np.array([0.3]))
    assert explain._weighted(nothing, rounded, 0, 0, 0)["completeness_error"] == 0.0


def test_windows_are_explained_as_they_are_pooled(tmp_path):
    reading = Reading(LongTexts("windows", 4), "mean", 12)
    model = write_task(tmp_path / "model", Classification(LABELS, reading=reading))
    words = [word for text in TEXTS for word in text.split()][:25]
    found = model.explain([" ".join(words), TEXTS[0]], method="occlusion")[0]
    assert [word["text"] for word in found["words"]] == words
    assert found["value"] == pytest.approx(log_odds(found["score"]), abs=1e-3)
    for place in (0, 9, 24):  # word 9 is in two windows
        without = " ".join([*words[:place], "[PAD]", *words[place + 1 :]])
        score = model.predict(without)["probabilities"][found["label"]]
        assert found["words"][place]["weight"] == pytest.approx(log_odds(found["score"]) - log_odds(score), abs=2e-3)
    assert model.explain(" ".join(words), steps=64)["completeness_error"] < 0.01


def test_scores_labels_and_pairs(tmp_path):
    score = write_task(tmp_path / "score", Regression(Reading(pairs=True)), outputs=1)
    rows = [{"text": "w1 great w2", "text_pair": "w3 bad"}, {"text": "w4", "text_pair": "w5 w6"}]
    found = score.explain(rows, text_pair="text_pair", method="occlusion")
    assert [(word["text"], word["pair"]) for word in found[0]["words"]] == [
        ("w1", 0),
        ("great", 0),
        ("w2", 0),
        ("w3", 1),
        ("bad", 1),
    ]
    assert found[0]["label"] is None
    assert found[0]["value"] == pytest.approx(score.predict(rows, text_pair="text_pair")[0]["score"], abs=1e-5)
    shorter = [{"text": "w1 great w2", "text_pair": "w3 [PAD]"}]
    lost = found[0]["value"] - score.predict(shorter, text_pair="text_pair")[0]["score"]
    assert found[0]["words"][4]["weight"] == pytest.approx(lost, abs=1e-5)
    with pytest.raises(UserError, match="have no labels: leave it out"):
        score.explain(rows, text_pair="text_pair", label="good")

    several = write_task(tmp_path / "several", MultiLabel(("a", "b", "c")))
    answer, found = several.predict(TEXTS[0]), several.explain(TEXTS[0], method="occlusion")
    assert found["label"] == max(answer["probabilities"], key=answer["probabilities"].get)
    assert found["value"] == pytest.approx(log_odds(answer["probabilities"][found["label"]]), abs=1e-4)
    other = several.explain(TEXTS[0], method="occlusion", label="b")
    assert other["score"] == pytest.approx(answer["probabilities"]["b"], abs=2e-6)


def test_mistakes_are_named(model):
    with pytest.raises(UserError, match="label 'goood' is none of the model's labels: 'bad', 'good'; did you mean"):
        model.explain(TEXTS, label="goood")
    with pytest.raises(UserError, match="is not a run folder"):
        model.explain(TEXTS[:1], neighbours=1)
    with pytest.raises(UserError, match="steps is 0, but it must be at least 1"):
        model.explain(TEXTS, steps=0)
    assert model.explain([]) == []


def test_neighbours_are_training_examples(run):
    rows = rows_of(100)
    found = run.model.explain([rows[3]["text"], TEXTS[0]], steps=4, neighbours=3)
    nearest = found[0]["neighbours"]
    assert (nearest[0]["text"], nearest[0]["label"], nearest[0]["row"]) == (rows[3]["text"], rows[3]["label"], 5)
    assert nearest[0]["similarity"] == pytest.approx(1, abs=1e-5)
    similar = [near["similarity"] for near in found[1]["neighbours"]]
    assert len(similar) == 3
    assert all(a >= b for a, b in pairwise(similar))
    assert similar[0] < 1 - 1e-6


def test_the_training_texts_are_read_once(run, monkeypatch):
    calls = []
    read = neighbours.read_records
    monkeypatch.setattr(neighbours, "read_records", lambda *given: calls.append(given) or read(*given))
    monkeypatch.setattr(explain, "_ITEMS", 1)
    model = jaxbert.load(run.folder)
    found = model.explain(TEXTS[:3], method="gradient_x_input", neighbours=2)
    assert [len(answer["neighbours"]) for answer in found] == [2, 2, 2]
    assert len(calls) == 1


def test_a_page_escapes_everything():
    text = "<i>a</i> \x00"
    near = {"label": "<i>", "similarity": 1.0, "row": "<i>", "text": "<i>", "text_pair": "<i>"}
    words = [{"text": "a", "start": 3, "end": 4, "weight": 1.0}, {"text": "<", "start": 4, "end": 5, "weight": -0.01}]
    answer = {
        "label": "<i>",
        "text": "<i>",
        "score": 1.0,
        "value": 1.0,
        "baseline_value": 0.0,
        "completeness_error": 0.0,
    }
    tagged = [answer | {"words": words[:1], "neighbours": [near]}]
    listed = [answer | {"words": [{"text": "<i>", "start": 0, "end": 1, "weight": 1.0}]}]
    explanations = [Explanation((text,), tagged), Explanation((["<i>", "<i>"],), listed)]
    html = "".join(page_pieces(explanations, ExplainOptions(), "log_odds", "<i>"))
    assert "<i>" not in html
    assert "\x00" not in html
    assert html.count("&lt;i&gt;") == 2 + 1 + 2 + 5 + 2 + 1


def test_answers_of_one_label_are_summed_up():
    words = [{"text": "Fine", "weight": 0.5}, {"text": "fine", "weight": 0.25}, {"text": "not", "weight": -1.0}]
    effects = WordEffects()
    for label in ("", "a", None, "a"):
        effects.add(Explanation(("",), [{"label": label, "words": words}]))
    found = effects.to_dict()
    assert {label: part["texts"] for label, part in found.items()} == {"a": 2, "no answer": 1, "score": 1}
    assert found["a"]["for"] == [{"word": "fine", "count": 4, "mean_weight": 0.375}]
    assert found["a"]["against"] == [{"word": "not", "count": 2, "mean_weight": -1.0}]


def test_the_command_writes_lines_a_page_and_a_summary(run, tmp_path, capsys):
    texts = ["great w1 <b>&amp;", 'w2 bad "w3"']
    file = write_csv(tmp_path / "new.csv", [[text] for text in texts], header=("text",))
    lines, page, summary = (tmp_path / name for name in ("why.jsonl", "why.html", "words.json"))
    common = ["explain", f"--model={run.folder}", f"--input={file}", "--steps=4"]
    assert main([*common, f"--output={lines}", f"--summary={summary}"]) == 0
    found = [json.loads(line) for line in lines.read_text().splitlines()]
    assert found == run.model.explain(texts, steps=4)
    for text, answer in zip(texts, found, strict=True):
        assert all(text[word["start"] : word["end"]] == word["text"] for word in answer["words"])
    effects = json.loads(summary.read_text())
    assert {label: part["texts"] for label, part in effects.items()} == _counts(found)
    first = effects[found[0]["label"]]
    listed = {entry["word"] for side in ("for", "against") for entry in first[side]}
    assert {"great", "<", "&"} <= listed
    assert main([*common, f"--output={page}"]) == 0
    html = page.read_text("utf-8")
    assert "<b>" not in html.split("</header>")[1]
    assert "&lt;" in html
    assert html.count("<article>") == 2
    assert 'class="w ' in html.split("</header>")[1]
    assert main([*common[:2], f"--input={write_csv(tmp_path / 'none.csv', [], ('text',))}"]) == 2
    assert capsys.readouterr().err.count("error: ") == 1
    assert main([*common, f"--output={page}", f"--summary={page}"]) == 2
    assert "--summary and --output both name" in capsys.readouterr().err


def _counts(answers: list[dict[str, Any]]) -> dict[str, int]:
    labels = [answer["label"] for answer in answers]
    return {label: labels.count(label) for label in sorted(set(labels))}


def test_the_tag_of_each_word_is_explained(tmp_path):
    model = write_task(
        tmp_path / "tags", PlainTags(("A", "O"), "word", 0.0, Reading(LongTexts("windows", 4), None, 12))
    )
    text = " ".join(TEXTS[:3])
    words, tags = text.split(), model.predict(text)["tags"]
    found = model.explain(text, method="occlusion")["tags"]
    keys = ("text", "label", "start", "end", "score")
    marked = [{key: tag[key] for key in keys} for tag in tags if tag["label"] == "A"]
    assert 0 < len(marked) < len(tags)
    assert [{key: tag[key] for key in keys} for tag in found] == marked
    for explained in (found[0], found[-1]):
        assert explained["value"] == pytest.approx(log_odds(explained["score"]), abs=1e-3)
        word = max(explained["words"], key=lambda word: abs(word["weight"]))
        place = len(text[: word["start"]].split())
        own = len(text[: explained["start"]].split())
        shorter = model.predict([[*words[:place], "[PAD]", *words[place + 1 :]]])[0]["tags"][own]
        score = shorter["score"] if shorter["label"] == "A" else 1 - shorter["score"]
        assert word["weight"] == pytest.approx(log_odds(explained["score"]) - log_odds(score), abs=2e-3)
    given = model.explain([words, ["w1"]], method="occlusion", label="O")
    assert [word["text"] for word in given[0]["tags"][0]["words"]] == words[: len(given[0]["tags"][0]["words"])]
    assert {tag["label"] for answer in given for tag in answer["tags"]} == {"O"}


def test_the_answer_to_a_question_is_explained(tmp_path):
    reading = Reading(LongTexts("windows", 4), None, 16)
    model = write_task(tmp_path / "answers", QuestionAnswering(reading=reading))
    pairs = [("w1 great", " ".join(TEXTS[:3])), ("w2", "w3 bad w4")]
    for pair, found, answer in zip(pairs, model.explain(pairs, steps=64), model.predict(pairs), strict=True):
        assert [found[key] for key in ("label", "start", "end", "score")] == [
            answer[key] for key in ("text", "start", "end", "score")
        ]
        assert found["value"] == pytest.approx(np.log(found["score"]), abs=1e-2 * abs(found["value"]))
        assert found["completeness_error"] < 0.01
        words = [word for word in found["words"] if word["pair"] == 0]
        assert " ".join(word["text"] for word in words) == pair[0]
        context = [word for word in found["words"] if word["pair"] == 1]
        assert all(pair[1][word["start"] : word["end"]] == word["text"] for word in context)
        assert context[0]["start"] <= found["start"] < found["end"] <= context[-1]["end"]


def test_choices_are_refused(tmp_path):
    choices = write_task(tmp_path / "choices", MultipleChoice())
    with pytest.raises(UserError, match="task is multiple_choice, whose answers cannot be explained"):
        choices.explain([{"question": "w1", "choices": ["w2", "w3"]}])


CHARACTERS = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "这", "电", "影", "好", "play", "##ing", "great", "!", "e")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("这电影  playing好!", ["这", "电", "影", "playing", "好", "!"]),
        ("GREAT 龘 Playing", ["GREAT", "龘", "Playing"]),
        ("e\u0301 great", ["e\u0301", "great"]),
        ("\u200b", []),
    ],
)
def test_words_are_those_of_the_tokenizer(text, words, tmp_path):
    (tmp_path / "vocab.txt").write_text("\n".join(CHARACTERS) + "\n", "utf-8")
    tokenizer = BertTokenizer(vocab=str(tmp_path / "vocab.txt"))
    found = _items(tokenizer, [text], None, 32)
    assert [word["text"] for word in found.words[0]] == words
    assert (found.examples.token_labels[[0, -1]] == -1).all()
    assert set(found.examples.token_labels[1:-1]) == set(range(len(words)))


@pytest.mark.parametrize("how", ["cut", "head_tail", "windows"])
def test_words_that_are_not_read_are_left_out(how, tmp_path):
    (tmp_path / "vocab.txt").write_text("\n".join(VOCAB) + "\n")
    tokenizer = BertTokenizer(vocab=str(tmp_path / "vocab.txt"))
    text = " ".join(f"w{i}" for i in range(20))
    found = _items(tokenizer, [text, "w1"], None, 10, LongTexts(how, 4))
    read = {"cut": range(8), "head_tail": [0, 1, *range(14, 20)], "windows": range(20)}[how]
    assert [word["text"] for word in found.words[0]] == [f"w{i}" for i in read]
    assert [word["text"] for word in found.words[1]] == ["w1"]


def test_both_texts_of_a_pair_are_cut(tmp_path):
    (tmp_path / "vocab.txt").write_text("\n".join(VOCAB) + "\n")
    tokenizer = BertTokenizer(vocab=str(tmp_path / "vocab.txt"))
    texts = [" ".join(f"w{i}" for i in range(count)) for count in (9, 4)]
    found = _items(tokenizer, texts[:1], texts[1:], 11)
    words = found.words[0]
    assert [(word["pair"], word["text"]) for word in words] == [(k, f"w{i}") for k in (0, 1) for i in range(4)]


def _items(tokenizer: Any, texts: list[str], pairs: list[str] | None, longest: int, how: LongTexts = CUT) -> Items:
    encoded = encode_texts(tokenizer, texts, pairs, longest, how)
    tokens = Tokens.from_lengths(encoded.ids, encoded.lengths, encoded.first_lengths)
    windows = Windows.of_counts(encoded.windows) if len(encoded.windows) else None
    table = Table(texts, pairs, None, None, "texts", range(1, len(texts) + 1))
    task = Classification(LABELS, reading=Reading(how))
    predictions = np.log(np.full((len(tokens), 2), 0.5))
    return items_of(Outcome(task, Examples(tokens, windows=windows, extra=table), predictions), tokenizer, longest, 1)


def test_no_program_is_compiled_for_a_further_label(model):
    from jaxbert.train.programs import CompileLog

    model.explain(TEXTS[0], label="good", steps=4)
    with CompileLog() as log:
        model.explain(TEXTS[1], label="bad", steps=8)
    assert log.count == 0
