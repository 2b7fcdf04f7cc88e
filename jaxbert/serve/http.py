"""The HTTP interface: it reads requests, asks the engine, and writes answers. The forms of both are in `forms`."""

from __future__ import annotations

import asyncio
import contextlib
import hmac
import logging
import math
import os
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any
from urllib.parse import parse_qs, urlsplit

from starlette.applications import Starlette
from starlette.requests import ClientDisconnect, Request
from starlette.responses import HTMLResponse, PlainTextResponse, Response
from starlette.routing import Route

from jaxbert import __version__
from jaxbert.data.examples import Examples
from jaxbert.options import ServeOptions
from jaxbert.serve.engine import Computed, Engine
from jaxbert.serve.forms import (
    Asking,
    RefusedError,
    kinds_of,
    parse_asking,
    parse_object,
    parse_tensors,
    to_bytes,
    to_predictions,
    to_tensors,
)
from jaxbert.serve.openapi import openapi_document
from jaxbert.serve.page import ask_page
from jaxbert.serve.service import Served, Service
from jaxbert.train.asked import reads_pairs

logger = logging.getLogger("jaxbert")
Handler = Callable[[Request], Awaitable[Response]]
_OPEN = ("/health", "/v2/health/live", "/v2/health/ready")
"""Paths that need no key."""
_LOOPBACK = ("127.0.0.1", "::1", "testclient")
_WATCH_SECONDS = 0.02
"""How long a request waits before it is seen whether its client left: most are answered sooner, and a task costs time."""


def make_app(service: Service, lifespan: Any = None) -> _App:
    """Return the application of a service, for an ASGI server; `lifespan` is Starlette's."""
    api = _Api(service)
    key = service.options.api_key or os.environ.get("JAXBERT_API_KEY") or None
    get, post = (partial(_route, service, key, method) for method in ("GET", "POST"))
    routes = [
        post("/predict", api.predict),
        post("/answer", api.answer),
        get("/health", api.health),
        get("/info", api.info),
        get("/metrics", api.metrics),
        post("/reload", api.reload),
        get("/openapi.json", api.openapi),
        get("/v2", api.server),
        get("/v2/health/live", api.live),
        get("/v2/health/ready", api.health),
        get("/v2/models/{name}", api.model),
        get("/v2/models/{name}/ready", api.model_ready),
        post("/v2/models/{name}/infer", api.infer),
        get("/", api.page),
        post("/", api.page),
    ]
    missing = _guarded(service, None, _missing)
    whole = Starlette(routes=routes, lifespan=lifespan, exception_handlers={404: missing, 405: missing})
    plain = [route for route in routes if "{" not in route.path]
    known = {(method, route.path): route.endpoint for route in plain for method in route.methods or ()}

    return _App(whole, known)


@dataclass(frozen=True)
class _App:
    """Calls the handler of a known path; Starlette, whose layers take a tenth of a request's time, finds the others."""

    whole: Starlette
    known: Mapping[tuple[str, str], Handler]
    """The handlers of the paths without parameters, by method and path."""

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        handler = self.known.get((scope["method"], scope["path"])) if scope["type"] == "http" else None
        if handler is None:
            await self.whole(scope, receive, send)
        else:
            response = await handler(Request(scope, receive, send))
            await response(scope, receive, send)


def _route(service: Service, key: str | None, method: str, path: str, handler: Handler) -> Route:
    return Route(path, _guarded(service, None if path in _OPEN else key, handler), methods=[method])


async def _missing(request: Request, error: Exception | None = None) -> Response:
    """Answer for a path or a method that is not there."""
    if getattr(error, "status_code", 404) == 405:
        raise RefusedError(f"{request.method} is not for this path", "method")
    raise RefusedError("there is nothing at this path: see /openapi.json", "unknown")


def _guarded(service: Service, key: str | None, handler: Callable[..., Awaitable[Response]]) -> Any:
    """Return a handler that checks key and origin, turns errors into answers, and writes a line to the log."""

    async def run(request: Request, *more: Any) -> Response:
        begin = time.perf_counter()
        try:
            _check_sender(request, key)
            response = await handler(request, *more)
        except RefusedError as error:
            response = _refused(service, error)
        except ClientDisconnect:
            response = _refused(service, RefusedError("the client left", "gone"))
        except Exception as error:
            logger.error("a request failed", exc_info=error)
            response = _refused(service, RefusedError("the request could not be computed", "backend"))
        if service.draining:
            response.headers["connection"] = "close"
        fields = {
            "method": request.method,
            "path": request.scope["path"],
            "status": response.status_code,
            "ms": round(1000 * (time.perf_counter() - begin), 2),
            **request.scope.get("noted", {}),
        }
        logger.info("request", extra={"fields": fields})
        return response

    return run


