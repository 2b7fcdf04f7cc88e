"""A container's user without a home, whose caches cannot be written: it trains and predicts, with a note at most."""

from __future__ import annotations

from runs import command, finish, write_model

NOWHERE = "/proc/nowhere"


def test_it_trains(case, train, monkeypatch):
    monkeypatch.setenv("HOME", NOWHERE)
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    cache = f"{NOWHERE}/.cache/jaxbert/tokens"
    outcome = train("--data.train", case / "train.csv", "--data.cache_dir", cache, "--train.batch_size", 4)
    assert outcome.code == 0, outcome.err
    said = [line for line in outcome.err.splitlines() if NOWHERE in line]
    assert len(said) == 1
    assert said[0].startswith("note: ")


def test_it_predicts(case, tmp_path, monkeypatch):
    """JAX's cache cannot be written either."""
    for name in ("XDG_CACHE_HOME", "JAX_COMPILATION_CACHE_DIR"):
        monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", NOWHERE)
    output = tmp_path / "p.jsonl"
    options = ["--model", write_model(tmp_path / "model"), "--input", case / "train.csv", "--output", output]
    code, _, err = finish(command("predict", *map(str, options)))
    assert code == 0, err
    (note,) = [line for line in err.splitlines() if NOWHERE in line]
    assert note.startswith(f"note: compiled programs cannot be kept in {NOWHERE}/.cache/jaxbert/xla (")
    assert all(line.startswith("note: ") for line in err.splitlines())
    assert len(output.read_text().splitlines()) == 12
