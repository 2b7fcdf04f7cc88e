"""The models of a server by name: they are opened, warmed up, replaced without losing a request, explained, and closed."""

from __future__ import annotations

import copy
import logging
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

from jaxbert.config import DataConfig
from jaxbert.data.memory import hold
from jaxbert.errors import UserError
from jaxbert.options import ExplainOptions, ServeOptions
from jaxbert.serve.engine import Engine
from jaxbert.serve.forms import RefusedError
from jaxbert.serve.metrics import Metrics
from jaxbert.serve.onnx_engine import is_onnx
from jaxbert.tasks.pretraining.task import NOT_FINE_TUNED, Pretraining
from jaxbert.train.asked import rows_of_texts
from jaxbert.train.inference import TrainedModel
from jaxbert.understand.explain import Explainer, Explanation
from jaxbert.understand.reopen import columns_of

logger = logging.getLogger("jaxbert")
_MOST_EXPLAINED = 4
"""Requests for explanations that may wait."""
_POLL_SECONDS = 0.01


class _Reasons:
    """Explains answers, one request at a time, in a thread of its own and with a tokenizer of its own."""

    def __init__(self, trained: TrainedModel, data: DataConfig) -> None:
        self._explainer = Explainer(replace(trained, tokenizer=copy.deepcopy(trained.tokenizer)))
        self._data = data
        self.thread = ThreadPoolExecutor(1, "explain")
        self.asked = 0

    def explain(self, items: Sequence[Any]) -> list[Explanation]:
        try:
            rows, data = rows_of_texts(self._explainer.model.task, items, self._data)
            with hold(rows, "explain", "inputs") as spec:
                return list(self._explainer(spec, data, ExplainOptions()))
        except UserError as error:
            raise RefusedError(str(error), "text") from error


class Served:
    """One model of a server."""

    def __init__(self, name: str, source: str, trained: TrainedModel, service: Service) -> None:
        """Prepare its engine; it computes nothing yet.

        Raises:
          UserError: for a model that was pretrained only.
        """
        if isinstance(trained.task, Pretraining):
            raise UserError(f"{source}: {NOT_FINE_TUNED}")
        self.name, self.source, self.trained = name, source, trained
        self.data = columns_of(source)
        self.engine = Engine(trained, self.data, service.options, service.metrics)
        self.users = 0
        """The number of requests that use it."""
        self.reasons = None if is_onnx(trained) or not service.options.explain else _Reasons(trained, self.data)

    @property
    def task(self) -> str:
        """The name of its task."""
        return self.trained.task.name

    def warm_up(self) -> None:
        """Compile, and begin to compute."""
        begin = time.monotonic()
        shapes = self.engine.warm_up()
        self.engine.start()
        seconds = round(time.monotonic() - begin, 3)
        found = {"model": self.name, "engine": self.engine.kind, "shapes": shapes, "seconds": seconds}
        logger.info("ready", extra={"fields": found})

    def close(self) -> None:
        """Answer all that wait, then end."""
        while self.users:
            time.sleep(_POLL_SECONDS)
        self.engine.close()
        if self.reasons is not None:
            self.reasons.thread.shutdown(wait=False)


class Service:
    """All models of a server; the first one answers requests that name none."""

    def __init__(
        self,
        sources: Mapping[str, str],
        open_model: Callable[[str], TrainedModel],
        options: ServeOptions,
    ) -> None:
        """Open all models.

        Args:
          sources: the folder or Hub name of each model, by the name that requests give.
          open_model: opens a folder or Hub name.
          options: the limits.

        Raises:
          UserError: if a model cannot be opened.
        """
        self.options, self.metrics = options, Metrics()
        self._open_model = open_model
        self._models = {name: Served(name, source, open_model(source), self) for name, source in sources.items()}
        self._reloading = threading.Lock()
        self.draining = False
        """Whether the server is about to end."""
        self.settled: Callable[[], None] = lambda: None
        """Called when all models are ready, and after each reload."""
        self._gauge("te_queue_size", "Requests that wait.", lambda served: served.engine.waiting)
        self._gauge("jaxbert_compiled_shapes", "Programs of the model.", lambda served: served.engine.programs)
        self._gauge("jaxbert_ready", "Whether the model answers.", lambda served: float(served.engine.alive))

    def _gauge(self, name: str, what: str, value: Callable[[Served], float]) -> None:
        self.metrics.gauges[name] = what, lambda: {key: value(served) for key, served in self._models.items()}

    @property
    def names(self) -> list[str]:
        """The names of the models."""
        return list(self._models)

    @property
    def ready(self) -> bool:
        """Whether every model answers, and the server is not about to end."""
        return not self.draining and all(served.engine.alive for served in self._models.values())

    def find(self, name: str | None = None) -> Served:
        """Return a model; None means the first one.

        Raises:
          RefusedError: if there is no model of this name.
        """
        if name is None:
            return next(iter(self._models.values()))
        if name not in self._models:
            raise RefusedError(f"no model {name!r:.100} here, but {', '.join(self._models)}", "unknown")
        return self._models[name]

    @contextmanager
    def using(self, name: str | None) -> Iterator[Served]:
        """Keep a model open in the block; only the thread of the requests may use it.

        Raises:
          RefusedError: if there is no model of this name.
        """
        served = self.find(name)
        served.users += 1
        try:
            yield served
        finally:
            served.users -= 1

    def warm_up(self) -> None:
        """Compile all models, one after the other."""
        for served in self._models.values():
            served.warm_up()
        self.settled()

    def reload(self) -> None:
        """Open all models again, and replace each when the new one is ready; the old one answers until then.

        Raises:
          UserError: if a model cannot be opened; it and those after it stay as they are.
        """
        with self._reloading:
            for name, old in self._models.items():
                try:
                    new = Served(name, old.source, self._open_model(old.source), self)
                    new.warm_up()
                except Exception:
                    self.metrics.count("jaxbert_reloads", result="failure")
                    raise
                self._models[name] = new
                self.metrics.count("jaxbert_reloads", result="success")
                old.close()
            del old, new
            self.settled()

    def explain(self, served: Served, items: Sequence[Any]) -> list[Explanation]:
        """Explain the answers for some texts; call it in the thread that `explaining` returns."""
        assert served.reasons is not None
        try:
            return served.reasons.explain(items)
        finally:
            served.reasons.asked -= 1

    def explaining(self, served: Served) -> ThreadPoolExecutor:
        """Return the thread for `explain`, and let one more request wait for it.

        Raises:
          RefusedError: if the server does not explain, or too many requests wait.
        """
        if served.reasons is None:
            way = "its engine has no gradients" if self.options.explain else "start the server with --explain true"
            raise RefusedError(f"this model's answers are not explained here: {way}", "form")
        if served.reasons.asked >= _MOST_EXPLAINED:
            raise RefusedError("too many explanations wait", "overloaded", 5.0)
        served.reasons.asked += 1
        return served.reasons.thread

    def close(self) -> None:
        """Answer all that wait, then end all models."""
        with self._reloading:
            for served in self._models.values():
                served.close()
