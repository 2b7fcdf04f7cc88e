"""A cased checkpoint whose only tokenizer file is `vocab.txt`: texts keep their capitals, and the export says so."""

from __future__ import annotations

import csv
import json
import shutil

import pytest
from transformers import AutoTokenizer

from jaxbert.config import ModelConfig
from jaxbert.models.families import sized_config
from jaxbert.runs.export import save_start
from jaxbert.runs.folder import RunFolder
from jaxbert.train.pretrained import load_pretrained


@pytest.mark.parametrize("lower_case", [None, False])
def test_a_vocabulary_with_capitals_is_read_cased(case, vocabularies, tmp_path, caplog, lower_case):
    shutil.copyfile(vocabularies / "bert-base-cased-vocab.txt", tmp_path / "vocab.txt")
    sized_config("tiny", 28996).save_pretrained(tmp_path)
    (tmp_path / "model.safetensors").touch()
    start = load_pretrained(ModelConfig(name_or_path=str(tmp_path), lower_case=lower_case))
    said = "7,974 of 21,141 words in it have capitals: texts keep their capitals (model.lower_case)"
    assert (said in caplog.text) == (lower_case is None)
    run = RunFolder(tmp_path / "run")
    save_start(run, start.bert_config, start.tokenizer)
    theirs = AutoTokenizer.from_pretrained(run.start)
    assert json.loads((run.start / "tokenizer_config.json").read_text())["do_lower_case"] is False
    with (case / "train.csv").open() as file:
        texts = [row["text"] for row in csv.DictReader(file)]
    ids = [start.tokenizer(text)["input_ids"] for text in texts]
    assert ids == [theirs(text)["input_ids"] for text in texts]
    assert ids != [start.tokenizer(text.lower())["input_ids"] for text in texts]
    assert theirs.tokenize(texts[0]) == ["we", "saw", "Orange", "today"]
