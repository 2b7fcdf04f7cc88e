"""The tables and texts that show a benchmark or a sweep."""

from __future__ import annotations

from typing import Any

from rich.table import Table

from jaxbert.plan.table import gib

Rows = list[tuple[str, str]]


def result_table(result: dict[str, Any]) -> Table:
    """Return the table of one benchmark, one topic per row."""
    table = Table("", "", show_header=False)
    for name, text in [*_described(result), *_trained(result), *_predicted(result), *_priced(result)]:
        table.add_row(name, text)
    return table


def headline(result: dict[str, Any]) -> str:
    """Return the most important rates on one line."""
    trained, predicted = result["examples_per_second"], result["predict_examples_per_second"]
    parts = [] if trained is None else [f"training {trained:,.0f} examples/s"]
    return ", ".join(parts if predicted is None else [*parts, f"prediction {predicted:,.0f} examples/s"])


def sweep_table(rows: list[dict[str, Any]], best: int | None) -> Table:
    """Return one line per combination: the best is marked, a failed one has its error. Empty columns are left out."""
    timed = [_columns(row["result"]) for row in rows if "result" in row]
    names = [name for name in (timed[0] if timed else {}) if any(columns[name] != "-" for columns in timed)]
    table = Table()
    for name in [*rows[0]["settings"], *names, ""]:
        table.add_column(name, overflow="fold")
    for index, row in enumerate(rows):
        settings = row["settings"].values()
        if "error" in row:
            table.add_row(*settings, *[""] * len(names), row["error"], style="red")
        else:
            columns, note = _columns(row["result"]), "best" if index == best else ""
            table.add_row(*settings, *(columns[name] for name in names), note, style="bold green" if note else None)
    return table


def tuning_table(rows: list[dict[str, Any]]) -> Table:
    """Return one line per candidate of `tune`: its time, the ratio to the default's, and an error if it failed."""
    table = Table("what", "candidate", "median ms", "ratio", "")
    for row in rows:
        notes = [word for word in ("default", "best") if row[word]]
        text = row["error"] or ", ".join(notes)
        numbers = _number(row["ms"], ",.3f"), _number(row["ratio"], ".3f")
        style = "red" if row["error"] else "bold green" if row["best"] else None
        table.add_row(row["part"], row["candidate"], *numbers, text, style=style)
    return table


def rates_table(rows: list[dict[str, Any]]) -> Table:
    """Return one line per measured rate of a server: latencies, and the processor's time of a request."""
    names = {"p50_ms": "p50 ms", "p90_ms": "p90 ms", "p99_ms": "p99 ms", "cpu_ms": "processor ms"}
    table = Table("requests/s", "answered", *names.values(), "refused", "errors")
    for row in rows:
        numbers = (_number(row[name], ",.2f") for name in names)
        counts = f"{row['requests']:,}", *numbers, f"{row['refused']:,}", f"{row['errors']:,}"
        table.add_row(_number(row["rate"], ",.1f"), *counts)
    return table


def _columns(result: dict[str, Any]) -> dict[str, str]:
    return {
        "step ms": _number(result["step_ms_p50"], ".2f"),
        "examples/s": _number(result["examples_per_second"], ",.0f"),
        "real tokens/s": _number(result["real_tokens_per_second"], ",.0f"),
        "rows full": _number(result["packing_efficiency"], ".1%"),
        "TFLOP/s": _number(result["tflops_per_second"], ".3f"),
        "MFU": _number(result["mfu"], ".1%"),
        "memory": gib(result["step_memory_bytes"]),
        "predicted/s": _number(result["predict_examples_per_second"], ",.0f"),
    }


def _number(value: float | None, form: str) -> str:
    return "-" if value is None else format(value, form)


def _described(result: dict[str, Any]) -> Rows:
    packed = "packed" if result["packing"] else "padded"
    rows = " or ".join(str(count) for count in result["row_counts"])
    return [
        ("device", f"{result['devices']} x {result['device']}, jax {result['jax_version']}, {result['precision']}"),
        ("model", f"{result['model']}, {result['parameters'] / 1e6:.1f} M parameters"),
        ("batch", f"{result['batch_size']} examples ({result['lengths']}), {packed}, {rows} x {result['row_length']}"),
    ]


def _trained(result: dict[str, Any]) -> Rows:
    if not result["steps_timed"]:
        return []
    peak, mfu = result["peak_memory_bytes"], result["mfu"]
    compiled = f"{result['compilations']} batch shape(s)"
    if result["compile_cold_seconds"] is None:
        compiled += f" in {result['compile_seconds']:.1f} s"
    else:
        warm = _number(result["compile_warm_seconds"], ".1f")
        compiled += f"; one takes {result['compile_cold_seconds']:.1f} s cold, {warm} s from the cache"
    return [
        (
            "step",
            f"{result['step_ms_p50']:.2f} ms median, {result['step_ms_p90']:.2f} ms p90 ({result['steps_timed']} steps)",
        ),
        ("examples", f"{result['examples_per_second']:,.0f} a second"),
        (
            "tokens",
            f"{result['real_tokens_per_second']:,.0f} real a second of {result['row_tokens_per_second']:,.0f} in rows "
            f"({result['packing_efficiency']:.1%})",
        ),
        ("attention", f"by {result['attention']}, {result['masked_attention_fraction']:.1%} of its pairs are masked"),
        (
            "hardware",
            f"{result['tflops_per_second']:.3f} TFLOP/s, " + ("MFU not known" if mfu is None else f"MFU {mfu:.1%}"),
        ),
        ("bound", _bound(result["roofline"])),
        ("waiting", f"{result['data_wait_fraction']:.2%} of the time for data"),
        ("compiled", compiled),
        (
            "memory",
            f"{gib(result['step_memory_bytes'])} planned for a step, peak "
            + ("not told by this device" if peak is None else gib(peak)),
        ),
    ]


def _bound(roofline: dict[str, Any]) -> str:
    names = {"compute": "compute", "memory": "memory bandwidth", "input": "input", "dispatch": "starting steps"}
    shares = [
        f"{what} {roofline[f'{name}_share']:.0%}"
        for name, what in names.items()
        if roofline[f"{name}_share"] is not None
    ]
    bound = {"memory": "memory bandwidth", None: "not known"}.get(roofline["bound"], roofline["bound"])
    return f"{bound} ({', '.join(shares)}): {roofline['reason']}"


def _predicted(result: dict[str, Any]) -> Rows:
    if result["predict_examples_per_second"] is None:
        return []
    text = f"{result['predict_examples_per_second']:,.0f} examples a second"
    ratio = result["predict_to_train_ratio"]
    return [("prediction", text if ratio is None else f"{text}, {ratio:.2f} times training")]


def _priced(result: dict[str, Any]) -> Rows:
    if result["cost_per_hour"] is None:
        return []
    names = {"examples": "examples", "real_tokens": "real tokens", "predictions": "predictions"}
    prices = [(what, result[f"cost_per_million_{name}"]) for name, what in names.items()]
    texts = [f"{price:g} for a million {what}" for what, price in prices if price is not None]
    return [("price", f"at {result['cost_per_hour']:g} an hour: {', '.join(texts)}")]
