"""The tasks are open: another package's class is found by its name, its entry point or its path, and never by a model."""

from __future__ import annotations

import sys
from importlib.metadata import EntryPoint, EntryPoints

import pytest
from transformers import BertConfig

from jaxbert import tasks
from jaxbert.errors import UserError
from jaxbert.settings import make_config
from jaxbert.tasks.classification.task import Classification

PROGRAM = """
from jaxbert.tasks.classification.task import Classification

class Shouting(Classification):
    name = "shouting"

class Taken(Classification):
    name = "regression"

nothing = 3
"""


@pytest.fixture
def package(tmp_path, monkeypatch):
    """A package of somebody else, and a registry without it."""
    (tmp_path / "their_tasks.py").write_text(PROGRAM)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(tasks, "_registered", {})
    yield
    sys.modules.pop("their_tasks", None)


@pytest.mark.parametrize("name", tasks.task_names())
def test_every_task_has_its_name(name):
    found = tasks.task_class(name)
    assert found.name == name
    assert tasks.task_class(name) is found


def test_a_class_by_its_path(package):
    found = tasks.task_class("their_tasks:Shouting")
    assert issubclass(found, Classification)
    assert tasks.task_class("shouting") is found
    assert tasks.task_names()[-1] == "shouting"
    for name in ("their_tasks:Shouting", "shouting"):
        assert make_config(None, {"task": name}).task == name


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("their_tasks:Whispering", "has no attribute 'Whispering'"),
        ("no_such_package:Task", "No module named 'no_such_package'"),
        ("their_tasks:nothing", "is not a class that derives from jaxbert.tasks.base.Task and has a name"),
        ("their_tasks:Taken", "there is a task 'regression' already: give Taken another name"),
        (":", "task ':'"),
    ],
)
def test_what_is_no_task_is_refused(package, path, message):
    with pytest.raises(UserError, match=message):
        tasks.task_class(path)


def test_an_entry_point(package, monkeypatch):
    points = EntryPoints([EntryPoint("shouting", "their_tasks:Shouting", tasks.GROUP)])
    monkeypatch.setattr(tasks, "entry_points", lambda **found: points.select(**found))
    assert "shouting" in tasks.task_names()
    assert tasks.task_class("shouting").__name__ == "Shouting"


def test_an_unknown_name_lists_those_that_are_there():
    with pytest.raises(UserError, match="task 'clasification' is unknown: take one of classification, multi_label"):
        tasks.task_class("clasification")
    with pytest.raises(UserError, match="task is 'clasification', but it must be one of classification"):
        make_config(None, {"task": "clasification"})


def test_a_model_names_no_code_to_import(package):
    """Its configuration may come from anywhere."""
    config = BertConfig(jaxbert={"task": "their_tasks:Shouting"})
    with pytest.raises(UserError, match="the model is of task 'their_tasks:Shouting', which is not installed"):
        tasks.task_of_model(config)
    assert "their_tasks" not in sys.modules
    tasks.task_class("their_tasks:Shouting")
    assert tasks.task_of_model(BertConfig(jaxbert={"task": "shouting"})).name == "shouting"
