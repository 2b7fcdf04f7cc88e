"""The tables and texts that show a plan."""

from __future__ import annotations

from typing import Any

from rich.table import Table
from rich.text import Text

Rows = list[tuple[str, str]]


def plan_table(result: dict[str, Any]) -> Table:
    """Return the table of a plan, one topic per row."""
    table = Table("", "", show_header=False)
    for name, text in [*_described(result), *_memory(result), *_work(result), *_times(result), *_prices(result)]:
        table.add_row(name, text)
    return table


def sharding_table(result: dict[str, Any]) -> Table:
    """Return the table of the sharding rules, with each parameter's part on one device."""
    table = Table(title="parameters on the mesh")
    for head in ("rule (PartitionSpec), parameters", "shape", "on a device", "MiB"):
        table.add_column(head, overflow="fold")
    before = None
    for row in result["sharding"]:
        rule = f"{row['rule']} ({', '.join(str(axis) for axis in row['spec'])})"
        if rule != before:
            table.add_row(Text(rule, style="bold"))
            before = rule
        shapes = (" x ".join(map(str, row[name])) for name in ("shape", "device_shape"))
        table.add_row(f"  {row['parameter']}", *shapes, f"{row['device_bytes'] / 2**20:.2f}")
    return table


def kernel_tables(result: dict[str, Any]) -> list[Table]:
    """Return the tables of the largest kernels, by bytes and by FLOPs; none if none were asked for."""
    found = result["kernels"]
    wanted = [] if found is None else [("bytes", found["by_bytes"]), ("FLOPs", found["by_flops"])]
    return [_kernel_table(f"largest kernels by {what}", rows, found["moved_bytes"]) for what, rows in wanted if rows]


def _kernel_table(title: str, rows: list[dict[str, Any]], all_bytes: float) -> Table:
    table = Table(title=title)
    for head in ("line: operation", "kernel", "runs", "GB", "of all GB", "TFLOP"):
        table.add_column(head, overflow="fold", justify="left" if head in ("line: operation", "kernel") else "right")
    for row in rows:
        moved, flops = row["moved_bytes"], row["flops"]
        source = ": ".join(filter(None, (row["place"], _operation(row["operation"])))) or "made by the compiler"
        table.add_row(
            Text(source),
            Text(row["name"] if row["kind"] in row["name"] else f"{row['name']} ({row['kind']})"),
            str(row["runs"]),
            f"{moved / 1e9:.3f}",
            f"{moved / all_bytes:.1%}",
            "not known" if flops is None else f"{flops / 1e12:.4g}",
        )
    return table


def _operation(name: str) -> str:
    """Return JAX's operation, and whether it is a part of the backward pass."""
    last = name.removesuffix("/pallas_call").rpartition("/")[2]
    return last + (" (backward)" if "transpose(" in name else "")


def plan_headline(result: dict[str, Any]) -> str:
    """Return the result of a plan on one line."""
    needed, available = result["memory"]["needed_bytes"], result["memory"]["available_bytes"]
    verdict = {True: "fits", False: "does not fit", None: "memory of the devices not known"}[result["fits"]]
    estimate = " (ESTIMATE)" if result["estimate"] else ""
    return f"{result['topology']}: {verdict}{estimate}, {gib(needed)} of {gib(available)} a device"


def gib(size: float | None) -> str:
    """Return an amount of memory in GiB as text."""
    return "-" if size is None else f"{size / 2**30:.2f} GiB"


def _described(result: dict[str, Any]) -> Rows:
    mesh = " x ".join(f"{name} {size}" for name, size in result["mesh"].items())
    packed = "packed" if result["packing"] else "padded"
    return [
        ("devices", f"{result['devices']} x {result['device']} ({result['topology']}), mesh {mesh}"),
        ("model", f"{result['model']}, {result['parameters']:,} parameters, {result['precision']}"),
        (
            "batch",
            f"{result['examples_per_step']:,} examples ({result['lengths']}), {packed} in {result['rows']} x "
            f"{result['row_length']} tokens, {result['packing_efficiency']:.1%} of them real",
        ),
        (
            "settings",
            f"remat {result['remat']}, {result['accumulation_steps']} slice(s), attention by {result['attention']}",
        ),
    ]


