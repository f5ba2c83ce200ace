"""Every answer and every frame, as it came over the wire, against the schemas that OpenAI publishes."""

import json
from collections.abc import Callable
from typing import Any

import httpx2
import jsonschema_rs
import pytest

from common.settings import REPOSITORY
from ops.bench.stack import Stack

SCHEMAS = REPOSITORY.parent / "shared" / "data" / "openai_schemas.json"
CHAT = {"model": "penstock-demo", "messages": [{"role": "user", "content": "Who are you?"}], "max_tokens": 12}
TEXT = {"model": "penstock-demo", "prompt": ["Who are", "1 2"], "max_tokens": 5}
MORE: list[dict[str, Any]] = [
    {},
    {"n": 2, "temperature": 1, "service_tier": "flex", "metadata": {"a": "b"}},
    {"stop": ["o"], "user": "ann", "seed": 5},
]
Complaints = Callable[[str, Any], list[str]]


@pytest.fixture(scope="module")
def complaints() -> Complaints:
    """What OpenAI's schema of this name says against a body."""
    if not SCHEMAS.is_file():
        pytest.skip("the folder with OpenAI's schemas is not here")
    parts = json.loads(SCHEMAS.read_text())["components"]

    def complain(name: str, body: Any) -> list[str]:
        validator = jsonschema_rs.validator_for({"$ref": f"#/components/schemas/{name}", "components": parts})
        return [f"{error.instance_path}: {error.message}" for error in validator.iter_errors(body)]

    return complain


def _post(stack: Stack, path: str, body: dict[str, Any]) -> httpx2.Response:
    return httpx2.post(f"{stack.url}{path}", json=body, timeout=30)


def _frames(answer: httpx2.Response) -> list[Any]:
    blocks = [block for block in answer.text.split("\n\n") if block]
    assert blocks.pop().endswith("data: [DONE]")
    return [json.loads(block.split("data: ", 1)[1]) for block in blocks]


def _filled(frame: dict[str, Any]) -> dict[str, Any]:
    """The schema of texts knows whole answers only; OpenAI's frames have null where these have something."""
    choices = [choice | {"finish_reason": choice["finish_reason"] or "stop"} for choice in frame["choices"]]
    return {name: value for name, value in frame.items() if (name, value) != ("usage", None)} | {"choices": choices}


def test_a_body_of_another_shape_is_complained_of(complaints: Complaints) -> None:
    assert complaints("CreateChatCompletionResponse", {"id": 1})


TOOLS = {"tools": [{"type": "function", "function": {"name": "look"}}], "tool_choice": "required", "max_tokens": 60}


@pytest.mark.parametrize("more", [*MORE, {"logprobs": True, "top_logprobs": 3}, TOOLS])
def test_chats_are_as_openai_describes_them(stack: Stack, complaints: Complaints, more: dict[str, Any]) -> None:
    whole = _post(stack, "/chat/completions", CHAT | more).json()

    assert complaints("CreateChatCompletionResponse", whole) == []
    for is_counted in (False, True):
        streamed = {"stream": True, "stream_options": {"include_usage": is_counted}}
        frames = _frames(_post(stack, "/chat/completions", CHAT | more | streamed))
        assert (len(frames) > 3, "usage" in frames[0]) == (True, is_counted)
        for frame in frames:
            assert complaints("CreateChatCompletionStreamResponse", frame) == []


@pytest.mark.parametrize("more", [*MORE, {"logprobs": 3}, {"echo": True}])
def test_texts_are_as_openai_describes_them(stack: Stack, complaints: Complaints, more: dict[str, Any]) -> None:
    whole = _post(stack, "/completions", TEXT | more).json()

    assert complaints("CreateCompletionResponse", whole) == []
    for is_counted in (False, True):
        streamed = {"stream": True, "stream_options": {"include_usage": is_counted}}
        frames = _frames(_post(stack, "/completions", TEXT | more | streamed))
        assert (len(frames) > 3, "usage" in frames[0]) == (True, is_counted)
        for frame in frames:
            assert complaints("CreateCompletionResponse", _filled(frame)) == []


def test_models_and_errors_are_as_openai_describes_them(stack: Stack, complaints: Complaints) -> None:
    assert complaints("ListModelsResponse", httpx2.get(f"{stack.url}/models").json()) == []
    assert complaints("Model", httpx2.get(f"{stack.url}/models/penstock-demo").json()) == []
    refused = [_post(stack, "/chat/completions", body) for body in ({}, CHAT | {"model": "x"}, CHAT | {"n": 99})]
    assert [answer.status_code for answer in refused] == [400, 404, 400]
    for answer in refused:
        assert complaints("ErrorResponse", answer.json()) == []
