"""Bytes to Request, or a refusal that names the field."""

import json
import re
from typing import Any

import pytest
from pydantic import ValidationError

from common.errors import InvalidRequestError
from common.protocol.chat import ChatRequest
from common.protocol.completions import CompletionRequest
from common.protocol.fields import LATER, NEVER
from tests.common.asking import CALL, HI, chat, refusal, refused, strictly, text, turns


def test_a_top_level_null_means_the_default() -> None:
    asked = chat(temperature=None, stop=None, n=None, tools=None, user=None)

    assert (asked.temperature, asked.stop, asked.ignored) == (0.3, (), ())


@pytest.mark.parametrize("name", ["max_tokens", "seed", "top_k"])
def test_a_whole_number_may_be_written_with_a_point(name: str) -> None:
    assert getattr(chat(**{name: 5.0}), name) == 5


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("temperature", -0.1),
        ("temperature", 2.1),
        ("temperature", "1"),
        ("temperature", True),
        ("top_p", 0),
        ("top_p", 1.1),
        ("top_k", -1),
        ("top_k", 1.5),
        ("min_p", 2),
        ("max_tokens", 0),
        ("max_tokens", "5"),
        ("max_completion_tokens", -5),
        ("do_sample", 1),
        ("presence_penalty", 2.1),
        ("frequency_penalty", -2.1),
        ("repetition_penalty", 0),
        ("logit_bias", {"1": 101}),
        ("logit_bias", {"one": 1}),
        ("logit_bias", {str(token): 1 for token in range(1025)}),
        ("logit_bias", [1]),
        ("stop_token_ids", [-1]),
        ("stop_token_ids", ["1"]),
        ("stop_token_ids", 1),
        ("min_tokens", -1),
        ("min_new_tokens", 0.5),
        ("seed", 2**63),
        ("seed", 0.5),
        ("stop", 5),
        ("stop", [""]),
        ("stop", "x" * 257),
        ("stop", ["x"] * 17),
        ("stream", 1),
        ("stream_options", {"include_usage": True}),
        ("service_tier", "scale"),
        ("on_disconnect", "stay"),
        ("max_time", 0),
        ("metadata", {str(number): "" for number in range(17)}),
        ("metadata", "a"),
        ("user", 5),
        ("user", "x" * 513),
        ("model", -1),
        ("model", True),
        ("model", 1.5),
        ("messages", []),
        ("messages", "Hi"),
        ("messages", HI * 4097),
    ],
)
def test_a_wrong_value_is_refused_by_its_fields_name(field: str, value: Any) -> None:
    assert re.split(r"[.\[]", str(refused(**{field: value})))[0] == field


@pytest.mark.parametrize(
    ("message", "param"),
    [
        ({"role": "robot", "content": "x"}, "messages[0].role"),
        ({"role": "function", "content": "x", "name": "f"}, "messages[0].role"),
        ({"role": "tool", "content": "x"}, "messages[0].tool_call_id"),
        ({"role": "tool", "content": None, "tool_call_id": "1"}, "messages[0].content"),
        ({"role": "assistant", "content": None}, "messages[0].content"),
        ({"role": "assistant", "content": None, "tool_calls": []}, "messages[0].content"),
        ({"role": "user", "content": "x", "tool_calls": [CALL]}, "messages[0].tool_calls"),
        ({"role": "assistant", "tool_calls": [CALL] * 129}, "messages[0].tool_calls"),
        ({"role": "assistant", "tool_calls": [CALL | {"type": "custom"}]}, "messages[0].tool_calls[0].type"),
        ({"role": "assistant", "content": "x", "function_call": {"name": "f"}}, "messages[0].function_call"),
        ({"role": "assistant", "content": "x", "audio": {"id": "a"}}, "messages[0].audio"),
        ({"content": "x"}, "messages[0].role"),
        ({"role": "user"}, "messages[0].content"),
        ({"role": "user", "content": None}, "messages[0].content"),
        ({"role": "user", "content": []}, "messages[0].content"),
        ({"role": "user", "content": [{"type": "text", "text": 1}]}, "messages[0].content[0].text"),
        ({"role": "user", "content": [{"type": "text", "text": "a"}] * 65}, "messages[0].content"),
        (
            {"role": "user", "content": [{"type": "image_url", "image_url": {"url": "x"}}]},
            "messages[0].content[0].type",
        ),
        ({"role": "assistant", "content": "x", "tool_calls": [{}]}, "messages[0].tool_calls[0].id"),
        ("Hi", "messages[0]"),
    ],
)
def test_a_wrong_message_is_refused_by_its_place(message: Any, param: str) -> None:
    assert refused(messages=[message]) == param


def test_parts_of_text_are_one_text_and_developers_are_systems() -> None:
    asked = chat(
        messages=[
            {"role": "developer", "content": "Be brief."},
            {"role": "user", "content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}], "name": "Ann"},
        ]
    )

    assert turns(asked) == [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "a\nb", "name": "Ann"},
    ]


def test_a_message_that_an_sdk_dumped_may_come_back() -> None:
    dumped: dict[str, Any] = {
        "role": "assistant",
        "content": "Hello",
        "refusal": None,
        "annotations": [],
        "tool_calls": None,
    }

    assert turns(chat(messages=[*HI, dumped, *HI]))[1] == {"role": "assistant", "content": "Hello"}


@pytest.mark.parametrize("name", [name for name in (*LATER, *NEVER) if name not in ChatRequest.model_fields])
def test_a_field_whose_feature_is_missing_is_refused_by_name(name: str) -> None:
    told = refusal(json.dumps({"messages": HI, name: {"some": "thing"}}).encode())

    assert (told.param, told.actual_code) == (name, "unsupported_parameter")


