"""Train, evaluate, predict and export tagging and question answering, and open the export in transformers."""

from __future__ import annotations

import json

import numpy as np
import pytest
from runs import Problem
from token_tasks import write_problem, write_questions, write_sentences

from jaxbert.cli.main import main
from jaxbert.config import DataConfig
from jaxbert.tasks.question_answering.answers import parts
from jaxbert.tasks.question_answering.read import read_questions
from jaxbert.tasks.token_classification.read import read_tagged_texts
from jaxbert.tasks.token_classification.scheme import spans_of

pytestmark = pytest.mark.usefixtures("shared_programs")


def trained(folder, task, **changes):
    """Train for some epochs, with windows of 16 tokens, and return the folder."""
    problem = Problem.write(folder)
    settings = write_problem(folder, task, count=150) | {
        "train.epochs": 8,
        "train.batch_size": 32,
        "train.eval_every": 1000,
        **changes,
    }
    settings = (
        problem.options() | {"optimizer.learning_rate": 1e-2, "model.dropout": 0, "train.log_every": 50} | settings
    )
    assert main(["train", *(f"--{name}={value}" for name, value in settings.items())]) == 0
    return folder


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """A model and the files of the tagging problem."""
    folder = tmp_path_factory.mktemp("files")
    Problem.write(folder)
    write_problem(folder, "token_classification")
    return folder


@pytest.fixture(scope="module")
def tags(tmp_path_factory):
    return trained(tmp_path_factory.mktemp("tags"), "token_classification")


@pytest.fixture(scope="module")
def answers(tmp_path_factory):
    return trained(tmp_path_factory.mktemp("answers"), "question_answering")


def summary(folder):
    return json.loads((folder / "run" / "summary.json").read_text())


def evaluate(folder, data, *more):
    output = folder / "metrics.json"
    arguments = ["evaluate", "--model", str(folder / "run"), "--data", str(data), "--output", str(output)]
    assert main([*arguments, *more]) == 0
    return json.loads(output.read_text())


def predict(folder, data, *more):
    output = folder / "out.jsonl"
    arguments = ["predict", "--model", str(folder / "run"), "--input", str(data), "--output", str(output)]
    assert main([*arguments, *more]) == 0
    return [json.loads(line) for line in output.read_text().splitlines()]


@pytest.mark.slow
def test_tagging_learns_and_evaluates_as_in_training(tags):
    found = evaluate(tags, tags / "dev.bmes")
    expected = summary(tags)["eval"]
    assert found["f1"] > 0.9
    assert found["per_class"].keys() == {"good", "bad"}
    assert found == expected


@pytest.mark.slow
def test_entities_are_those_that_evaluation_counts(tags):
    """Predicted spans against the file's own give the precision and recall of `evaluate`."""
    gold = [spans_of(d.tags) for d in documents_of(tags / "dev.bmes")]
    answers = predict(tags, tags / "dev.bmes")
    assert len(answers) == len(gold)
    found = [{(e["start"], e["end"], e["label"]) for e in answer["entities"]} for answer in answers]
    right = sum(len(spans & set(own)) for spans, own in zip(found, gold, strict=True))
    metrics = evaluate(tags, tags / "dev.bmes")
    assert metrics["precision"] == pytest.approx(right / sum(map(len, found)))
    assert metrics["recall"] == pytest.approx(right / sum(map(len, gold)))
    for answer, document in zip(answers, documents_of(tags / "dev.bmes"), strict=True):
        for entity in answer["entities"]:
            assert entity["text"] == " ".join(document.words[entity["start"] : entity["end"]])
            assert 0 < entity["score"] <= 1


def documents_of(path):
    return read_tagged_texts(str(path), DataConfig(), role="test", labelled=True).items


