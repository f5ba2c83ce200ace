"""What those hear who have to wait, and who is not made to."""

from collections.abc import Callable
from contextlib import ExitStack
from typing import Any

import httpx2

from ops.bench.stack import Stack

_SLOW = """
[[models]]
name = "counting"
path = "counting:?step_ms=10&answer=4000"
slots = 1
"""
_KEPT = {"model": "counting", "prompt": "count on: 7 ", "max_tokens": 2000, "on_disconnect": "finish"}


def test_who_waits_hears_where_and_who_cannot_is_told_at_once(start: Callable[..., Stack]) -> None:
    stack = start(_SLOW)
    url = f"{stack.url}/completions"
    for _ in range(6):  # now it is known how long one takes
        httpx2.post(url, json=_KEPT | {"max_tokens": 100}, timeout=30)

    with ExitStack() as open_streams:

        def ask(**headers: str) -> httpx2.Response:
            """A stream, from its headers on."""
            stream = httpx2.stream("POST", url, json=_KEPT | {"stream": True}, headers=headers, timeout=30)
            return open_streams.enter_context(stream)

        ask()
        jobs = [ask().headers["x-job-id"] for _ in range(3)]
        comment = next(line for line in ask().iter_lines() if line.startswith(": queue"))
        told = httpx2.get(f"{stack.url}/jobs/{jobs[-1]}").json()
        late = ask(**{"x-deadline-ms": "500"})
        whole = httpx2.post(url, json=_KEPT, headers={"x-stainless-read-timeout": "0.5"}, timeout=30)

        assert _eta(comment, 4) >= told["queue"]["eta_s"] > 1
        assert (told["status"], told["queue"]["position"]) == ("queued", 3)
        assert [_refusal(late), _refusal(whole)] == [(429, "deadline_unreachable")] * 2
        assert ask(**{"x-deadline-ms": "3600000"}).status_code == 200
        assert ask(**{"x-stainless-read-timeout": "0.5"}).status_code == 200  # a stream is heard of while it waits


def _eta(comment: str, position: int) -> float:
    before, _, eta = comment.partition(" eta=")
    assert before == f": queue position={position}"
    return float(eta.removesuffix("s"))


def _refusal(answer: httpx2.Response) -> tuple[int, Any]:
    answer.read()
    assert 1 <= int(answer.headers["retry-after"]) <= 120
    return answer.status_code, answer.json()["error"]["code"]
