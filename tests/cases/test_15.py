"""predict in a pipe whose lines come slowly, and before a `head`: its own process, as a shell starts it."""

from __future__ import annotations

import subprocess
import threading

from runs import command, write_model

_HANGS_SECONDS = 240


def test_a_line_is_answered_while_the_input_is_open_and_head_ends_it_quietly(tmp_path):
    model = write_model(tmp_path / "model")
    options = ("--model", str(model), "--input", "-", "--output", "-")
    with command("predict", *options, stdin=subprocess.PIPE) as process:
        guard = threading.Timer(_HANGS_SECONDS, process.kill)
        guard.start()
        for line in ("a good film\n", "poor\n"):
            process.stdin.write(line)
            process.stdin.flush()
            assert process.stdout.readline().startswith('{"label"')
        process.stdout.close()  # as `head -2` does
        try:
            process.stdin.write("fine\n" * 1000)
            process.stdin.close()
        except BrokenPipeError:
            pass
        assert process.wait() == 1
        said = process.stderr.read().splitlines()
        assert [line for line in said if not line.startswith("note: ")] == []
        guard.cancel()
