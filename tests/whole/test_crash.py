"""What breaks in mid-stream is not noticed by the client."""

import signal
import time
from collections.abc import Callable, Iterable
from typing import Any

import psutil
import pytest

from common.identity import Principal
from common.jobs import Sampling, strip_prefix
from common.ledger.ledger import Ledger
from common.settings import Limits
from ops.bench.stack import Stack
from tests.builders import a_job

DEMO = "penstock-demo"
LONG = "Count from 1 to 100."
COUNTING = """
[[models]]
name = "counting"
path = "counting:?step_ms=10&answer=400"
slots = 4
"""


def _ask(stack: Stack, **changes: Any) -> Any:
    ask = {"model": DEMO, "messages": [{"role": "user", "content": LONG}], "temperature": 0, "max_tokens": 700}
    return stack.client().chat.completions.create(**ask | changes)  # type: ignore[call-overload]  # a test's choice


def _text(parts: Iterable[Any]) -> str:
    return "".join(part.choices[0].delta.content or "" for part in parts if part.choices)


def _until(true: Callable[[], bool], timeout_s: float = 10) -> bool:
    end = time.monotonic() + timeout_s
    while not true() and time.monotonic() < end:
        time.sleep(0.02)
    return true()


def test_a_killed_worker_is_not_noticed_by_the_stream(start: Callable[..., Stack]) -> None:
    stack = start(workers="2")
    ledger = stack.ledger()
    assert _until(lambda: len(ledger.workers()) == 2, 30)
    undisturbed = _ask(stack).choices[0].message.content

    stream = _ask(stack, stream=True)
    parts = iter(stream)
    text = _text(next(parts) for _ in range(3))
    feeding, bystander = _engines(stack, ledger, stream.response.headers["x-job-id"])
    feeding.send_signal(signal.SIGKILL)
    text += _text(parts)

    assert text == undisturbed
    assert bystander.is_running()
    assert _until(lambda: len(ledger.workers()) == 2, 30)
    ledger.close()


def test_a_killed_worker_costs_no_logprob_of_many_prompts_and_choices(start: Callable[..., Stack]) -> None:
    stack = start()
    ask: dict[str, Any] = {"model": DEMO, "prompt": ["1 2 3", "Who are"], "n": 2, "seed": 5, "max_tokens": 250}
    ask |= {"echo": True, "logprobs": 2, "temperature": 1, "stop": ["zebra", "9 8"], "logit_bias": {"1": -100}}
    undisturbed = stack.client().completions.create(**ask)

    stream = iter(stack.client().completions.create(**ask, stream=True))
    parts = [next(stream) for _ in range(8)]
    (engine,) = stack.engines()
    engine.send_signal(signal.SIGKILL)
    parts += stream

    for whole in undisturbed.choices:
        mine = [choice for part in parts for choice in part.choices if choice.index == whole.index]
        likely = [choice.logprobs for choice in mine if choice.logprobs]
        assert "".join(choice.text for choice in mine) == whole.text
        assert whole.logprobs is not None
        for name in ("tokens", "text_offset"):
            assert [one for some in likely for one in getattr(some, name)] == getattr(whole.logprobs, name)
        told = [one for some in likely for one in some.token_logprobs or ()]
        assert told[1:] == pytest.approx(whole.logprobs.token_logprobs[1:], abs=1e-3)


def _engines(stack: Stack, ledger: Ledger, job: str) -> list[psutil.Process]:
    """The one that feeds this job first."""
    watched = ledger.read(Principal().owner, strip_prefix(job) or "")
    assert watched is not None
    return sorted(stack.engines(), key=lambda engine: not any(watched.worker in word for word in engine.cmdline()))


def test_the_death_of_all_workers_is_only_a_pause(start: Callable[..., Stack]) -> None:
    stack = start()
    undisturbed = _ask(stack).choices[0].message.content

    stream = iter(_ask(stack, stream=True))
    text = _text(next(stream) for _ in range(3))
    for engine in stack.engines():
        engine.send_signal(signal.SIGKILL)
    text += _text(stream)

    assert text == undisturbed


def test_a_redis_that_is_killed_and_restarted_is_not_noticed_by_the_stream(start: Callable[..., Stack]) -> None:
    stack = start()
    undisturbed = _ask(stack).choices[0].message.content

    stream = iter(_ask(stack, stream=True))
    text = _text(next(stream) for _ in range(3))
    (server,) = stack.servers()
    server.send_signal(signal.SIGKILL)
    text += _text(stream)

    assert text == undisturbed


def test_a_hang_up_frees_the_slot(start: Callable[..., Stack]) -> None:
    stack = start(COUNTING)
    ledger = stack.ledger()

    with _ask(stack, model="counting", stream=True) as stream:
        next(iter(stream))
        assert _until(lambda: ledger.workers()[0].free == 3)

    assert _until(lambda: ledger.workers()[0].free == 4, 3)
    ledger.close()


def test_batch_work_yields_to_a_person_although_all_slots_are_taken(start: Callable[..., Stack]) -> None:
    stack = start(COUNTING)
    ledger = stack.ledger()
    batch = [a_job(model="counting", cls="batch", sampling=Sampling(300, 0.0)) for _ in range(4)]
    for job in batch:
        ledger.submit(job, Limits())
    assert _until(lambda: ledger.workers()[0].free == 0)

    _ask(stack, model="counting", max_tokens=5)
    states = [watched.state for job in batch if (watched := ledger.read(job.owner, job.id))]

    assert "done" not in states
    assert _until(lambda: all(ledger.read(job.owner, job.id).state == "done" for job in batch), 30)  # type: ignore[union-attr]
    ledger.close()
