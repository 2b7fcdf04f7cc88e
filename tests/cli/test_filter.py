"""`jaxbert predict --input -`: each line is answered before the next is written, by the same path as a file."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TextIO

import pytest
from runs import VOCAB, random_rows, small_config, write_csv, write_model
from tiny import random_params
from transformers import BertTokenizer

from jaxbert.cli.main import main
from jaxbert.interop.write import save_folder
from jaxbert.models import heads
from jaxbert.models.functional import make_model

_HANGS_SECONDS = 240
TEXTS = [text for text, _ in random_rows(40, seed=5)]


class Pipes:
    """A thread plays the program before and behind the filter, which runs in this one."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        (stdin, feed), (answers, stdout) = os.pipe(), os.pipe()
        self._ours = [os.fdopen(stdin), os.fdopen(stdout, "w")]
        self.feed: TextIO = os.fdopen(feed, "w", buffering=1)
        self.answers: TextIO = os.fdopen(answers)
        self._patch = monkeypatch
        self._problem: BaseException | None = None

    def run(self, play: Callable[[Pipes], None], *arguments: object) -> int:
        """Return the exit code of `predict --input -` beside a player, which is stopped where it hangs."""
        with self._patch.context() as patch:
            patch.setattr("sys.stdin", self._ours[0])
            patch.setattr("sys.stdout", self._ours[1])
            player = threading.Thread(target=self._play, args=(play,), daemon=True)
            guard = threading.Timer(_HANGS_SECONDS, self.feed.close)
            player.start()
            guard.start()
            try:
                code = main(["predict", "--input", "-", *map(str, arguments)])
            finally:
                guard.cancel()
                self._ours[1].close()
                player.join(_HANGS_SECONDS)
        if self._problem is not None:
            raise self._problem
        return code

    def _play(self, play: Callable[[Pipes], None]) -> None:
        try:
            play(self)
        except BaseException as problem:
            self._problem = problem
        finally:
            self.feed.close()

    def ask(self, line: str) -> str:
        """Write a line and wait for its answer."""
        self.feed.write(line + "\n")
        return self.answers.readline()

    def close(self) -> None:
        for file in (*self._ours, self.feed, self.answers):
            with contextlib.suppress(BrokenPipeError):
                file.close()


@pytest.fixture
def pipes(monkeypatch) -> Iterator[Pipes]:
    both = Pipes(monkeypatch)
    yield both
    both.close()


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> Path:
    folder = write_model(tmp_path_factory.mktemp("model"))
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"jaxbert": {"task": "classification"}}))
    return folder


@pytest.fixture(scope="module")
def answers(model, tmp_path_factory) -> list[str]:
    """What a file with the same lines gives."""
    folder = tmp_path_factory.mktemp("file")
    (folder / "in.txt").write_text("\n".join(TEXTS) + "\n")
    assert (
        main(["predict", "--model", str(model), "--input", f"{folder}/in.txt", "--output", f"{folder}/out.jsonl"]) == 0
    )
    return (folder / "out.jsonl").read_text().splitlines(keepends=True)


def assert_same(found: list[str], expected: list[str]) -> None:
    """Compare answers: other steps may round the last digit otherwise."""
    assert len(found) == len(expected)
    for one, other in zip(map(json.loads, found), map(json.loads, expected), strict=True):
        assert one["probabilities"] == pytest.approx(other["probabilities"], abs=2e-6)
        assert list(one) == list(other)


def test_each_line_is_answered_before_the_next_is_written(pipes, model, answers, capsys):
    found = []

    def play(pipes: Pipes) -> None:
        found.extend(pipes.ask(text) for text in TEXTS[:3])
        pipes.feed.write("".join(text + "\n" for text in TEXTS[3:30]))  # several at once
        found.extend(pipes.answers.readline() for _ in TEXTS[3:30])
        found.append(pipes.ask(TEXTS[30]))
        pipes.feed.close()
        assert pipes.answers.read() == ""

    assert pipes.run(play, "--model", model) == 0
    assert_same(found, answers[:31])
    assert capsys.readouterr().err == ""


def test_json_lines_with_columns_of_the_input(pipes, model, answers, tmp_path):
    """The output file has each answer as it comes."""
    output = tmp_path / "out.csv"
    seen = []

    def play(pipes: Pipes) -> None:
        for number, text in enumerate(TEXTS[:3]):
            pipes.feed.write(json.dumps({"id": number, "text": text}) + "\n")
            while not output.exists() or output.read_text().count("\n") < number + 2:
                assert not pipes.feed.closed
            seen.append(output.read_text().splitlines())

    assert pipes.run(play, "--model", model, "--keep", "id", "--output", output) == 0
    assert seen[-1][0] == "id,label,score,bad,good"
    assert [line.split(",")[:2] for line in seen[-1][1:]] == [
        [str(number), json.loads(answer)["label"]] for number, answer in enumerate(answers[:3])
    ]


@pytest.mark.parametrize(
    ("form", "bad", "problem"),
    [
        ("{}\n", "\n", "the line is blank: each line is one example"),
        ('{{"text": "{}"}}\n', '{"text": " "}\n', "column 'text' is empty: fill in the text or remove the row"),
        ('{{"text": "{}"}}\n', '{"text"}\n', "not a complete JSON object ("),
    ],
)
def test_a_bad_line_ends_it_after_the_answers_before(pipes, model, answers, capsys, form, bad, problem):
    found = []

    def play(pipes: Pipes) -> None:
        found.append(pipes.ask(form.format(TEXTS[0]).rstrip()))
        pipes.feed.write(form.format(TEXTS[1]) + bad + form.format(TEXTS[2]))
        found.extend(pipes.answers.read().splitlines(keepends=True))

    assert pipes.run(play, "--model", model) == 2
    assert_same(found, answers[:2])
    assert capsys.readouterr().err.startswith(f"error: standard input, row 3: {problem}")


