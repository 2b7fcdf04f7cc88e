"""A stray label is refused, whoever made the model; the other rows mean the same with and without it."""

from __future__ import annotations

import copy

import pytest
from runs import make_config

from jaxbert.errors import UserError
from jaxbert.runs.folder import RunFolder
from jaxbert.tasks import SETTINGS, task_of_model
from jaxbert.train.run import open_run


def test_stars_from_1_to_5(case, vocabularies, tmp_path, caplog):
    keys = {
        "model__name_or_path": "tiny",
        "model__vocab": str(vocabularies / "bert-base-uncased-vocab.txt"),
        "data__train": str(case / "train.csv"),
        "data__label": "stars",
        "data__cache_dir": None,
    }
    folder = RunFolder(tmp_path / "run")
    with pytest.raises(UserError, match="row 50: label 0 is unknown; the labels known from training are '1', '2'"):
        open_run(make_config(**keys, data__test=str(case / "test-dirty.csv")), folder)
    config = make_config(**keys)
    session = open_run(config, folder)
    assert "the numbers 1, 2, 3, 4, 5 are taken as names of 5 labels" in caplog.text
    assert session.inputs.task.label_names == ("1", "2", "3", "4", "5")
    elsewhere = copy.deepcopy(session.bert_config)
    delattr(elsewhere, SETTINGS)
    stars = [int(line.rpartition(",")[2]) for line in (case / "test.csv").read_text().splitlines()[1:]]
    for bert_config in (session.bert_config, elsewhere):
        task = task_of_model(bert_config).reopen(bert_config)

        def read(name: str, task=task):
            return task.read_for(str(case / name), config.data, session.pretrained.tokenizer, 64)

        assert read("test.csv").labels.tolist() == [star - 1 for star in stars]
        with pytest.raises(UserError, match="row 50: label 0 is unknown; the labels known from training are '1', '2'"):
            read("test-dirty.csv")