def _check_sender(request: Request, key: str | None) -> None:
    """Check the key, and that no page of another site sends the request.

    Raises:
      RefusedError: if the key is missing or wrong, or the origin is another one.
    """
    if key is not None:
        scheme, _, given = request.headers.get("authorization", "").partition(" ")
        if scheme.lower() != "bearer" or not hmac.compare_digest(given.strip().encode("latin-1"), key.encode()):
            raise RefusedError("the key is missing or wrong: send Authorization: Bearer KEY", "key")
    origin = request.headers.get("origin")
    if request.method == "POST" and origin is not None:
        try:
            place = urlsplit(origin).netloc
        except ValueError:
            place = ""
        if place != request.headers.get("host"):
            raise RefusedError("a page of another site must not ask", "origin")


def _refused(service: Service, error: RefusedError) -> Response:
    """Return the answer to a request that is refused."""
    service.metrics.count("te_request_failure", err=error.kind)
    headers = {}
    if error.retry_after is not None:
        headers["retry-after"] = str(max(1, math.ceil(error.retry_after)))
    if error.kind == "key":
        headers["www-authenticate"] = "Bearer"
    return _json(error.to_dict(), error.status, headers)


def _json(value: Any, status: int = 200, headers: Mapping[str, str] | None = None) -> Response:
    return Response(to_bytes(value), status, headers, "application/json")


async def _body(request: Request, options: ServeOptions) -> bytes:
    """Return the body of a request.

    Raises:
      RefusedError: if it is too large or too slow.
    """
    too_large = RefusedError(f"the body has more than {options.max_body} bytes", "too_large")
    announced = request.headers.get("content-length", "")
    if announced.isdecimal() and int(announced[:20]) > options.max_body:
        raise too_large
    parts, size = list[bytes](), 0
    try:
        async with asyncio.timeout(options.body_seconds):
            async for part in request.stream():
                size += len(part)
                if size > options.max_body:
                    raise too_large
                parts.append(part)
    except TimeoutError as error:
        raise RefusedError(f"the body did not arrive within {options.body_seconds:g} s", "slow") from error
    return b"".join(parts)


