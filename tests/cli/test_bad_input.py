"""A wrong input is an answer: exit code 2, one line that says what and where, and nothing written or lost."""

from __future__ import annotations

import json

import numpy as np
import pytest
from runs import VOCAB, Problem, command, finish, random_rows, write_csv, write_model
from safetensors.numpy import load_file, save_file

from jaxbert.cli.main import VERBS, main


@pytest.fixture(scope="module")
def problem(tmp_path_factory):
    return Problem.write(tmp_path_factory.mktemp("problem"))


@pytest.fixture
def refused(problem, capsys, tmp_path):
    """Return a function that trains with some keys changed, and gives the line of the error."""

    def refused(*more: str, **changes) -> str:
        output = tmp_path / "run"
        code = main([*problem.arguments(**{"train__output_dir": output, **changes}), *more])
        line = only_line(code, capsys.readouterr())
        assert not output.exists()
        return line

    return refused


def only_line(code: int, captured) -> str:
    assert code == 2
    lines = [line for line in captured.err.splitlines() if not line.startswith("note: ")]
    assert len(lines) == 1, captured.err
    assert lines[0].startswith("error: ")
    assert captured.out == ""
    return lines[0].removeprefix("error: ")


GOOD = list(random_rows(30, seed=5))


def with_row(position: int, row: tuple) -> list[tuple]:
    """Return good rows with a bad one, which is row `position` of the file (the header is row 1)."""
    return [*GOOD[: position - 2], row, *GOOD[position - 2 :]]


CONTENTS = {
    "empty file": (b"", "the file is empty"),
    "header only": (b"text,label\n", "there is a header but no rows"),
    "empty text": (with_row(5, ("", "good")), "row 5: column 'text' is empty"),
    "empty label": (with_row(9, ("w1 w2", "")), "row 9: column 'label' is empty"),
    "blank text": (with_row(3, ("   ", "good")), "row 3: column 'text' is empty"),
    "a single class": ([(text, "good") for text, _ in GOOD], "every label is 'good': at least two different labels"),
    "too few fields": (b"text,label\nw1,good\nw2\nw3,bad\n", "row 3"),
    "too many fields": (b"text,label\nw1,good\nw2,bad,good\nw3,bad\n", "row 3"),
    "not UTF-8": ("text,label\nw1,good\nw\xe92,bad\n".encode("latin-1"), "row 3: not UTF-8 (byte 0xe9"),
    "no header": (b"w1 w2,good\nw3 w4,bad\n", "no column 'text' (data.text)"),
    "another column": (b"sentence,label\nw1,good\nw2,bad\n", "no column 'text' (data.text); there are 'sentence'"),
    "no label column": (b"text,lable\nw1,good\nw2,bad\n", "did you mean 'lable'?"),
    "a quote that stays open": (b'text,label\n"w1,good\nw2,bad\n', "row 2"),
}


@pytest.mark.parametrize("name", CONTENTS)
@pytest.mark.parametrize("role", ["train", "validation"])
def test_files(refused, tmp_path, name, role):
    content, expected = CONTENTS[name]
    if name == "a single class" and role == "validation":
        pytest.skip("a validation set may have one")
    path = tmp_path / "broken.csv"
    if isinstance(content, bytes):
        path.write_bytes(content)
    else:
        write_csv(path, content)
    line = refused(**{f"data__{role}": path})
    assert line.startswith(str(path))
    assert expected in line


@pytest.mark.parametrize("role", ["train", "validation", "test"])
def test_no_such_file(refused, problem, role):
    line = refused(**{f"data__{role}": problem.folder / "trian.csv"})
    assert line == f"{problem.folder}/trian.csv: no such file; did you mean '{problem.folder}/train.csv'?"


def test_no_training_data(refused):
    assert refused(data__train=None).startswith("data.train is missing")


def test_a_header_where_none_is_expected(refused):
    line = refused("--data.columns", '["text", "label"]')
    assert "train.csv, row 1" in line
    assert "header" in line


@pytest.mark.parametrize("role", ["validation", "test"])
def test_a_label_that_training_never_saw(refused, tmp_path, role):
    path = write_csv(tmp_path / "new.csv", with_row(4, ("w1", "so-so")))
    line = refused(**{f"data__{role}": path})
    known = f"{path}, row 4: label 'so-so' is unknown; the labels known from training are 'bad', 'good'"
    assert line == f"{known}; if it is another name of one of them, say so by data.label_map"


UNKNOWN = {
    "--train.bacth_size": "unknown option --train.bacth_size; did you mean --train.batch_size?",
    "--batch_size": "unknown option --batch_size; did you mean --train.batch_size?",
    "--lr": "unknown option --lr; did you mean --optimizer.learning_rate?",
    "--save_steps": "unknown option --save_steps; did you mean --train.checkpoint_every?",
    "--optimzer.weight_decay": "unknown option --optimzer.weight_decay; did you mean --optimizer.weight_decay?",
    "--xyzzy": "unknown option --xyzzy; see --help",
}


