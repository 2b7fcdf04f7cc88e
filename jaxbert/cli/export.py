"""`jaxbert export`: writes a checkpoint of a run as a Hugging Face folder, also with ONNX graphs."""

from __future__ import annotations

from typing import Literal

from jaxbert.cli.output import write_out
from jaxbert.cli.parsing import make_parser, parse
from jaxbert.options import Quantize


def run(arguments: list[str]) -> int:
    """Export a checkpoint; print the folder."""
    parser = make_parser("export", "Write a checkpoint of a run as a Hugging Face folder.")
    parser.add_argument("--run", type=str, required=True, help="The run folder (train.output_dir).")
    parser.add_argument("--step", type=str, default="best", help="The checkpoint: last, best or a step number.")
    parser.add_argument("--output", type=str, required=True, help="The folder to write.")
    parser.add_argument(
        "--format",
        type=Literal["huggingface", "onnx", "triton"],
        default="huggingface",
        help="onnx: with the graphs onnx/model.onnx and onnx/model_packed.onnx; triton: with a model repository for NVIDIA "
        "Triton, triton/. Both need jaxbert[onnx].",
    )
    parser.add_argument(
        "--quantize",
        type=Quantize | None,
        default=None,
        help="Also write the graphs in this number format, onnx/model_int8.onnx or onnx/model_fp16.onnx; the format of "
        "Triton's only graph.",
    )
    parser.add_argument("--packed", type=bool, default=True, help="Whether to write the packed graphs.")
    values = parse(parser, arguments)
    from jaxbert.serve.formats import check_format, check_run, write_format

    check_format(values.format, values.quantize, packed=values.packed)
    check_run(values.run, values.format)
    from jaxbert.runs.export import export_run

    target = export_run(values.run, values.step, values.output)
    write_format(target, values.format, values.quantize, packed=values.packed)
    write_out(f"{target}\n")
    return 0
