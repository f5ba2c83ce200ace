"""The whole house, each part a process that is started again when it ends, each on its own line to Redis."""

import os
import shutil
import signal
import subprocess
import sys
import threading
import urllib.request
from collections.abc import Iterable, Mapping
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Self

import psutil

from common.errors import StorageError
from common.ledger import keys
from common.ledger.ledger import Ledger
from common.settings import REPOSITORY, Settings, bare_environment
from ops.embedded import Embedded, free_port
from tests.chaos.proxy import Line, Lines

RAISE_AT, HANG_AT = 900_000, 700_000
COUNTING = f"""
[[models]]
name = "counting"
path = "counting:?step_ms=15&answer=10000000&raise_at={RAISE_AT}&hang_at={HANG_AT}"
slots = 8
"""
SLOW = COUNTING.replace("step_ms=15", "step_ms=500").replace("slots = 8", "slots = 256")
DEMO = """
[[models]]
name = "counting"
path = "ops/demo_model/weights"
slots = 8
"""
STALL_S = 6.0
_SETTINGS = {"METRICS_PORT": "0", "HEARTBEAT_S": "2", "STALL_S": str(STALL_S), "DRAIN_S": "3", "LOG_FORMAT": "json"}
_AGAIN_S = 0.2
_LOOK_S = 0.1
_STOP_S = 20.0
_CLOCK = "import time\n_true = time.time\ntime.time = lambda: _true() + {shift}\n"


@dataclass(frozen=True)
class Size:
    """How many of each."""

    workers: int = 3
    front_ends: int = 2
    chores: int = 2


class Service:
    """One `penstock` command, started again whenever it ends, as a service manager would."""

    def __init__(self, name: str, command: tuple[str, ...], environment: dict[str, str], folder: Path) -> None:
        self.name = name
        self.shift_s = 0  # of its wall clock, from its next start on
        self._command, self._environment, self._folder = command, environment, folder
        self._stopping = threading.Event()
        self._process: subprocess.Popen[bytes] | None = None
        self._started = threading.Event()
        self._thread = threading.Thread(target=self._run, name=name)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        """Politely, then not."""
        self._stopping.set()
        self._started.wait()
        family = self.family()
        self.signal(signal.SIGTERM)
        self._thread.join(_STOP_S)
        _, left = psutil.wait_procs(family, _STOP_S)
        for process in left:
            with suppress(psutil.NoSuchProcess):
                process.kill()
        self._thread.join()

    def signal(self, number: signal.Signals, part: str = "") -> bool:
        """To the command itself, or to those of its descendants whose command line names ``part``."""
        targets = [process for process in self.family() if not part or _names(process, part)]
        if not part:
            targets = targets[:1]
        for process in targets:
            with suppress(psutil.NoSuchProcess):
                process.send_signal(number)
        return bool(targets)

    def family(self) -> list[psutil.Process]:
        """The command and all below it, the eldest first."""
        with suppress(psutil.NoSuchProcess):
            if self._process is not None and self._process.poll() is None:
                root = psutil.Process(self._process.pid)
                return [root, *root.children(recursive=True)]
        return []

    def _run(self) -> None:
        with (self._folder / f"{self.name}.log").open("ab") as log:
            while not self._stopping.is_set():
                self._process = subprocess.Popen(
                    [sys.executable, "-m", "ops.cli.main", *self._command],
                    cwd=REPOSITORY,
                    env=self._environment | self._clock(),
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=log,
                    start_new_session=True,
                )
                self._started.set()
                self._process.wait()
                self._stopping.wait(_AGAIN_S)

    def _clock(self) -> dict[str, str]:
        """A module that Python loads at its start turns the wall clock."""
        if not self.shift_s:
            return {}
        folder = self._folder / f"clock{self.shift_s}"
        folder.mkdir(exist_ok=True)
        (folder / "sitecustomize.py").write_text(_CLOCK.format(shift=self.shift_s))
        return {"PYTHONPATH": os.pathsep.join((str(folder), str(REPOSITORY)))}


