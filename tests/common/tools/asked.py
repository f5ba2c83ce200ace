"""Random requests with tools."""

import random
import string
from typing import Any

_TYPES: tuple[dict[str, Any], ...] = (
    {"type": "string"},
    {"type": "string", "description": "d", "maxLength": 12},
    {"type": "string", "minLength": 2, "maxLength": 9},
    {"type": "string", "enum": ["a b", "</in>", "ünï", '"q"']},
    {"type": "string", "pattern": "^[a-c]{1,4}$"},
    {"const": "fixed"},
    {"type": "integer", "minimum": 0, "maximum": 120},
    {"type": "number", "minimum": -5, "maximum": 5},
    {"type": "boolean"},
    {"type": ["string", "null"], "maxLength": 5},
    {"anyOf": [{"type": "string", "maxLength": 5}, {"type": "null"}]},
    {"type": "array", "items": {"type": "integer"}, "maxItems": 3},
    {"type": "object", "properties": {"x": {"type": "string"}}, "required": ["x"], "additionalProperties": False},
    {"$ref": "#/$defs/node"},
)
_NODE = {
    "type": "object",
    "properties": {"value": {"type": "integer"}, "next": {"$ref": "#/$defs/node"}},
    "required": ["value"],
    "additionalProperties": False,
}


def a_request(rng: random.Random) -> tuple[list[dict[str, Any]], dict[str, dict[str, Any]]]:
    """Tools as OpenAI has them, and their schemas."""
    names = sorted({_name(rng) for _ in range(rng.randint(1, 5))})
    schemas = {name: _schema(rng) for name in names if rng.random() < 0.9}
    tools = [{"type": "function", "function": {"name": name, "parameters": schemas.get(name)}} for name in names]
    return tools, schemas


def a_choice(rng: random.Random, names: list[str]) -> Any:
    """One of all its forms."""
    one = rng.choice(names)
    some = [{"type": "function", "function": {"name": name}} for name in names if rng.random() < 0.6 or name == one]
    return rng.choice(
        (
            None,
            "auto",
            "required",
            one,
            {"type": "function", "function": {"name": one}},
            {"type": "allowed_tools", "allowed_tools": {"mode": "auto", "tools": some}},
            {"type": "allowed_tools", "allowed_tools": {"mode": "required", "tools": some}},
        )
    )


def _name(rng: random.Random) -> str:
    return "".join(rng.choices(string.ascii_letters + "_-", k=rng.choice((1, 2, 9))))


def _schema(rng: random.Random) -> dict[str, Any]:
    properties = {f"k{at}{rng.choice(('', ' é', '<', chr(34)))}": rng.choice(_TYPES) for at in range(rng.randint(0, 5))}
    schema = {"type": "object", "properties": properties, "additionalProperties": False, "$defs": {"node": _NODE}}
    schema["required"] = [key for key in properties if rng.random() < 0.6]
    return schema | rng.choice(({}, {}, {}, {"minProperties": 0}))
