"""What the way from a worker to a client costs: fake workers say the time, clients compare it with theirs.

Real Redis, real ledger, one real front-end process under gunicorn; only the door (no tokeniser) and the engine are left
out.
"""

import json
import random
import re
import resource
import selectors
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from dataclasses import dataclass
from http.client import HTTPConnection
from pathlib import Path
from typing import Any

import psutil

from api import server
from common import telemetry
from common.identity import Principal
from common.jobs import CLASSES, Delta, Done, Job, Reply, Sampling, Usage, counted, new_id
from common.ledger.ledger import Ledger
from common.ledger.replies import Claim, Emission
from common.settings import REPOSITORY, Settings, bare_environment, load
from ops.embedded import Embedded, free_port

_MODEL = "penstock-demo"
_STAMP = re.compile(rb'"content":"(\d+) "')
_PROBE_S = (0.02, 0.08)  # at no fixed point of the workers' steps
_DESCRIPTORS = 20_000


@dataclass(frozen=True)
class Load:
    """So many streams of so many workers, each of which steps at its own time."""

    name: str
    streams: int
    workers: int
    step_s: float
    steps: int
    warm: int  # steps before them, without a measure
    is_asked: bool = False  # /health, meanwhile: that is the front end's CPU, too

    @property
    def each(self) -> int:
        """Streams of one worker."""
        return self.streams // self.workers


LOADS = {
    load.name: load
    for load in (
        Load("transport", 64, 1, 0.03, 300, 30),
        Load("transport_512", 512, 1, 0.05, 300, 40),  # 10,240 events a second
        Load("transport_2000", 2000, 4, 0.5, 40, 6, is_asked=True),  # 4,000
    )
}


class OpenDoor:
    """Admits everybody with three tokens."""

    def admit(self, _ask: Any, who: Principal, _headers: Any) -> Job:
        """A streamed chat."""
        return Job(
            id=new_id(),
            model=_MODEL,
            prompts=((1, 2, 3),),
            sampling=Sampling(4096),
            reply=Reply("chat", stream=True),
            owner=who.owner,
            share=who.owner,
            seed=1,
            created=int(time.time()),
        )

    def refuse_if_gone(self, _model: str) -> None:
        """None is."""

    def close(self) -> None:
        """Nothing to leave."""


class Server(server.Server):
    """The real front end behind an open door."""

    def load(self) -> Any:
        """The application."""
        from api.app import create_app

        telemetry.configure(self._settings)
        return create_app(self._settings, OpenDoor())


def serve() -> None:
    """The front end's process."""
    server.serve(load(), Server)


def work(url: str, load: Load) -> None:
    """All workers' process: claim all streams, then one item each a step, in turn; prints its CPU per event."""
    ledger = Ledger((url,))
    names = [f"bench{number}" for number in range(load.workers)]
    claims = {name: [_claim(ledger, name) for _ in range(load.each)] for name in names}
    began = time.process_time()
    due = time.monotonic()
    for step in range(load.warm + load.steps):
        if step == load.warm:
            sys.stdout.write("warm\n")  # from here on it is only tokens
            sys.stdout.flush()
        for name, mine in claims.items():
            stamp = counted(Delta(f"{time.monotonic_ns()} ", (1,)).encode(), step + 1)
            ledger.emit(name, _MODEL, [Emission(claim.job.id, claim.epoch, step, (stamp,), step + 1) for claim in mine])
            due += load.step_s / load.workers
            time.sleep(max(0.0, due - time.monotonic()))  # the pace of a forward pass
    spent = time.process_time() - began
    said = load.warm + load.steps
    last = (Delta("", (), finish="stop").encode(), Done(Usage(3, said)).encode())
    for name, mine in claims.items():
        ledger.emit(name, _MODEL, [Emission(claim.job.id, claim.epoch, said, last, said, "done") for claim in mine])
    ledger.close()
    sys.stdout.write(f"{1e6 * spent / said / load.streams}\n")


def _claim(ledger: Ledger, worker: str) -> Claim:
    while True:
        claim = ledger.claim(worker, _MODEL, CLASSES)
        if claim is not None:
            return claim


def probe(port: str) -> None:
    """A process that asks for /health until its input ends; prints the milliseconds of each answer."""
    ended = threading.Event()
    threading.Thread(target=_await_end, args=(ended,), daemon=True).start()
    chance = random.Random(0)
    while not ended.wait(chance.uniform(*_PROBE_S)):
        began = time.monotonic()
        connection = HTTPConnection("127.0.0.1", int(port), timeout=30)
        connection.request("GET", "/health")
        connection.getresponse().read()
        connection.close()
        sys.stdout.write(f"{1000 * (time.monotonic() - began)}\n")


def _await_end(ended: threading.Event) -> None:
    sys.stdin.read()
    ended.set()


class Clients:
    """All streams in one thread; what they heard, and how late."""

    def __init__(self, port: int, streams: int) -> None:
        body = json.dumps({"messages": [{"role": "user", "content": "Hi"}], "stream": True})
        head = "POST /v1/chat/completions HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\n"
        self._ready = selectors.DefaultSelector()
        for _ in range(streams):
            connection = socket.create_connection(("127.0.0.1", port))
            connection.sendall(f"{head}Content-Length: {len(body)}\r\n\r\n{body}".encode())
            self._ready.register(connection, selectors.EVENT_READ)
        self.late_ms: list[float] = []
        self.done = 0

    def run(self) -> None:
        """Until every stream has ended."""
        while self._ready.get_map():
            for key, _ in self._ready.select(30):
                self._hear(key.fileobj)  # type: ignore[arg-type]  # sockets, all of them

    def _hear(self, connection: socket.socket) -> None:
        raw = connection.recv(2**16)
        now = time.monotonic_ns()
        self.late_ms += [(now - int(stamp)) / 1e6 for stamp in _STAMP.findall(raw)]
        if not raw or b"[DONE]" in raw:
            self.done += b"[DONE]" in raw
            self._ready.unregister(connection)
            connection.close()


