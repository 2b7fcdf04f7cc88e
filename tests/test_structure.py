"""The arrows between the packages point down, nothing goes in circles, and no file or function grows without bound."""

from __future__ import annotations

import ast
import graphlib
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

PACKAGE = Path(__file__).resolve().parents[1] / "jaxbert"
FILES = sorted(PACKAGE.rglob("*.py"))

BELOW = {
    "errors": set(),
    "plain": {"errors"},
    "bucket": {"errors"},
    "ranges": {"errors"},
    "config": {"ranges", "errors"},
    "options": {"config", "ranges", "errors"},
    "versions": set(),
    "terminal": set(),
    "hardware": set(),
    "data": {"config", "bucket", "plain", "errors"},
    "models": set(),
    "interop": {"models", "plain", "errors"},
    "processes": {"errors"},
    "tasks": {"models", "data", "processes", "terminal", "config", "ranges", "bucket", "errors"},
    "runs": {
        *(
            "tasks",
            "interop",
            "models",
            "data",
            "processes",
            "versions",
            "options",
            "config",
            "bucket",
            "plain",
            "errors",
        ),
    },
    "train": {
        *("runs", "tasks", "interop", "models", "data", "processes", "terminal", "hardware", "versions"),
        *("options", "config", "bucket", "plain", "errors"),
    },
    "understand": {
        *("train", "runs", "tasks", "interop", "models", "data", "processes", "terminal", "settings", "versions"),
        *("options", "config", "bucket", "plain", "errors"),
    },
    "studies": {
        *("understand", "train", "runs", "tasks", "processes", "terminal", "settings", "options", "config", "bucket"),
        *("plain", "errors"),
    },
    "compress": {
        *("train", "runs", "tasks", "interop", "models", "data", "processes", "terminal"),
        *("options", "config", "bucket", "plain", "errors"),
    },
    "serve": {
        *("understand", "train", "runs", "tasks", "interop", "models", "data", "processes", "versions", "options"),
        *("config", "bucket", "plain", "errors"),
    },
    "plan": {"ranges", "train", "tasks", "interop", "models", "data", "hardware", "versions", "config", "errors"},
    "bench": {
        *("ranges", "plan", "train", "runs", "tasks", "interop", "models", "data", "hardware", "versions"),
        *("options", "config", "errors"),
    },
    "launch": {"train", "processes", "terminal", "config", "errors"},
    "settings": {"tasks", "config", "ranges", "plain", "errors"},
    "api": {
        *(
            "compress",
            "understand",
            "studies",
            "serve",
            "launch",
            "train",
            "runs",
            "tasks",
            "interop",
            "models",
            "data",
            "processes",
            "terminal",
            "settings",
        ),
        *("options", "config", "bucket", "plain", "errors"),
    },
    "cli": {
        *(
            "api",
            "compress",
            "understand",
            "serve",
            "plan",
            "bench",
            "launch",
            "train",
            "runs",
            "tasks",
            "data",
            "processes",
            "terminal",
            "versions",
        ),
        *("settings", "options", "config", "bucket", "plain", "errors"),
    },
}
"""What each part may import besides itself."""

OF_A_FAMILY = re.compile(r"^bert$|\bbert[./]|Bert[A-Z]|##")
"""In a string, what belongs into a row of `models/families`: a prefix, a class, the marker of word pieces."""

NAMES_A_FAMILY = {
    "jaxbert": "the Flax classes of the public interface",
    "jaxbert.interop.tokenizer": "the libraries' names of the parts of WordPiece, which tokenizers of any family have",
}
"""The modules that may name one besides `models/families` and `api/flax`, whose classes are BERT's, and why."""

HEAVY = {"jax", "jaxlib", "flax", "optax", "orbax", "torch"}


