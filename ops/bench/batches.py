"""Batches: how soon many lines are in, what that costs, how full the slots are, and what people notice of it.

Many lines come in beside a model that counts; the bundled model answers a thousand, and then its engine alone has the
same jobs. By the clock and by the worker's CPU time, in turn, the median of the rounds; people ask on an idle machine
before and after.
"""

import itertools
import json
import statistics
import tempfile
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from common.identity import Principal
from common.jobs import Done, Job
from common.ledger import keys
from common.ledger.batches import Batch, Batches, bare
from common.ledger.replies import Claim
from common.settings import DEMO_MODEL, Model
from ops.bench.stack import Stack
from ops.demo_model.dialogues import questions
from worker.chores.rows import row_id
from worker.engine.engine import Engine, Output
from worker.models import loader

_COUNTING = """
[[models]]
name = "counting"
path = "counting:?step_ms=20&answer=10000000"
slots = 32
"""
_DEMO, _SLOTS, _THREADS = "penstock-demo", 32, 1
_MANY, _ROWS = 50_000, 1000
_LOOK_S, _LOOKS = 0.05, 200
_PEOPLE, _PAUSE_S = 60, 0.1  # requests of people, and the time between two of them
_P95 = 94
_ROUNDS = 3  # of a batch and the engine alone, in turn
_SEED = 12
_ENDED = {"failed", "completed", "expired", "cancelled"}


def measure() -> dict[str, float]:
    """Flat figures."""
    with tempfile.TemporaryDirectory() as folder:
        stack = Stack(Path(folder), _COUNTING, threads=str(_THREADS))
        try:
            figures = _many(stack.wait_ready())
        finally:
            stack.stop()
    with tempfile.TemporaryDirectory() as folder:
        stack = Stack(Path(folder), threads=str(_THREADS))
        try:
            return figures | _answered(stack.wait_ready())
        finally:
            stack.stop()


class Watch:
    """A batch, from the moment that it was ordered."""

    def __init__(self, stack: Stack, batch_id: str) -> None:
        self._ledger = stack.ledger()
        self._batches, self._id = Batches(self._ledger), batch_id
        self._began = time.monotonic()
        self._used: list[float] = []  # shares of the slots, while rows wait

    def batch(self) -> Batch:
        """As it stands now."""
        batch = self._batches.get(None, self._id)
        if batch is None:
            raise RuntimeError("the batch is gone")
        return batch

    def fed(self) -> tuple[float, float]:
        """Seconds until it was in progress, and until its last row was in the ledger."""
        begun_s = 0.0
        while (batch := self.batch()).state == "validating" or batch.row < batch.total:
            if batch.state != "validating":
                begun_s = begun_s or time.monotonic() - self._began
            time.sleep(_LOOK_S)
        return begun_s, time.monotonic() - self._began

    def ended(self) -> float:
        """Seconds until it was over."""
        while self.batch().state not in _ENDED:
            self.look(_DEMO)
        return time.monotonic() - self._began

    def look(self, model: str) -> None:
        """How many slots are in use, where rows wait."""
        part = self._ledger.partitions[0]
        if sum(self._ledger.waiting(model).values()) > _SLOTS:  # a beat would say what was true a second ago
            held = [part.redis.hlen(keys.held(part.tag, one.worker)) for one in self._ledger.workers()]
            self._used += [min(1.0, jobs / _SLOTS) for jobs in held]
        time.sleep(_LOOK_S)

    def busy(self) -> float:
        """Share of the slots that were in use at all looks."""
        return statistics.mean(self._used)

    def jobs(self, count: int) -> list[Job]:
        """Its first rows."""
        rows = [self._ledger.job(Principal().owner, row_id(self.batch(), row)) for row in range(count)]
        return [job for job in rows if job is not None]

    def close(self) -> None:
        """Look no more."""
        self._ledger.close()


def _many(stack: Stack) -> dict[str, float]:
    """Lines by the ten thousand, and people who ask meanwhile."""
    people = People(stack, "counting")
    idle, before = people.asking(_PEOPLE), _redis_bytes(stack)
    watch = _sent(stack, _rows("counting", _MANY))
    with people:
        begun_s, fed_s = watch.fed()
    for _ in range(_LOOKS):
        watch.look("counting")
    bodies = statistics.mean(len(job.encode()) for job in watch.jobs(200))
    memory = max(process.memory_full_info().pss for process in stack.processes("api.server"))
    figures = {
        "batch_50k_in_progress_s": begun_s,
        "batch_50k_fed_s": fed_s,
        "batch_50k_redis_bytes_beside_body": (_redis_bytes(stack) - before) / _MANY - bodies,
        "batch_50k_slots_busy": watch.busy(),
        "batch_50k_front_end_mb": memory / 2**20,
        "batch_50k_ttft_p95_ms": _p95(people.firsts),
        "batch_50k_ttft_p95_over_idle": _p95(people.firsts) / _p95(idle),
    }
    watch.close()
    return figures


