"""Random tools and choices through the whole house: what comes back must be calls of these tools that fit.

Each request is asked twice, streamed and whole, with the same seed: the pieces of the one are the other. Schemas of
functions come from the public sample where it is at hand.
"""

import json
import random
import tempfile
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import jsonschema_rs

from ops.bench.schemas import DATA, FILES
from ops.bench.stack import Stack

_COUNT, _TOGETHER, _SEED = 2_000, 16, 5
_LONGEST = 240  # characters of a schema: the bundled model's context holds 1,024 tokens
_SPLITS = ("Glaive", "BFCL", "MCP")
_QUESTIONS = ("What is the weather in Oslo?", "Who are you?", "Call something.", "Buy two apples and a pear, please.")
_OWN: tuple[dict[str, Any] | None, ...] = (
    None,
    {"type": "object", "properties": {}},
    {"type": "object", "properties": {"city": {"type": "string", "maxLength": 12}}, "required": ["city"]},
    {"type": "object", "properties": {"n": {"type": "integer", "minimum": 1, "maximum": 99}}, "required": ["n"]},
    {"type": "object", "properties": {"on": {"type": "boolean"}, "by": {"enum": ["a", "b c", "</tool_call>", None]}}},
    {
        "type": "object",
        "properties": {"tags": {"type": "array", "items": {"type": "string", "maxLength": 4}, "maxItems": 2}},
        "additionalProperties": False,
    },
    {"type": "object", "properties": {"at": {"$ref": "#/$defs/at"}}, "$defs": {"at": {"type": ["number", "null"]}}},
    {"type": "object", "properties": {"x": {"anyOf": [{"const": 1}, {"type": "string", "pattern": "^[a-c]{2}$"}]}}},
)

Tool = dict[str, Any]


@dataclass
class Found:
    """What came of so many requests."""

    requests: int = 0
    calls: int = 0
    invalid: int = 0  # arguments that miss their schema, and are not told to
    unknown: int = 0  # calls of tools that were not to be called
    missing: int = 0  # answers without the call that had to come
    differing: int = 0  # streams that are not their whole
    examples: list[Any] = field(default_factory=list)

    def note(self, kind: str, example: Any) -> None:
        """One more of a kind that should not be."""
        setattr(self, kind, getattr(self, kind) + 1)
        self.examples.append((kind, example))


def measure() -> dict[str, float]:
    """All figures of this page, by flat keys."""
    with tempfile.TemporaryDirectory() as folder:
        stack = Stack(Path(folder))
        try:
            found = ask_all(stack.wait_ready(), asks(_SEED, _COUNT))
        finally:
            stack.stop()
    for kind, example in found.examples[:8]:
        print(kind, json.dumps(example))
    return {f"tools_{name}": float(value) for name, value in vars(found).items() if name != "examples"}


def asks(seed: int, count: int) -> Iterator[dict[str, Any]]:
    """Requests with one to three random tools, in every form of the choice."""
    rng, schemas = random.Random(seed), [*_OWN, *_public()]
    for at in range(count):
        names = rng.sample(("look", "buy", "get_weather", "a", "do-it", "X9"), rng.randint(1, 3))
        tools = [_tool(name, rng.choice(schemas)) for name in names]
        yield {
            "model": "penstock-demo",
            "messages": [{"role": "user", "content": rng.choice(_QUESTIONS)}],
            "tools": tools,
            "tool_choice": _choice(rng, tools),
            "parallel_tool_calls": rng.choice((True, True, False)),
            "temperature": rng.choice((0, 0.7, 1.5)),
            "seed": at + 1,
            "max_tokens": 150,
        }


def _tool(name: str, schema: dict[str, Any] | None) -> Tool:
    return {"type": "function", "function": {"name": name} | ({} if schema is None else {"parameters": schema})}


def _choice(rng: random.Random, tools: list[Tool]) -> Any:
    name = rng.choice(tools)["function"]["name"]
    some = {"mode": rng.choice(("auto", "required")), "tools": tools[:1]}
    return rng.choice(
        (
            "auto",
            "required",
            name,
            {"type": "function", "function": {"name": name}},
            {"type": "allowed_tools", "allowed_tools": some},
        )
    )


def _public() -> Iterator[dict[str, Any]]:
    """Functions' schemas of the public sample."""
    path = DATA / FILES["maskbench"]
    if not path.is_file():
        return
    for line in path.read_text().splitlines():
        told = json.loads(line)
        schema = told["schema"]
        is_function = told["id"].startswith(_SPLITS) and isinstance(schema, dict) and schema.get("type") == "object"
        if is_function and len(json.dumps(schema)) <= _LONGEST:
            yield schema


def ask_all(stack: Stack, asked: Iterable[dict[str, Any]]) -> Found:
    """Each of them twice, many at once."""
    found = Found()
    with ThreadPoolExecutor(_TOGETHER) as pool:
        for one, whole, streamed in pool.map(lambda one: (one, *_both(stack, one)), asked):
            found.requests += 1
            _judge(found, one, whole)
            if streamed != _parts(whole):
                found.note("differing", (one, whole, streamed))
    return found


def _both(stack: Stack, asked: dict[str, Any]) -> tuple[dict[str, Any], tuple[Any, ...]]:
    client = stack.client()
    whole = client.chat.completions.create(**asked).choices[0].to_dict()
    content, calls, reason = "", dict[int, list[str]](), ""
    for part in client.chat.completions.create(**asked, stream=True):
        (choice,) = part.choices
        content, reason = content + (choice.delta.content or ""), choice.finish_reason or reason
        for piece in choice.delta.tool_calls or ():
            call = calls.setdefault(piece.index, ["", ""])
            if piece.function is not None:
                call[0] += piece.function.name or ""
                call[1] += piece.function.arguments or ""
    return whole, (content, [tuple(call) for _, call in sorted(calls.items())], reason)


def _parts(whole: dict[str, Any]) -> tuple[Any, ...]:
    calls = [
        (call["function"]["name"], call["function"]["arguments"]) for call in whole["message"].get("tool_calls", ())
    ]
    return whole["message"]["content"] or "", calls, whole["finish_reason"]


def _judge(found: Found, asked: dict[str, Any], whole: dict[str, Any]) -> None:
    _, calls, reason = _parts(whole)
    allowed, must = _allowed(asked)
    if must and not calls and reason != "length":
        found.note("missing", (asked, whole))
    is_told = whole.get("x_constraint", {}).get("valid") is False
    finished = calls[:-1] if reason == "length" else calls
    found.calls += len(finished)
    for name, arguments in finished:
        if name not in allowed:
            found.note("unknown", (asked, whole))
        elif not is_told and not jsonschema_rs.is_valid(allowed[name], json.loads(arguments)):
            found.note("invalid", (asked, whole))


def _allowed(asked: dict[str, Any]) -> tuple[dict[str, Any], bool]:
    """The schemas of the tools that may be called, and whether one must be."""
    schemas = {
        tool["function"]["name"]: tool["function"].get("parameters", {"maxProperties": 0}) for tool in asked["tools"]
    }
    match asked["tool_choice"]:
        case "auto" | "required" as word:
            return schemas, word == "required"
        case {"allowed_tools": {"mode": mode, "tools": some}}:
            return {name: schemas[name] for name in (tool["function"]["name"] for tool in some)}, mode == "required"
        case {"function": {"name": name}} | name:
            return {name: schemas[name]}, True
    raise ValueError("a choice of no known form")
