"""What a request says of its answer's shape, and the line that tells the model."""

from typing import Any

import pytest

from common.constraints.spec import Wanted
from common.errors import InvalidRequestError
from common.protocol.chat import ChatRequest

SCHEMA = {"type": "object"}


def _asked(**body: Any) -> ChatRequest:
    return ChatRequest.of({"messages": [{"role": "user", "content": "Hi"}]} | body, strict=False)


def _format(kind: str, **inner: Any) -> dict[str, Any]:
    return {"type": kind} | ({"json_schema": {"name": "a"} | inner} if inner else {})


@pytest.mark.parametrize(
    ("body", "wanted"),
    [
        ({}, None),
        ({"response_format": _format("text")}, None),
        ({"response_format": _format("json_object")}, Wanted("json", SCHEMA, "response_format")),
        ({"response_format": _format("json_code")}, Wanted("json", SCHEMA, "response_format")),
        (
            {"response_format": _format("json_code"), "guided_json": {"const": 1}},
            Wanted("json", {"const": 1}, "response_format"),
        ),
        (
            {"response_format": _format("json_schema", schema='{"const": 1}', strict=True)},
            Wanted("json", {"const": 1}, "response_format", is_strict=True),
        ),
        (
            {"response_format": _format("json_schema", schema=SCHEMA), "guided_json": SCHEMA},
            Wanted("json", SCHEMA, "response_format"),
        ),
        (
            {"guided_json": SCHEMA, "guided_whitespace_pattern": " ?"},
            Wanted("json", SCHEMA, "guided_json", spaces=" ?"),
        ),
        ({"guided_choice": ["a", "b"]}, Wanted("choice", ("a", "b"), "guided_choice")),
        ({"structured_outputs": {"json_object": True}}, Wanted("json", SCHEMA, "structured_outputs")),
        (
            {"structured_outputs": {"json": SCHEMA, "whitespace_pattern": ""}},
            Wanted("json", SCHEMA, "structured_outputs", spaces=""),
        ),
    ],
)
def test_each_way_to_ask_becomes_the_same_noun(body: dict[str, Any], wanted: Wanted | None) -> None:
    assert _asked(**body).wanted() == wanted


@pytest.mark.parametrize(
    ("body", "hint", "is_always_only"),
    [
        ({}, None, False),
        ({"response_format": _format("json_object")}, "Answer with one JSON object and nothing else.", False),
        (
            {"response_format": _format("json_schema", schema={"const": 1}, description="A number.")},
            'A number.\nAnswer in JSON that fits this schema: {"const": 1}',
            False,
        ),
        ({"guided_json": {"const": "é"}}, 'Answer in JSON that fits this schema: {"const": "é"}', True),
    ],
)
def test_a_line_tells_the_model_what_it_cannot_see(
    body: dict[str, Any], hint: str | None, *, is_always_only: bool
) -> None:
    asked = _asked(**body)

    assert asked.hint(always=True) == hint
    assert asked.hint(always=False) == (None if is_always_only else hint)


@pytest.mark.parametrize("text", ["{", '{"const": NaN}', '{"const": "\\ud800"}', '{"not":' * 65 + "{}" + "}" * 65])
def test_a_schema_in_a_text_is_held_to_what_holds_for_bodies(text: str) -> None:
    function = {"name": "f", "parameters": text}
    asks: list[dict[str, Any]] = [{"guided_json": text}, {"tools": [{"type": "function", "function": function}]}]
    for body, param in zip(asks, ("guided_json", "tools[0].function.parameters"), strict=True):
        with pytest.raises(InvalidRequestError, match="no JSON") as refused:
            _asked(**body)
        assert refused.value.param == param
