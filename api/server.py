"""The front end as processes: gunicorn with greenlets, and a drain that tells every open stream.

The parent stays light: what the workers need is imported in them, after gevent has patched the standard library.
"""

import errno
import json
import os
import secrets
import shutil
import socket
import sys
from collections import deque
from typing import Any, Self

import gevent
import gevent.socket
from gunicorn import util
from gunicorn.app.base import BaseApplication
from gunicorn.http.errors import ExpectationFailed, LimitRequestHeaders, LimitRequestLine, ParseException
from gunicorn.workers.ggevent import GeventWorker

from api import folders
from api.auth import Gate, is_loopback
from api.turns import in_turns
from common.errors import InvalidRequestError
from common.processes import UNUSABLE
from common.settings import Settings, SettingsError, load

_BACKLOG = 2048
_SEND_BUFFER = 64 * 1024  # a slow reader is noticed by us, not swallowed by the kernel
_UNREAD_S = 5.0  # for the rest of a body that nobody read: its sender may read only when all is sent
_SPARE_CONNECTIONS = 100  # for short requests while all streams are taken
_AFTER_DRAIN_S = 5

_UNREADABLE = {
    ExpectationFailed: ("417 Expectation Failed", "Of all expectations only 100-continue can be met."),
    LimitRequestHeaders: ("431 Request Header Fields Too Large", "The headers are larger than this server takes."),
    LimitRequestLine: ("414 URI Too Long", "The path is longer than this server takes."),
}


class _Idle(gevent.Timeout):  # type: ignore[misc]  # gevent has no types
    """The wait for a connection's next request, which a drain may end early."""

    def __init__(self, seconds: float, waits: "dict[_Idle, Any]") -> None:
        super().__init__(seconds, exception=False)
        self._waits = waits

    def __enter__(self) -> Self:
        self._waits[self] = gevent.getcurrent()
        super().__enter__()
        return self

    def __exit__(self, *raised: object) -> Any:
        del self._waits[self]
        return super().__exit__(*raised)


class _Socket(gevent.socket.socket):  # type: ignore[misc]  # gevent has no types
    """A connection that mostly has room: one system call an event, not two and a copy."""

    stalled_s = 60.0  # a reader that takes nothing for so long is gone

    def sendall(self, data: bytes, flags: int = 0) -> None:
        """All of it, unless its reader has stopped reading."""
        try:
            sent = self._sock.send(data, flags)
        except BlockingIOError:
            sent = 0
        left = memoryview(data)[sent:]
        while left:
            with gevent.Timeout(self.stalled_s, BrokenPipeError(errno.EPIPE, "its reader stopped reading")):
                left = left[self.send(left, flags) :]


class _Expected:
    """A body whose sender waits to be asked for it: it is, when somebody reads."""

    def __init__(self, body: Any, connection: _Socket) -> None:
        self._body, self._connection = body, connection
        self._is_asked_for = False

    def __getattr__(self, name: str) -> Any:
        """Each way to read it."""
        if not self._is_asked_for:
            self._is_asked_for = True
            self._connection.sendall(b"HTTP/1.1 100 Continue\r\n\r\n")
        return getattr(self._body, name)


