"""What is refused before anything looks at it closely."""

import json
from typing import Any

import pytest

from common.constraints import limits
from common.constraints.spec import RefusedConstraintError


def _nested(levels: int) -> Any:
    schema: Any = {}
    for _ in range(levels):
        schema = {"items": schema}
    return schema


def _chain(length: int) -> Any:
    names = [f"d{at}" for at in range(length)]
    following = [*names[1:], None]
    definitions = {
        name: {"properties": {"n": {"$ref": f"#/$defs/{after}"}}} if after else {}
        for name, after in zip(names, following, strict=True)
    }
    return {"$defs": definitions, "$ref": "#/$defs/d0"}


BEYOND: dict[str, tuple[Any, str]] = {
    "depth": (_nested(limits.DEPTH), ""),
    "great depth": (_nested(100_000), ""),
    "nodes": ({"x": [0] * limits.NODES}, ""),
    "bytes": ({"title": "x" * limits.BYTES}, ""),
    "values": ({"enum": list(range(limits.VALUES + 1))}, "enum"),
    "values in all": ({"anyOf": [{"enum": list(range(3_000))}, {"enum": list(range(3_000))}]}, "enum"),
    "optional properties": ({"properties": {str(at): {} for at in range(limits.OPTIONAL + 1)}}, "properties"),
    "patterns": ({"pattern": "a" * (limits.PATTERN + 1)}, "pattern"),
    "patterns of names": ({"patternProperties": {"a" * (limits.PATTERN + 1): {}}}, "patternProperties"),
    "chains": (_chain(limits.REFERENCES + 1), "$ref"),
    "itself": ({"$ref": "#"}, "$ref"),
    "a circle": ({"$defs": {"a": {"$ref": "#/$defs/b"}, "b": {"anyOf": [{"$ref": "#/$defs/a"}]}}}, "$ref"),
    "its own opposite": ({"not": {"$ref": "#"}}, "$ref"),
    "NUL": ({"const": "a\0b"}, "schema"),
    "half a character": ({"properties": {"\ud800": {}}}, "schema"),
    "infinity": ({"minimum": float("inf")}, ""),
    "no schema": ([], ""),
    "an enum that is none": ({"enum": 1}, "enum"),
    "a length in words": ({"items": {"minLength": "five"}}, "minLength"),
    "a keyword's value behind a pointer": ({"x": {"format": 5}, "$ref": "#/x"}, "format"),
    "values behind a pointer": ({"x": {"enum": list(range(limits.VALUES + 1))}, "$ref": "#/x"}, "enum"),
    "a part in an unknown dialect": ({"items": {"$schema": "https://schema.invalid/mine"}}, "$schema"),
    "a part of another draft": (
        {"items": {"$id": "a", "$schema": "http://json-schema.org/draft-04/schema#"}},
        "$schema",
    ),
}


@pytest.mark.parametrize("what", BEYOND)
def test_each_bound_is_kept(what: str) -> None:
    schema, keyword = BEYOND[what]

    with pytest.raises(RefusedConstraintError) as refused:
        limits.bounded(schema)

    assert refused.value.keyword == keyword


@pytest.mark.parametrize(
    "schema",
    [
        _nested(limits.DEPTH - 1),
        _chain(limits.REFERENCES),
        {"properties": {"n": {"$ref": "#"}}},
        {"$defs": {"a": {"items": {"$ref": "#/$defs/b"}}, "b": {"items": {"$ref": "#/$defs/a"}}}},
        {"properties": {str(at): {} for at in range(2_000)}, "required": [str(at) for at in range(1_500)]},
        {"items": {"$id": "a", "$schema": "https://json-schema.org/draft/2020-12/schema"}},
        True,
    ],
)
def test_what_keeps_them_passes_unchanged(schema: Any) -> None:
    assert limits.bounded(schema) == schema


def test_orders_to_the_engine_are_taken_out() -> None:
    schema = {"x-guidance": {"lenient": True}, "properties": {"x-guidance": {"x-guidance": {}}}}

    assert limits.bounded(schema) == {"properties": {"x-guidance": {}}}


def test_other_kinds_have_bounds_too() -> None:
    rules = "".join(f'r{at}: "a"\n' for at in range(limits.RULES + 1))

    for refused in (
        lambda: limits.bounded_regex("a" * (limits.REGEX + 1)),
        lambda: limits.bounded_regex("\0"),
        lambda: limits.bounded_choices(()),
        lambda: limits.bounded_choices(("a",) * (limits.CHOICES + 1)),
        lambda: limits.bounded_grammar(rules),
        lambda: limits.bounded_grammar("#" * (limits.GRAMMAR + 1)),
        lambda: limits.bounded_grammar(f"start: %json {json.dumps(_chain(limits.REFERENCES + 1))}"),
        lambda: limits.bounded_grammar('start: %json {"x-guidance": {"lenient": true}}'),
    ):
        with pytest.raises(RefusedConstraintError):
            refused()


def test_a_grammar_may_hold_schemas_that_keep_the_bounds() -> None:
    text = 'start: %json {"x-guidance": {"whitespace_flexible": false}, "const": 1} "%json {" other'

    assert limits.bounded_grammar(text) == text
