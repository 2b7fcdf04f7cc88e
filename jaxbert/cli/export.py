"""`jaxbert export`: writes a checkpoint of a run as a Hugging Face folder, also with ONNX graphs."""

from __future__ import annotations

from typing import Literal

from jaxbert.cli.output import write_out
from jaxbert.cli.parsing import make_parser, parse
from jaxbert.errors import UserError
from jaxbert.options import Quantize


def run(arguments: list[str]) -> int:
    """Export a checkpoint; print the folder."""
    parser = make_parser("export", "Write a checkpoint of a run as a Hugging Face folder.")
    parser.add_argument("--run", type=str, required=True, help="The run folder (train.output_dir).")
    parser.add_argument("--step", type=str, default="best", help="The checkpoint: last, best or a step number.")
    parser.add_argument("--output", type=str, required=True, help="The folder to write.")
    parser.add_argument(
        "--format",
        type=Literal["huggingface", "onnx"],
        default="huggingface",
        help="onnx: with the graphs onnx/model.onnx and onnx/model_packed.onnx (needs jaxbert[onnx]).",
    )
    parser.add_argument(
        "--quantize",
        type=Quantize | None,
        default=None,
        help="Also write the graphs in this number format, onnx/model_int8.onnx or onnx/model_fp16.onnx.",
    )
    parser.add_argument("--packed", type=bool, default=True, help="Whether to write the packed graphs.")
    values = parse(parser, arguments)
    graphs = values.format == "onnx"
    if not graphs and (values.quantize is not None or not values.packed):
        raise UserError("--quantize and --packed are for graphs: add --format onnx, or leave them out")
    if graphs:
        from jaxbert.serve.onnx_export import check_run

        check_run(values.run)
    from jaxbert.runs.export import export_run

    target = export_run(values.run, values.step, values.output)
    if graphs:
        from jaxbert.serve.onnx_export import write_graphs

        write_graphs(target, values.quantize, packed=values.packed)
    write_out(f"{target}\n")
    return 0
