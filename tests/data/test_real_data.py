"""Published data sets as they are: byte-order marks, stray quotes, no headers, CRLF."""

import numpy as np
import pytest
from tables import make_labels, read

from jaxbert.config import DataConfig
from jaxbert.data.label_column import LabelRules
from jaxbert.data.labels import encode, fit_labels
from jaxbert.errors import UserError

pytestmark = pytest.mark.real


def load(path, **keys):
    return read(str(path), DataConfig(**keys), role="train", labelled=True)


def test_mrpc(shared_data):
    keys = {"text": "#1 String", "text_pair": "#2 String", "label": "Quality"}
    table = load(shared_data / "glue_MRPC" / "train.tsv", quoting="none", **keys)
    assert (len(table), sorted(set(table.labels))) == (3667, ["0", "1"])
    assert table.pairs[0].startswith('Referring to him as only " the witness "')
    with pytest.raises(UserError, match=r"row 15: a quote opens .* set data.quoting to none"):
        load(shared_data / "glue_MRPC" / "train.tsv", **keys)


def test_sst2(shared_data):
    table = load(shared_data / "glue_SST-2" / "train.tsv", text="sentence")
    assert len(table) == 67349
    labels = make_labels(table.labels)
    assert np.bincount(encode(labels, fit_labels(labels, LabelRules(), None))).tolist() == [29780, 37569]
    with pytest.raises(UserError, match="no column 'label'"):
        load(shared_data / "glue_SST-2" / "test.tsv", text="sentence")


def test_thucnews(shared_data):
    names = (shared_data / "thucnews" / "class.txt").read_text().split()
    table = load(shared_data / "thucnews" / "train.txt", columns=["text", "label"])
    assert (len(table), len(fit_labels(make_labels(table.labels), LabelRules(names), None))) == (33590, 10)
    with pytest.raises(UserError, match=r"set data\.columns"):
        load(shared_data / "thucnews" / "train.txt")


def test_sms(shared_data):
    table = load(shared_data / "sms_spam" / "sms.tsv", columns=["label", "text"], quoting="none")
    assert (len(table), fit_labels(make_labels(table.labels), LabelRules(), None).names) == (5574, ("ham", "spam"))


def test_stsb(shared_data):
    keys = {"columns": ["first", "second", "label"], "text": "first", "text_pair": "second"}
    table = load(shared_data / "stsb" / "stsb-en-train.csv", **keys)
    assert (len(table), table.texts[0], table.labels[0]) == (5749, "A plane is taking off.", "5.0")
    with pytest.raises(UserError, match="fractional numbers"):
        fit_labels(make_labels(table.labels), LabelRules(), None)


def test_movie_reviews(shared_data):
    table = load(shared_data / "movie_reviews" / "movie_reviews.jsonl")
    assert (len(table), set(table.labels)) == (2000, {"neg", "pos"})
