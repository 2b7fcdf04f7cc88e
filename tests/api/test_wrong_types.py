"""An argument of a wrong kind is one line that says which one and what it must be, before anything is opened or written."""

from __future__ import annotations

import pytest

import jaxbert
from jaxbert.errors import UserError

ROWS = [{"text": "a fine film", "label": "good"}]
SPACE = {"optimizer.learning_rate": [1e-3, 1e-4]}


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (
            lambda: jaxbert.finetune(ROWS, "tiny", config={"train": {}}),
            "config is {'train': {}}, but it must be a jaxbert",
        ),
        (lambda: jaxbert.pretrain(ROWS, "tiny", task="regression"), "leave task out"),
        (
            lambda: jaxbert.curve(ROWS, "tiny", fractions=[0.5, 1]),
            "fractions is .0.5, 1., but it must be text with shares",
        ),
        (lambda: jaxbert.search(ROWS, "tiny", space=["model.dropout"]), "space is .*, but it must be a dictionary"),
        (
            lambda: jaxbert.search(ROWS, "tiny", space={"model.dropout": 5}),
            "space: model.dropout is 5, but it must be a list",
        ),
        (
            lambda: jaxbert.search(ROWS, "tiny", space=SPACE, options=["keep"]),
            "options is .'keep'., but it must be a dict",
        ),
        (lambda: jaxbert.load(None), "the name of the model is .*NoneType, but it must be text or a path"),
        (lambda: jaxbert.compare("runs"), "runs is .*, but it must be a list of run folders"),
        (lambda: jaxbert.compare([1, 2]), "a run is a number, but it must be text or a path"),
        (lambda: jaxbert.audit(None), "the folder is .*NoneType, but it must be text or a path"),
        (
            lambda: jaxbert.audit("run", rank_by="margin"),
            "rank_by is 'margin', but it must be one of self_confidence, norm",
        ),
        (lambda: jaxbert.prune_vocabulary(None, ROWS, "out"), "model is .*NoneType, but it must be text or a path"),
        (lambda: jaxbert.prune_vocabulary("model", [], "out"), "corpus is an empty list"),
        (lambda: jaxbert.extend_vocabulary("model", [], "out"), "corpus is an empty list"),
    ],
)
def test_an_argument_of_a_wrong_kind_is_named(tmp_path, monkeypatch, call, said):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match=said):
        call()
    assert not list(tmp_path.iterdir())