@pytest.mark.parametrize("flag", UNKNOWN)
def test_unknown_flags(refused, flag):
    assert refused(flag, "3") == UNKNOWN[flag]
    assert refused(f"{flag}=3") == UNKNOWN[flag]


FILES = {
    "train:\n  bacth_size: 3\n": "unknown key train.bacth_size; did you mean train.batch_size?",
    "batch_size: 3\n": "unknown section 'batch_size'",
    "train:\n  epochs: 7\ntrain:\n  seed: 4\n": "line 3: key 'train' is in line 1 already: keep one of them",
    "train:\n  epochs: 3\n  epochs: 4\n": "line 3: key 'epochs' is in line 2 already: keep one of them",
    "train:\n  epochs: 010\n": "line 2: YAML reads 010 as another number",
    "train:\n  epochs: 1:30\n": "line 2: YAML reads 1:30 as another number",
    "trian:\n  epochs: 3\n": "unknown section 'trian'; did you mean train?",
    "train: 3\n": "section train must hold keys, but is 3",
    "- train\n": "must hold sections",
    "train: [\n": "cannot be read as YAML",
    "train:\n  epochs: many\n": "train.epochs is many, but it must be a whole number",
    "optimizer:\n  schedule: square\n": "optimizer.schedule is square, but it must be one of linear, cosine, constant",
    "data:\n  packing: perhaps\n": "data.packing is perhaps, but it must be true or false",
    "train:\n  epochs: 1.5\n": "train.epochs is 1.5, but it must be a whole number",
    "train:\n  batch_size: null\n": "train.batch_size is null, but it must have a value",
    "mesh:\n  data:\n": "mesh.data is null, but it must have a value",
}


@pytest.mark.parametrize("content", FILES)
def test_configuration_files(refused, tmp_path, content):
    path = tmp_path / "run.yaml"
    path.write_text(content)
    assert FILES[content] in refused("--config", str(path))


def test_no_such_configuration_file(refused):
    assert refused("--config", "nowhere.yaml") == "--config nowhere.yaml does not exist"


VALUES = {
    "train.batch_size": ["0", "-3", "many", "1.5", "[1]", "null"],
    "train.epochs": ["0", "", "two"],
    "train.max_steps": ["0", "soon"],
    "train.seed": ["-1", "x"],
    "train.log_every": ["0"],
    "train.accumulation_steps": ["0"],
    "train.keep_checkpoints": ["0"],
    "train.early_stopping_patience": ["0"],
    "train.label_smoothing": ["1", "-0.1", "nan"],
    "train.class_weights": ["even", "[-1, 2]", "[0, 0]", "[1, 2, 3]", "[1, .inf]"],
    "train.best_metric": ["accurracy"],
    "optimizer.learning_rate": ["0", "-1", "nan", ".nan", "inf", ".inf", "fast"],
    "optimizer.weight_decay": ["-0.1", ".inf"],
    "optimizer.warmup_ratio": ["1", "-0.1", "1.5"],
    "optimizer.name": ["adam", "null"],
    "optimizer.momentum": ["1", "-0.1", "0.9"],
    "optimizer.b1": ["1"],
    "optimizer.b2": ["1.2"],
    "optimizer.eps": ["0"],
    "optimizer.clip_norm": ["0", "-1", ".nan"],
    "optimizer.schedule": ["square"],
    "optimizer.layer_decay": ["0", "-0.5", "1.01", ".nan", "steep"],
    "optimizer.freeze": ["bert/embeddings", "[1]", '["["]', "[bert/embedings]", "[.]"],
    "optimizer.train_only": ["pooler"],
    "model.num_labels": ["1", "3", "two"],
    "model.dropout": ["1", "-0.1"],
    "model.attention_dropout": ["1", "-0.1"],
    "model.attention": ["flash"],
    "data.limit": ["0"],
    "data.packing": ["perhaps", "2"],
    "data.quoting": ["single"],
    "data.validation_fraction": ["1", "-0.5"],
    "data.max_length": ["2", "0"],
    "data.row_length": ["0"],
    "model.remat": ["some", "true"],
    "precision.compute": ["float8", "null", "16"],
    "mesh.data": ["0", "-2", "3"],
    "mesh.fsdp": ["-1", "3"],
    "mesh.tensor": ["0", "16"],
}


@pytest.mark.parametrize(("key", "value"), [(key, value) for key, values in VALUES.items() for value in values])
def test_wrong_types_and_ranges(refused, key, value):
    line = refused(f"--{key}={value}")
    assert key in line or (key.startswith("mesh.") and "mesh" in line)


