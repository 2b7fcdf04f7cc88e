"""`jaxbert env`: shows versions, devices and folders, for a bug report."""

from __future__ import annotations

import platform
from collections import Counter

from jaxbert.cli.output import write_out
from jaxbert.cli.parsing import make_parser, parse
from jaxbert.errors import one_line


def run(arguments: list[str]) -> int:
    """Print the environment of a run."""
    parse(make_parser("env", "Print versions, devices and cache folders, to add to a bug report."), arguments)
    import jax

    from jaxbert.data.store import cache_folder
    from jaxbert.train.runtime import prepare_process
    from jaxbert.versions import installed, say_untested

    prepare_process()
    lines = {**installed(), "system": platform.platform()}
    try:
        kinds = Counter(device.device_kind for device in jax.devices())
        lines["devices"] = ", ".join(f"{count} x {kind}" for kind, count in kinds.items())
    except RuntimeError as error:  # a driver that does not answer
        lines["devices"] = f"none: {one_line(error)}"
    lines["compiled programs"] = str(jax.config.jax_compilation_cache_dir or "not kept")  # type: ignore[attr-defined]
    lines["tokens"] = str(cache_folder("auto"))
    write_out("".join(f"{name:18} {value}\n" for name, value in lines.items()))
    say_untested()
    return 0