class _Api:
    """The handlers of all paths."""

    def __init__(self, service: Service) -> None:
        self.service = service

    async def predict(self, request: Request) -> Response:
        """Answer as text-embeddings-inference does."""
        asking = await self._asking(request)
        if asking.explain:
            raise RefusedError("explain: /answer explains, /predict does not", "form")
        with self.service.using(asking.model) as served:
            names = served.trained.task.output_names

            def shown(computed: Computed) -> list[Any]:
                rows: Sequence[Any] = [None] * len(computed.answers)
                if computed.raw is not None:
                    rows = computed.raw.tolist()
                return [to_predictions(a, r, names) for a, r in zip(computed.answers, rows, strict=True)]

            return await self._answered(request, asking, served, shown)

    async def answer(self, request: Request) -> Response:
        """Answer as `jaxbert predict` does."""
        asking = await self._asking(request)
        with self.service.using(asking.model) as served:
            if asking.explain:
                return await self._explained(request, asking, served)
            return await self._answered(request, asking, served, lambda computed: computed.answers)

    async def _asking(self, request: Request) -> Asking:
        body = parse_object(await _body(request, self.service.options))
        name = body.get("model")
        task = self.service.find(name if isinstance(name, str) else None).trained.task
        words = task.name == "token_classification"
        return parse_asking(body, self.service.options, pairs=reads_pairs(task), words=words)

    async def _answered(
        self, request: Request, asking: Asking, served: Served, shown: Callable[[Computed], list[Any]]
    ) -> Response:
        """Compute, and return the answers in the form of `shown`, for one text without a list."""
        begin = time.perf_counter()
        computed, mistakes, tokens = await self._computed(request, asking, served.engine)
        placed = asking.placed(shown(computed), mistakes)
        self._succeeded(asking, len(computed.answers))
        self._time(computed, time.perf_counter() - begin)
        times = {"total": time.perf_counter() - begin, "queue": computed.waited, "inference": computed.computed}
        headers = {f"x-{name}-time": str(round(1000 * seconds)) for name, seconds in times.items()}
        return _json(placed if asking.many else placed[0], headers=headers | {"x-compute-tokens": str(tokens)})

    def _succeeded(self, asking: Asking, answered: int) -> None:
        self.service.metrics.count("jaxbert_bad_texts", len(asking) - answered)
        self.service.metrics.count("te_request_success", method=asking.method)

    def _time(self, computed: Computed, seconds: float) -> None:
        self.service.metrics.observe("te_request_duration", seconds)
        self.service.metrics.observe("te_request_queue_duration", computed.waited)
        self.service.metrics.observe("te_request_inference_duration", computed.computed)

    async def _computed(
        self, request: Request, asking: Asking, engine: Engine
    ) -> tuple[Computed, dict[int, RefusedError], int]:
        """Return the answers of the texts that can be read, the mistakes of the others, and the number of tokens."""
        self.service.metrics.count("te_request_count", method=asking.method)
        nothing = Computed([], None, 0.0, 0.0)
        if not asking.items:
            return nothing, {}, 0
        read = engine.read_short(asking.items, truncate=asking.truncate)
        if read is None:
            work = partial(engine.read, asking.items, truncate=asking.truncate)
            read = await asyncio.get_running_loop().run_in_executor(engine.reading, work)
        if read.examples is None:
            return nothing, read.mistakes, 0
        computed = await _wait(request, engine, read.examples, raw=asking.raw, count=self.service.metrics.count)
        tokens = len(read.examples.tokens.ids)
        request.scope["noted"] = {
            "texts": len(asking),
            "tokens": tokens,
            "queue_ms": round(1000 * computed.waited, 2),
            "compute_ms": round(1000 * computed.computed, 2),
        }
        return computed, read.mistakes, tokens

    async def _explained(self, request: Request, asking: Asking, served: Served) -> Response:
        """Compute, and return each answer with the weights of its words."""
        computed, mistakes, _ = await self._computed(request, asking, served.engine)
        answers = computed.answers
        if answers:
            good = [item for place, item in enumerate(asking.items) if place not in mistakes]
            thread = self.service.explaining(served)
            work = partial(self.service.explain, served, good)
            reasons = await asyncio.get_running_loop().run_in_executor(thread, work)
            answers = [a | {"explanation": reason.answer} for a, reason in zip(answers, reasons, strict=True)]
        placed = asking.placed(answers, mistakes)
        self._succeeded(asking, len(answers))
        return _json(placed if asking.many else placed[0])

    async def infer(self, request: Request) -> Response:
        """Answer in the form of the Open Inference Protocol; a text that cannot be read refuses the request."""
        name = request.path_params["name"]
        task = self.service.find(name).trained.task
        body = parse_object(await _body(request, self.service.options))
        words = task.name == "token_classification"
        asking = parse_tensors(body, self.service.options, pairs=reads_pairs(task), words=words)
        with self.service.using(name) as served:
            computed, mistakes, _ = await self._computed(request, asking, served.engine)
        for mistake in mistakes.values():
            raise mistake
        self._succeeded(asking, len(computed.answers))
        more = {"id": body["id"]} if isinstance(body.get("id"), str) else {}
        return _json({"model_name": name, "model_version": "1", **more, "outputs": to_tensors(computed.answers)})

    async def health(self, request: Request) -> Response:
        """Tell whether all models are ready."""
        if not self.service.ready:
            what = "the server is about to end" if self.service.draining else "the models are not ready yet"
            raise RefusedError(what, "unhealthy", 1.0)
        return _json({"status": "ready", "ready": True})

    async def live(self, request: Request) -> Response:
        """Tell that the server runs."""
        return _json({"live": True})

    async def info(self, request: Request) -> Response:
        """Tell the models and the limits, the first model in the keys of text-embeddings-inference."""
        options = self.service.options
        models = {name: _model_info(self.service.find(name)) for name in self.service.names}
        first = models[self.service.names[0]]
        shared = {
            "max_concurrent_requests": options.max_queue,
            "max_batch_requests": None,
            "max_client_batch_size": options.max_texts,
            "auto_truncate": True,
            "tokenization_workers": 1,
            "version": __version__,
            "sha": None,
            "docker_label": None,
        }
        return _json(first | shared | {"models": models})

    async def metrics(self, request: Request) -> Response:
        """Tell the metrics."""
        return PlainTextResponse(self.service.metrics.text(), media_type="text/plain; version=0.0.4")

    async def reload(self, request: Request) -> Response:
        """Open all models again; only for this machine."""
        if request.client is None or request.client.host not in _LOOPBACK:
            raise RefusedError("/reload is for this machine only: send SIGHUP", "origin")
        try:
            await asyncio.to_thread(self.service.reload)
        except Exception as error:
            logger.error("the models could not be opened again", exc_info=error)
            raise RefusedError(f"the models stay as they are: {error}", "form") from error
        return _json({"reloaded": self.service.names})

    async def openapi(self, request: Request) -> Response:
        """Return the OpenAPI document."""
        return _json(openapi_document())

    async def server(self, request: Request) -> Response:
        """Tell the name and version of the server."""
        return _json({"name": "jaxbert", "version": __version__, "extensions": []})

    async def model(self, request: Request) -> Response:
        """Tell the inputs and outputs of a model in the form of the Open Inference Protocol."""
        name = request.path_params["name"]
        task = self.service.find(name).trained.task
        texts = ["text", "pair"] if reads_pairs(task) else ["text"]
        return _json(
            {
                "name": name,
                "versions": ["1"],
                "platform": "jaxbert",
                "inputs": [{"name": text, "datatype": "BYTES", "shape": [-1]} for text in texts],
                "outputs": [{"name": key, "datatype": kind, "shape": [-1]} for key, kind in kinds_of(task.answer_keys)],
            }
        )

    async def model_ready(self, request: Request) -> Response:
        """Tell whether a model is ready."""
        name = request.path_params["name"]
        if self.service.draining or not self.service.find(name).engine.alive:
            raise RefusedError("the model is not ready", "unhealthy", 1.0)
        return _json({"name": name, "ready": True})

    async def page(self, request: Request) -> Response:
        """Show the page, with the answer to the text that it sends."""
        content = request.url.query
        if request.method == "POST":
            content = (await _body(request, self.service.options)).decode("utf-8", "replace")
        try:
            fields = {name: values[0] for name, values in parse_qs(content, max_num_fields=20).items()}
        except ValueError as error:
            raise RefusedError(f"the form cannot be read: {error}", "form") from error
        with self.service.using(fields.get("model")) as served:
            return HTMLResponse(await self._page(request, served, fields))

    async def _page(self, request: Request, served: Served, fields: dict[str, str]) -> str:
        pairs = reads_pairs(served.trained.task)
        labels = ("Question", "Context") if served.task == "question_answering" else ("First text", "Second text")
        texts = [fields.get(name, "") for name in ("text", "pair")][: 1 + pairs]
        shown = partial(
            ask_page,
            self.service.names,
            served.name,
            texts,
            labels=labels if pairs else ("Text",),
            explains=served.reasons is not None,
        )
        if not any(texts):
            return shown()
        item = texts if pairs else texts[0]
        try:
            asking = parse_asking(
                {"inputs": [item]}, self.service.options, pairs=pairs, words=served.task == "token_classification"
            )
            computed, mistakes, _ = await self._computed(request, asking, served.engine)
            answer = asking.placed(computed.answers, mistakes)[0]
            explanation = None
            if fields.get("explain"):
                thread, work = self.service.explaining(served), partial(self.service.explain, served, [item])
                explanation = (await asyncio.get_running_loop().run_in_executor(thread, work))[0]
        except RefusedError as error:
            return shown(error=str(error))
        return shown(answer=answer, explanation=explanation)