@pytest.mark.slow
def test_entities_of_a_plain_text_have_characters(tags):
    """The same words as text: the same entities, found again by their characters; other layouts agree."""
    documents = documents_of(tags / "dev.bmes")
    texts = [" ".join(document.words) for document in documents]
    (tags / "in.txt").write_text("\n".join(texts) + "\n")
    (tags / "in.jsonl").write_text("".join(json.dumps({"sentence": text}) + "\n" for text in texts))
    (tags / "words.jsonl").write_text("".join(json.dumps({"tokens": d.words}) + "\n" for d in documents))
    by_words = predict(tags, tags / "words.jsonl")
    by_text = predict(tags, tags / "in.txt")
    assert by_text == predict(tags, tags / "in.jsonl", "--text=sentence")
    for words, text, source in zip(by_words, by_text, texts, strict=True):
        assert [e["label"] for e in words["entities"]] == [e["label"] for e in text["entities"]]
        for one, other in zip(words["entities"], text["entities"], strict=True):
            assert source[other["start"] : other["end"]] == other["text"] == one["text"]
            assert one["score"] == pytest.approx(other["score"], abs=2e-6)


@pytest.mark.slow
def test_question_answering_evaluates_as_in_training(answers):
    found = evaluate(answers, answers / "dev.json")
    expected = summary(answers)["eval"]
    assert found == expected
    assert found["examples"] == 23
    assert found["loss"] < 2.0