class House:
    """Everything, and ways to break it; a context."""

    def __init__(
        self, folder: Path, size: Size, toml: str = COUNTING, shifts_s: Mapping[str, int] | None = None
    ) -> None:
        """``shifts_s``: how wrong the wall clocks of some services are from the start."""
        self._folder, self._toml, self._size, self._shifts_s = folder, toml, size, shifts_s or {}
        self._embedded = Embedded(Settings(data_dir=folder / "data"))
        self._closing = ExitStack()
        self.workers: list[Service] = []
        self.front_ends: list[Service] = []
        self.chores: list[Service] = []
        self.lines: dict[str, Line] = {}  # by service
        self.urls: list[str] = []  # of the front ends
        self._redis_pid = 0

    def __enter__(self) -> Self:
        server = self._embedded.start()
        self._closing.callback(self._embedded.stop)
        self.redis_url, self._redis_pid = server.url, server.pid or 0
        try:
            self._begin()
        except BaseException:  # whatever it is goes on from here
            self._closing.close()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        for line in self.lines.values():
            line.heal()
        self._closing.close()

    def _begin(self) -> None:
        self._lines = self._closing.enter_context(Lines(self.redis_url))
        self.ledger = Ledger((self.redis_url,))
        self._closing.callback(self.ledger.close)
        (self._folder / "penstock.toml").write_text(self._toml)
        self._closing.callback(self._stop_services)
        self.workers = [self._service(f"worker{at}", "worker") for at in range(self._size.workers)]
        self.chores = [self._service(f"chores{at}", "chores") for at in range(self._size.chores)]
        self.front_ends = [self._front_end(f"front{at}") for at in range(self._size.front_ends)]
        for service in self.services():
            service.start()

    def services(self) -> list[Service]:
        return [*self.workers, *self.front_ends, *self.chores]

    def _front_end(self, name: str) -> Service:
        port = free_port()
        self.urls.append(f"http://127.0.0.1:{port}")
        return self._service(name, "serve", PORT=str(port))

    def _service(self, name: str, command: str, **more: str) -> Service:
        line = self.lines[name] = self._lines.line()
        told = _SETTINGS | more | {"REDIS_URL": line.url, "CONFIG": str(self._folder / "penstock.toml")}
        told |= {"DATA_DIR": str(self._folder / name), "FILES_URL": str(self._folder / "files")}
        environment = bare_environment() | {f"PENSTOCK_{key}": value for key, value in told.items()}
        service = Service(name, (command,), environment, self._folder)
        service.shift_s = self._shifts_s.get(name, 0)
        return service

    def _stop_services(self) -> None:
        """All at once: one that waits for another would wait long."""
        ends = [threading.Thread(target=service.stop) for service in self.services()]
        for end in ends:
            end.start()
        for end in ends:
            end.join()

    # what breaks --------------------------------------------------------------------------------------------------
    def held(self, workers: Iterable[Service]) -> set[str]:
        """The jobs that these workers have now."""
        wids = [wid for worker in workers for process in worker.family() for wid in _wids(process)]
        part = self.ledger.partitions[0]
        with suppress(StorageError):
            found = [part.ask(partial(part.redis.hkeys, keys.held(part.tag, wid))) for wid in wids]
            return {job_id.decode() for jobs in found for job_id in jobs}
        return set()

    def kill_redis(self) -> None:
        os.kill(self._redis_pid, signal.SIGKILL)

    def limit_redis(self, most: int) -> None:
        """It takes nothing that would use more bytes; while it is away it takes nothing anyhow."""
        part = self.ledger.partitions[0]
        with suppress(StorageError):
            part.ask(lambda: part.redis.config_set("maxmemory", most))

    def empty_redis(self) -> None:
        """Killed, and its append-only file is gone."""
        self.kill_redis()
        psutil.wait_procs([process for _, process in self.redis()])
        shutil.rmtree(self._folder / "data" / "redis" / "appendonlydir")

    def restart_redis(self) -> None:
        """On the same address, with what its append-only file says."""
        self._redis_pid = self._embedded.restart().pid or 0

    def redis(self) -> list[tuple[tuple[str, int], psutil.Process]]:
        """The server's process, if it lives."""
        with suppress(psutil.NoSuchProcess):
            return [(("redis", self._redis_pid), psutil.Process(self._redis_pid))]
        return []

    def freeze_redis(self, number: signal.Signals) -> None:
        os.kill(self._redis_pid, number)

    # is it whole? -------------------------------------------------------------------------------------------------
    def wait_whole(self, stop: threading.Event, timeout_s: float = 60) -> bool:
        """Until every worker beats and every front end is ready; nothing tells us, so they are asked."""
        for _ in range(int(timeout_s / _LOOK_S)):
            if self._is_whole():
                return True
            if stop.wait(_LOOK_S):
                return False
        return False

    def _is_whole(self) -> bool:
        try:
            ready = {worker.worker for worker in self.ledger.workers() if worker.state == "ready"}
        except StorageError:
            return False
        living = [{wid for process in worker.family() for wid in _wids(process)} for worker in self.workers]
        return all(wids and wids <= ready for wids in living) and all(map(_is_ready, self.urls))


def _wids(process: psutil.Process) -> list[str]:
    with suppress(psutil.NoSuchProcess):
        return [word.removeprefix("--worker=") for word in process.cmdline() if word.startswith("--worker=")]
    return []


def _names(process: psutil.Process, part: str) -> bool:
    with suppress(psutil.NoSuchProcess):
        return any(part in word for word in process.cmdline())
    return False


def _is_ready(url: str) -> bool:
    try:
        with urllib.request.urlopen(f"{url}/ready", timeout=2) as answer:  # noqa: S310  our own front end
            return bool(answer.status == 200)
    except OSError:
        return False
