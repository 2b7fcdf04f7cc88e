"""TFDS folders are read by random access, without TensorFlow and without a network."""

import json
import sys
from pathlib import Path

import numpy as np
import pytest
from tables import read

from jaxbert.config import DataConfig
from jaxbert.data.records import open_records
from jaxbert.data.sources import open_source
from jaxbert.errors import UserError
from jaxbert.tasks.multiple_choice.read import read_choice_questions as read_choices
from jaxbert.tasks.question_answering.read import Answer, read_questions
from jaxbert.tasks.token_classification.read import read_tagged_texts

tfds = pytest.importorskip("tensorflow_datasets")
pytest.importorskip("array_record")


class Reviews(tfds.core.GeneratorBasedBuilder):
    """Three training rows, two validation rows, unlabelled test rows."""

    VERSION = tfds.core.Version("1.0.0")
    BUILDER_CONFIGS = [tfds.core.BuilderConfig(name="short")]  # noqa: RUF012

    def _info(self):
        labels = tfds.features.ClassLabel(names=["neg", "pos"])
        features = {"sentence": tfds.features.Text(), "label": labels, "kind": tfds.features.Text()}
        return tfds.core.DatasetInfo(builder=self, features=tfds.features.FeaturesDict(features))

    def _split_generators(self, dl_manager):
        splits = {"train": [0, 1, 1], "validation": [1, 0], "test": [-1, -1]}
        return {split: self._generate_examples(split, labels) for split, labels in splits.items()}

    def _generate_examples(self, split, labels):
        for i, label in enumerate(labels):
            yield i, {"sentence": f"{split} {i} 好", "label": label, "kind": f"kind {label}"}


class Marked(tfds.core.GeneratorBasedBuilder):
    """Rows that are more than a text and a label: tagged words, a question with its answer, choices."""

    VERSION = tfds.core.Version("1.0.0")

    def _info(self):
        text, tags = tfds.features.Text(), tfds.features.ClassLabel(names=["O", "B-X", "I-X"])
        answer = {"text": text, "answer_start": tfds.features.Scalar(np.int32)}
        features = {
            "tokens": tfds.features.Sequence(text),
            "tags": tfds.features.Sequence(tags),
            "question": text,
            "context": text,
            "answers": tfds.features.Sequence(answer),
            "choices": tfds.features.Sequence(text),
            "label": tfds.features.ClassLabel(num_classes=2),
        }
        return tfds.core.DatasetInfo(builder=self, features=tfds.features.FeaturesDict(features))

    def _split_generators(self, dl_manager):
        return {"train": self._generate_examples()}

    def _generate_examples(self):
        for i, words in enumerate((["a", "高"], ["b"])):
            yield (
                i,
                {
                    "tokens": words,
                    "tags": ["B-X", "I-X"][: len(words)],
                    "question": f"who {words[0]}?",
                    "context": f"it is {words[-1]}",
                    "answers": {"text": [words[-1]], "answer_start": [6]},
                    "choices": ["x", "y"],
                    "label": 1,
                },
            )