def _answered(stack: Stack) -> dict[str, float]:
    """A thousand lines for the bundled model; then, with people beside them; and how good the estimate was."""
    lines = _rows(_DEMO, _ROWS)
    first = _sent(stack, lines)
    first.ended()
    first.close()
    told = _estimate(stack, lines)
    rounds = [_turn(stack, lines) for _ in range(_ROUNDS)]
    middle = {name: statistics.median(one[name] for one in rounds) for name in rounds[0]}
    people = People(stack, _DEMO)
    idle = people.asking(_PEOPLE)
    beside = _sent(stack, lines)
    with people:
        beside.ended()
    beside.close()
    idle += people.asking(_PEOPLE)
    return {
        **middle,
        "batch_ttft_p50_ms": statistics.median(people.firsts),
        "batch_ttft_p95_ms": _p95(people.firsts),
        "batch_ttft_p50_over_idle": statistics.median(people.firsts) / statistics.median(idle),
        "batch_ttft_p95_over_idle": _p95(people.firsts) / _p95(idle),
        "batch_estimate_over_real": told / middle["batch_s"],
    }


def _turn(stack: Stack, lines: bytes) -> dict[str, float]:
    """A batch, and the engine alone with its jobs."""
    watch, cpu_s = _sent(stack, lines), _cpu_s(stack)
    spent_s = watch.ended()
    cpu_s = _cpu_s(stack) - cpu_s
    tokens = watch.batch().output_tokens
    alone_s, alone_cpu_s, alone_tokens = _alone(watch.jobs(_ROWS))
    watch.close()
    return {
        "batch_over_engine": (tokens / spent_s) / (alone_tokens / alone_s),
        "batch_over_engine_cpu": (tokens / cpu_s) / (alone_tokens / alone_cpu_s),
        "batch_tokens_per_s": tokens / spent_s,
        "batch_slots_busy": watch.busy(),
        "batch_s": spent_s,
    }


class People:
    """One after the other asks something, and hears the first token."""

    def __init__(self, stack: Stack, model: str) -> None:
        self._client, self._model = stack.client(), model
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._go_on)
        self.firsts: list[float] = []  # milliseconds, of those who asked beside a batch

    def asking(self, count: int) -> list[float]:
        """Milliseconds to each first token; two that warm up are left out."""
        return [self._first_ms() for _ in range(count + 2)][2:]

    def __enter__(self) -> None:
        self._thread.start()

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def _go_on(self) -> None:
        while not self._stop.wait(_PAUSE_S):
            self.firsts.append(self._first_ms())

    def _first_ms(self) -> float:
        began = time.monotonic()
        asked: Any = {"model": self._model, "messages": [{"role": "user", "content": "Who are you?"}]}
        with self._client.chat.completions.create(**asked, max_tokens=8, stream=True) as stream:
            spent = next(time.monotonic() - began for part in stream if part.choices and part.choices[0].delta.content)
            for _ in stream:
                pass
        return 1000 * spent


def _rows(model: str, count: int) -> bytes:
    """Questions that the bundled model knows, as lines."""
    lines = []
    for at, (_, ask, _) in enumerate(itertools.islice(questions(_SEED), count)):
        body = {"model": model, "messages": [{"role": "user", "content": ask}], "max_tokens": 64, "temperature": 0}
        lines.append({"custom_id": f"row {at}", "method": "POST", "url": "/v1/chat/completions", "body": body})
    return "\n".join(map(json.dumps, lines)).encode()


def _ordered(stack: Stack, lines: bytes, **metadata: str) -> str:
    client = stack.client()
    file = client.files.create(file=("lines.jsonl", lines), purpose="batch")
    asked: Any = {"endpoint": "/v1/chat/completions", "completion_window": "24h", "metadata": metadata}
    return client.batches.create(input_file_id=file.id, **asked).id


def _sent(stack: Stack, lines: bytes, **metadata: str) -> Watch:
    return Watch(stack, bare(_ordered(stack, lines, **metadata)) or "")


def _estimate(stack: Stack, lines: bytes) -> float:
    """The seconds that it is said to take."""
    name = _ordered(stack, lines, dry_run="true")
    while (batch := stack.client().batches.retrieve(name)).status not in _ENDED:
        time.sleep(_LOOK_S)
    return float((batch.model_extra or {})["x_estimate"]["seconds"])


def _alone(jobs: Sequence[Job]) -> tuple[float, float, int]:
    """Seconds, CPU seconds and tokens of the engine in this process, which always has more jobs than slots."""
    loaded = loader.load(Model(name=_DEMO, path=str(DEMO_MODEL), slots=_SLOTS), _THREADS)
    usages = list[int]()

    def hear(outputs: Sequence[Output]) -> None:
        ends = (output.events[-1] for output in outputs)
        usages.extend(end.usage.completion_tokens for end in ends if isinstance(end, Done))

    engine, waiting = Engine(loaded.model, hear), iter(jobs)
    with torch.inference_mode():
        began, used = time.monotonic(), time.process_time()
        while len(usages) < len(jobs):
            for job in itertools.islice(waiting, max(0, engine.room().free + _SLOTS)):
                engine.add(Claim(job, 1, 1, 0, ()))
            engine.step()
        return time.monotonic() - began, time.process_time() - used, sum(usages)


def _cpu_s(stack: Stack) -> float:
    """Of the engine processes so far."""
    return sum(sum(process.cpu_times()[:2]) for process in stack.engines())


def _redis_bytes(stack: Stack) -> int:
    ledger = stack.ledger()
    memory: dict[str, int] = ledger.partitions[0].redis.info("memory")
    ledger.close()
    return memory["used_memory"]


def _p95(some: Sequence[float]) -> float:
    return statistics.quantiles(some, n=100)[_P95]
