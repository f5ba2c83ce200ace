"""An answer that is read again is the first one to the byte, whatever was asked for."""

import uuid
from typing import Any

import httpx2
import pytest

from ops.bench.stack import Stack
from tests.api.test_jobs import blocks

_CITY = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}
_CHAT = {"messages": [{"role": "user", "content": "What is the weather in Paris?"}]}


@pytest.mark.parametrize(
    ("path", "asked"),
    [
        ("chat/completions", _CHAT | {"n": 3, "temperature": 1, "seed": 3}),
        ("chat/completions", _CHAT | {"logprobs": True, "top_logprobs": 2, "stream_options": {"include_usage": True}}),
        (
            "chat/completions",
            _CHAT | {"tools": [{"type": "function", "function": {"name": "look", "parameters": _CITY}}]},
        ),
        ("chat/completions", _CHAT | {"response_format": {"type": "json_object"}, "metadata": {"a": "b"}}),
        ("completions", {"prompt": ["1 2 3", "Who are"], "n": 2, "echo": True, "logprobs": 1, "seed": 4}),
        ("completions", {"prompt": "1 2 3", "guided_regex": "[0-9 ]{30}", "stop": ["9"], "max_time": 60}),
    ],
)
def test_events_are_the_frames_of_the_first_stream(stack: Stack, path: str, asked: dict[str, Any]) -> None:
    told = {"model": "penstock-demo", "max_tokens": 60, "stream": True} | asked
    key = {"Idempotency-Key": uuid.uuid4().hex}
    first = httpx2.post(f"{stack.url}/{path}", json=told, headers=key, timeout=60)
    job = first.headers["x-job-id"]

    events = httpx2.get(f"{stack.url}/jobs/{job}/events", timeout=60)
    again = httpx2.post(f"{stack.url}/{path}", json=told, headers=key, timeout=60)

    assert blocks(first.text)[-1] == "data: [DONE]"
    assert len(blocks(first.text)) > 4
    assert blocks(events.text) == blocks(again.text) == blocks(first.text)
    assert (again.headers["idempotent-replayed"], again.headers["x-job-id"]) == ("true", job)