@pytest.mark.slow
def test_answers_are_in_input_order_and_stand_in_their_context(answers):
    questions = read_questions(str(answers / "dev.json"), DataConfig(), role="test", labelled=True).items
    found = predict(answers, answers / "dev.json")
    assert [answer["id"] for answer in found] == [question.id for question in questions]
    exact = 0
    for answer, question in zip(found, questions, strict=True):
        listed = answer["n_best"]
        assert listed[0] == {name: answer[name] for name in ("text", "start", "end", "score")}
        assert [one["score"] for one in listed] == sorted((one["score"] for one in listed), reverse=True)
        for one in listed:
            assert question.context[one["start"] : one["end"]] == one["text"] != ""
        exact += answer["text"] == question.answers[0].text
    assert exact / len(questions) == pytest.approx(summary(answers)["eval"]["exact_match"])
    records = [{"q": question.question, "p": question.context} for question in questions]
    (answers / "in.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
    again = predict(answers, answers / "in.jsonl", "--question=q", "--context=p")
    assert [answer["text"] for answer in again] == [answer["text"] for answer in found]


@pytest.mark.slow
def test_questions_without_an_answer(tmp_path):
    changes = {"train.epochs": 1, "data.train": tmp_path / "some.json", "data.validation_fraction": 0.2}
    write_questions(tmp_path / "some.json", 60, unanswered=0.5)
    Problem.write(tmp_path)
    settings = {"model.name_or_path": tmp_path / "model", "train.output_dir": tmp_path / "run", **changes}
    settings["model.scan_layers"] = True
    arguments = [f"--{name}={value}" for name, value in settings.items()]
    assert main(["train", "--task=question_answering", *arguments]) == 0
    assert {"answered_f1", "unanswered_accuracy"} <= summary(tmp_path)["eval"].keys()
    settings = json.loads((tmp_path / "run" / "export" / "config.json").read_text())["jaxbert"]
    assert (settings["unanswered"], settings["no_answer_threshold"]) == (True, 0.0)
    assert any("" in [one["text"] for one in answer["n_best"]] for answer in predict(tmp_path, tmp_path / "some.json"))


def batch_for(tokenizer, torch, *texts):
    return tokenizer(*texts, return_tensors="pt"), tokenizer(*texts, return_offsets_mapping=True)["offset_mapping"]


@pytest.mark.slow
def test_the_tagger_opens_in_transformers(tags):
    """Outputs of PyTorch lead to the same probabilities, token by token."""
    torch = pytest.importorskip("torch")
    from transformers import AutoModelForTokenClassification, AutoTokenizer

    model = AutoModelForTokenClassification.from_pretrained(tags / "run" / "export").eval()
    tokenizer = AutoTokenizer.from_pretrained(tags / "run" / "export")
    text = "w1 good fine w2 awful w3 w4"
    (tags / "one.txt").write_text(text + "\n")
    (answer,) = predict(tags, tags / "one.txt")
    inputs, offsets = batch_for(tokenizer, torch, text)
    with torch.no_grad():
        probabilities = model(**inputs).logits[0].softmax(-1).numpy()
    names = [model.config.id2label[int(i)] for i in probabilities.argmax(-1)]
    spans = spans_of(names[1:-1])
    assert [(e["start"], e["end"]) for e in answer["entities"]] == [
        (offsets[span.start + 1][0], offsets[span.end][1]) for span in spans
    ]
    assert spans
    for entity, span in zip(answer["entities"], spans, strict=True):
        expected = probabilities.max(-1)[span.start + 1 : span.end + 1].mean()
        assert entity["score"] == pytest.approx(expected, abs=1e-4)


@pytest.mark.slow
def test_the_answerer_opens_in_transformers(answers):
    torch = pytest.importorskip("torch")
    from transformers import AutoModelForQuestionAnswering, AutoTokenizer

    model = AutoModelForQuestionAnswering.from_pretrained(answers / "run" / "export").eval()
    tokenizer = AutoTokenizer.from_pretrained(answers / "run" / "export")
    question, context = "what is good", "w1 w2 good w7 w9"
    (answers / "one.jsonl").write_text(json.dumps({"question": question, "context": context}) + "\n")
    (answer,) = predict(answers, answers / "one.jsonl")
    inputs, offsets = batch_for(tokenizer, torch, question, context)
    with torch.no_grad():
        outputs = model(**inputs)
    starts, ends = (logits[0].softmax(-1).numpy() for logits in (outputs.start_logits, outputs.end_logits))
    inside = [i for i, kind in enumerate(inputs["token_type_ids"][0]) if kind == 1][:-1]
    pairs = {(i, j): starts[i] * ends[j] for i in inside for j in inside if i <= j}
    best = max(pairs, key=lambda pair: pairs[pair])
    assert (answer["start"], answer["end"]) == (offsets[best[0]][0], offsets[best[1]][1])
    assert answer["score"] == pytest.approx(pairs[best], abs=1e-4)
    ranked = sorted(pairs.values(), reverse=True)[: len(answer["n_best"])]
    np.testing.assert_allclose([one["score"] for one in answer["n_best"]], ranked, atol=1e-4)


WRONG = {
    "another length": (
        {"task": "token_classification", "data.train": "t.jsonl"},
        '{"tokens": ["w1", "w2"], "tags": ["O"]}\n',
        "row 1: 2 words in 'tokens', but 1 tags",
    ),
    "half a scheme": (
        {"task": "token_classification", "data.train": "t.conll"},
        "w1 NN\nw2 B-X\n",
        "some tags have the prefix of a scheme ('B-X'), others have none ('NN')",
    ),
    "empty": ({"task": "token_classification", "data.train": "t.conll"}, "", "empty: at least one text is needed"),
    "overlap": (
        {"task": "token_classification", "data.train": "t.jsonl"},
        '{"text": "w1 w2", "entities": [[0, 4, "A"], [3, 5, "B"]]}\n',
        "row 1: two spans overlap",
    ),
    "unknown tag": (
        {"task": "token_classification", "data.train": "train.bmes", "data.validation": "t.conll"},
        "w1 B-odd\nw2 E-odd\n",
        "row 1: tag 'B-odd' is unknown; the tags known from training are",
    ),
    "outside its context": (
        {"task": "question_answering", "data.train": "t.jsonl"},
        '{"id": "q7", "question": "q", "context": "w1 w2", "answers": {"text": ["w3"], "answer_start": [3]}}\n',
        "question 'q7': the answer 'w3' is not at 3 of its context, where 'w2' stands",
    ),
    "weights": (
        {"task": "question_answering", "data.train": "t.jsonl", "train.class_weights": "balanced"},
        "",
        "train.class_weights has no meaning for task question_answering: remove it",
    ),
    "smoothing": (
        {"task": "question_answering", "data.train": "t.jsonl", "train.label_smoothing": "0.1"},
        "",
        "train.label_smoothing has no meaning for task question_answering",
    ),
    "stride": ({"task": "question_answering", "data.window_stride": "-1"}, "", "data.window_stride is -1"),
    "metric": (
        {"task": "token_classification", "data.train": "train.bmes", "data.validation": "dev.bmes"}
        | {"train.best_metric": "mcc"},
        "",
        "train.best_metric is 'mcc', but it must be one of f1, precision",
    ),
    "labels": (
        {"task": "token_classification", "data.train": "train.bmes", "model.num_labels": "3"},
        "",
        "model.num_labels is 3, but",
    ),
    "fraction": (
        {"task": "question_answering", "data.train": "t.jsonl", "data.validation_fraction": "0.5"},
        '{"question": "q", "context": "w1", "answers": {"text": [], "answer_start": []}}\n' * 4,
        "data.validation_fraction is 0.5, which leaves one part of 4 rows in 1 groups empty",
    ),
}


@pytest.mark.parametrize("case", WRONG)
def test_mistakes_are_one_line(files, tmp_path, capsys, case):
    settings, content, message = WRONG[case]
    settings = dict(settings)
    for key in ("data.train", "data.validation"):
        if key in settings:
            own = settings[key].startswith("t.")
            settings[key] = (tmp_path if own else files) / settings[key]
            if own:
                settings[key].write_text(content)
    options = {"model.name_or_path": files / "model", "train.output_dir": tmp_path / "run", **settings}
    assert main(["train", *(f"--{name}={value}" for name, value in options.items())]) == 2
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert error.startswith("error: ")
    assert message in error
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
def test_the_peers_count_the_same(tags, answers, monkeypatch):
    """The scripts that train in PyTorch read the same files on their own, and find what `evaluate` finds."""
    pytest.importorskip("torch")
    import peer_answers
    import peer_tags
    from transformers import AutoTokenizer, BertForQuestionAnswering, BertForTokenClassification

    path = tags / "run" / "export"
    model = BertForTokenClassification.from_pretrained(path).eval()
    names = [model.config.id2label[i] for i in range(model.config.num_labels)]
    sentences = peer_tags.read_sentences(tags / "dev.bmes")
    encoded = peer_tags.Encoded(sentences, AutoTokenizer.from_pretrained(path), names, 48)
    ours = evaluate(tags, tags / "dev.bmes", "--max_length=48")
    assert peer_tags.evaluate(model, encoded, names) == pytest.approx(
        {n: ours[n] for n in ("f1", "precision", "recall")}
    )

    path = answers / "run" / "export"
    questions = peer_answers.read_questions(answers / "dev.json")
    encoded = peer_answers.Encoded(questions, AutoTokenizer.from_pretrained(path), 48, 4)
    ours = evaluate(answers, answers / "dev.json", "--max_length=48")
    found = peer_answers.evaluate(BertForQuestionAnswering.from_pretrained(path).eval(), encoded)
    assert found == pytest.approx({n: ours[n] for n in ("f1", "exact_match")})
    for text in ("《红楼梦》", "1998年 9 月", "约 3.5 万人（BERT）", "A·B 公司、Łódź"):
        assert peer_answers.words(text) == parts(text, chinese=True)


@pytest.mark.slow
def test_evaluating_what_the_model_does_not_know(tags, capsys):
    write_sentences(tags / "other.bmes", 3)
    (tags / "other.bmes").write_text((tags / "other.bmes").read_text().replace("-good", "-best"))
    assert main(["evaluate", "--model", str(tags / "run"), "--data", str(tags / "other.bmes")]) == 2
    assert "-best' is unknown; the tags known from training are" in capsys.readouterr().err
