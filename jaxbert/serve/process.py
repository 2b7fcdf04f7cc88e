"""The process of a server: socket, signals, log, end; and several processes behind one port."""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import gc
import json
import logging
import os
import signal
import socket
import struct
import subprocess
import sys
import time
import traceback
from collections.abc import AsyncIterator, Callable, Sequence
from importlib.util import find_spec
from typing import Any

from jaxbert.errors import UserError
from jaxbert.options import ServeOptions
from jaxbert.serve.service import Service

logger = logging.getLogger("jaxbert")
_BACKLOG = 2048
_KEEP_ALIVE_SECONDS = 75
"""Longer than the 60 s for which load balancers keep a connection, so that they do not send to one that is being closed."""
_LAST_SECONDS = 60
"""Seconds that a client may take to read its last answer."""
_SETTLE_SECONDS = 0.2
_ATTACH_FILTER = 26
"""Linux's SO_ATTACH_FILTER."""
_FAILED, _WRONG, _RESTART_SECONDS, _POLL_SECONDS = 1, 2, 1.0, 0.1
IN_WORKER = "JAXBERT_SERVE_WORKER"
"""The variable that tells a process that others share its port."""


def require_serve() -> None:
    """Check that the libraries of the extra are installed.

    Raises:
      UserError: if one is not.
    """
    for library in ("starlette", "uvicorn"):
        if find_spec(library) is None:
            raise UserError(f"jaxbert serve needs the package {library}: pip install 'jaxbert[serve]'")


class JsonLines(logging.Handler):
    """Writes each record to standard error as one JSON object."""

    def emit(self, record: logging.LogRecord) -> None:
        """Write a record; the attribute `fields` holds further values."""
        entry: dict[str, Any] = {
            "time": time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created)) + f".{int(record.msecs):03}Z",
            "level": record.levelname.lower(),
            "event": record.getMessage(),
            **getattr(record, "fields", {}),
        }
        if record.exc_info and record.exc_info[1] is not None:
            entry["error"] = "".join(traceback.format_exception(record.exc_info[1]))
        with contextlib.suppress(OSError, ValueError):  # nobody reads the log
            sys.stderr.write(json.dumps(entry) + "\n")
            sys.stderr.flush()


def log_in_json() -> None:
    """Send all messages to standard error as JSON lines."""
    for name in ("jaxbert", "uvicorn.error"):
        log = logging.getLogger(name)
        log.handlers, log.propagate = [JsonLines()], False
    logger.setLevel(logging.INFO)
    logging.getLogger("uvicorn.error").setLevel(logging.WARNING)


def open_port(options: ServeOptions, *, shared: bool = False) -> socket.socket:
    """Return a socket that is bound to the address; `shared` lets several processes have it.

    Raises:
      UserError: if the address is wrong or taken.
    """
    where = f"{options.host}:{options.port}"
    bound = None
    try:
        family, kind, proto, _, address = socket.getaddrinfo(options.host, options.port, type=socket.SOCK_STREAM)[0]
        bound = socket.socket(family, kind, proto)
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if shared:
            bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        bound.bind(address)
    except OSError as error:
        if bound is not None:
            bound.close()
        raise UserError(
            f"cannot listen on {where}: {error.strerror or error}: choose another --port or --host"
        ) from error
    return bound


def refuse_connections(bound: socket.socket) -> None:
    """Let no new connection come to a listening socket; those that wait to be accepted stay.

    Linux resets the connections that wait when their socket is closed, also those that have sent a request. A filter drops
    the first packet of new ones before: their clients send it again a second later, and find no port or another process.
    """
    load_flags, jump_if_set, refuse, take = (0x30, 0, 0, 13), (0x45, 0, 1, 2), (6, 0, 0, 0), (6, 0, 0, 0xFFFFFFFF)
    program = b"".join(struct.pack("HBBI", *line) for line in (load_flags, jump_if_set, refuse, take))
    held = ctypes.create_string_buffer(program)
    with contextlib.suppress(OSError):  # another system than Linux
        bound.setsockopt(socket.SOL_SOCKET, _ATTACH_FILTER, struct.pack("HL", 4, ctypes.addressof(held)))


