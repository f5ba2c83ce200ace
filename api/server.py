"""The front end as processes: gunicorn with greenlets, and a drain that tells every open stream.

The parent stays light: what the workers need is imported in them, after gevent has patched the standard library.
"""

import os
import resource
import shutil
import socket
import sys
from typing import Any, Self

import gevent
from gevent.server import StreamServer
from gunicorn.app.base import BaseApplication
from gunicorn.http.message import Message
from gunicorn.workers.ggevent import GeventWorker

from api import folders
from api.auth import Gate, is_loopback
from api.connection import Connection, refusal
from common.errors import InternalError
from common.processes import UNUSABLE, settle
from common.settings import Settings, SettingsError, load

_BACKLOG = 2048
_SEND_BUFFER = 64 * 1024  # a slow reader is noticed by us, not swallowed by the kernel
_SPARE_CONNECTIONS = 100  # for short requests while all streams are taken
_OTHER_DESCRIPTORS = 64  # what a process of ours has open besides, and as many to each Redis
_AFTER_DRAIN_S = 5


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


class FrontEnd(GeventWorker):  # type: ignore[misc]  # gunicorn has no types
    """A worker of gunicorn's that drains: idle connections end at once, streams after a while."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._waits: dict[_Idle, Any] = {}

    def init_process(self) -> None:
        """One new connection at a time: open streams are not kept waiting, and of a burst few are half-way at once.

        What is half-way to a stream is several times as large as one, and leaves holes in the memory.
        """
        StreamServer.max_accept = 1
        gevent.config.track_greenlet_tree = False  # who spawned whom; nobody asks, and every stream would keep it
        super().init_process()

    def load_wsgi(self) -> None:
        """The application."""
        super().load_wsgi()
        settle()

    def timeout_ctx(self) -> _Idle:
        """How long a connection may be idle."""
        return _Idle(self.cfg.keepalive, self._waits)

    def handle(self, listener: Any, client: Any, addr: Any) -> None:
        """One connection."""
        connection = Connection(fileno=client.detach())
        try:
            super().handle(listener, connection, addr)
        finally:
            connection.forget()

    def handle_request(self, listener_name: Any, req: Any, sock: Any, addr: Any) -> Any:
        """One of its requests, and what is left of the body; then others."""
        sock.begin(req)
        try:
            super().handle_request(listener_name, req, sock, addr)
            goes_on = sock.read_rest()
        except StopIteration:
            goes_on = False
        if not goes_on:
            sock.leave()
            raise StopIteration  # the connection ends
        gevent.sleep(0)  # the next one may be here already, and the one after it

    def handle_exit(self, sig: int, frame: Any) -> None:
        """SIGTERM."""
        super().handle_exit(sig, frame)
        gevent.spawn(self._drain)  # a signal handler must not wait

    def handle_error(self, req: Any, client: Any, addr: Any, exc: BaseException) -> None:
        """What is no HTTP, and what went wrong outside of the application, gets our shape of an error, too."""
        told = refusal(exc)
        if isinstance(told, InternalError):
            self.log.error("Request from %s failed", addr, exc_info=exc)
        if isinstance(exc, Exception):  # not an order to end
            request = req or getattr(exc, "req", None)  # where it is a text, no header could be read
            client.refuse(told, request if isinstance(request, Message) else None)

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
        "forwarder_headers": "",  # no header says under which path we stand
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
    kind(_within_descriptors(settings), listener).run()


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


def _within_descriptors(settings: Settings) -> Settings:
    """With no more streams than this process may have descriptors: beyond, a connection would wait for ever."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    most = sys.maxsize if hard == resource.RLIM_INFINITY else hard
    others = _SPARE_CONNECTIONS + _OTHER_DESCRIPTORS * (1 + len(settings.ledgers))
    wanted = min(most, settings.limits.streams + others)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
    streams = max(1, wanted - others)
    if streams < settings.limits.streams:
        sys.stderr.write(f"penstock: {hard} descriptors are room for {streams} streams (ulimit -n).\n")
    limits = settings.limits.model_copy(update={"streams": streams})
    return settings.model_copy(update={"limits": limits})


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
