"""What the way from a worker to a client costs: a fake worker says the time, 64 clients compare it with theirs.

Real Redis, real ledger, real front end under gunicorn; only the door (no tokeniser) and the engine are left out.
"""

import json
import re
import selectors
import socket
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

import psutil

from api import server
from common import telemetry
from common.identity import Principal
from common.jobs import CLASSES, Delta, Done, Job, Reply, Sampling, Usage, new_id
from common.ledger.ledger import Ledger
from common.ledger.replies import Claim, Emission
from common.settings import REPOSITORY, Settings, bare_environment, load
from ops.embedded import Embedded, free_port

_STREAMS, _STEPS, _STEP_S = 64, 300, 0.03
_WARM_STEPS = 30
_MODEL, _WORKER = "penstock-demo", "bench"
_STAMP = re.compile(rb'"content":"(\d+) "')


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


def work(url: str) -> None:
    """The worker's process: claim all streams, then one item each a step; prints its CPU per event."""
    ledger = Ledger((url,))
    claims = [_claim(ledger) for _ in range(_STREAMS)]
    said = 0
    began = time.process_time()
    due = time.monotonic()
    for step in range(_WARM_STEPS + _STEPS):
        if step == _WARM_STEPS:
            sys.stdout.write("warm\n")  # from here on it is only tokens
            sys.stdout.flush()
        stamp = Delta(f"{time.monotonic_ns()} ", (1,)).encode()
        ledger.emit(_WORKER, _MODEL, [Emission(claim.job.id, claim.epoch, said, (stamp,), 1) for claim in claims])
        said += 1
        due += _STEP_S
        time.sleep(max(0.0, due - time.monotonic()))  # the pace of a forward pass
    spent = time.process_time() - began
    last = (Delta("", (), finish="stop").encode(), Done(Usage(3, said)).encode())
    ledger.emit(_WORKER, _MODEL, [Emission(claim.job.id, claim.epoch, said, last, 0, "done") for claim in claims])
    ledger.close()
    sys.stdout.write(f"{1e6 * spent / said / len(claims)}\n")


def _claim(ledger: Ledger) -> Claim:
    while True:
        claim = ledger.claim(_WORKER, _MODEL, CLASSES)
        if claim is not None:
            return claim


class Clients:
    """All streams in one thread; what they heard, and how late."""

    def __init__(self, port: int) -> None:
        body = json.dumps({"messages": [{"role": "user", "content": "Hi"}], "stream": True})
        head = "POST /v1/chat/completions HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\n"
        self._ready = selectors.DefaultSelector()
        for _ in range(_STREAMS):
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
    """Flat figures of one run."""
    with tempfile.TemporaryDirectory() as folder:
        embedded = Embedded(Settings(data_dir=Path(folder)))
        redis = embedded.start()
        try:
            return _run(redis.url, redis.pid or 0, Path(folder))
        finally:
            embedded.stop()


def _run(url: str, redis_pid: int, folder: Path) -> dict[str, float]:
    port = free_port()
    told = {"REDIS_URL": url, "DATA_DIR": str(folder), "PORT": str(port), "LOG_LEVEL": "warning"}
    environment = bare_environment() | {f"PENSTOCK_{name}": value for name, value in told.items()}
    front = _module("serve", environment=environment)
    try:
        _wait_listening(port)
        processes = {"redis": psutil.Process(redis_pid), "front_end": psutil.Process(front.pid).children()[0]}
        memory = {"front_end_idle": _memory_mb(front.pid)}
        clients = Clients(port)
        listening = threading.Thread(target=clients.run)
        listening.start()
        worker = _module("work", url, environment=environment, stdout=subprocess.PIPE)
        _wait_warm(worker)
        before = {name: _cpu_s(process) for name, process in processes.items()}
        told_us, _ = worker.communicate()
        listening.join()
        spent = {name: _cpu_s(process) - before[name] for name, process in processes.items()}
    finally:
        front.terminate()
        front.wait()
    return _figures(clients, spent, float(told_us), memory)


def _figures(clients: Clients, spent: dict[str, float], worker_us: float, memory: dict[str, float]) -> dict[str, float]:
    events = len(clients.late_ms) - _WARM_STEPS * _STREAMS
    late = sorted(clients.late_ms[_WARM_STEPS * _STREAMS :])
    return {
        "transport_streams_complete": clients.done,
        "transport_events": events,
        "transport_p50_ms": round(late[len(late) // 2], 2),
        "transport_p99_ms": round(late[len(late) * 99 // 100], 2),
        "transport_front_end_us_per_event": round(1e6 * spent["front_end"] / events, 1),
        "transport_redis_us_per_event": round(1e6 * spent["redis"] / events, 1),
        "transport_worker_us_per_event": round(worker_us, 1),
        "front_end_idle_mb": memory["front_end_idle"],
    }


def _module(*words: str, environment: dict[str, str], stdout: int | None = None) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "ops.bench.transport", *words]
    return subprocess.Popen(command, cwd=REPOSITORY, env=environment, stdout=stdout)  # noqa: S603  our own module


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
        case ["work", url]:
            work(url)
        case _:
            for name, figure in measure().items():
                print(f"{name:36} {figure}")


if __name__ == "__main__":
    main()
