"""A trained model in Python: its answers, its metrics on labelled rows, its folder for others."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Mapping, Sequence
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Any, overload

from jaxbert.api.rows import Data, name_source
from jaxbert.bucket import in_bucket, to_path
from jaxbert.config import COLUMN_KEYS, DataConfig, InferenceOptions, LaunchConfig
from jaxbert.data.memory import hold
from jaxbert.errors import UserError
from jaxbert.launch.start import start
from jaxbert.plain import read_yaml
from jaxbert.runs.export import check_target, export_params
from jaxbert.runs.folder import RunFolder
from jaxbert.settings import make_data_config, place_keys
from jaxbert.train.inference import TrainedModel, open_trained
from jaxbert.train.runtime import prepare_process

Answer = dict[str, Any]


class Model:
    """A model that was trained or opened; what it has compiled is kept for the next call."""

    def __init__(self, trained: TrainedModel, name: str, data: DataConfig) -> None:
        """Take an open model; `load` opens one.

        Args:
          trained: the model.
          name: where it comes from.
          data: the columns that it reads unless a call names others.
        """
        self._trained = trained
        self._data = data
        self.name = name
        """The folder, or the name on the Hub."""

    def __repr__(self) -> str:
        return f"<jaxbert.Model {self.name}: {self.task}, {self._trained.task.describe()}>"

    @property
    def task(self) -> str:
        """The name of its task."""
        return self._trained.task.name

    @property
    def labels(self) -> tuple[str, ...]:
        """Its labels, in the order of its outputs; empty where they have no names."""
        return self._trained.task.output_names

    @overload
    def predict(self, texts: str | Mapping[str, Any], /, **columns: Any) -> Answer: ...

    @overload
    def predict(self, texts: Data | Sequence[Any], /, **columns: Any) -> list[Answer]: ...

    def predict(self, texts: Any, /, **columns: Any) -> Answer | list[Answer]:
        """Return the answers that `jaxbert predict` writes, in the order of the texts.

        Args:
          texts: one text, or a list of them; pairs of texts, or of question and context, as tuples of two; for token
            classification also lists of words. One row or a list of rows as dictionaries, a frame of pandas or polars, a
            Dataset. A file as a `pathlib.Path`.
          **columns: names of columns that are not the model's own, `text="body"`, and other keys of `data` that say how a
            file is read.

        Returns:
          A dictionary for one text or row, else a list of them.

        Raises:
          UserError: for a text that is missing or no text, with its row.
        """
        data = self._reading(columns)
        if isinstance(texts, str | Mapping) or self._is_one_pair(texts):
            return self._predict_rows(*self._rows([texts], data))[0]
        if isinstance(texts, os.PathLike):
            return self._predict(os.fspath(texts), data)
        if hasattr(texts, "tolist"):  # an array of NumPy, a column of pandas
            texts = texts.tolist()
        if isinstance(texts, list | tuple):
            return self._predict_rows(*self._rows(texts, data)) if len(texts) else []
        with hold(texts, "texts") as spec:
            return self._predict(spec, data)

    def evaluate(self, data: Data, /, **columns: Any) -> dict[str, Any]:
        """Return the metrics that `jaxbert evaluate` writes.

        Args:
          data: labelled rows: a path or source as on the command line, a list of dictionaries, a frame, a Dataset.
          **columns: names of columns that are not the model's own, and other keys of `data`.

        Raises:
          UserError: for anything wrong in the rows, or a label that the model does not know.
        """
        reading = self._reading(columns)
        with ExitStack() as stack:
            return self._trained.evaluate(name_source(stack, data, "data"), reading)

    def export(self, folder: str | os.PathLike[str]) -> Path:
        """Write the model as a Hugging Face folder, which PyTorch reads too; return its path.

        Raises:
          UserError: if the folder holds something else.
        """
        target, trained = check_target(folder, "folder"), self._trained
        export_params(
            RunFolder(self.name),
            trained.predictor.model.config,
            trained.tokenizer,
            trained.params,
            trained.task.architecture,
            target,
        )
        return as_path(target)

    def _reading(self, columns: Mapping[str, Any]) -> DataConfig:
        if not columns:
            return self._data
        changes = place_keys({name if "__" in name else f"data__{name}": value for name, value in columns.items()})
        return make_data_config(self._data, changes.get("data", {}))

    @property
    def _reads_pairs(self) -> bool:
        """Whether each input is two texts."""
        return self.task == "question_answering" or bool(
            getattr(getattr(self._trained.task, "reading", None), "pairs", False)
        )

    def _is_one_pair(self, texts: Any) -> bool:
        both = isinstance(texts, tuple) and len(texts) == 2 and all(isinstance(text, str) for text in texts)
        return both and self._reads_pairs

    def _rows(self, items: Sequence[Any], data: DataConfig) -> tuple[Sequence[Any], DataConfig]:
        """Give texts the names of columns."""
        if all(isinstance(item, Mapping) for item in items):
            return items, data
        if any(isinstance(item, Mapping) for item in items):
            raise UserError("texts: some are texts and some are rows: give one kind")
        if not any(isinstance(item, list | tuple) for item in items):
            if self._reads_pairs:
                raise UserError("this model reads pairs of texts: give each as (FIRST, SECOND)")
            return [{data.text: item} for item in items], data
        if self.task == "token_classification":
            return [{data.tokens: item} for item in items], data
        for number, item in enumerate(items, 1):
            if not isinstance(item, list | tuple) or len(item) != 2:
                raise UserError(f"texts, row {number}: {item!r:.60} is no pair of texts: give each as (FIRST, SECOND)")
        if self.task == "question_answering":
            return [{data.question: first, data.context: second} for first, second in items], data
        paired = dataclasses.replace(data, text_pair=data.text_pair or "text_pair")
        return [{paired.text: first, paired.text_pair: second} for first, second in items], paired

    def _predict_rows(self, rows: Sequence[Any], data: DataConfig) -> list[Answer]:
        with hold(rows, "texts", "texts") as spec:
            return self._predict(spec, data)

    def _predict(self, spec: str, data: DataConfig) -> list[Answer]:
        trained, answers = self._trained, list[Answer]()
        with closing(trained.predict(trained.feed(spec, data))) as predictions:
            for chunk, values in predictions:
                answers += trained.task.answers(values, chunk.examples, 0, len(chunk.examples))
        return answers


def load(
    name: str | os.PathLike[str],
    *,
    batch_size: int | None = None,
    max_length: int | None = None,
    lower_case: bool | None = None,
    precision: str = "auto",
    top_k: int | None = None,
) -> Model:
    """Open a model.

    Args:
      name: a run folder, an exported folder or a name on the Hub.
      batch_size: examples of one step; left out, as in the model's run, 256 where that is not known.
      max_length: longest example in tokens; left out, as in training.
      lower_case: whether texts are lower-cased, where the model's folder leaves it open.
      precision: `float32` or `bfloat16`; auto: what the model's run was told on a device of the same kind, else by device.
      top_k: how many labels an answer shows the probabilities of; left out, all of up to 20, else 5.

    Raises:
      UserError: if there is no such model, or its head was not trained.
    """
    options = InferenceOptions(max_length, lower_case, batch_size, precision, top_k)  # type: ignore[arg-type]
    prepare_process(precision)
    start(LaunchConfig())
    trained = open_trained(os.fspath(name), options)
    return Model(trained, os.fspath(name), _columns_of(os.fspath(name)))


def _columns_of(name: str) -> DataConfig:
    """Return the columns that a run has read; the usual ones for any other model."""
    path = RunFolder(name).config
    content = read_yaml(path, str(path)) if path.exists() else None
    data = content.get("data") if isinstance(content, dict) else None
    if not isinstance(data, dict):
        return DataConfig()
    kept = {key: data[key] for key in COLUMN_KEYS if key in data}
    return make_data_config(DataConfig(), kept)


def as_path(path: Any) -> Any:
    """Return a path of this machine as Python's; one in a bucket as it is."""
    return path if in_bucket(path) else Path(os.fspath(to_path(path)))