def measure() -> dict[str, float]:
    """Flat figures, a run for each load."""
    figures: dict[str, float] = {}
    for one in LOADS.values():
        with tempfile.TemporaryDirectory() as folder:
            embedded = Embedded(Settings(data_dir=Path(folder)))
            redis = embedded.start()
            try:
                figures |= _run(one, redis.url, redis.pid or 0, Path(folder))
            finally:
                embedded.stop()
    return figures


def _run(load: Load, url: str, redis_pid: int, folder: Path) -> dict[str, float]:
    port = free_port()
    told = {"REDIS_URL": url, "DATA_DIR": str(folder), "PORT": str(port), "LOG_LEVEL": "warning"}
    told |= {"LIMITS__WAITING_SHARE": str(_DESCRIPTORS)}  # all wait until their workers have begun
    environment = bare_environment() | {f"PENSTOCK_{name}": value for name, value in told.items()}
    resource.setrlimit(resource.RLIMIT_NOFILE, (_DESCRIPTORS, resource.getrlimit(resource.RLIMIT_NOFILE)[1]))
    front = _module("serve", environment=environment)
    try:
        _wait_listening(port)
        processes = {"redis": psutil.Process(redis_pid), "front_end": psutil.Process(front.pid).children()[0]}
        idle_mb = _memory_mb(front.pid)
        clients = Clients(port, load.streams)
        listening = threading.Thread(target=clients.run)
        listening.start()
        worker = _module("work", url, load.name, environment=environment, stdout=subprocess.PIPE)
        _wait_warm(worker)
        before = {name: _cpu_s(process) for name, process in processes.items()}
        full_mb = _memory_mb(front.pid)
        asking = _asking(port, environment) if load.is_asked else None
        told_us, _ = worker.communicate()
        listening.join()
        spent = {name: _cpu_s(process) - before[name] for name, process in processes.items()}
        health = _health(asking.communicate()[0]) if asking else {}
    finally:
        front.terminate()
        front.wait()
    figures = _figures(load, clients, spent, float(told_us)) | health
    figures["kb_per_stream"] = round(1024 * (full_mb - idle_mb) / load.streams, 1)
    named = {f"{load.name}_{name}": figure for name, figure in figures.items()}
    return named | {"front_end_idle_mb": idle_mb}


def _figures(load: Load, clients: Clients, spent: dict[str, float], worker_us: float) -> dict[str, float]:
    events = load.streams * load.steps
    late = sorted(clients.late_ms[load.streams * load.warm :])
    return {
        "streams_complete": clients.done,
        "events": events,
        "events_missing": load.streams * load.warm + events - len(clients.late_ms),
        "p50_ms": round(late[len(late) // 2], 2),
        "p99_ms": round(late[len(late) * 99 // 100], 2),
        "front_end_us_per_event": round(1e6 * spent["front_end"] / events, 1),
        "redis_us_per_event": round(1e6 * spent["redis"] / events, 1),
        "worker_us_per_event": round(worker_us, 1),
    }


def _asking(port: int, environment: dict[str, str]) -> subprocess.Popen[bytes]:
    return _module("probe", str(port), environment=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE)


def _health(answers_ms: bytes) -> dict[str, float]:
    cuts = statistics.quantiles(map(float, answers_ms.split()), n=100)
    return {"health_p50_ms": round(cuts[49], 1), "health_p99_ms": round(cuts[98], 1)}


def _module(
    *words: str, environment: dict[str, str], stdin: int | None = None, stdout: int | None = None
) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "ops.bench.transport", *words]
    return subprocess.Popen(command, cwd=REPOSITORY, env=environment, stdin=stdin, stdout=stdout)  # noqa: S603  ours


def _wait_listening(port: int) -> None:
    while True:
        try:
            with socket.create_connection(("127.0.0.1", port), 20) as probe:
                probe.sendall(b"GET /health HTTP/1.0\r\n\r\n")
                if probe.recv(16):  # blocks until the worker process has loaded
                    return
        except ConnectionRefusedError:
            time.sleep(0.05)  # nobody listens yet, and nothing says when


def _wait_warm(worker: subprocess.Popen[bytes]) -> None:
    if worker.stdout is not None:
        worker.stdout.readline()


def _cpu_s(process: psutil.Process) -> float:
    times = process.cpu_times()
    return float(times.user + times.system)


def _memory_mb(pid: int) -> float:
    """Of gunicorn's parent and its worker, shared pages counted once."""
    family = [psutil.Process(pid), *psutil.Process(pid).children()]
    return float(round(sum(process.memory_full_info().pss for process in family) / 2**20, 1))


def main() -> None:
    """`python -m ops.bench.transport` prints the figures."""
    match sys.argv[1:]:
        case ["serve"]:
            serve()
        case ["work", url, name]:
            work(url, LOADS[name])
        case ["probe", port]:
            probe(port)
        case _:
            for name, figure in measure().items():
                print(f"{name:36} {figure}")


if __name__ == "__main__":
    main()
