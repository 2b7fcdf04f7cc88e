"""Compare one threshold for all labels with one for each, by the macro F1 of held-out rows, for several seeds.

    python scripts/bench/thresholds.py --config configs/go-emotions.yaml --output out --seeds 0 1 2 \\
        --data.train train.tsv --data.validation dev.tsv --data.test test.tsv \\
        --data.columns '["text","label","id"]' --data.label label --data.quoting none

Trains one model for each seed as the configuration says (other keys may follow), chooses both kinds of thresholds on the
validation set, and evaluates both on the test set. Prints a JSON line for each seed.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from examples import read_changes

import jaxbert
from jaxbert.settings import make_config


def main() -> None:
    """Train, choose thresholds, evaluate and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", required=True)
    parser.add_argument("--output", type=Path, required=True, help="a folder for the runs")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    options, keys = parser.parse_known_args()
    config = make_config(options.config, read_changes(keys))
    columns = {"columns": config.data.columns, "label": config.data.label, "quoting": config.data.quoting}
    for seed in options.seeds:
        model = jaxbert.finetune(config=config, seed=seed, output_dir=str(options.output / f"seed-{seed}")).model
        found: dict[str, Any] = {"seed": seed}
        for kind in ("one", "per_label"):
            model.calibrate(config.data.validation, calibration="none", thresholds=kind, **columns)
            metrics = model.evaluate(config.data.test, **columns)
            found[kind] = {name: round(metrics[name], 4) for name in ("f1_macro", "f1_micro")}
        print(json.dumps(found), flush=True)


if __name__ == "__main__":
    main()