def test_a_value_that_is_empty_or_begins_with_a_hyphen(refused):
    assert refused("--train.epochs=") == "train.epochs is '', but it must be a whole number"
    assert refused("--optimizer.clip_norm=") == "optimizer.clip_norm is '', but it must be a number or null"
    way = "needs a value; write one that begins with - as"
    assert refused("--data.text", "-x") == f"--data.text {way} --data.text=VALUE"


def test_values_that_contradict_each_other(refused, problem):
    line = refused("--data.validation_fraction=0.1", data__validation=problem.folder / "dev.csv")
    assert line.startswith("data.validation and data.validation_fraction are both set")
    line = refused("--data.row_length=8", "--data.max_length=16")
    assert line.startswith("data.max_length (16) is above data.row_length (8)")


SETS = {
    "{}": "data.validation is {}, but it must be a source, or at least one source with a name, {NAME: SOURCE}",
    "{no: dev.csv}": "data.validation: the name of a set is False, but it must be text: write it in quotes",
    "{1: dev.csv}": "data.validation: the name of a set is 1, but it must be text: write it in quotes",
    "{'': dev.csv}": "data.validation: the name of a set is '', but it must be text: write it in quotes",
    "{en: 3}": "data.validation is {'en': 3}, but it must be text or {NAME: TEXT, ...} or null",
    "[dev.csv]": "data.validation is ['dev.csv'], but it must be text or {NAME: TEXT, ...} or null",
    "{en: nowhere.csv}": "nowhere.csv: no such file",
}


@pytest.mark.parametrize("sets", SETS)
def test_sets_by_name(refused, tmp_path, sets):
    (tmp_path / "run.yaml").write_text(f"data:\n  validation: {sets}\n")
    assert refused("--config", str(tmp_path / "run.yaml")).startswith(SETS[sets])


def test_settings_with_names(refused):
    """Their types are said in plain words, however deep they go."""
    for key, value in {"prune": "3", "distill": "x", "augment": "[1]", "self_training": "1", "prompt": "x"}.items():
        assert refused(f"--train.{key}={value}").endswith("but it must be {NAME: VALUE, ...} or null")
    line = refused("--model.layers=x")
    assert line == "model.layers is x, but it must be a whole number or [NUMBER, ...] or null"


def test_what_is_frozen(refused):
    line = refused("--optimizer.freeze=[bert/embedings]")
    assert line == "optimizer.freeze: 'bert/embedings' matches no parameter; the nearest is bert/embeddings"
    line = refused("--optimizer.freeze=[classifier, pooler, bias]", "--optimizer.train_only=head")
    assert line == "optimizer.freeze and optimizer.train_only leave nothing to train: name fewer parameters"
    line = refused("--optimizer.freeze=[.]")
    assert line == "optimizer.freeze leaves nothing to train: name fewer parameters"
    assert refused("--optimizer.freeze=bert") == "optimizer.freeze is bert, but it must be [TEXT, ...] or null"


def test_a_setting_of_another_optimizer(refused):
    line = refused("--optimizer.name=lion", "--optimizer.momentum=0.9")
    said = "optimizer.momentum is 0.9, but optimizer.name is lion, which has no such setting"
    assert line == f"{said} (sgd, muon have it): leave it out"


def test_float16_is_refused_with_the_reason(refused):
    line = refused("--precision.compute=float16")
    assert line.startswith("precision.compute is 'float16'")
    assert "loss scaling" in line
    assert "take bfloat16" in line


def test_float8_is_refused_where_the_device_lacks_it(refused):
    assert refused("--precision.fp8=true") == "precision.fp8 needs an H100 or H200, but this is cpu: leave it out"


def test_rows_that_are_too_short_for_the_examples(refused):
    assert refused("--data.row_length=8").startswith("data.row_length is 8, but an example has ")


def test_more_tokens_than_the_model_has_positions(refused):
    line = refused("--data.max_length=49")
    assert line == "data.max_length is 49, but the model has 48 positions: lower it to 48"


@pytest.mark.parametrize("content", ["", "[PAD]\nw1\n", "\n".join([*VOCAB, "w1", "w99"]), None])
def test_vocabularies_of_new_models(refused, tmp_path, content):
    path = tmp_path / "vocab.txt"
    if content is not None:
        path.write_text(content)
    assert refused(model__name_or_path="tiny", model__vocab=path).startswith(f"model.vocab {path}")
    assert "needs a vocabulary" in refused(model__name_or_path="tiny")


def test_folders_that_are_no_models(refused, tmp_path):
    folder = tmp_path / "empty"
    folder.mkdir()
    assert f"the folder {folder} is not a model: it has no config.json" in refused(model__name_or_path=folder)
    assert "is not a folder" in refused(model__name_or_path=tmp_path / "nowhere" / "else")
    (folder / "note.txt").write_text("x")
    assert "is a file" in refused(model__name_or_path=folder / "note.txt")


