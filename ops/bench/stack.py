"""The whole house as processes: `penstock up` on free ports, with a data folder of its own.

Benchmarks measure through it, tests break it.
"""

import signal
import subprocess
import sys
import threading
from pathlib import Path

import psutil
from openai import AsyncOpenAI, OpenAI

from common.ledger.ledger import Ledger
from common.settings import REPOSITORY, bare_environment
from ops.embedded import free_port

_READY = "penstock ready: "


class Stack:
    """One running `penstock up`."""

    def __init__(self, folder: Path, toml: str = "", **settings: str) -> None:
        """Start; ``settings`` are PENSTOCK_* names without the prefix, in lower case."""
        config = folder / "penstock.toml"
        config.write_text(toml)
        told = {"port": str(free_port()), "metrics_port": str(free_port())} | settings
        told |= {"data_dir": str(folder / "data"), "config": str(config)}
        self.folder = folder
        self.metrics_url = f"http://127.0.0.1:{told['metrics_port']}/metrics"
        self.lines: list[str] = []
        self._client: OpenAI | None = None
        self._ended = threading.Event()  # ready, or gone
        self.process = subprocess.Popen(
            [sys.executable, "-m", "ops.cli.main", "up"],
            cwd=REPOSITORY,
            env=bare_environment() | {f"PENSTOCK_{name.upper()}": value for name, value in told.items()},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def wait_ready(self, timeout_s: float = 100) -> "Stack":
        """Until the ready line; raises with what was printed instead."""
        if not self._ended.wait(timeout_s) or not self._ready_lines():
            raise RuntimeError("penstock up did not get ready:\n" + "\n".join(self.lines))
        return self

    @property
    def url(self) -> str:
        """Where the API stands."""
        return self._ready_lines()[0].removeprefix(_READY)

    @property
    def redis_url(self) -> str:
        """The embedded server, with its password."""
        return (self.folder / "data" / "redis" / "url").read_text().strip()

    def client(self) -> OpenAI:
        """The unchanged SDK; one client for all who ask."""
        if self._client is None or self._client.is_closed():
            self._client = OpenAI(base_url=self.url, api_key="EMPTY")
        return self._client

    def async_client(self) -> AsyncOpenAI:
        """The unchanged SDK, awaited."""
        return AsyncOpenAI(base_url=self.url, api_key="EMPTY")

    def ledger(self) -> Ledger:
        """The ledger that the processes use."""
        return Ledger((self.redis_url,))

    def processes(self, part: str) -> list[psutil.Process]:
        """The processes whose command line names ``part``, oldest first."""
        family = psutil.Process(self.process.pid).children(recursive=True)
        named = [process for process in family if any(part in word for word in process.cmdline())]
        return sorted(named, key=psutil.Process.create_time)

    def engines(self) -> list[psutil.Process]:
        """The engine processes."""
        return self.processes("worker.boot")

    def servers(self) -> list[psutil.Process]:
        """The embedded server."""
        return self.processes("server.conf")

    def stop(self) -> int:
        """One Ctrl-C; the exit status."""
        if self._client is not None:
            self._client.close()
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGINT)
        try:
            return self.process.wait(40)
        finally:
            if self.process.poll() is None:
                self.process.kill()
            self._reader.join(5)
            if self.process.stdout is not None:
                self.process.stdout.close()

    def _read(self) -> None:
        for line in self.process.stdout or ():
            self.lines.append(line.rstrip("\n"))
            if line.startswith(_READY):
                self._ended.set()
        self._ended.set()

    def _ready_lines(self) -> list[str]:
        return [line for line in self.lines if line.startswith(_READY)]