def _model_info(served: Served) -> dict[str, Any]:
    """Return what is known of a model, in the keys of text-embeddings-inference and a few more."""
    names = served.trained.task.output_names
    labels = {
        "id2label": {str(i): name for i, name in enumerate(names)},
        "label2id": {n: str(i) for i, n in enumerate(names)},
    }
    return {
        "model_id": served.source,
        "model_sha": None,
        "model_dtype": served.engine.number_format,
        "model_type": {"classifier": labels},
        "max_input_length": served.trained.max_length,
        "max_batch_tokens": served.engine.budget,
        "task": served.task,
        "engine": served.engine.kind,
        "shapes": [[rows, layout.row_length] for layout in served.engine.layouts for rows in layout.row_counts],
    }


async def _wait(
    request: Request, engine: Engine, examples: Examples, *, raw: bool, count: Callable[..., None]
) -> Computed:
    """Wait for the engine, or until the client leaves; its texts are then not computed.

    Raises:
      RefusedError: if the queue is full, or the engine could not compute the texts.
      ClientDisconnect: if the client left.
    """
    loop = asyncio.get_running_loop()
    outcome: asyncio.Future[Computed | Exception] = loop.create_future()
    watching: list[asyncio.Task[None]] = []

    def settle(found: Computed | Exception) -> None:
        if not outcome.done():
            outcome.set_result(found)

    def done(found: Computed | Exception) -> None:
        with contextlib.suppress(RuntimeError):  # the loop is closed
            loop.call_soon_threadsafe(settle, found)

    def watch() -> None:
        task = loop.create_task(_disconnect(request))
        task.add_done_callback(lambda task: None if task.cancelled() else settle(ClientDisconnect()))
        watching.append(task)

    waiting = engine.submit(examples, done, raw=raw)
    timer = loop.call_later(_WATCH_SECONDS, watch)
    found: Computed | Exception = ClientDisconnect()
    try:
        found = await outcome
    finally:
        timer.cancel()
        for task in watching:
            task.cancel()
        if isinstance(found, ClientDisconnect):
            waiting.left = True
            count("jaxbert_dropped_requests")
    if isinstance(found, ClientDisconnect):
        raise found
    if isinstance(found, Exception):
        raise RefusedError("the engine could not compute the texts", "backend") from found
    return found


async def _disconnect(request: Request) -> None:
    """Return when the client has left."""
    while (await request.receive())["type"] != "http.disconnect":
        pass
