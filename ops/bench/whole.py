"""The whole house, measured from outside: start, first token, memory, and the pause when a worker is killed."""

import itertools
import signal
import statistics
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from openai import BadRequestError

from common.identity import Principal
from common.jobs import strip_prefix
from ops.bench.stack import Stack

_COUNTING = """
[[models]]
name = "counting"
path = "counting:?step_ms=20&answer=150"
"""


def measure() -> dict[str, float]:
    """All figures of this page, by flat keys."""
    with tempfile.TemporaryDirectory() as folder:
        figures = _alone(Path(folder))
    with tempfile.TemporaryDirectory() as folder:
        return figures | _killed(Path(folder))


def _alone(folder: Path) -> dict[str, float]:
    """One worker with the bundled model."""
    started = time.monotonic()
    stack = Stack(folder)
    try:
        stack.wait_ready()
        figures = {"ready_s": time.monotonic() - started}
        firsts = [_first_token_s(stack) for _ in range(20)]
        refusals = [_refusal_s(stack) for _ in range(20)]
        shared = [process.memory_full_info().pss for process in stack.processes("api.server")]
        return figures | {
            "first_token_p50_ms": 1000 * statistics.median(firsts),
            "first_token_max_ms": 1000 * max(firsts),
            "refusal_p50_ms": 1000 * statistics.median(refusals),
            "refusal_max_ms": 1000 * max(refusals),
            "front_end_mb": sum(shared) / 2**20,
        }
    finally:
        stack.stop()


def _first_token_s(stack: Stack) -> float:
    started = time.monotonic()
    with stack.client().chat.completions.create(
        model="penstock-demo", messages=[{"role": "user", "content": "Who are you?"}], max_tokens=1, stream=True
    ) as stream:
        for part in stream:
            if part.choices and part.choices[0].delta.content:
                break
    return time.monotonic() - started


def _refusal_s(stack: Stack) -> float:
    """How long a prompt waits for its no: it goes through the whole door."""
    client = stack.client().with_options(max_retries=0)
    started = time.monotonic()
    try:
        client.completions.create(model="penstock-demo", prompt="x" * 5000)
    except BadRequestError:
        return time.monotonic() - started
    raise RuntimeError("a prompt that does not fit was taken")


def _killed(folder: Path) -> dict[str, float]:
    """Kill the worker that feeds a stream, ten times; another one stands by."""
    stack = Stack(folder, _COUNTING, workers="2")
    try:
        stack.wait_ready()
        pauses = [_pause_s(stack) for _ in range(10)]
    finally:
        stack.stop()
    return {"kill_pause_p50_s": statistics.median(pauses), "kill_pause_max_s": max(pauses)}


def _pause_s(stack: Stack) -> float:
    """The longest silence of one stream whose worker is killed in its middle."""
    ledger = stack.ledger()
    stream = stack.client().chat.completions.create(
        model="counting", messages=[{"role": "user", "content": "Go."}], max_tokens=150, temperature=0, stream=True
    )
    job_id = strip_prefix(stream.response.headers["x-job-id"])
    times = iter(_times(stream))
    seen = [next(times) for _ in range(5)]
    feeding = ledger.read(Principal().owner, job_id or "")
    for engine in stack.engines():
        if feeding and any(feeding.worker in word for word in engine.cmdline()):
            engine.send_signal(signal.SIGKILL)
    seen += times
    end = time.monotonic() + 30
    while len(ledger.workers()) < 2 and time.monotonic() < end:  # noqa: PLR2004  both are back
        time.sleep(0.1)
    ledger.close()
    return max(after - before for before, after in itertools.pairwise(seen))


def _times(stream: Iterator[object]) -> Iterator[float]:
    for _ in stream:
        yield time.monotonic()
