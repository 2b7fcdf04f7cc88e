"""Datasets of the Hub are read from a stand-in on loopback, and offline from what was loaded before."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hub_server import serve

from jaxbert.data.hub import parse_spec
from jaxbert.errors import UserError

# The Hub's constants are read when its library is imported: every case runs in a process of its own making.
_READ = """
import json, sys
from jaxbert.config import DataConfig
from jaxbert.data.sources import open_source
from tables import read
from jaxbert.errors import UserError
for spec, role, labelled, limit in json.loads(sys.argv[1]):
    try:
        table = read(spec, DataConfig(text="sentence"), role=role, labelled=labelled, limit=limit)
        answer = [table.texts, table.labels, table.label_names, list(table.rows)]
        if len(sys.argv) > 2:
            source = open_source(spec, DataConfig(text="sentence"), role=role, labelled=labelled, limit=limit)
            answer = source.identity()
    except UserError as error:
        answer = str(error)
    print(json.dumps(answer))
assert "jax" not in sys.modules
"""
_DOWNLOAD = 'import huggingface_hub as h; h.snapshot_download("nyu-mll/glue", repo_type="dataset")'

SST2 = "hf:nyu-mll/glue/sst2"
SPLITS = {"train": [0, 1, 1, 0], "validation": [1, 0], "test": [-1, -1]}


def _card(configs: list[str]) -> str:
    files = [{"config_name": c, "data_files": [{"split": s, "path": f"{c}/{s}-*"} for s in SPLITS]} for c in configs]
    label = {"class_label": {"names": {"0": "negative", "1": "positive"}}}
    features = [{"name": "sentence", "dtype": "string"}, {"name": "label", "dtype": label}]
    infos = [{"config_name": c, "features": features} for c in configs]
    return f"---\n{json.dumps({'configs': files, 'dataset_info': infos})}\n---\n"


@pytest.fixture(scope="module")
def repositories(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("hub")
    folder = root / "nyu-mll" / "glue"
    for config in ("cola", "sst2"):
        (folder / config).mkdir(parents=True)
        for split, labels in SPLITS.items():
            texts = [f"{split} {i}" for i in range(len(labels))]
            table = pa.table({"sentence": texts, "label": labels})
            pq.write_table(table, folder / config / f"{split}-00000-of-00001.parquet")
    (folder / "README.md").write_text(_card(["cola", "sst2"]))
    return root


def _python(home: Path, code: str, *arguments: str, **environment: str) -> list[str]:
    env = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join(sys.path),
        "HF_HOME": str(home),
        "HF_HUB_OFFLINE": "0",
        **environment,
    }
    done = subprocess.run([sys.executable, "-c", code, *arguments], env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


def _read(home: Path, cases: list[tuple], *more: str, **environment: str) -> list:
    return [json.loads(line) for line in _python(home, _READ, json.dumps(cases), *more, **environment)]


TRAIN = [[f"train {i}" for i in range(4)], [0, 1, 1, 0], ["negative", "positive"], [1, 2, 3, 4]]


def test_reads_splits_and_explains_failures(repositories, tmp_path):
    cases = {
        (SST2, "train", True, None): TRAIN,
        (SST2, "train", True, 2): [part[:2] for part in TRAIN],
        (SST2, "validation", True, None): [["validation 0", "validation 1"], [1, 0], TRAIN[2], [1, 2]],
        (f"{SST2}:train[1:3]", "test", True, None): [["train 1", "train 2"], [1, 1], TRAIN[2], [1, 2]],
        (SST2, "predict", None, None): [["test 0", "test 1"], None, None, [1, 2]],
        (SST2, "test", True, None): f"{SST2}: no labels: every value of column 'label' is -1",
        (f"{SST2}:dev", "test", True, None): "no split 'dev'; there are 'train', 'validation', 'test'",
        (f"{SST2}:dev[:1]", "test", True, None): "Unknown split",
        ("hf:nyu-mll/glue", "train", True, None): "['cola', 'sst2']: name the config as hf:ORG/NAME/CONFIG",
        ("hf:nyu-mll/glue/qnli", "train", True, None): "BuilderConfig 'qnli' not found",
        ("hf:nyu-mll/glu", "train", True, None): "'nyu-mll/glu' doesn't exist on the Hub",
        ("hf:glue", "train", True, None): "'glue' doesn't exist on the Hub",
    }
    with serve(repositories) as address:
        answers = _read(tmp_path, list(cases), HF_ENDPOINT=address)
        for answer, (case, expected) in zip(answers, cases.items(), strict=True):
            if isinstance(expected, str):
                assert expected in answer, case
                assert "\n" not in answer
            else:
                assert answer == expected, case
        offline = [(SST2, "train", True, None), ("hf:nyu-mll/else", "train", True, None)]
        cached, absent = _read(tmp_path, offline, HF_ENDPOINT=address, HF_HUB_OFFLINE="1")
    assert cached == TRAIN
    assert "hf:nyu-mll/else: the Hub cannot be reached and no local copy was found" in absent


def test_reads_a_downloaded_copy_offline(repositories, tmp_path):
    with serve(repositories) as address:
        _python(tmp_path, _DOWNLOAD, HF_ENDPOINT=address)
    assert _read(tmp_path, [(SST2, "train", True, None)], HF_HUB_OFFLINE="1") == [TRAIN]


def test_the_content_has_an_identity(repositories, tmp_path):
    """It is the same in another process, another for each split and slice, and another for other data."""
    cases = [(SST2, "train", True, None), (SST2, "validation", True, None), (f"{SST2}:train[1:3]", "train", True, None)]
    shutil.copytree(repositories, tmp_path / "hub")
    with serve(tmp_path / "hub") as address:
        first = _read(tmp_path, cases, "identity", HF_ENDPOINT=address)
        assert _read(tmp_path, cases, "identity", HF_ENDPOINT=address) == first
    table = pa.table({"sentence": ["changed", "data"], "label": [0, 1]})
    pq.write_table(table, tmp_path / "hub" / "nyu-mll" / "glue" / "sst2" / "train-00000-of-00001.parquet")
    with serve(tmp_path / "hub", commit="f" * 40) as address:
        changed = _read(tmp_path / "elsewhere", cases[:1], "identity", HF_ENDPOINT=address)
    assert len({json.dumps(one) for one in [*first, *changed]}) == 4


@pytest.mark.parametrize(
    ("spec", "parts"),
    [
        ("hf:imdb", ("imdb", None, None)),
        ("hf:imdb:test", ("imdb", None, "test")),
        ("hf:a/b", ("a/b", None, None)),
        ("hf:a/b/c:train[:10%]", ("a/b", "c", "train[:10%]")),
    ],
)
def test_specs(spec, parts):
    assert parse_spec(spec) == parts


@pytest.mark.parametrize("spec", ["hf:", "hf:a/b/c/d", "hf:a//c", "hf::train"])
def test_malformed_specs(spec):
    with pytest.raises(UserError, match="expected hf:ORG/NAME"):
        parse_spec(spec)