@pytest.fixture(scope="module")
def prepared(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("tfds")
    tfds.disable_progress_bar()
    Marked(data_dir=folder, file_format="array_record").download_and_prepare()
    Reviews(config="short", data_dir=folder, file_format="array_record").download_and_prepare()
    return folder


@pytest.fixture(autouse=True)
def data_dir(prepared, monkeypatch):
    monkeypatch.setenv("TFDS_DATA_DIR", str(prepared))


def load(spec: str, role: str = "train", labelled: bool | None = True, limit: int | None = None, **keys):
    return read(spec, DataConfig(**{"text": "sentence", **keys}), role=role, labelled=labelled, limit=limit)


def test_reads_a_split():
    table = load("tfds:reviews/short")
    by_text = dict(zip(table.texts, table.labels, strict=True))  # TFDS shuffles when it prepares
    assert by_text == {"train 0 好": 0, "train 1 好": 1, "train 2 好": 1}
    assert (table.label_names, list(table.rows)) == (["neg", "pos"], [1, 2, 3])
    assert "tensorflow" not in sys.modules


def test_roles_slices_limits_and_names():
    assert sorted(load("tfds:reviews/short", "validation").labels) == [0, 1]
    assert load("tfds:reviews/short:train[:2]").texts == load("tfds:reviews/short", limit=2).texts
    assert set(load("tfds:reviews/short", label="kind").labels) == {"kind 0", "kind 1"}
    assert load("tfds:reviews/short", "predict", None).labels is None


def test_the_content_has_an_identity(prepared):
    def identity(spec: str, **keys):
        return open_source(spec, DataConfig(text="sentence", **keys), role="train", labelled=True).identity()

    assert identity("tfds:reviews/short") == identity("tfds:reviews/short:train")
    cases = [("tfds:reviews/short", {}), ("tfds:reviews/short:test", {}), ("tfds:reviews/short", {"text_pair": "kind"})]
    different = [identity(spec, **keys) for spec, keys in cases]
    info = next(prepared.rglob("dataset_info.json"))
    info.write_text(info.read_text() + "\n")
    different.append(identity("tfds:reviews/short"))
    assert len({json.dumps(one) for one in different}) == 4


@pytest.mark.parametrize(
    ("spec", "keys", "expected"),
    [
        ("tfds:nowhere", {}, "prepare it there with `tfds build nowhere --file_format=array_record"),
        ("tfds:glue/sst2", {}, "prepare it there with `tfds build glue/sst2 --file_format=array_record"),
        ("tfds:", {}, "tfds:: "),
        ("tfds:reviews/short:dev", {}, "no split 'dev'; there are 'train', 'validation', 'test'"),
        ("tfds:reviews/short:train[x]", {}, "cannot be loaded"),
        ("tfds:reviews/short:test", {}, "no labels: every value of column 'label' is -1"),
        ("tfds:reviews/short", {"text": "sentense"}, "did you mean 'sentence'?"),
    ],
)
def test_failures_are_one_line(spec, keys, expected):
    with pytest.raises(UserError) as caught:
        load(spec, **keys)
    assert expected in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_format_without_random_access(prepared):
    info = next(prepared.rglob("dataset_info.json"))
    before = info.read_text()
    info.write_text(json.dumps({**json.loads(before), "fileFormat": "tfrecord"}))
    try:
        with pytest.raises(UserError, match="no random access: prepare it again with --file_format=array_record"):
            load("tfds:reviews/short")
    finally:
        info.write_text(before)


@pytest.mark.parametrize("key", ["pythonClassName", "python_class_name", "type"])
def test_a_feature_of_another_project_is_not_imported(prepared, monkeypatch, key):
    """TFDS imports the module of a class that it does not know."""
    features = next(prepared.rglob("features.json"))
    before = features.read_text()
    features.write_text(json.dumps({**json.loads(before), key: "evil.module.Feature"}))
    monkeypatch.setattr(tfds.core.features.FeatureConnector, "cls_from_name", lambda *_: pytest.fail("looked up"))
    try:
        with pytest.raises(UserError, match=r"features.json has a feature of the class 'evil.module.Feature'"):
            load("tfds:reviews/short")
    finally:
        features.write_text(before)


@pytest.mark.parametrize("missing", ["tensorflow_datasets.core", "array_record"])
def test_missing_extra(monkeypatch, missing):
    monkeypatch.setitem(sys.modules, missing, None)
    with pytest.raises(UserError, match=r"pip install 'jaxbert\[tfds\]'"):
        load("tfds:reviews/short")


def test_tags_answers_and_choices():
    documents = read_tagged_texts("tfds:marked", DataConfig(), role="train", labelled=True)
    found = {item.words[0]: (item.words, item.tags, item.row) for item in documents.items}
    assert sorted(row for _, _, row in found.values()) == [1, 2]
    assert {word: found[word][:2] for word in found} == {
        "a": (["a", "高"], ["B-X", "I-X"]),
        "b": (["b"], ["B-X"]),
    }
    questions = read_questions("tfds:marked", DataConfig(), role="train", labelled=True)
    assert {item.question: (item.context, item.answers) for item in questions.items} == {
        "who a?": ("it is 高", (Answer("高", 6),)),
        "who b?": ("it is b", (Answer("b", 6),)),
    }
    choices = read_choices("tfds:marked", DataConfig(), role="train")
    assert {(item.question, item.choices, item.label) for item in choices.items} == {
        ("who a?", ("x", "y"), 1),
        ("who b?", ("x", "y"), 1),
    }
    assert open_records("tfds:marked", "train", DataConfig()).identity() is not None