def change_config(folder, **changes) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def change_tensors(folder, change) -> None:
    tensors = load_file(folder / "model.safetensors")
    change(tensors)
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})


def truncate(folder) -> None:
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-100])


def flip_bits(folder) -> None:
    path = folder / "model.safetensors"
    content = bytearray(path.read_bytes())
    content[3] ^= 0xFF
    path.write_bytes(bytes(content))


def lose(*names: str):
    return lambda folder: change_tensors(folder, lambda tensors: [tensors.pop(name) for name in names])


def add_stranger(folder) -> None:
    extra = np.zeros(3, np.float32)
    change_tensors(folder, lambda t: t.update({"bert.extra.weight": extra, "bert.encoder.layer.9.x": extra}))


def misshape(folder) -> None:
    def change(tensors):
        for name in ("bert.encoder.layer.0.output.dense.bias", "bert.embeddings.LayerNorm.weight"):
            tensors[name] = np.ones(7, np.float32)

    change_tensors(folder, change)


QUERY, KEY = (f"bert.encoder.layer.1.attention.self.{name}.weight" for name in ("query", "key"))
DAMAGE = {
    "another type": (lambda f: change_config(f, model_type="roberta"), ["config.json has model_type 'roberta'"]),
    "relative positions": (lambda f: change_config(f, position_embedding_type="relative_key"), ["'relative_key'"]),
    "broken configuration": (lambda f: (f / "config.json").write_text("{"), ["config.json is not valid JSON"]),
    "no weights": (lambda f: (f / "model.safetensors").unlink(), ["has no weights (model.safetensors"]),
    "empty weights": (lambda f: (f / "model.safetensors").write_bytes(b""), ["is not a complete safetensors file"]),
    "truncated": (truncate, ["model.safetensors is not a complete safetensors file"]),
    "flipped bits": (flip_bits, ["model.safetensors is not a complete safetensors file"]),
    "missing tensors": (lose(QUERY, KEY), ["missing: ", QUERY, KEY]),
    "unexpected tensors": (add_stranger, ["unexpected: ", "bert.extra.weight", "bert.encoder.layer.9.x"]),
    "misshapen tensors": (misshape, ["layer.0.output.dense.bias [7] instead of [32]", "LayerNorm.weight [7] instead"]),
    "numbers that are none": (
        lambda f: change_tensors(f, lambda t: t[QUERY].__setitem__(0, np.nan)),
        ["not finite", QUERY],
    ),
    "fewer tokens than the tokenizer": (
        lambda f: (f / "vocab.txt").write_text("\n".join([*VOCAB, "more"])) and (f / "tokenizer.json").unlink(),
        [f"the tokenizer has {len(VOCAB) + 1} tokens, but the model only {len(VOCAB)}"],
    ),
}


@pytest.mark.parametrize("name", DAMAGE)
def test_damaged_models(refused, tmp_path, name):
    folder = write_model(tmp_path / "model")
    damage, expected = DAMAGE[name]
    damage(folder)
    line = refused(model__name_or_path=folder)
    assert str(folder) in line
    assert [part for part in expected if part not in line] == []


def test_an_output_folder_that_holds_something_else(problem, tmp_path, capsys):
    (tmp_path / "thesis.tex").write_text("ten years of work")
    code = problem.train(train__output_dir=tmp_path)
    assert "has other files than those of a run (thesis.tex)" in only_line(code, capsys.readouterr())
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]
    code = problem.train(train__output_dir=tmp_path / "thesis.tex")
    assert "is a file" in only_line(code, capsys.readouterr())
    code = problem.train(train__output_dir=tmp_path / "thesis.tex" / "run")
    assert "cannot be written" in only_line(code, capsys.readouterr())
    assert (tmp_path / "thesis.tex").read_text() == "ten years of work"


@pytest.mark.parametrize("verb", sorted({*VERBS} - {"env", "bench"}))  # which need none
def test_a_verb_without_arguments(verb, capsys, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    assert main([verb]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("error: ")


def test_debug_shows_where_it_was_raised(problem):
    code, _, err = finish(command(*problem.arguments(data__train="nowhere.csv"), "--debug"))
    assert code not in (0, 2)
    assert "Traceback" in err
    assert "UserError: nowhere.csv: no such file" in err


@pytest.mark.parametrize(
    "changes", [{"data__train": "nowhere.csv"}, {"data__max_length": 49}, {"train__epochs": "many"}]
)
def test_as_a_process_of_its_own(problem, changes, tmp_path):
    """Once more from outside: no traceback, no warning, nothing on standard output."""
    code, out, err = finish(command(*problem.arguments(**changes, train__output_dir=tmp_path / "run")))
    assert (code, out) == (2, "")
    assert err.startswith("error: ")
    assert err.count("\n") == 1
    assert not (tmp_path / "run").exists()
