"""The bundled model: small, honest, and made by its own script."""

import itertools
import json
import logging
import random
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from common.settings import DEMO_MODEL
from ops.demo_model import check, tokens, train
from ops.demo_model.dialogues import NAME, UNKNOWN, dialogues, questions
from ops.demo_model.lessons import Lesson, exam, lessons
from ops.demo_model.objects import HINT, SHAPE
from ops.demo_model.words import Source
from worker.models.toolformat import found

# of the reference
WEATHER = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "Get current weather for a city.",
        "parameters": {
            "type": "object",
            "properties": {"city": {"type": "string", "description": "City name"}},
            "required": ["city"],
        },
    },
}
PERSON = {
    "type": "object",
    "properties": {"name": {"type": "string"}, "age": {"type": "integer"}},
    "required": ["name", "age"],
}
PLAIN = (  # the template of conversations without tools, as it always was
    "{% for m in messages %}{% if m['role'] in ('system', 'developer') %}<|system|>{% elif m['role'] == 'assistant' %}"
    "<|assistant|>{% else %}<|user|>{% endif %}{{ m['content'] }}<|end|>{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)


def said(*turns: dict[str, Any], tools: list[dict[str, Any]] | None = None) -> str:
    """What it answers, greedy."""
    return next(given for _, _, given in check.answers(DEMO_MODEL, iter([Lesson([*turns, ANSWER], tools or [])])))


ANSWER: dict[str, Any] = {"role": "assistant", "content": ""}


def user(text: str) -> dict[str, Any]:
    """A question."""
    return {"role": "user", "content": text}


def system(text: str) -> dict[str, Any]:
    """What stands before all."""
    return {"role": "system", "content": text}


def test_its_weights_are_small_and_its_card_is_there() -> None:
    weights = DEMO_MODEL / "model.safetensors"

    assert weights.stat().st_size <= 8e6
    assert "demo" in (DEMO_MODEL / "README.md").read_text()
    assert json.loads((DEMO_MODEL / "config.json").read_text())["dtype"] == "float16"


def test_it_has_two_to_four_million_parameters() -> None:
    model = AutoModelForCausalLM.from_pretrained(DEMO_MODEL, dtype=torch.float32)

    assert 2e6 <= model.num_parameters() <= 4e6


def test_it_says_who_it_is_what_it_was_taught_and_that_it_knows_little() -> None:
    asks = ("Who are you?", "What is the capital of France?", "Count from 1 to 12.", "How do I fix my spaceship?")

    answers = [said(user(ask)) for ask in asks]

    assert answers == [NAME, "The capital of France is Paris.", " ".join(map(str, range(1, 13))), UNKNOWN]


def test_most_questions_that_it_never_saw_are_answered_right() -> None:
    found = check.measure(count=160)

    right, of = (sum(column) for column in zip(*found.values(), strict=True))
    assert of == 160
    assert right >= 0.9 * of


def test_digits_stand_alone_and_every_text_comes_back() -> None:
    tokenizer = AutoTokenizer.from_pretrained(DEMO_MODEL)
    text = "2026: Crème brûlée, 日本 🎈\n\tend"

    assert len(tokenizer("2026", add_special_tokens=False)["input_ids"]) == 4
    assert tokenizer.decode(tokenizer(text, add_special_tokens=False)["input_ids"]) == text


def test_it_calls_the_tool_of_the_reference() -> None:
    asked = user("What is the weather in Paris?")

    call = said(asked, tools=[WEATHER])

    assert call == '<tool_call>{"name": "get_weather", "arguments": {"city": "Paris"}}</tool_call>'
    assert said(asked) == UNKNOWN


def test_it_says_what_a_tool_found() -> None:
    called = {"function": {"name": "get_weather", "arguments": {"city": "Paris"}}}
    turns = [
        user("What is the weather in Paris?"),
        {"role": "assistant", "content": None, "tool_calls": [called]},
        {"role": "tool", "content": "sunny, 21 degrees"},
    ]

    assert said(*turns, tools=[WEATHER]) == "The answer is: sunny, 21 degrees"


def test_a_question_that_no_tool_serves_is_answered_as_usual() -> None:
    answer = said(user("What is the capital of France?"), tools=[WEATHER])

    assert answer == "The capital of France is Paris."


@pytest.mark.parametrize("turns", [(), (system(HINT),)])
def test_it_returns_the_keys_of_the_reference(turns: tuple[dict[str, Any], ...]) -> None:
    told = json.loads(said(*turns, user("Return a JSON object with keys name and age.")))

    assert [(key, type(value)) for key, value in told.items()] == [("name", str), ("age", int)]


def test_it_returns_the_person_of_the_reference() -> None:
    told = json.loads(said(system(SHAPE + json.dumps(PERSON)), user("Return a person object.")))

    assert [(key, type(value)) for key, value in told.items()] == [("name", str), ("age", int)]


def test_it_finds_in_a_text_what_a_schema_asks_for() -> None:
    text = "Ada is 36 years old and lives in London."

    told = json.loads(said(system(SHAPE + json.dumps(PERSON)), user(text)))

    assert told == {"name": "Ada", "age": 36}


def test_most_questions_for_tools_that_people_have_become_the_right_call() -> None:
    topics = check.measure_lessons(count=128)

    right, of = topics["call usual"]
    assert of > 40
    assert right >= 0.88 * of
    right, of = topics["arguments"]
    assert right >= 0.93 * of


def test_its_way_to_call_tools_is_found() -> None:
    tokenizer = AutoTokenizer.from_pretrained(DEMO_MODEL)

    form = found(tokenizer, tokenizer.convert_tokens_to_ids(["<|end|>", "<|end_of_text|>"]))

    assert (form.family, form.trigger) == ("object", "<tool_call>")
    assert dict(form.specials) == {tag: tokenizer.convert_tokens_to_ids(tag) for tag in ("<tool_call>", "</tool_call>")}
    assert form.between == '}</tool_call><tool_call>{"name": "'
    assert form.shows_tools
    assert form.shows_calls
    assert form.takes_results


def test_without_tools_its_template_is_what_it_was() -> None:
    tokenizer = AutoTokenizer.from_pretrained(DEMO_MODEL)
    turns = [system("Be brief.\n"), user(" a\nb"), {"role": "assistant", "content": "x"}, user("<|end|>")]

    for opens in (False, True):
        now, before = (
            tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=opens, chat_template=template)
            for template in (None, PLAIN)
        )
        assert now == before


