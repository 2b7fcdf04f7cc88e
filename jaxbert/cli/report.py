"""`jaxbert report`: writes the page about a finished run again, for instance with further slices."""

from __future__ import annotations

from jaxbert.cli.output import write_out
from jaxbert.cli.parsing import make_parser, parse
from jaxbert.config import PrecisionConfig, ReportConfig
from jaxbert.settings import add_fields


def run(arguments: list[str]) -> int:
    """Write `report.html` to a run folder; print its path."""
    parser = make_parser("report", "Write the page about a finished run, RUN/report.html.")
    parser.add_argument("run", type=str, help="The run folder (train.output_dir), also in a bucket.")
    add_fields(parser, ReportConfig, ["slices"])
    values = parse(parser, arguments)
    from jaxbert.config import LaunchConfig
    from jaxbert.launch.start import start
    from jaxbert.processes import is_main
    from jaxbert.train.runtime import prepare_process
    from jaxbert.understand.reopen import reopen, with_metrics_of_now
    from jaxbert.understand.report.write import with_slices, write_report

    prepare_process(PrecisionConfig.compute)
    start(LaunchConfig())
    finished = with_metrics_of_now(reopen(values.run))
    if values.slices is not None:
        finished = with_slices(finished, values.slices)
    if is_main():
        write_out(f"{write_report(finished)}\n")
    return 0
