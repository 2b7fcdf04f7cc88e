"""`jaxbert export`: writes a checkpoint of a run as a Hugging Face folder."""

from __future__ import annotations

from jaxbert.cli.output import write_out
from jaxbert.cli.parsing import make_parser, parse


def run(arguments: list[str]) -> int:
    """Export a checkpoint; print the folder."""
    parser = make_parser("export", "Write a checkpoint of a run as a Hugging Face folder.")
    parser.add_argument("--run", type=str, required=True, help="The run folder (train.output_dir).")
    parser.add_argument("--step", type=str, default="best", help="The checkpoint: last, best or a step number.")
    parser.add_argument("--output", type=str, required=True, help="The folder to write.")
    values = parse(parser, arguments)
    from jaxbert.runs.export import export_run

    write_out(f"{export_run(values.run, values.step, values.output)}\n")
    return 0