class FrontEnd(GeventWorker):  # type: ignore[misc]  # gunicorn has no types
    """A worker of gunicorn's that drains: idle connections end at once, streams after a while."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._waits: dict[_Idle, Any] = {}

    def timeout_ctx(self) -> _Idle:
        """How long a connection may be idle."""
        return _Idle(self.cfg.keepalive, self._waits)

    def handle(self, listener: Any, client: Any, addr: Any) -> None:
        """One connection."""
        super().handle(listener, _Socket(fileno=client.detach()), addr)

    def handle_request(self, listener_name: Any, req: Any, sock: Any, addr: Any) -> Any:
        """One of its requests, and what is left of the body; then others."""
        if req._expected_100_continue:  # noqa: SLF001  gunicorn would say yes before anybody looked at the headers
            req._expected_100_continue = False  # noqa: SLF001
            req.body = _Expected(req.body, sock)
            req.force_close()  # whether the body follows a refusal is its sender's choice
        super().handle_request(listener_name, req, sock, addr)
        if isinstance(req.body, _Expected):
            raise StopIteration
        is_read = False
        with gevent.Timeout(_UNREAD_S, exception=False):
            is_read = not deque(in_turns(req.body.read), maxlen=0)
        if not is_read:
            raise StopIteration  # the connection ends
        gevent.sleep(0)  # the next one may be here already, and the one after it

    def handle_exit(self, sig: int, frame: Any) -> None:
        """SIGTERM."""
        super().handle_exit(sig, frame)
        gevent.spawn(self._drain)  # a signal handler must not wait

    def handle_error(self, req: Any, client: Any, addr: Any, exc: BaseException) -> None:
        """What is no HTTP gets our shape of an error, too."""
        if not isinstance(exc, ParseException):
            super().handle_error(req, client, addr, exc)
            return
        status, told = _UNREADABLE.get(type(exc), ("400 Bad Request", "This is not a request that we can read."))
        body = json.dumps(InvalidRequestError(told).body()).encode()
        head = (
            f"HTTP/1.1 {status}\r\nConnection: close\r\nContent-Type: application/json\r\n"
            f"x-request-id: req_{secrets.token_hex(16)}\r\nContent-Length: {len(body)}\r\n\r\n"
        )
        util.write_nonblock(client, head.encode() + body)

    def _drain(self) -> None:
        self.wsgi.extensions["penstock"].drain()
        for wait, waiting in list(self._waits.items()):
            gevent.kill(waiting, wait)


class Server(BaseApplication):  # type: ignore[misc]  # gunicorn has no types
    """gunicorn, told by our settings."""

    def __init__(self, settings: Settings, listener: socket.socket) -> None:
        self._settings, self._listener = settings, listener
        super().__init__(prog="penstock")

    def load_config(self) -> None:
        """Every option with its reason in ``options``."""
        for name, value in options(self._settings, self._listener.detach()).items():
            self.cfg.set(name, value)

    def load(self) -> Any:
        """The application, made in the worker, after gevent has patched the standard library."""
        from api.app import create_app
        from common import telemetry

        telemetry.configure(self._settings)
        return create_app(self._settings)


def options(settings: Settings, listener: int) -> dict[str, Any]:
    """What gunicorn is told."""
    return {
        "bind": [f"fd://{listener}"],
        "workers": settings.front_ends,
        "worker_class": FrontEnd,
        "worker_connections": settings.limits.streams + _SPARE_CONNECTIONS,
        "backlog": _BACKLOG,
        "timeout": 120,  # of a process that does not come round to its loop
        "graceful_timeout": int(settings.drain_s) + _AFTER_DRAIN_S,  # the streams are told before
        "keepalive": 75,  # longer than the usual proxy's
        "forwarded_allow_ips": "127.0.0.1,::1",
        "control_socket_disable": True,  # two instances of one user would share it
        "loglevel": "warning",
        "raw_env": [f"PROMETHEUS_MULTIPROC_DIR={folders.metrics(settings)}"],
        "child_exit": _forget_metrics,
    }


def serve(settings: Settings, kind: type[Server] = Server) -> None:
    """Until SIGTERM. Raises SettingsError when it cannot begin."""
    _check(settings)
    listener = _listen(settings)
    folder = folders.metrics(settings)
    shutil.rmtree(folder, ignore_errors=True)  # counters of processes that are gone
    folder.mkdir(parents=True, exist_ok=True)  # those who read them may have been first
    kind(settings, listener).run()


def main() -> int:
    """The exit status."""
    try:
        serve(load())
    except SettingsError as error:
        sys.stderr.write(f"penstock: {error}\n")
        return UNUSABLE
    return 0


def _check(settings: Settings) -> None:
    if not settings.ledgers:
        raise SettingsError("PENSTOCK_REDIS_URL is not set; `penstock up` starts a server of its own.")
    if Gate(settings).is_open and not settings.allow_anonymous and not is_loopback(settings.host):
        raise SettingsError(f"{settings.host} is not loopback: set PENSTOCK_API_KEYS, or PENSTOCK_ALLOW_ANONYMOUS=1.")


def _listen(settings: Settings) -> socket.socket:
    """Bound here, so that a taken port is one clear line."""
    family = socket.AF_INET6 if ":" in settings.host else socket.AF_INET
    try:
        listener = socket.create_server((settings.host, settings.port), family=family, backlog=_BACKLOG)
    except OSError as error:
        raise SettingsError(
            f"{settings.host}:{settings.port} cannot be listened on: {os.strerror(error.errno or 0)}."
        ) from None
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _SEND_BUFFER)
    return listener


def _forget_metrics(_server: Any, worker: Any) -> None:
    """Gauges of a process that ended."""
    from prometheus_client import multiprocess  # not before one ended: the parent stays light

    multiprocess.mark_process_dead(worker.pid)  # type: ignore[no-untyped-call]


if __name__ == "__main__":
    sys.exit(main())
