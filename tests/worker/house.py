"""Workers for tests: one in this process that moves when it is told to, whole ones in processes, a Redis to break."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import psutil

from common.jobs import CLASSES, Delta, Done, Event, Job, Sampling
from common.ledger.ledger import Ledger
from common.ledger.replies import Claim, State, WorkerInfo
from common.settings import Limits, Settings, bare_environment
from ops.embedded import Embedded
from tests.builders import a_job
from tests.waiting import PATIENCE_S, until
from worker.engine.engine import Engine
from worker.hot import HotFile
from worker.models.counting import Counting
from worker.publisher import Publisher
from worker.tickets import Intake
from worker.watch import Heart, Parts

LIMITS = Limits()


def counted(to: int) -> str:
    """What the counting model says."""
    return " ".join(map(str, range(1, to + 1)))


def counting(**changes: Any) -> Job:
    """A job that counts as far as the model goes."""
    return a_job(**{"sampling": Sampling(5000, 0.0)} | changes)


def submitted(ledger: Ledger, **changes: Any) -> Job:
    """One that waits."""
    job = counting(**changes)
    ledger.submit(job, LIMITS)
    return job


def events(ledger: Ledger, job: Job) -> list[Event]:
    """Its log."""
    watched = ledger.read(job.owner, job.id, most=10_000)
    assert watched is not None
    return [entry.event for entry in watched.entries]


def text(ledger: Ledger, job: Job, choice: int = 0) -> str:
    """What was said of one choice."""
    return "".join(event.text for event in events(ledger, job) if isinstance(event, Delta) and event.choice == choice)


def tokens(ledger: Ledger, job: Job) -> list[int]:
    """All generated tokens in the log."""
    return [token for event in events(ledger, job) if isinstance(event, Delta) for token in event.tokens]


def state(ledger: Ledger, job: Job) -> State:
    """Where it is."""
    watched = ledger.read(job.owner, job.id)
    assert watched is not None
    return watched.state


def is_whole(ledger: Ledger, job: Job, to: int) -> bool:
    """Whether it counted so far, said it all once, and counted its tokens right."""
    last = events(ledger, job)[-1]
    said = len(tokens(ledger, job))
    return text(ledger, job) == counted(to) and isinstance(last, Done) and last.usage.completion_tokens == said


class Replica:
    """One worker, of which only the publisher moves by itself."""

    def __init__(self, ledger: Ledger, name: str, hot: HotFile, **how: Any) -> None:
        self.ledger, self.name = ledger, name
        slots = how.get("slots", 4)
        model = Counting(f"?step_ms={how.get('step_ms', 0)}&answer={how.get('answer', 30)}", slots)
        self.publisher = Publisher(ledger, name, "m", how.get("flush_s", 0.0))
        self.engine: Engine = how.get("engine", Engine)(model, self.publisher, hot=hot)
        self.intake = Intake(ledger, self.engine, self.publisher, name, "m")
        parts = Parts(ledger, self.engine, self.publisher, self.intake, hot)
        info = WorkerInfo(name, "m", slots, slots, "ready")
        self.heart = Heart(parts, info, how.get("stall_s", 60.0), how.get("parked_s", 5.0))
        self.publisher.start(self.engine, self.intake.heard)

    def claim(self) -> Claim:
        """Take a job, as the intake would."""
        claim = self.ledger.claim(self.name, "m", CLASSES)
        assert claim is not None
        self.publisher.begin(claim)
        return claim

    def step(self, times: int = 1) -> None:
        """So many tokens; the sink has them all."""
        for _ in range(times):
            self.engine.step()

    def say(self, times: int = 1) -> None:
        """So many tokens; the ledger has them all."""
        self.step(times)
        assert self.publisher.flush(PATIENCE_S)

    def finish(self) -> None:
        """Everything it has; the ledger has it all."""
        while self.engine.stalled_s() is not None:
            self.engine.step()
        assert self.publisher.flush(PATIENCE_S)

    @property
    def is_idle(self) -> bool:
        """Whether its engine has nothing to do, and its publisher holds nothing."""
        return self.engine.wait_idle(0) and not self.publisher.held()


@contextmanager
def replica(ledger: Ledger, name: str = "w1", **how: Any) -> Iterator[Replica]:
    """A worker in this process; ``how``: slots, answer, step_ms, flush_s, stall_s, parked_s, engine."""
    with HotFile.make() as file:
        hot = HotFile(file)
        one = Replica(ledger, name, hot, **how)
        try:
            yield one
        finally:
            if one.intake._thread.is_alive():
                one.intake.close()
            one.publisher.stop(0.1)
            if one.engine._thread.is_alive():
                one.engine.stop(PATIENCE_S)
            hot.close()


class Own:
    """A Redis that one test may break."""

    def __init__(self, folder: Path) -> None:
        self._embedded = Embedded(Settings(data_dir=folder))
        self._server = self._embedded.start()
        self.ledger = Ledger((self.url,))

    @property
    def url(self) -> str:
        return self._server.url

    def kill(self) -> None:
        os.kill(self._server.pid or 0, signal.SIGKILL)

    def freeze(self) -> None:
        os.kill(self._server.pid or 0, signal.SIGSTOP)

    def thaw(self) -> None:
        os.kill(self._server.pid or 0, signal.SIGCONT)

    def restart(self) -> None:
        self._server = self._embedded.restart()

    def set(self, name: str, value: int) -> None:
        part = self.ledger.partitions[0]
        part.ask(lambda: part.redis.config_set(name, value))

    def close(self) -> None:
        self.ledger.close()
        self._embedded.stop()


class House:
    """Whole workers, each a supervising parent and its engine, as `penstock worker` starts them."""

    def __init__(self, url: str, folder: Path) -> None:
        self.url = url
        self._folder = folder
        self._programs: list[subprocess.Popen[bytes]] = []

    def worker(self, path: str = "counting:?step_ms=5&answer=100", slots: int = 4, **told: str) -> psutil.Process:
        """One more; ``told`` are settings."""
        toml = f'[[models]]\nname = "m"\npath = "{path}"\nslots = {slots}\n'
        return self._start(toml, ["--model", "m"], told)

    def chores(self, **told: str) -> psutil.Process:
        """The periodic work."""
        return self._start('[[models]]\nname = "m"\npath = "counting:"\nslots = 4\n', ["--chores"], told)

    def wait(self, process: psutil.Process, timeout_s: float = PATIENCE_S) -> int:
        """Its exit status."""
        return next(one for one in self._programs if one.pid == process.pid).wait(timeout_s)

    def close(self) -> None:
        for program in self._programs:
            engines = psutil.Process(program.pid).children() if program.poll() is None else []
            program.kill()
            program.wait(PATIENCE_S)
            for engine in engines:  # they would go as well, but in their own time, and write until then
                with suppress(psutil.NoSuchProcess):
                    engine.kill()
            psutil.wait_procs(engines, PATIENCE_S)

    def _start(self, toml: str, words: list[str], told: dict[str, str]) -> psutil.Process:
        folder = self._folder / str(len(self._programs))
        folder.mkdir(parents=True)
        (folder / "penstock.toml").write_text(toml)
        named = {"redis_url": self.url, "data_dir": str(folder), "config": str(folder / "penstock.toml")}
        told = {**named, "log_level": "error", **told}
        environment = {f"PENSTOCK_{name.upper()}": value for name, value in told.items()}
        command = [sys.executable, "-m", "worker.main", *words]
        self._programs.append(subprocess.Popen(command, env=bare_environment() | environment))
        return psutil.Process(self._programs[-1].pid)


def engine_of(worker: psutil.Process) -> psutil.Process:
    """The engine process of a worker; waits until there is one."""
    return until(worker.children)[0]
