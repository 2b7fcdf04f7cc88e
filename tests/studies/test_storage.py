"""Values of a trial depend on its number and the trials before; a journal that ends in half a line can still be read."""

from __future__ import annotations

import re

import optuna
import pytest
from etils import epath

from jaxbert.config import Config
from jaxbert.errors import UserError
from jaxbert.options import SearchOptions
from jaxbert.studies.space import parse_space
from jaxbert.studies.storage import (
    JOURNAL,
    begin_study,
    check_study,
    is_outside,
    make_sampler,
    open_storage,
    without_password,
)

TEXTS = ("optimizer.learning_rate=log:1e-5:1e-2", "model.dropout=lin:0:0.5", "train.batch_size=16,32,64")
SPACE = parse_space(TEXTS, Config())


def draw(study, trials, method="tpe", seed=0):
    """Run trials whose value follows from their parameters, each with a sampler of its own, as after a kill."""
    for _ in range(trials):
        study.sampler = make_sampler(SearchOptions(list(TEXTS), method, seed=seed), SPACE)
        trial = study.ask()
        params = {one.key: one.draw(trial) for one in SPACE}
        study.tell(trial, params["model.dropout"] - 100 * abs(params["optimizer.learning_rate"] - 1e-3))
    return [trial.params for trial in study.trials]


@pytest.fixture
def folder(tmp_path):
    return epath.Path(tmp_path)


def new_study(folder, name="study"):
    return optuna.create_study(
        storage=open_storage(None, folder), study_name=name, direction="maximize", load_if_exists=True
    )


@pytest.mark.parametrize("method", ["tpe", "random"])
def test_draws_do_not_depend_on_the_process(folder, method):
    whole = draw(new_study(folder), 14, method)
    in_parts = [draw(new_study(folder, "parts"), count, method) for count in (3, 8, 3)][-1]
    assert in_parts == whole
    assert draw(new_study(folder, "other"), 14, method, seed=1) != whole
    assert len({str(params) for params in whole}) == 14


def test_a_trial_that_was_killed_between_two_draws_gets_the_same_values(folder):
    whole = draw(new_study(folder), 12)
    study = new_study(folder, "killed")
    draw(study, 11)
    study.sampler = make_sampler(SearchOptions(list(TEXTS)), SPACE)
    begun = study.ask()
    SPACE[0].draw(begun)
    again = new_study(folder, "killed")
    again.sampler = make_sampler(SearchOptions(list(TEXTS)), SPACE)
    trial = optuna.trial.Trial(again, begun._trial_id)
    assert {one.key: one.draw(trial) for one in SPACE} == whole[-1]


def test_half_a_line_of_a_journal_is_dropped(folder):
    draw(new_study(folder), 2)
    path = folder / JOURNAL
    whole = path.read_bytes()
    path.write_bytes(whole + b'{"op_code":4,"work')
    study = new_study(folder)
    assert len(study.trials) == 2
    assert path.read_bytes().startswith(whole)
    assert len(draw(study, 1)) == 3
    assert len(new_study(folder).trials) == 3


def test_a_study_keeps_its_settings(folder):
    settings = {"config": Config().to_dict(), "search": {"seed": 0, "trials": 5}}
    assert check_study(folder / "new", settings) is None
    name = begin_study(folder / "new", settings)
    assert begin_study(folder / "new", settings) == name
    more = {**settings, "search": {"seed": 0, "trials": 9}}
    assert check_study(folder / "new", more) == name
    other = {**settings, "search": {"seed": 1, "trials": 5}}
    with pytest.raises(UserError, match=re.escape("other settings or other data (search.seed: 0 there, 1 now)")):
        check_study(folder / "new", other)
    (folder / "old").mkdir()
    (folder / "old" / "notes.txt").write_text("mine")
    with pytest.raises(UserError, match=r"other files than those of a search \(notes.txt\)"):
        check_study(folder / "old", settings)


def test_a_password_is_not_kept():
    assert without_password("postgresql://me:secret@there/name") == "postgresql://...@there/name"
    assert [without_password(where) for where in (None, "j.log", "sqlite:///a.db")] == [None, "j.log", "sqlite:///a.db"]


def test_a_journal_may_be_in_the_folder_of_the_study(folder):
    """It is then made after the study, whose folder must be empty before."""
    assert not is_outside(None, folder)
    assert not is_outside(f"{folder}/journals/all.log", folder)
    assert not is_outside(f"file://{folder}/all.log", folder)
    assert is_outside(f"{folder}.log", folder)
    assert is_outside("sqlite:///a.db", folder)


def test_storages_that_cannot_be(folder):
    with pytest.raises(UserError, match=re.escape("search.storage nothing://...@there cannot be opened")):
        open_storage("nothing://me:secret@there", folder)
    with pytest.raises(UserError, match=r"in a bucket, which has no journal"):
        open_storage(None, epath.Path("gs://bucket/run"))


def test_a_folder_that_cannot_be_made_is_one_line(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match=r"train.output_dir .*search cannot be written: .*Not a directory"):
        begin_study(epath.Path(tmp_path / "file" / "search"), {})
