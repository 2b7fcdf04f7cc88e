"""Multi-hot lists: four labels are learned, and every later file is read in the same way."""

from __future__ import annotations

import json
from pathlib import Path

from runs import make_config

from jaxbert.runs.folder import RunFolder
from jaxbert.tasks import task_of_model
from jaxbert.train.run import open_run


def test_multi_hot_lists(case, vocabularies, tmp_path):
    keys = {
        "model__name_or_path": "tiny",
        "model__vocab": str(vocabularies / "bert-base-uncased-vocab.txt"),
        "data__train": str(case / "train.jsonl"),
        "data__validation": str(case / "dev.jsonl"),
        "data__label": "labels",
        "data__cache_dir": None,
    }
    config = make_config(task="multi_label", **keys)
    session = open_run(config, RunFolder(tmp_path / "run"))

    def marks(file: Path) -> list[list[int]]:
        return [json.loads(line)["labels"] for line in file.read_text().splitlines()]

    assert session.inputs.task.label_names == ("LABEL_0", "LABEL_1", "LABEL_2", "LABEL_3")
    assert session.inputs.train.labels.astype(int).tolist() == marks(case / "train.jsonl")
    assert session.inputs.validation["validation"].labels.astype(int).tolist() == marks(case / "dev.jsonl")
    assert session.inputs.overview.views[0].labels.meaning == "multi-hot position"
    # The export's configuration says how a later file is read, in whichever way it writes its lists.
    task = task_of_model(session.bert_config).reopen(session.bert_config)
    (tmp_path / "texts.csv").write_text('text,labels\na,"0,0,0,1"\nb,"[1, 0, 1, 0]"\nc,[0 1 0 0]\n')
    read = task.read_for(str(tmp_path / "texts.csv"), config.data, session.pretrained.tokenizer, 64)
    assert read.labels.astype(int).tolist() == [[0, 0, 0, 1], [1, 0, 1, 0], [0, 1, 0, 0]]
