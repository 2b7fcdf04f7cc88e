"""The model card: metadata that the Hub's own library reads, from facts of the run, without paths of this machine."""

from __future__ import annotations

import logging

import pytest
from etils import epath
from huggingface_hub import ModelCard
from runs import make_config

from jaxbert.runs.export import MARKER, copy_card, model_card, write_card
from jaxbert.tasks.classification.task import Classification
from jaxbert.tasks.multi_label.task import MultiLabel
from jaxbert.tasks.question_answering.task import QuestionAnswering
from jaxbert.tasks.regression.task import Regression

SUMMARY = {
    "exported_step": 12,
    "eval": {"accuracy": 0.9, "f1_macro": 0.8123456789, "loss": 0.3, "confusion_matrix": [[1]], "per_class": {}},
    "test": {"accuracy": 0.85, "loss": 0.4},
    "data": {"sources": {"train": {"rows": 1234}}},
}
TASK = Classification(("差", "好 | *neutral*"))


def read(config, task=TASK, summary=SUMMARY) -> ModelCard:
    return ModelCard(model_card(config, task, summary, "reviews"))


def results(card: ModelCard) -> list[tuple]:
    return [
        (
            r.dataset_type,
            r.dataset_name,
            r.dataset_config,
            r.dataset_split,
            r.metric_type,
            r.metric_name,
            r.metric_value,
        )
        for r in card.data.eval_results
    ]


def test_the_hub_reads_what_the_run_knows():
    files = {"data__train": "/home/me/secret/train.csv", "data__validation": "/home/me/secret/dev.jsonl"}
    card = read(make_config(**files, data__test="hf:ORG/NAME/zh:held_out", model__name_or_path="bert-base-chinese"))
    data = card.data
    header = data.to_dict()
    names = {"base_model": "bert-base-chinese", "library_name": "transformers", "pipeline_tag": "text-classification"}
    assert {key: header[key] for key in names} == names
    assert (data.model_name, data.metrics, data.language) == ("reviews", ["accuracy", "f1"], None)
    assert results(card) == [
        ("json", "dev.jsonl", None, "validation", "accuracy", "accuracy", 0.9),
        ("json", "dev.jsonl", None, "validation", "f1", "f1_macro", 0.812346),
        ("ORG/NAME", "ORG/NAME/zh", "zh", "held_out", "accuracy", "accuracy", 0.85),
    ]
    text = str(card)
    assert "secret" not in text
    for fact in ("`bert-base-chinese`", "train.csv, 1,234 records", "| steps | 12 |", "差, 好 \\| *neutral*"):
        assert fact in text
    assert "| validation | f1_macro | 0.8123 |" in text
    assert MARKER in text


@pytest.mark.parametrize(
    ("model", "base", "words"),
    [
        ("tiny", None, "random weights (a new model of the size tiny)"),
        ("org/some-model", "org/some-model", "`org/some-model`"),
        ("LOCAL", None, "a model in a local folder, `mine`"),
        ("../gone", None, "a model in a local folder, `gone`"),
    ],
)
def test_only_a_model_of_the_hub_is_a_base_model(model, base, words, tmp_path):
    (tmp_path / "mine").mkdir()
    name = str(tmp_path / "mine") if model == "LOCAL" else model
    card = read(make_config(model__name_or_path=name))
    assert card.data.base_model == base
    assert words in str(card)
    assert str(tmp_path) not in str(card)


def test_several_sets_and_a_split_have_their_own_results():
    sets = {"en": {"f1_micro": 0.5}, "zh": {"f1_micro": 0.25}}
    task = MultiLabel(("a", "b"))
    config = make_config(
        "multi_label", data__train="tfds:goemotions", data__validation={"en": "en.tsv", "zh": "zh.parquet"}
    )
    card = read(config, task, {"eval": {"f1_micro": 0.375, "sets": sets}})
    assert [row[:2] + row[-1:] for row in results(card)] == [("csv", "en.tsv", 0.5), ("parquet", "zh.parquet", 0.25)]
    assert "| validation.zh | f1_micro | 0.2500 |" in str(card)
    split = read(make_config(data__train="memory:train", data__validation_fraction=0.1))
    assert results(split)[0][:2] == ("memory", "rows in memory")
    single = read(make_config(data__train="a.csv", data__validation={"en": "en.txt"}))
    assert results(single)[0][:2] == ("text", "en.txt")


def test_a_data_set_of_the_hub_in_a_local_folder_is_named_without_its_path():
    card = read(make_config(data__validation="hf:/home/me/secret/sets:dev", data__train="hf:~/secret/rows"))
    assert results(card)[0][:4] == ("files", "sets", None, "dev")
    assert "secret" not in str(card)
    assert "| training data | rows, 1,234 records |" in str(card)


def test_every_task_names_its_use_and_metrics():
    answers = read(make_config("question_answering"), QuestionAnswering(), {"eval": {"f1": 0.5, "exact_match": 0.25}})
    assert (answers.data.pipeline_tag, answers.data.metrics) == ("question-answering", ["exact_match", "f1"])
    scores = read(make_config("regression"), Regression(), {"test": {"pearson": 0.5, "mse": 2.0, "r2": -1.0}})
    assert scores.data.metrics == ["mse", "pearsonr", "r_squared"]


def test_a_run_without_held_out_data_has_a_card_without_results():
    card = read(make_config(), summary={"eval": {}, "test": None})
    assert (card.data.eval_results, card.data.metrics) == (None, None)
    assert "## Results" not in str(card)


def test_a_text_of_a_person_stays(tmp_path, caplog):
    folder = epath.Path(tmp_path)
    card = model_card(make_config(), TASK, SUMMARY, "reviews")
    assert write_card(folder, card)
    assert write_card(folder, card.replace("0.9000", "0.9500"))
    assert "0.9500" in (tmp_path / "README.md").read_text()
    (tmp_path / "README.md").write_bytes("# Più".encode("latin-1"))
    assert not write_card(folder, card)
    (tmp_path / "README.md").write_text("# Mine, after removing the line\n")
    with caplog.at_level(logging.INFO, logger="jaxbert"):
        assert not write_card(folder, card)
    assert (tmp_path / "README.md").read_text() == "# Mine, after removing the line\n"
    assert "stays as it is" in caplog.text


def test_a_card_goes_with_its_parameters(tmp_path):
    run, target = tmp_path / "run", tmp_path / "target"
    (run / "export").mkdir(parents=True)
    target.mkdir()
    copy_card("no/such-model", epath.Path(target))
    copy_card(run, epath.Path(target))
    assert not (target / "README.md").exists()
    (run / "export" / "README.md").write_text("of a person")
    copy_card(str(run), epath.Path(target))
    assert not (target / "README.md").exists()
    (run / "export" / "README.md").write_text(f"{MARKER}\nours")
    copy_card(str(run), epath.Path(target))
    assert (target / "README.md").read_text() == f"{MARKER}\nours"
    for _ in range(2):
        copy_card(str(run), epath.Path(run / "export"), calibrated=True)
        said = (run / "export" / "README.md").read_text()
        assert said.startswith(f"{MARKER}\nours\n\nThis model was calibrated")
        assert said.count("the results above are those before") == 1
