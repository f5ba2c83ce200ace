"""Answers under a constraint through the whole house, with the unchanged SDK."""

import json
import re
from typing import Any, Literal

import pytest
from openai import BadRequestError
from pydantic import BaseModel

from common.settings import DEMO_MODEL
from ops.bench.stack import Stack

ASK: dict[str, Any] = {"model": "penstock-demo", "messages": [{"role": "user", "content": "Name a pet."}]}
WIDE = {"type": "array", "items": {"enum": [1, 2]}, "uniqueItems": True, "minItems": 2, "maxItems": 2}


class Pet(BaseModel):
    """What an answer is to be."""

    kind: Literal["cat", "dog"]
    age: Literal[1, 2, 3]
    friends: "list[Pet] | None"


def _format(schema: Any, **changes: Any) -> dict[str, Any]:
    return {"type": "json_schema", "json_schema": {"name": "answer", "schema": schema} | changes}


def test_a_pydantic_model_comes_back_parsed_and_streamed(stack: Stack) -> None:
    client = stack.client()
    vocabulary = json.loads((DEMO_MODEL / "tokenizer.json").read_text())["model"]["vocab"]
    few = {str(number): -6 for token, number in vocabulary.items() if "[" in token}  # friends, and theirs

    seeds = range(1, 6)
    ask: dict[str, Any] = ASK | {"max_tokens": 400, "logit_bias": few, "temperature": 1}
    whole = [client.chat.completions.parse(**ask, response_format=Pet, seed=seed) for seed in seeds]
    with client.chat.completions.stream(**ask, response_format=Pet, seed=1) as stream:
        streamed = stream.get_final_completion()

    assert all(isinstance(one.choices[0].message.parsed, Pet) for one in whole)
    assert streamed.choices[0].message.content == whole[0].choices[0].message.content
    assert streamed.choices[0].finish_reason == "stop"


@pytest.mark.parametrize(
    ("extra", "pattern"),
    [
        ({"guided_choice": ["red", "<|end|>"]}, r"red|<\|end\|>"),
        ({"guided_regex": r"\d{3}-[a-c]{1,9}x"}, r"[0-9]{3}-[a-c]{1,9}x"),
        ({"guided_grammar": 'root ::= "yes" | "no"'}, "yes|no"),
        ({"structured_outputs": {"json": {"const": {"a": 1}}, "whitespace_pattern": ""}}, re.escape('{"a":1}')),
        ({"guided_json": '{"enum": [1, "é"]}'}, '1|"é"'),
    ],
)
def test_every_way_to_ask_holds_at_both_endpoints(stack: Stack, extra: dict[str, Any], pattern: str) -> None:
    client = stack.client()

    chat = client.chat.completions.create(**ASK, temperature=1.5, extra_body=extra).choices[0]
    text = client.completions.create(model=ASK["model"], prompt="It is ", temperature=1.5, extra_body=extra).choices[0]

    assert re.fullmatch(pattern, chat.message.content or "")
    assert re.fullmatch(pattern, text.text)
    assert (chat.finish_reason, text.finish_reason) == ("stop", "stop")


def test_what_is_only_looked_at_in_the_end_says_so(stack: Stack) -> None:
    told, seeds = set[bool](), iter(range(1, 60))
    while told != {True, False}:  # whatever its weights like: some draws are equal, and some are not
        asked = ASK | {"response_format": _format(WIDE), "temperature": 2, "seed": next(seeds)}
        whole = stack.client().chat.completions.create(**asked).choices[0]
        last = [part.choices[0] for part in stack.client().chat.completions.create(**asked, stream=True)][-1]
        held: Any = whole.model_extra["x_constraint"] if whole.model_extra else None
        assert held["mode"] == "wide"
        assert held["notes"] == [{"keyword": "uniqueItems", "pointer": "/uniqueItems", "kind": "wide"}]
        first, second = json.loads(whole.message.content or "")
        assert held["valid"] is (first != second)
        assert last.model_extra == {"x_constraint": held}
        told.add(held["valid"])


def test_what_old_clients_send_for_nothing_constrains_nothing(stack: Stack) -> None:
    nothing: dict[str, Any] = {"guided_json": "", "guided_regex": "", "guided_choice": [], "guided_grammar": ""}
    nothing |= {"guided_whitespace_pattern": "", "response_format": {"type": "text"}}

    plain = stack.client().chat.completions.create(**ASK, temperature=0)
    told = stack.client().chat.completions.create(**ASK, temperature=0, extra_body=nothing)

    assert told.choices[0].message.content == plain.choices[0].message.content


def test_a_schema_that_would_fill_the_context_is_held_without_being_told(stack: Stack) -> None:
    asked = ASK | {"response_format": _format({"enum": ["y", "x" * 4000]}), "temperature": 0}

    answer = stack.client().chat.completions.create(**asked)

    assert answer.usage is not None
    assert answer.usage.prompt_tokens < 100
    assert (answer.choices[0].message.content or "").startswith(('"y"', '"x'))


def test_a_cut_answer_is_the_beginning_as_it_was_written(stack: Stack) -> None:
    asked = ASK | {"response_format": _format({"const": "a long text that does not fit"}), "max_tokens": 3}

    cut = stack.client().chat.completions.create(**asked).choices[0]

    assert cut.finish_reason == "length"
    assert '"a long text that does not fit"'.startswith(cut.message.content or "-")


@pytest.mark.parametrize(
    ("asked", "param", "said"),
    [
        ({"response_format": _format(WIDE, strict=True)}, "response_format", "uniqueItems"),
        ({"response_format": {"type": "json_schema"}}, "response_format.json_schema", "missing"),
        ({"response_format": _format({"type": "strin"})}, "response_format", "type"),
        ({"response_format": {"type": "json_object"}, "extra_body": {"guided_regex": "a"}}, "guided_regex", "only one"),
        ({"extra_body": {"guided_regex": "(?=a)b"}}, "guided_regex", "position 0"),
        ({"extra_body": {"guided_grammar": "start: missing"}}, "guided_grammar", "missing"),
        ({"extra_body": {"guided_json": "{"}}, "guided_json", "no JSON"),
        ({"extra_body": {"structured_outputs": {}}}, "structured_outputs", "exactly one"),
        (
            {"extra_body": {"structured_outputs": {"regex": "a", "whitespace_pattern": " "}}},
            "structured_outputs.whitespace_pattern",
            "goes with",
        ),
        ({"response_format": _format({}) | {"type": "text"}}, "response_format.json_schema", "goes with"),
        ({"extra_body": {"structured_outputs": {"structural_tag": {}}}}, "structured_outputs.structural_tag", "None"),
        ({"extra_body": {"guided_whitespace_pattern": " "}}, "guided_whitespace_pattern", "goes with"),
    ],
)
def test_what_cannot_be_held_is_refused_by_name(stack: Stack, asked: dict[str, Any], param: str, said: str) -> None:
    with pytest.raises(BadRequestError, match=said) as refused:
        stack.client().chat.completions.create(**ASK, **asked)

    assert refused.value.param == param
