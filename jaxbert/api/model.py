"""A trained model in Python: it predicts, evaluates labelled rows, and exports itself."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Any, cast, overload

from jaxbert.api.rows import Data, name_source
from jaxbert.bucket import in_bucket, path_text, to_path
from jaxbert.config import DataConfig, LaunchConfig
from jaxbert.data.memory import hold
from jaxbert.errors import UserError
from jaxbert.launch.start import start
from jaxbert.options import ExplainOptions, InferenceOptions, Quantize, RobustnessOptions
from jaxbert.processes import is_main
from jaxbert.runs.export import check_target, copy_card, export_params
from jaxbert.runs.folder import RunFolder
from jaxbert.serve.formats import Format, check_format, check_graphs, write_format
from jaxbert.serve.onnx_engine import is_onnx, open_engine
from jaxbert.settings import make_data_config, place_keys
from jaxbert.tasks.decision import Tuning
from jaxbert.train.asked import reads_pairs, rows_of_texts
from jaxbert.train.inference import TrainedModel
from jaxbert.train.runtime import prepare_process
from jaxbert.understand.explain import Explainer
from jaxbert.understand.neighbours import TrainingExamples
from jaxbert.understand.reopen import columns_of
from jaxbert.understand.robustness import measure_robustness

Answer = dict[str, Any]


class Model:
    """A trained model, made by `jaxbert.load` or as `Result.model`. It keeps compiled programs for later calls."""

    def __init__(self, trained: TrainedModel, name: str, data: DataConfig) -> None:
        """Wrap an open model; use `jaxbert.load` to open one.

        Args:
          trained: the open model.
          name: its folder, or its name on the Hub.
          data: the columns that it reads unless a call names others.
        """
        self._trained = trained
        self._data = data
        self._explainer = Explainer(trained)
        self._calibrated = False
        self.name = name
        """Its folder, or its name on the Hub."""

    def __repr__(self) -> str:
        return f"<jaxbert.Model {self.name}: {self.task}, {self._trained.task.describe()}>"

    @property
    def task(self) -> str:
        """The name of its task, such as `classification`."""
        return self._trained.task.name

    @property
    def labels(self) -> tuple[str, ...]:
        """The names of its labels, in the order of its outputs; empty if they have no names."""
        return self._trained.task.output_names

    @overload
    def predict(self, texts: str | Mapping[str, Any], /, **columns: Any) -> Answer: ...

    @overload
    def predict(self, texts: Data | Sequence[Any], /, **columns: Any) -> list[Answer]: ...

    def predict(self, texts: Any, /, **columns: Any) -> Answer | list[Answer]:
        """Return the same answers that `jaxbert predict` writes, in the order of the texts.

        Args:
          texts: a text or a list of texts. A pair of texts, or of question and context, is a tuple of two. For token
            classification a text may be a list of words. Also a dictionary or a list of dictionaries, a pandas or polars
            frame, a `datasets.Dataset`, or a file as a `pathlib.Path`.
          **columns: names of columns, if they are not those of training (`text="body"`), and other keys of the section
            `data` that tell how to read a file.

        Returns:
          A dictionary for one text or row, else a list of dictionaries. For classification they have the keys `label`,
          `score` and `probabilities`.

        Raises:
          UserError: if a text is missing or is not a text; the message names its row.
        """
        return self._answers(texts, columns, self._predict)

    @overload
    def explain(self, texts: str | Mapping[str, Any], /, **options: Any) -> Answer: ...

    @overload
    def explain(self, texts: Data | Sequence[Any], /, **options: Any) -> list[Answer]: ...

    def explain(
        self,
        texts: Any,
        /,
        *,
        method: str = "integrated_gradients",
        label: str | None = None,
        steps: int = ExplainOptions.steps,
        baseline: str = "pad",
        unit: str = "log_odds",
        neighbours: int = 0,
        **columns: Any,
    ) -> Answer | list[Answer]:
        """Tell which words an answer comes from, as `jaxbert explain` does, for models of any task but multiple choice.

        Args:
          texts: as for `predict`.
          method: `integrated_gradients`, `gradient_x_input` or `occlusion`.
          label: the label to explain; None: the one that `predict` gives, of several the most probable one.
          steps: points on the way from the baseline to the text, for integrated gradients.
          baseline: what stands in place of a word that is taken away: `pad`, `mask` or `zero`.
          unit: what the weights add up to: a change of the label's `log_odds` or of its `probability`.
          neighbours: how many of the nearest training examples to add; the model must be a run folder.
          **columns: as for `predict`.

        Returns:
          A dictionary for one text or row, else a list of dictionaries, with the keys `label`, `score`, `value`,
          `baseline_value`, `words` (each with `text`, `start`, `end`, `weight`, and for pairs `pair`) and
          `completeness_error`.

        Raises:
          UserError: if a text is missing, the label is unknown, the model's answers cannot be explained, or the model is an
            ensemble.
        """
        RunFolder(self.name).check_one_model()
        self._check_weights("explain")
        options = ExplainOptions(method, label, steps, baseline, unit, neighbours)  # type: ignore[arg-type]
        if neighbours and self._explainer.training is None:
            self._explainer.training = TrainingExamples.of(self.name, self._trained)

        def explain(spec: str, data: DataConfig) -> list[Answer]:
            return [found.answer for found in self._explainer(spec, data, options)]

        return self._answers(texts, columns, explain)

    def _answers(
        self, texts: Any, columns: Mapping[str, Any], ask: Callable[[str, DataConfig], list[Answer]]
    ) -> Answer | list[Answer]:
        """Return the answers of `ask` to texts in any form."""
        data = self._reading(columns)
        if isinstance(texts, str | Mapping) or self._is_one_pair(texts):
            return self._ask_rows(*rows_of_texts(self._trained.task, [texts], data), ask)[0]
        if isinstance(texts, os.PathLike):
            return ask(os.fspath(texts), data)
        if hasattr(texts, "tolist"):  # an array of NumPy or a column of pandas
            texts = texts.tolist()
        if isinstance(texts, list | tuple):
            rows = (self._trained.task, texts, data)
            return self._ask_rows(*rows_of_texts(*rows), ask) if len(texts) else []
        with hold(texts, "texts") as spec:
            return ask(spec, data)

    def evaluate(self, data: Data, /, **columns: Any) -> dict[str, Any]:
        """Return the same metrics that `jaxbert evaluate` writes.

        Args:
          data: labelled examples: a path or source as on the command line, a list of dictionaries, a pandas or polars
            frame, or a `datasets.Dataset`.
          **columns: names of columns, if they are not those of training (`label="stars"`), and other keys of the section
            `data`.

        Returns:
          The metrics by name.

        Raises:
          UserError: if a row is wrong, or has a label that the model does not know.
        """
        reading = self._reading(columns)
        with ExitStack() as stack:
            return self._trained.evaluate(name_source(stack, data, "data"), reading).metrics

    def robustness(
        self,
        data: Data,
        /,
        *,
        kinds: Sequence[str] = (),
        strengths: Sequence[float] = (),
        seed: int = 0,
        **columns: Any,
    ) -> dict[str, Any]:
        """Disturb the texts of labelled rows and compare the answers, as `jaxbert robustness` does.

        Args:
          data: labelled examples, as for `evaluate`.
          kinds: kinds of disturbances, such as `["typos", "case"]`; all of them if there are none.
          strengths: shares of a text's letters or words that are changed; 0.05, 0.1 and 0.2 if there are none.
          seed: decides every change.
          **columns: names of columns, as for `evaluate`.

        Returns:
          `rows`, `metric` and its `value`, and `disturbed`: for each `kind` and `strength` the share of texts that were
          `touched`, the metric's `value`, and the share of answers that `changed`.

        Raises:
          UserError: if a row is wrong, the task is another, or there is no such kind.
        """
        options = RobustnessOptions([*kinds] or None, [*strengths] or None, seed)
        with ExitStack() as stack:
            spec = name_source(stack, data, "data")
            return measure_robustness(self._trained, spec, self._reading(columns), options).to_dict()

    def calibrate(
        self,
        data: Data,
        /,
        *,
        calibration: str = "temperature",
        threshold: str | None = None,
        positive_label: str | None = None,
        thresholds: str = "one",
        **columns: Any,
    ) -> dict[str, Any]:
        """Calibrate this model on rows that it was not trained on, as `jaxbert calibrate` does; `export` writes it.

        Args:
          data: labelled examples, as for `evaluate`.
          calibration: `temperature`, or `none` to choose thresholds only.
          threshold: for two labels, how the threshold of the positive one is chosen: `f_beta=1`, `precision=0.9`,
            `recall=0.95` or `cost=1:5` (of a false positive and a false negative).
          positive_label: the label that `threshold` is for, if the names do not tell it.
          thresholds: for several labels of a text, `one` for all or `per_label`.
          **columns: names of columns, as for `evaluate`.

        Returns:
          What was changed: `calibration` with the temperature and the metrics `before` and `after`, `threshold` or
          `thresholds`, and `abstaining`.

        Raises:
          UserError: if a row is wrong, the task has no such settings, no threshold reaches what is asked, or the model is an
            ensemble.
        """
        RunFolder(self.name).check_one_model()
        self._check_weights("calibrate")
        tuning = Tuning.make(calibration, threshold, positive_label, thresholds, "{}".format)
        with ExitStack() as stack:
            spec = name_source(stack, data, "data")
            self._trained, record = self._trained.calibrated(spec, self._reading(columns), tuning)
        self._explainer.model, self._calibrated = self._trained, True
        return record

    def export(
        self,
        folder: str | os.PathLike[str],
        *,
        format: str = "huggingface",
        quantize: str | None = None,
        packed: bool = True,
    ) -> Path:
        """Write the model as a Hugging Face folder, which PyTorch reads too, and on request as ONNX graphs in it.

        Args:
          folder: a new or empty folder, or the folder of an older export, which is overwritten.
          format: `huggingface`; `onnx` for `onnx/model.onnx` and `onnx/model_packed.onnx` beside the other files; or$
            `triton` for a model repository, `triton/`.
          quantize: `int8` or `fp16` to write ONNX graphs in this number format too, or Triton's in it.
          packed: whether to write the packed graphs.

        Returns:
          The path of the folder.

        Raises:
          UserError: if the folder holds other files, or the model has no graph.
        """
        RunFolder(self.name).check_one_model()
        self._check_weights("export")
        target, trained = check_target(folder, "folder"), self._trained
        check_format(format, quantize, packed=packed)
        kind, numbers = cast(Format, format), cast("Quantize | None", quantize)
        check_graphs(trained.task, kind)
        export_params(
            RunFolder(self.name),
            trained.config,
            trained.tokenizer,
            trained.params,
            trained.task.architecture,
            target,
        )
        if is_main():
            copy_card(self.name, target, calibrated=self._calibrated)
        write_format(target, kind, numbers, packed=packed)
        return as_path(target)

    def _check_weights(self, method: str) -> None:
        """Check that the model has parameters."""
        if is_onnx(self._trained):
            raise UserError(
                f"{method}: this model was opened with engine='onnx', which only predicts and evaluates: use engine='jax'"
            )

    def _reading(self, columns: Mapping[str, Any]) -> DataConfig:
        if not columns:
            return self._data
        changes = place_keys({name if "__" in name else f"data__{name}": value for name, value in columns.items()})
        return make_data_config(self._data, changes.get("data", {}))

    def _is_one_pair(self, texts: Any) -> bool:
        both = isinstance(texts, tuple) and len(texts) == 2 and all(isinstance(text, str) for text in texts)
        return both and reads_pairs(self._trained.task)

    @staticmethod
    def _ask_rows(
        rows: Sequence[Any], data: DataConfig, ask: Callable[[str, DataConfig], list[Answer]]
    ) -> list[Answer]:
        with hold(rows, "texts", "texts") as spec:
            return ask(spec, data)

    def _predict(self, spec: str, data: DataConfig) -> list[Answer]:
        trained, answers = self._trained, list[Answer]()
        with closing(trained.predict(trained.open_inputs(spec, data))) as predictions:
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
    abstain_below: float | None = None,
    coverage: float | None = None,
    engine: str = "auto",
    quantize: str | None = None,
) -> Model:
    """Open a trained model.

    Args:
      name: a run folder, an exported folder or a name on the Hub.
      batch_size: examples of one step; None: as in the run of the model, or 256 if that is not known.
      max_length: maximum length of an example in tokens; None: as in training.
      lower_case: whether texts are lower-cased, if the files of the model do not tell it.
      precision: `float32`, `bfloat16` or `auto`. auto: as in the run of the model if that was on a device of the same kind;
        else bfloat16 on GPU and TPU, and float32 on CPU.
      top_k: how many labels the probabilities of an answer include; None: all if there are up to 20, else 5.
      abstain_below: the least score of an answer; below it its label is None.
      coverage: the share of the texts whose true label is to be in `label_set`, which is added to answers.
      engine: `jax`, or `onnx` to compute with onnxruntime, by the packed graph in the folder or one that is made of the
        weights; such a model predicts and evaluates only. `auto`: `onnx` with `quantize`, else `jax`.
      quantize: the number format of onnxruntime's graph: `int8` or `fp16`; None: float32.

    Returns:
      The model.

    Raises:
      UserError: if there is no such model, or its head was not trained.
    """
    options = InferenceOptions(
        max_length,
        lower_case,
        batch_size,
        precision,  # type: ignore[arg-type]
        top_k,
        abstain_below,
        coverage,
        engine,  # type: ignore[arg-type]
        quantize,  # type: ignore[arg-type]
    )
    prepare_process(precision)
    start(LaunchConfig())
    named = path_text(name, "the name of the model")
    trained = open_engine(named, options)
    return Model(trained, named, columns_of(named))


def as_path(path: Any) -> Any:
    """Return a local path as a `pathlib.Path`, and a path in a bucket unchanged."""
    return path if in_bucket(path) else Path(os.fspath(to_path(path)))
