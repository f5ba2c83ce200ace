"""Calls of tools through the whole house, with the unchanged SDK."""

import json
import signal
from collections.abc import Callable, Iterable
from typing import Any, Literal

import openai
import pytest
from openai.types.chat import ChatCompletionChunk
from pydantic import BaseModel

from ops.bench.stack import Stack
from ops.bench.tools import ask_all, asks

ASK: dict[str, Any] = {"model": "penstock-demo", "messages": [{"role": "user", "content": "What is near?"}]}
SMALL = {
    "type": "object",
    "properties": {"far": {"type": "boolean"}},
    "required": ["far"],
    "additionalProperties": False,
}
LOOK = {"type": "function", "function": {"name": "look", "description": "Around.", "parameters": SMALL}}
NOW = {"type": "function", "function": {"name": "now"}}


class Buy(BaseModel):
    """Something in a shop."""

    what: Literal["bread", "milk"]
    count: Literal[1, 2, 3]


def _joined(parts: Iterable[ChatCompletionChunk]) -> tuple[str, list[tuple[str, str, str]], str | None]:
    """Content, calls and reason of a stream; id and name come once."""
    content, calls, reason = "", list[list[str]](), None
    for part in parts:
        (choice,) = part.choices
        content += choice.delta.content or ""
        reason = choice.finish_reason or reason
        for piece in choice.delta.tool_calls or ():
            assert piece.function is not None
            if piece.index == len(calls):
                assert piece.type == "function"
                calls.append([piece.id or "", piece.function.name or "", ""])
            else:
                assert (piece.index, piece.id, piece.function.name) == (len(calls) - 1, None, None)
            calls[piece.index][2] += piece.function.arguments or ""
    return content, [(one, name, arguments) for one, name, arguments in calls], reason


@pytest.mark.parametrize("choice", ["auto", "required", "look", "none"])
def test_the_pieces_of_a_stream_are_the_whole(stack: Stack, choice: str) -> None:
    asked = ASK | {"tools": [LOOK, NOW], "tool_choice": choice, "seed": 4, "max_tokens": 400, "temperature": 0.7}
    client = stack.client()

    content, calls, reason = _joined(client.chat.completions.create(**asked, stream=True))
    whole = client.chat.completions.create(**asked).choices[0]

    told = [(call.function.name, call.function.arguments) for call in whole.message.tool_calls or ()]
    assert [(name, arguments) for _, name, arguments in calls] == told
    assert (content, reason) == (whole.message.content or "", whole.finish_reason)
    assert bool(told) == (choice in {"required", "look"} or (choice == "auto" and reason == "tool_calls"))
    assert choice != "look" or reason == "stop"


def test_a_tool_of_the_sdks_comes_back_parsed_whole_and_streamed(stack: Stack) -> None:
    client = stack.client()
    asked: Any = ASK | {"tools": [openai.pydantic_function_tool(Buy)], "tool_choice": "Buy", "max_tokens": 200}
    asked |= {"temperature": 0}

    whole = client.chat.completions.parse(**asked).choices[0].message
    with client.chat.completions.stream(**asked) as stream:
        streamed = stream.get_final_completion().choices[0].message

    for message in (whole, streamed):
        calls: Any = message.tool_calls
        assert isinstance(calls[0].function.parsed_arguments, Buy)
        assert message.content is None
    assert (whole.tool_calls or [])[0].function.arguments == (streamed.tool_calls or [])[0].function.arguments


def test_an_answer_goes_on_from_what_its_calls_gave(stack: Stack) -> None:
    client = stack.client()
    asked: Any = ASK | {"tools": [LOOK, NOW], "tool_choice": "look", "temperature": 0, "max_tokens": 200}
    said = client.chat.completions.create(**asked).choices[0].message
    results: list[Any] = [
        {"role": "tool", "tool_call_id": call.id, "content": "a mill"} for call in said.tool_calls or ()
    ]

    turns = [*ASK["messages"], said, *results]
    answer = client.chat.completions.create(**asked | {"messages": turns, "tool_choice": "none"})

    assert len(results) == 1
    assert answer.choices[0].message.content
    assert answer.usage is not None
    with pytest.raises(openai.BadRequestError) as refused:
        client.chat.completions.create(**asked | {"messages": turns[:2]})
    assert refused.value.param == "messages[1].tool_calls"


def test_a_killed_worker_is_not_noticed_in_the_middle_of_a_call(start: Callable[..., Stack]) -> None:
    stack = start()
    words = {"type": "array", "items": {"type": "string", "minLength": 8, "maxLength": 12}, "minItems": 12}
    schema = {"type": "object", "properties": {"words": words}, "required": ["words"]}
    tool = {"type": "function", "function": {"name": "spell", "parameters": schema}}
    asked: Any = ASK | {"tools": [tool], "tool_choice": "spell", "seed": 9, "max_tokens": 300, "temperature": 1}
    undisturbed = _joined(stack.client().chat.completions.create(**asked, stream=True))

    stream = iter(stack.client().chat.completions.create(**asked, stream=True))
    parts = [next(stream) for _ in range(12)]
    (engine,) = stack.engines()
    engine.send_signal(signal.SIGKILL)
    content, calls, reason = _joined([*parts, *stream])

    assert (content, reason) == (undisturbed[0], undisturbed[2])
    assert [call[1:] for call in calls] == [call[1:] for call in undisturbed[1]]
    assert len(calls[0][2]) > 100


def test_random_tools_and_choices_always_give_calls_that_fit(stack: Stack) -> None:
    found = ask_all(stack, asks(seed=3, count=32))

    assert found.requests == 32
    assert found.calls > 10
    assert (found.invalid, found.unknown, found.missing, found.differing) == (0, 0, 0, 0), found.examples


def test_what_is_left_to_the_end_is_looked_at_in_calls(stack: Stack) -> None:
    days = {"type": "array", "items": {"enum": [1, 2]}, "uniqueItems": True, "minItems": 2, "maxItems": 2}
    schema = {"type": "object", "properties": {"days": days}, "required": ["days"], "additionalProperties": False}
    tool = {"type": "function", "function": {"name": "plan", "parameters": schema}}
    told = set()
    for seed in range(1, 9):
        asked: Any = ASK | {"tools": [tool], "tool_choice": "plan", "seed": seed, "temperature": 1.5}
        choice = stack.client().chat.completions.create(**asked).choices[0]
        calls: Any = choice.message.tool_calls
        held: Any = (choice.model_extra or {})["x_constraint"]
        first, second = json.loads(calls[0].function.arguments)["days"]
        assert held["valid"] is (first != second)
        assert first != second or held["errors"] == ["/tool_calls/0/function/arguments/days"]
        told.add(held["valid"])
    assert told == {True, False}


def test_a_model_tells_what_it_can_do_and_how_it_writes_calls(stack: Stack) -> None:
    told: Any = stack.client().models.retrieve("penstock-demo").model_extra

    assert told["context"] == 1024
    assert {"chat", "constraints", "tools"} <= set(told["capabilities"])
    assert "<tool_call>" in told["tool_format"]["call_begin"]
