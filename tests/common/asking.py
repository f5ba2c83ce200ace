"""Requests with defaults: a test names only what matters to it."""

import json
from typing import Any

import pytest

from common.errors import InvalidRequestError
from common.identity import Principal
from common.jobs import Job
from common.protocol import Request, parse
from common.protocol.chat import ChatRequest
from common.protocol.completions import CompletionRequest
from common.protocol.generation import Generation, Headers, Read, Room
from common.settings import Limits

HI = [{"role": "user", "content": "Hi"}]
CALL = {"id": "c1", "type": "function", "function": {"name": "look", "arguments": '{"at": "Rome"}'}}


WHO = Principal(key_id="k")


def chat(**fields: Any) -> ChatRequest:
    return parse(json.dumps({"messages": HI} | fields).encode(), ChatRequest, limits=Limits(), strict=False)


def strictly(**fields: Any) -> ChatRequest:
    return parse(json.dumps({"messages": HI} | fields).encode(), ChatRequest, limits=Limits(), strict=True)


def text(**fields: Any) -> CompletionRequest:
    return parse(json.dumps({"prompt": "Hi"} | fields).encode(), CompletionRequest, limits=Limits(), strict=False)


def job(ask: Generation, *, prompt: int = 3, context: int = 1024, headers: Headers | None = None) -> Job:
    return ask.job(WHO, "m", [Read(tuple(range(prompt)))], Room(context, 1000, 0, headers or Headers()))


def refusal(body: bytes, kind: type[Request] = ChatRequest) -> InvalidRequestError:
    with pytest.raises(InvalidRequestError) as refused:
        parse(body, kind, limits=Limits(), strict=False)
    return refused.value


def refused(**fields: Any) -> str | None:
    return refusal(json.dumps({"messages": HI} | fields).encode()).param


def turns(ask: ChatRequest) -> list[dict[str, Any]]:
    """As the chat template will see them."""
    (one,) = ask.asks()
    assert one.turns is not None
    return one.turns