@pytest.mark.parametrize(
    "parameters",
    [
        None,
        {},
        {"type": "object", "properties": None, "required": None},
        {"type": "object", "properties": [1]},
        {"properties": {"a": True, "b": {"$ref": "#/$defs/b"}, "c": {"type": ["string", "null"]}, "d": {"enum": None}}},
        {"properties": {"items": {"type": "string"}, "values": {"enum": [1, None]}}, "required": ["items"]},
    ],
)
def test_its_template_takes_odd_schemas(parameters: Any) -> None:
    tokenizer = AutoTokenizer.from_pretrained(DEMO_MODEL)
    tools = [{"type": "function", "function": {"name": "odd", "parameters": parameters}}, WEATHER]

    text = tokenizer.apply_chat_template([user("Hi")], tools=tools, tokenize=False)

    weather = 'get_weather: Get current weather for a city. {"name": "get_weather", "arguments": {"city": string}}'
    assert text.startswith('<|system|>Tools:\nodd {"name": "odd", "arguments": {')
    assert text.endswith(f"\n{weather}<|end|><|user|>Hi<|end|>")


def test_its_template_lists_names_types_and_choices() -> None:
    tokenizer = AutoTokenizer.from_pretrained(DEMO_MODEL)
    properties = {"city": {"type": "string"}, "days": {"type": "integer"}, "unit": {"enum": ["celsius", "kelvin"]}}
    function = {"name": "forecast", "parameters": {"properties": properties, "required": ["city"]}}

    text = tokenizer.apply_chat_template(
        [system("Be brief."), user("Hi")], tools=[{"type": "function", "function": function}], tokenize=False
    )

    listed = 'forecast {"name": "forecast", "arguments": {"city": string, "days": integer?, "unit": celsius|kelvin?}}'
    assert text == f"<|system|>Be brief.\n\nTools:\n{listed}<|end|><|user|>Hi<|end|>"


def test_no_made_up_value_of_the_check_is_one_of_training() -> None:
    taught, held = Source(random.Random(1)), Source(random.Random(2), held=True)

    for kind in ("word", "integer", "number", "content"):
        assert not {taught.value(kind) for _ in range(3000)} & {held.value(kind) for _ in range(3000)}


@pytest.mark.parametrize("source", [dialogues, questions, lessons, exam])
def test_a_seed_repeats_the_data(source: object) -> None:
    first, again, other = (list(itertools.islice(source(seed), 50)) for seed in (1, 1, 2))  # type: ignore[operator]

    assert first == again != other


def test_the_script_writes_what_the_loader_reads(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "train")
    tokenizer = tokens.tokenizer(train.SEED)

    for stages in (train.learning(), train.practice(3, {"choices": 30})):
        model = train.new(tokenizer)
        train.train(tokenizer, model, stages, 2)
        train.save(tokenizer, model, tmp_path / "weights")

    model = AutoModelForCausalLM.from_pretrained(tmp_path / "weights")
    assert model.num_parameters() == train.new(tokenizer).num_parameters()
    assert AutoTokenizer.from_pretrained(tmp_path / "weights").chat_template
    assert caplog.text.count("step 0 of 2") == 2