def _memory(result: dict[str, Any]) -> Rows:
    memory = result["memory"]
    label = "memory, ESTIMATE" if result["estimate"] else "memory"
    if memory["argument_bytes"] is None:
        return [(label, f"state {gib(memory['state_bytes'])} a device; the compiler refused the step")]
    text = (
        f"{gib(memory['needed_bytes'])} of {gib(memory['available_bytes'])} a device: state and batch "
        f"{gib(memory['argument_bytes'])} (state {gib(memory['state_bytes'])}), temporaries {gib(memory['temp_bytes'])}"
    )
    return [(label, text if memory["peak_bytes"] is None else f"{text}; peak {gib(memory['peak_bytes'])}")]


def _work(result: dict[str, Any]) -> Rows:
    flops, moved = result["flops"], result["collectives"]
    if flops is None:
        return []
    kinds = [f"{kind} {size / 1e9:.3f}" for kind, size in moved["result_bytes"].items() if size]
    text = (
        f"{flops['compiled'] / 1e12:.4g} TFLOP a device and step as compiled, {flops['formula'] / 1e12:.4g} by the formula "
        f"({flops['compiled'] / flops['formula']:.3f}), {flops['real_tokens'] / 1e12:.4g} for real tokens"
    )
    label = "collectives, ESTIMATE" if result["estimate"] else "collectives"
    sent = f"{moved['sent_bytes'] / 1e9:.3f} GB sent by a device in {moved['runs']} collectives a step"
    if flops["silent_kernels"]:
        text += f"; {flops['silent_kernels']} runs of kernels whose FLOPs are not known are left out"
    rows = [("work", text)]
    if (kernels := result["kernels"]) is not None:
        rows.append(
            ("kernels", f"{kernels['runs']:,} a step, which read and write {kernels['moved_bytes'] / 1e9:.4g} GB")
        )
    return [*rows, (label, f"{', '.join(kinds)} GB received; {sent}" if kinds else "none")]


def _times(result: dict[str, Any]) -> Rows:
    bounds = result["bounds"]
    if bounds is None:
        return []
    parts = [f"{name} {_ms(bounds[f'{name}_seconds'])}" for name in ("compute", "memory", "interconnect")]
    span = f"{_ms(bounds['lower_seconds'])} ({bounds['bound'] or 'no peak known'}) to {_ms(bounds['upper_seconds'])}"
    tokens, examples = (" to ".join(map(_rate, result[f"{what}_per_second"])) for what in ("tokens", "examples"))
    middle, rate = bounds["predicted_seconds"], result["predicted_tokens_per_second"]
    expected = [] if middle is None else [("step, PREDICTED", f"{_ms(middle)}, {_rate(rate)} real tokens a second")]
    return [
        *expected,
        ("step's bounds" if expected else "step, PREDICTED", f"{span}; at the peaks: {', '.join(parts)}"),
        ("rate's bounds" if expected else "rate, PREDICTED", f"{tokens} real tokens, {examples} examples a second"),
    ]


def _prices(result: dict[str, Any]) -> Rows:
    cost = result["cost"]
    if cost is None or cost["cost_per_hour"] is None:
        return []
    texts = [_span(cost, "cost_per_million_tokens", "for a million real tokens")]
    if result["total_steps"] is not None:
        texts.append(_span(cost, "cost_of_run", f"for {result['total_steps']:,} steps"))
    return [("price, PREDICTED", f"at {cost['cost_per_hour']:g} an hour for all devices: {', '.join(texts)}")]


def _span(cost: dict[str, Any], name: str, what: str) -> str:
    least, most = (cost[f"{name}_{end}"] for end in ("least", "most"))
    return f"{_plain(least)} to {_plain(most)} {what}"


def _plain(value: float | None) -> str:
    return "-" if value is None else f"{value:g}"


def _ms(seconds: float | None) -> str:
    return "-" if seconds is None else f"{seconds * 1e3:.3g} ms"


def _rate(value: float | None) -> str:
    return "-" if value is None else f"{value:,.0f}"
