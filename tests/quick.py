"""Compile the small programs of tests quickly: they run for milliseconds, and cost minutes where all optimizations are on.

XLA's own passes stay; LLVM's optimizations are left out, fusions are lowered the older way, without MLIR, and a program is
one LLVM module, where XLA would compile up to 32 in parallel. Tests with the mark `real` and the commands that they start
compile as users do. Few commands that a test starts see PyTorch.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path

_LOWERING = "--xla_cpu_use_fusion_emitters=false --xla_cpu_parallel_codegen_split_count=1"
_WITHOUT_TORCH = Path(__file__).with_name("without_torch")
_KNOWN = "0.10."
"""The releases of jaxlib that have both flags; 0.12 lacks the first, and XLA ends at once for one that it does not know."""


def lowering() -> str:
    """Return the flags that choose the older lowering, empty where they may not be there."""
    return _LOWERING if version("jaxlib").startswith(_KNOWN) else ""


def newest() -> dict[str, bool]:
    """Return the compiler's options for one program with the lowering that users have: its sums are a little closer."""
    return {"xla_cpu_use_fusion_emitters": True} if lowering() else {}


def search_path(environment: Mapping[str, str], *, torch: bool = False) -> str:
    """Return PYTHONPATH for a command, from the one of an environment."""
    path = ([] if torch else [str(_WITHOUT_TORCH)]) + environment.get("PYTHONPATH", "").split(os.pathsep)
    return os.pathsep.join(filter(None, path))


def variables(flags: str = "", *, torch: bool = False) -> dict[str, str]:
    """Return what the environment of a command gets, beside XLA's `flags`, to compile as the test that starts it.

    PyTorch is hidden unless the command needs `torch`.
    """
    import jax  # not before the variables of the tests' own process are set

    quick = jax.config.read("jax_disable_most_optimizations")
    return {
        "XLA_FLAGS": f"{flags} {lowering() if quick else ''}".strip(),
        "JAX_DISABLE_MOST_OPTIMIZATIONS": str(int(quick)),
        "PYTHONPATH": search_path(os.environ, torch=torch),
    }