@pytest.mark.parametrize(("name", "value"), [(name, value) for name, values in LATER.items() for value in values])
def test_a_default_of_such_a_field_is_taken(name: str, value: Any) -> None:
    assert strictly(**{name: value}).ignored == ()


def test_true_is_not_one() -> None:
    assert (refused(n=True), refused(logprobs=0)) == ("n", "logprobs")


def test_what_nobody_knows_is_ignored_and_named() -> None:
    assert chat(zebra=1, apple=None, use_agent=True).ignored == ("use_agent", "zebra")


def test_what_means_nothing_inside_of_messages_is_named_as_well() -> None:
    part = {"type": "text", "text": "a", "cache_control": {"type": "ephemeral"}}
    messages = [
        {"role": "user", "content": [part, part], "weird": 1},
        {"role": "assistant", "content": "b", "refusal": None, "annotations": []},
        {"role": "assistant", "content": "c", "refusal": "No."},
    ]

    assert chat(messages=messages, zebra=1).ignored == (
        "zebra",
        "messages.weird",
        "messages.content.cache_control",
        "messages.refusal",
    )
    with pytest.raises(InvalidRequestError) as told:
        strictly(messages=messages)
    assert told.value.param == "messages.weird"


def test_a_strict_service_refuses_what_it_would_ignore() -> None:
    with pytest.raises(InvalidRequestError) as told:
        strictly(zebra=1)

    assert (told.value.param, told.value.actual_code) == ("zebra", "unsupported_parameter")


def test_no_client_says_what_was_ignored() -> None:
    assert chat(ignored=["x"]).ignored == ("ignored",)


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b"[]",
        b"null",
        b"\xff",
        b'{"temperature": NaN}',
        b'{"temperature": Infinity}',
        b'{"a": ' + b"[" * 70 + b"]" * 70 + b"}",
        b"[" * 1_000_000,
        b'{"messages": [], "messages": []}',
        b'{"messages": [{"role": "user", "content": "\\ud83d"}]}',
        b'{"user": "\\udc00"}',
        b'{"seed": ' + b"9" * 5000 + b"}",
        json.dumps({"messages": HI}).encode("utf-16"),
        json.dumps({"messages": HI}).encode("utf-32-le"),
    ],
)
def test_what_is_no_json_of_ours_is_refused(body: bytes) -> None:
    assert refusal(body).status == 400


@pytest.mark.parametrize("value", [b"1,", b'"",', b"{},", b'{"a":[]},'])
def test_more_values_than_can_be_read_at_once_are_refused(value: bytes) -> None:
    body = b'{"messages": [{"role": "user", "content": "Hi"}], "x": [' + value * 300_000 + b"1]}"

    assert "too many values" in refusal(body).message


def test_a_text_may_hold_as_many_marks_as_it_likes() -> None:
    assert chat(messages=[{"role": "user", "content": '[{"a": 1}, ] \\' * 300_000}]).messages


def test_a_repeated_name_is_found_among_many() -> None:
    names = b"".join(b'"k%d":1,' % number for number in range(125_000))

    assert refusal(b"{" + names + b'"k124999":1}').param == "k124999"


def test_a_repeated_name_that_is_half_a_character_can_be_told() -> None:
    told = refusal(b'{"\\ud800": 1, "\\ud800": 2}')

    assert told.param == "?"


@pytest.mark.parametrize(
    "fields",
    [
        {"messages": [1] * 1000},
        {"messages": [{"role": "user", "content": [1] * 1000}]},
        {"messages": HI, "stop": [1] * 1000},
        {"messages": HI, "metadata": dict.fromkeys(map(str, range(1000)), 1)},
    ],
)
def test_the_first_of_many_mistakes_is_enough(fields: dict[str, Any]) -> None:
    with pytest.raises(ValidationError) as told:
        ChatRequest.model_validate(fields)

    assert told.value.error_count() <= 3  # it, and at most that each list it stands in is too short


def test_a_refusal_speaks_of_lists_and_not_of_our_types() -> None:
    assert refusal(b'{"messages": []}').message == "messages: list should have at least 1 item."


def test_brackets_inside_of_strings_are_text() -> None:
    assert chat(messages=[{"role": "user", "content": '["\\"' * 100}]).messages


def test_a_number_beyond_all_numbers_is_refused() -> None:
    assert refusal(b'{"messages": [{"role": "user", "content": "x"}], "temperature": 1e999}').param == "temperature"


@pytest.mark.parametrize(
    ("prompt", "param"),
    [
        (5, "prompt"),
        ({}, "prompt"),
        ([], "prompt"),
        ([[]], "prompt[0]"),
        (["a", 1], "prompt[1]"),
        ([None], "prompt[0]"),
        ([1, "a"], "prompt[0][1]"),
        ([[1], [2, -1]], "prompt[1][1]"),
        ([1.5], "prompt[0][0]"),
        ([True], "prompt[0][0]"),
        (["a"] * 129, "prompt"),
    ],
)
def test_a_prompt_of_another_kind_is_refused_by_its_place(prompt: Any, param: str) -> None:
    assert refusal(json.dumps({"prompt": prompt}).encode(), CompletionRequest).param == param


def test_a_prompt_is_a_text_or_tokens_or_many_of_them() -> None:
    prompts = ["a", ["a", ""], [1, 2], [[1], [2, 3]], ["a", [1]]]

    assert [text(prompt=prompt).prompt for prompt in prompts] == [
        ("a",),
        ("a", ""),
        ((1, 2),),
        ((1,), (2, 3)),
        ("a", (1,)),
    ]
