"""`jaxbert serve`: answers requests over HTTP."""

from __future__ import annotations

import functools
import os
import re
import sys
from dataclasses import fields
from typing import TYPE_CHECKING

from jaxbert.cli.inference_options import ANSWER_OPTIONS, ENGINE_OPTIONS
from jaxbert.cli.parsing import Parser, make_parser, parse
from jaxbert.errors import UserError
from jaxbert.options import InferenceOptions, ServeOptions
from jaxbert.settings import add_fields

if TYPE_CHECKING:
    from jaxbert.serve.service import Service

_USAGE = """\
Example:  jaxbert serve --model runs/reviews --port 8080
          curl http://127.0.0.1:8080/predict -d '{"inputs": "What a film"}'
Model:    a run folder, an exported folder or a name on the Hugging Face Hub; NAME=FOLDER gives it
          a name, and --model may be given several times.
Results:  answers on the port; the log as JSON lines on standard error. After SIGTERM the
          server answers all requests and ends; after SIGHUP it opens the models again."""
_MAIN_KEYS = ("model", "port", "host", "engine", "quantize", "workers", "explain", "top_k", "max_queue", "api_key")
_INFERENCE_KEYS = ("max_length", "lower_case", "precision", *ANSWER_OPTIONS, *ENGINE_OPTIONS)
_NAMED = re.compile(r"([\w.-]+)=(.+)")


def run(arguments: list[str]) -> int:
    """Serve until a signal ends the process."""
    values = parse(make_serve_parser(), arguments)
    options = ServeOptions(**{field.name: values[field.name] for field in fields(ServeOptions)})
    inference = InferenceOptions(**{name: values[name] for name in _INFERENCE_KEYS})
    sources = parse_models(values.model)
    from jaxbert.serve.process import IN_WORKER, log_in_json, open_port, require_serve, run_server, run_workers

    require_serve()
    with open_port(options, shared=options.workers > 1 or IN_WORKER in os.environ) as bound:
        log_in_json()
        if options.workers > 1:
            command = [sys.executable, "-m", "jaxbert", "serve", *arguments, "--workers", "1"]
            return run_workers(command, bound, options.workers)
        return run_server(_open(sources, options, inference), bound)


def parse_models(given: list[str]) -> dict[str, str]:
    """Return the source of each model by its name: `NAME=FOLDER`, or a folder whose last part is its name.

    Raises:
      UserError: if two models have one name.
    """
    sources: dict[str, str] = {}
    for text in given:
        found = None if os.path.exists(text) else _NAMED.fullmatch(text)
        name, source = (found[1], found[2]) if found else (re.split(r"[/\\]", text.rstrip("/\\"))[-1] or text, text)
        if name in sources:
            ways = f"--model a={sources[name]} --model b={source}"
            raise UserError(f"--model: two models are called {name}: give them names, {ways}")
        sources[name] = source
    return sources


def _open(sources: dict[str, str], options: ServeOptions, inference: InferenceOptions) -> Service:
    """Open all models."""
    from jaxbert.serve.onnx_engine import open_served
    from jaxbert.serve.service import Service
    from jaxbert.train.runtime import prepare_process

    prepare_process(inference.precision)
    return Service(sources, lambda source: open_served(source, inference, options), options)


@functools.cache
def make_serve_parser() -> Parser:
    """Return the parser of the verb."""
    parser = make_parser("serve", "Answer requests over HTTP, several in one packed batch.", _USAGE, _MAIN_KEYS)
    parser.add_argument(
        "--model",
        action="append",
        type=str,
        required=True,
        help="The model: a run folder, an exported folder, a name on the Hub, or NAME=FOLDER. Give it again for others.",
    )
    add_fields(parser, ServeOptions, [field.name for field in fields(ServeOptions)])
    add_fields(parser, InferenceOptions, _INFERENCE_KEYS)
    return parser
