"""The study of search.py through `hyperparameter_search` of the Hugging Face Trainer, on Optuna too.

  python scripts/bench/peer_search.py study --model FOLDER --train train.tsv --validation dev.tsv --folder F --output FILE

Batches are padded to their longest text. Each trial is trained, evaluated at its end and saved, as the Trainer does it.
"""

from __future__ import annotations

import argparse
import itertools
import json
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import optuna
import torch
import transformers
from examples import label_names, read_tsv, tokenize
from search import SPACE, RunningClock, make_parser
from torch_setup import open_model
from transformers import DataCollatorWithPadding, Trainer, TrainingArguments

NAMES = {
    "optimizer.learning_rate": "learning_rate",
    "optimizer.weight_decay": "weight_decay",
    "optimizer.warmup_ratio": "warmup_steps",
}
"""The Trainer's names; `warmup_steps` below 1 is a share of the steps."""


def draw(trial: Any) -> dict[str, float]:
    """Draw the values of the Trainer's arguments from `SPACE`."""
    return {NAMES[key]: suggest(trial, key) for key in NAMES}


def suggest(trial: Any, key: str) -> float:
    """Return the value of a key in a trial; it is drawn once."""
    kind, low, high = SPACE[key].split(":")
    return trial.suggest_float(key, float(low), float(high), log=kind == "log")


def arguments_of(values: argparse.Namespace) -> TrainingArguments:
    """Return the arguments that all trials share."""
    return TrainingArguments(
        output_dir=str(values.folder / "peer"),
        per_device_train_batch_size=32,
        per_device_eval_batch_size=256,
        num_train_epochs=values.epochs,
        eval_strategy="epoch",
        save_strategy="epoch",
        logging_strategy="no",
        report_to="none",
        disable_tqdm=True,
        use_cpu=True,
    )


def run(values: argparse.Namespace) -> dict[str, Any]:
    """Search, and return the times of the trials."""
    rows, others = (
        read_tsv(path, values.text, "label", None, limit)
        for path, limit in ((values.train, values.rows), (values.validation, None))
    )
    names = label_names(rows)
    options = argparse.Namespace(model=values.model, vocab=None)
    tokenizer = open_model(options, len(names))[1]
    train, held_out = (tokenize(part, names, tokenizer, 128) for part in (rows, others))
    clock = RunningClock()
    ends, used = [clock.seconds], [time.process_time()]

    def model_init(trial: Any) -> Any:
        model = open_model(options, len(names))[0]
        rate = 0.1 if trial is None else suggest(trial, "model.dropout")
        for module in model.modules():
            if isinstance(module, torch.nn.Dropout):
                module.p = rate
        return model

    def accuracy(output: Any) -> dict[str, float]:
        ends.append(clock.seconds)
        used.append(time.process_time())
        return {"accuracy": float((output.predictions.argmax(-1) == output.label_ids).mean())}

    trainer = Trainer(
        model_init=model_init,
        args=arguments_of(values),
        train_dataset=train,
        eval_dataset=held_out,
        data_collator=DataCollatorWithPadding(tokenizer),
        compute_metrics=accuracy,
    )
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    best = trainer.hyperparameter_search(
        hp_space=draw,
        n_trials=values.trials,
        direction="maximize",
        backend="optuna",
        sampler=optuna.samplers.TPESampler(seed=0),
    )
    seconds = [after - before for before, after in itertools.pairwise(ends)]
    versions = {"torch": torch.__version__, "transformers": transformers.__version__, "optuna": optuna.__version__}
    return {
        "trials": len(seconds),
        "seconds_of_trials": round(sum(seconds[1:]), 2),
        "processor_seconds_of_trials": round(used[-1] - used[1], 2),
        "best": best.objective,
        "versions": versions,
    }


def main(given: Sequence[str] | None = None) -> None:
    """Run and write the JSON."""
    values = make_parser().parse_args(given)
    Path(values.folder).mkdir(parents=True, exist_ok=True)
    result = run(values)
    values.output.write_text(json.dumps(result, indent=2) + "\n")
    print(json.dumps(result, indent=2))


if __name__ == "__main__":
    main()