def test_texts_that_are_cut_or_lost_are_said_at_once_and_counted_at_the_end(pipes, model, capsys):
    said = []

    def play(pipes: Pipes) -> None:
        for line in ("w1", "w2 " * 60, "w3 " * 60, "\u200b"):
            pipes.ask(line)
            said.append(capsys.readouterr().err)

    assert pipes.run(play, "--model", model) == 0
    first = "note: standard input, row {}: {} (the number of such texts is printed at the end)\n"
    lost = "the tokenizer leaves nothing of this text, and its answer means nothing"
    assert said == ["", first.format(2, "longer than 48 tokens and cut"), "", first.format(4, lost)]
    assert capsys.readouterr().err == (
        "note: standard input: 2 of 4 texts are longer than 48 tokens and were cut\n"
        "note: standard input: the tokenizer leaves nothing of 1 of 4 texts, first row 4: their answers mean nothing\n"
    )


def test_ctrl_c_keeps_what_was_answered(pipes, model, answers, capsys):
    found = []

    def play(pipes: Pipes) -> None:
        found.extend(pipes.ask(text) for text in TEXTS[:2])
        signal.pthread_kill(threading.main_thread().ident, signal.SIGINT)
        found.extend(pipes.answers.readlines())

    assert pipes.run(play, "--model", model) == 130
    assert_same(found, answers[:2])
    assert capsys.readouterr().err == "error: interrupted; the answers so far are written\n"


def test_a_reader_that_has_enough_ends_it_quietly(pipes, model, capsys):
    def play(pipes: Pipes) -> None:
        pipes.ask(TEXTS[0])
        pipes.answers.close()
        pipes.feed.write("".join(text + "\n" for text in TEXTS))

    with pytest.raises(BrokenPipeError):  # what is left in its buffer
        pipes.run(play, "--model", model)
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize("task", ["token_classification", "question_answering"])
def test_tags_and_answers_come_line_by_line(pipes, tmp_path, task, capsys):
    names = ("B-x", "I-x", "O") if task == "token_classification" else ("start", "end")
    head = heads.TokenClassificationHead if task == "token_classification" else heads.QuestionAnsweringHead
    config = small_config(id2label=dict(enumerate(names)), label2id={n: i for i, n in enumerate(names)})
    config.jaxbert = {"task": task}
    (tmp_path / "vocab.txt").write_text("\n".join(VOCAB) + "\n")
    model, tokenizer = make_model(head, config), BertTokenizer(vocab=str(tmp_path / "vocab.txt"))
    architecture = "BertForTokenClassification" if task == "token_classification" else "BertForQuestionAnswering"
    save_folder(tmp_path / "model", random_params(model), model.config, tokenizer, architecture=architecture)
    records = [{"number": n, "question": "w1 w2", "context": text, "text": text} for n, text in enumerate(TEXTS[:4])]
    lines = [json.dumps(record) for record in records]
    (tmp_path / "in.jsonl").write_text("\n".join(lines) + "\n")
    found = []
    options = ("--model", tmp_path / "model", "--keep", "number")
    assert pipes.run(lambda pipes: found.extend(map(pipes.ask, lines)), *options) == 0
    out = tmp_path / "out.jsonl"
    assert main(["predict", "--input", str(tmp_path / "in.jsonl"), "--output", str(out), *map(str, options)]) == 0
    expected = [json.loads(line) for line in out.read_text().splitlines()]
    assert [json.loads(line)["number"] for line in found] == [0, 1, 2, 3]
    for one, other in zip(map(json.loads, found), expected, strict=True):
        assert one.keys() == other.keys()
        assert rounded(one) == rounded(other)


def rounded(value):
    """Drop the digit that other steps may round otherwise."""
    if isinstance(value, dict):
        return {key: rounded(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [rounded(inner) for inner in value]
    return pytest.approx(value, abs=2e-6) if isinstance(value, float) else value


def test_a_file_as_standard_input_gives_its_bytes(model, answers, tmp_path, monkeypatch, capsys):
    (tmp_path / "in.txt").write_text("\n".join(TEXTS) + "\n")
    with (tmp_path / "in.txt").open() as stdin:
        monkeypatch.setattr("sys.stdin", stdin)
        assert main(["predict", "--model", str(model), "--input", "-"]) == 0
    assert capsys.readouterr().out == "".join(answers)


def test_columns_of_a_csv_go_into_a_csv(model, answers, tmp_path):
    rows = [(f"{n}, x", text, label) for n, (text, label) in enumerate(random_rows(40, seed=5))]
    source = write_csv(tmp_path / "in.csv", rows, ("id", "text", "label"))
    output = tmp_path / "out.csv"
    options = ("--input", source, "--output", output, "--keep", "id,label=gold")
    assert main(["predict", "--model", str(model), *map(str, options)]) == 0
    lines = output.read_text().splitlines()
    assert lines[0] == "id,gold,label,score,bad,good"
    first = json.loads(answers[0])
    values = [first["label"], first["score"], *first["probabilities"].values()]
    assert lines[1] == ",".join(['"0, x"', rows[0][2], *map(str, values)])
    assert len(lines) == 41