def module_of(path: Path) -> str:
    parts = path.relative_to(PACKAGE.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def part_of(module: str) -> str:
    """Return the first name below the package; the package's own modules have none."""
    return [*module.split("."), ""][1]


def imports(path: Path) -> Iterator[str]:
    """Yield every module that a file imports, inside functions too, but not for type checkers only."""
    tree = ast.parse(path.read_text("utf-8"))
    typing_only = {
        id(inner)
        for node in ast.walk(tree)
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"
        for inner in ast.walk(node)
    }
    for node in ast.walk(tree):
        if id(node) in typing_only:
            continue
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: a relative import"
            assert node.module is not None
            for alias in node.names:
                submodule = PACKAGE.parent.joinpath(*node.module.split("."), f"{alias.name}.py")
                yield f"{node.module}.{alias.name}" if submodule.is_file() else node.module


def test_the_files_are_found():
    assert {"cli", "train", "tasks", "models", "data", "interop"} <= {part_of(module_of(path)) for path in FILES}


_SHARED_NAMES = {"run": "what each verb of the command line does", "refuses": "what each attention backend answers"}
"""The only names that several public functions may have."""


def test_no_two_public_things_have_one_name():
    places: dict[str, list[str]] = {}
    for path in FILES:
        for node in ast.parse(path.read_text()).body:
            if isinstance(node, ast.FunctionDef | ast.ClassDef) and not node.name.startswith("_"):
                places.setdefault(node.name, []).append(str(path.relative_to(PACKAGE)))
    several = {name: files for name, files in places.items() if len(files) > 1}
    assert several.keys() == _SHARED_NAMES.keys(), several


@pytest.mark.parametrize("path", FILES, ids=module_of)
def test_imports_point_down(path):
    part = part_of(module_of(path))
    if not part or part == "__main__":
        return
    used = {part_of(name) for name in imports(path) if name.startswith("jaxbert.")} - {part}
    assert used <= BELOW[part], f"{module_of(path)} must not import {used - BELOW[part]}"


def test_the_parts_have_no_cycle():
    tuple(graphlib.TopologicalSorter(BELOW).static_order())


def test_the_modules_have_no_cycle():
    names = {module_of(path) for path in FILES}
    graph = {module_of(path): {name for name in imports(path) if name in names} for path in FILES}
    tuple(graphlib.TopologicalSorter(graph).static_order())


def reads_only(path: Path) -> bool:
    """Say whether a file reads data and computes nothing: all of `data`, and of a task's folder all but `task.py`."""
    in_task = part_of(module_of(path)) == "tasks" and path.parent.name != "tasks" and path.name != "task.py"
    return in_task or part_of(module_of(path)) == "data"


@pytest.mark.parametrize("path", [*filter(reads_only, FILES)], ids=module_of)
def test_reading_is_numpy_only(path):
    assert not {name.split(".")[0] for name in imports(path)} & HEAVY


def family_names(path: Path) -> Iterator[str]:
    """Yield what names one family of models: in strings, docstrings aside, and the use of its classes but as types."""
    tree = ast.parse(path.read_text("utf-8"))
    docs = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
    types = [
        kind
        for node in ast.walk(tree)
        for kind in (getattr(node, "annotation", None), getattr(node, "returns", None))
        if isinstance(kind, ast.expr)
    ]
    annotations = {id(inner) for kind in types for inner in ast.walk(kind)}
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in docs:
            yield from OF_A_FAMILY.findall(node.value)
        elif isinstance(node, ast.Name) and node.id in ("BertConfig", "BertTokenizer") and id(node) not in annotations:
            yield node.id


@pytest.mark.parametrize("path", FILES, ids=module_of)
def test_families_alone_name_a_family(path):
    module, found = module_of(path), [*family_names(path)]
    if module in NAMES_A_FAMILY:
        assert found, f"{module} names no family any more: take it off the list"
    elif not module.startswith(("jaxbert.models.families", "jaxbert.api.flax")):
        assert not found, f"{module} names {found}: ask the family"


@pytest.mark.parametrize("path", FILES, ids=module_of)
def test_sizes(path):
    """No file past 600 lines, no function past 60, and a word at the head of each file."""
    text = path.read_text("utf-8")
    assert text.count("\n") <= 600
    tree = ast.parse(text)
    assert ast.get_docstring(tree), "a module says what it is responsible for"
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            assert node.end_lineno is not None
            length = node.end_lineno - node.lineno + 1
            assert length <= 60, f"{node.name} has {length} lines"