def run_server(service: Service, bound: socket.socket) -> int:
    """Serve until SIGTERM or SIGINT; return the exit code.

    The port answers at once, and /health says no until all models are compiled. At the end, requests are still accepted for
    `drain_seconds`, then all that were accepted are answered.
    """
    import uvicorn

    from jaxbert.serve.http import make_app

    class Server(uvicorn.Server):
        """Leaves signals to the service."""

        def capture_signals(self) -> Any:
            """Capture none."""
            return contextlib.nullcontext()

    service.settled = _keep_all
    life = _Life(service, bound)
    config = uvicorn.Config(
        make_app(service, life.span),
        log_config=None,
        access_log=False,
        lifespan="on",
        server_header=False,
        backlog=_BACKLOG,
        timeout_keep_alive=_KEEP_ALIVE_SECONDS,
        timeout_graceful_shutdown=_LAST_SECONDS,
        ws="none",
    )
    config.load()
    config.http_protocol_class = _impatient(config.http_protocol_class, service.options.body_seconds)
    server = Server(config)
    life.stop = lambda: setattr(server, "should_exit", True)
    server.run([bound])
    return life.code


def _keep_all() -> None:
    """Collect garbage, and let the collector never look again at what is left, which takes it a quarter of a second."""
    gc.unfreeze()
    gc.collect()
    gc.freeze()


def _impatient(kind: Any, seconds: float) -> Any:
    """Return uvicorn's protocol with a limit of the time in which the first request must begin.

    uvicorn would wait for ever for the end of a header.
    """

    class Impatient(kind):
        def connection_made(self, transport: Any) -> None:
            super().connection_made(transport)
            self.loop.call_later(seconds, self._give_up)

        def _give_up(self) -> None:
            if self.cycle is None:
                self.transport.close()

    return Impatient


class _Life:
    """What happens at the start, at signals and at the end."""

    def __init__(self, service: Service, bound: socket.socket) -> None:
        self._service, self._bound = service, bound
        self.stop: Callable[[], None] = lambda: None
        self.code = 0
        self._tasks: set[asyncio.Task[None]] = set()

    @contextlib.asynccontextmanager
    async def span(self, app: Any) -> AsyncIterator[None]:
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._begin, self._drain)
        loop.add_signal_handler(signal.SIGHUP, self._begin, self._reload)
        host, port = self._bound.getsockname()[:2]
        logger.info("listening", extra={"fields": {"host": host, "port": port, "models": self._service.names}})
        self._begin(self._warm_up)
        yield
        await asyncio.to_thread(self._service.close)
        logger.info("ended")

    def _begin(self, work: Callable[[], Any]) -> None:
        task = asyncio.get_running_loop().create_task(work())
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _warm_up(self) -> None:
        try:
            await asyncio.to_thread(self._service.warm_up)
        except Exception as error:
            logger.error("the models could not be compiled", exc_info=error)
            self.code = _FAILED
            self.stop()

    async def _drain(self) -> None:
        if self._service.draining:
            return
        self._service.draining = True
        logger.info("draining")
        await asyncio.sleep(self._service.options.drain_seconds)
        refuse_connections(self._bound)
        await asyncio.sleep(_SETTLE_SECONDS)  # the last connections are accepted, and their requests read
        self.stop()

    async def _reload(self) -> None:
        try:
            await asyncio.to_thread(self._service.reload)
        except Exception as error:
            logger.error("the models could not be opened again, and stay as they are", exc_info=error)


def run_workers(command: Sequence[str], bound: socket.socket, workers: int) -> int:
    """Start processes that share a port, pass signals on, and start those again that fail; return the exit code.

    Args:
      command: the command of one process, without the port.
      bound: the socket that reserves the port; it does not listen.
      workers: how many processes.
    """
    port = bound.getsockname()[1]

    def start() -> subprocess.Popen[bytes]:
        return subprocess.Popen([*command, "--port", str(port)], env=os.environ | {IN_WORKER: "1"})

    processes = [start() for _ in range(workers)]
    ending = False

    def send(number: int) -> None:
        for process in processes:
            if process.poll() is None:
                process.send_signal(number)

    def end(*_: Any) -> None:
        nonlocal ending
        ending = True
        send(signal.SIGTERM)

    signal.signal(signal.SIGTERM, end)
    signal.signal(signal.SIGINT, end)
    signal.signal(signal.SIGHUP, lambda *_: send(signal.SIGHUP))
    logger.info("sharing", extra={"fields": {"port": port, "workers": workers}})
    while any(process.poll() is None for process in processes):
        for place, process in enumerate(processes):
            code = process.poll()
            if code is None or ending:
                continue
            if code in (0, _WRONG):  # it was told to end, or its configuration will be wrong again
                end()
            else:
                logger.error("a process ended and is started again", extra={"fields": {"code": code}})
                time.sleep(_RESTART_SECONDS)
                processes[place] = start()
        time.sleep(_POLL_SECONDS)
    told = -signal.SIGTERM  # the code of one that was not ready yet
    return max(0 if ending and process.returncode == told else abs(process.returncode) for process in processes)
