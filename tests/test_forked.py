"""A forked command is what a new interpreter would be: its arguments, variables, folder, files, signals and end."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys

import forked
import pytest
from runs import ROOT, finish, python

pytestmark = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="commands are forked on Linux alone")

PROGRAM = """
import json, os, signal, sys, threading
import jax

devices = len(jax.devices())
print(json.dumps({
    "arguments": sys.argv, "name": __name__, "path": sys.path[0], "folder": os.getcwd(), "input": sys.stdin.read(),
    "variables": {name: value for name, value in os.environ.items() if name != "OPENBLAS_NUM_THREADS"},
    "jax": {name: repr(value) for name, value in jax.config.values.items()}, "devices": devices,
    "signals": [str(signal.getsignal(number)) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGPIPE)],
    "torch": "torch" in sys.modules, "threads": threading.active_count(), "main": vars(sys.modules["__main__"]) is globals(),
    "encodings": [(file.encoding, file.errors, file.line_buffering) for file in (sys.stdin, sys.stdout, sys.stderr)],
    "session": os.getsid(0) == os.getpid(),
}))
print("to standard error", file=sys.stderr)
sys.exit(7)
"""


def test_it_is_what_a_new_interpreter_is(tmp_path):
    variables = {
        "XLA_FLAGS": "--xla_force_host_platform_device_count=3",
        "JAX_COMPILATION_CACHE_DIR": str(tmp_path),
        "JAX_NUMPY_RANK_PROMOTION": "warn",
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "2.5",
        "OWN": "é",
    }
    ends = []
    for anew in (False, True):
        options = {"variables": variables, "cwd": tmp_path, "stdin": subprocess.PIPE, "start_new_session": True}
        process = python("-c", PROGRAM, "a b", "--c=d", anew=anew, **options)
        assert isinstance(process, forked.Forked) == (not anew)
        code, out, err = finish(process, "typed\n")
        ends.append((code, json.loads(out), err))
    (code, said, err), new = ends
    for name, value in new[1].items():
        assert said[name] == value, name
    assert (code, err) == (new[0], new[2])
    assert (code, err, said["devices"], said["input"]) == (7, "to standard error\n", 3, "typed\n")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_it_is_ended_by_a_signal(number):
    process = python("-c", "import time; print('here', flush=True); time.sleep(60)")
    assert isinstance(process, forked.Forked)
    assert process.stdout is not None
    assert process.stdout.readline() == "here\n"
    assert process.poll() is None
    process.send_signal(number)
    assert process.wait(20) == -number
    finish(process)


def test_a_module_and_a_file(tmp_path):
    (tmp_path / "beside.py").write_text("VALUE = 3\n")
    program = tmp_path / "program.py"
    program.write_text("import sys\nfrom beside import VALUE\nprint(VALUE, __file__ == sys.argv[0], sys.argv[1:])\n")
    assert finish(python(str(program), "x")) == (0, "3 True ['x']\n", "")
    assert finish(python("-m", "jaxbert", "--version", cwd=ROOT))[0] == 0
    code, out, err = finish(python("-c", "1 / 0"))
    assert (code, out) == (1, "")
    assert err.endswith("ZeroDivisionError: division by zero\n")


@pytest.mark.filterwarnings("ignore:os.fork:RuntimeWarning")  # subprocess forks by itself for a preexec_fn
def test_what_cannot_be_forked_starts_anew():
    read_early = ({"HF_HUB_OFFLINE": "0"}, {"PYTHONPATH": "elsewhere"}, {"PYTHONOPTIMIZE": "1"})
    for options in (*({"variables": variables} for variables in read_early), {"preexec_fn": os.getpid}):
        process = python("-c", "pass", **options)
        assert not isinstance(process, forked.Forked)
        assert finish(process) == (0, "", "")
