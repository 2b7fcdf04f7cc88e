"""Which settings may change when a run goes on, and what is said of those that may not."""

from __future__ import annotations

import dataclasses

import pytest

from jaxbert.config import Config
from jaxbert.errors import UserError
from jaxbert.plain import flat
from jaxbert.runs.folder import _COMPARED, _FREE, RunFolder

KEYS = flat(Config().to_dict())


def config(**changes):
    found = Config()
    for name, value in changes.items():
        section, key = name.split("__")
        part = dataclasses.replace(getattr(found, section), **{key: value})
        found = dataclasses.replace(found, **{section: part})
    return found


@pytest.fixture
def folder(tmp_path):
    """A run that has kept what its data are."""
    folder = RunFolder(tmp_path / "run")
    folder.create(config(data__train="data.csv"))
    folder.data.write_text("{}")
    return folder


def test_the_keys_are_there():
    assert {*KEYS} | {"mesh", "launch", "report"} >= _FREE | _COMPARED
    assert not _FREE & _COMPARED


def test_its_place_and_what_only_its_speed_depends_on_may_change(folder):
    free = {"output_dir": "elsewhere", "log_every": 3, "keep_checkpoints": 9, "eval_batch_size": 7}
    folder.check(config(data__train="data.csv", **{f"train__{key}": value for key, value in free.items()}))
    folder.check(config(data__train="data.csv", data__cache_dir=None, model__remat="full", mesh__fsdp=2))


def test_where_and_how_data_are_read_may_change_if_their_content_was_kept(folder):
    moved = config(
        data__train="a/b.parquet",
        data__validation={"en": "c.csv"},
        data__text="title",
        model__vocab="v.txt",
        model__name_or_path="m/",
    )
    folder.check(moved)
    folder.data.unlink()
    with pytest.raises(UserError) as caught:
        folder.check(moved)
    assert "data.train: 'data.csv' there, 'a/b.parquet' now" in str(caught.value)
    assert "data.validation.en: None there, 'c.csv' now" in str(caught.value)


@pytest.mark.parametrize(
    "key", ["data.limit", "data.max_length", "train.epochs", "train.seed", "optimizer.learning_rate"]
)
def test_what_decides_what_is_learned_may_not(folder, key):
    with pytest.raises(UserError, match=f"{key}: {KEYS[key]} there, 9 now"):
        folder.check(config(data__train="data.csv", **{key.replace(".", "__"): 9}))


def test_the_way_out_is_named(folder):
    def message():
        with pytest.raises(UserError) as caught:
            folder.check(config(train__epochs=9))
        return str(caught.value)

    assert message().endswith("use the same configuration to resume, or choose a new train.output_dir")
    (folder.checkpoints / "60").mkdir(parents=True)
    way = f"`jaxbert export --run {folder.path} --step last --output DIR`, then --model.name_or_path DIR"
    assert message().endswith(f"to train its weights further, begin a new run: {way} --train.output_dir NEW")
    folder.export.mkdir()
    (folder.export / "config.json").write_text("{}")
    assert message().endswith(f"begin a new run: --model.name_or_path {folder.path} --train.output_dir NEW")


def test_a_start_that_was_cut_off_leaves_a_folder_for_the_next(tmp_path):
    folder = RunFolder(tmp_path / "run")
    for path in (folder.start, folder.lock):
        path.mkdir(parents=True)
    folder.data.write_text("{}")
    folder.check(Config())
    (folder.path / "thesis.tex").write_text("")
    with pytest.raises(UserError, match=r"other files than those of a run \(data\.json, lock, start, \.\.\.\)"):
        folder.check(Config())


def test_defaults_of_the_optimizer_are_the_same_written_or_left_out(folder):
    """Older versions wrote those of AdamW, and knew no other optimizer."""
    old = "optimizer:\n  b1: 0.9\n  b2: 0.999\n  eps: 1.0e-08\ndata:\n  train: data.csv\n"
    folder.config.write_text(old)
    folder.check(config(data__train="data.csv"))
    with pytest.raises(UserError, match=r"optimizer\.b2: 0\.999 there, 0\.98 now"):
        folder.check(config(data__train="data.csv", optimizer__b2=0.98))
    with pytest.raises(UserError, match=r"optimizer\.name: 'adamw' there, 'lamb' now"):
        folder.check(config(data__train="data.csv", optimizer__name="lamb"))
