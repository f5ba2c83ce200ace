"""Each rule: what it makes of a schema, and that a validator and the grammar agree about instances."""

import json
from typing import Any

import jsonschema_rs
import pytest

from common.constraints import build, check
from common.constraints.lower import lower
from common.constraints.spec import RefusedConstraintError
from ops.bench.schemas import Acceptance

DRAFT_4 = "http://json-schema.org/draft-04/schema#"
DRAFT_7 = "http://json-schema.org/draft-07/schema#"
CAT = {"properties": {"kind": {"const": "cat"}, "lives": {"type": "integer"}}, "required": ["kind"], "type": "object"}
DOG = {"properties": {"kind": {"const": "dog"}}, "required": ["kind"], "type": "object", "additionalProperties": False}
TREE = {"type": "object", "properties": {"next": {"$ref": "#"}}, "additionalProperties": False}
CLOSED = {"type": "object", "properties": {"a": {}, "b": {}, "c": {}}, "additionalProperties": False}

AGREED: dict[str, tuple[str, Any, list[Any]]] = {
    "plain": ("native", {"type": "object", "properties": {"a": {"minimum": 1}}}, [{}, {"a": 0}, {"a": 1}, 3]),
    "float counts": ("exact", {"minLength": 2.0}, ["a", "ab", 1]),
    "discriminator": (
        "exact",
        {"oneOf": [CAT, DOG]},
        [{"kind": "cat"}, {"kind": "dog", "lives": 1}, {"kind": "dog"}, {}],
    ),
    "oneOf by type": ("exact", {"oneOf": [{"type": "string"}, {"type": "array"}]}, ["", [], 1]),
    "oneOf by required": (
        "exact",
        {"oneOf": [{"required": ["a"]}, {"required": ["b"]}]},
        [{"a": 1}, {"a": 1, "b": 1}, {}, 1],
    ),
    "oneOf by range": ("exact", {"oneOf": [{"minimum": 3}, {"maximum": 5}]}, [2, 3, 4, 5, 6, "a"]),
    "oneOf by reference": (
        "exact",
        {"$defs": {"cat": CAT, "dog": DOG}, "oneOf": [{"$ref": "#/$defs/cat"}, {"$ref": "#/$defs/dog"}]},
        [{"kind": "cat"}, {"kind": "dog"}, {"kind": "cow"}],
    ),
    "oneOf of twins": ("wide", {"oneOf": [{"pattern": "^a"}, {"pattern": "b$"}]}, ["a", "b"]),
    "not a type": ("exact", {"not": {"type": ["string", "null"]}}, ["a", None, 1, {}]),
    "not these": (
        "exact",
        {"type": "string", "not": {"enum": ["ab", "a", "", "ac", "b\n"]}},
        ["", "a", "b", "ab", "abc", "ad", "b\n", "\n"],
    ),
    "not a number": ("exact", {"type": "integer", "not": {"enum": [1, 3]}}, [0, 1, 2, 3, 4]),
    "not required": ("exact", {"not": {"required": ["a", "b"]}}, [{"a": 1}, {"a": 1, "b": 1}, {}, 1]),
    "not properties": ("exact", {"not": {"properties": {"a": {"type": "string"}}}}, [{"a": 1}, {"a": "x"}, {}, 1]),
    "not contains": ("exact", {"not": {"contains": {"type": "null"}}}, [[1], [1, None], [], 1]),
    "not a pattern": ("wide", {"not": {"pattern": "^a"}}, ["b"]),
    "if": (
        "exact",
        {
            "if": {"properties": {"a": {"const": 1}}, "required": ["a"]},
            "then": {"required": ["b"]},
            "else": {"required": ["c"]},
        },
        [{"a": 1}, {"a": 1, "b": 1}, {"a": 2}, {"a": 2, "c": 0}, {"c": 1}],
    ),
    "then alone": ("native", {"then": {"type": "string"}}, [1, ""]),
    "dependentRequired": ("exact", {"dependentRequired": {"a": ["b"]}}, [{"a": 1}, {"a": 1, "b": 1}, {"b": 1}, 1]),
    "dependentSchemas": ("exact", {"dependentSchemas": {"a": {"required": ["b"]}}}, [{"a": 1}, {"a": 1, "b": 1}, {}]),
    "dependencies": (
        "exact",
        {"$schema": DRAFT_7, "dependencies": {"a": ["b"], "c": {"required": ["a"]}}},
        [{"a": 1}, {"c": 1}, {"a": 1, "b": 1, "c": 1}],
    ),
    "tuples": (
        "exact",
        {"$schema": DRAFT_7, "items": [{"type": "integer"}], "additionalItems": False},
        [[1], [""], [1, 2], []],
    ),
    "names by pattern": ("exact", {"propertyNames": {"pattern": "^a"}}, [{"a": 1}, {"b": 1}, {}, 1]),
    "names by length": ("exact", {"propertyNames": {"maxLength": 1}}, [{"a": 1}, {"ab": 1}, {"é": 1}]),
    "names by list": (
        "exact",
        {"properties": {"a": {"type": "null"}}, "propertyNames": {"enum": ["a", "b"]}},
        [{"a": 1}, {"a": None}, {"b": 1}, {"c": 1}],
    ),
    "names and properties": ("wide", {"properties": {"a": {}}, "propertyNames": {"pattern": "^b"}}, [{"b": 1}]),
    "unevaluatedProperties": (
        "exact",
        {"allOf": [{"properties": {"a": {}}}], "properties": {"b": {}}, "unevaluatedProperties": False},
        [{"a": 1, "b": 1}, {"c": 1}],
    ),
    "unevaluatedItems": (
        "exact",
        {"allOf": [{"prefixItems": [{}]}], "unevaluatedItems": {"type": "null"}},
        [[1], [1, None], [1, 2]],
    ),
    "unevaluated by chance": (
        "wide",
        {"anyOf": [{"properties": {"a": {}}}, True], "unevaluatedProperties": False},
        [{"a": 1}],
    ),
    "contains anything": ("exact", {"contains": True, "maxContains": 2}, [[], [1], [1, 2], [1, 2, 3], "a"]),
    "contains something": ("wide", {"contains": {"type": "null"}}, [[None]]),
    "uniqueItems": ("wide", {"uniqueItems": True}, [[1, 2]]),
    "uniqueItems of one": ("exact", {"uniqueItems": True, "maxItems": 1}, [[1], [1, 1]]),
    "minProperties": ("native", {"minProperties": 1}, [{}, {"a": 1}, 1]),
    "minProperties, closed": (
        "exact",
        CLOSED | {"minProperties": 2},
        [{"a": 1}, {"a": 1, "c": 1}, {"a": 1, "b": 1, "c": 1}],
    ),
    "minProperties, open": ("wide", {"minProperties": 2}, [{"a": 1, "b": 1}]),
    "maxProperties, closed": ("exact", CLOSED | {"maxProperties": 1}, [{}, {"a": 1}, {"a": 1, "c": 1}]),
    "maxProperties, open": ("wide", {"properties": {"a": {}}, "maxProperties": 1}, [{"a": 1}, {"b": 1}]),
    "ECMA space": ("exact", {"pattern": r"^\s\S.$"}, ["\ufeffaa", "a\ufeffa", " \ufeffa", " a\u2028", " aa"]),
    "ECMA class": ("exact", {"pattern": r"^[a[b&&c]+$"}, ["a[b&c", "d"]),
    "look-around": ("wide", {"pattern": "^(?!a)b"}, ["b", 1]),
    "great numbers": ("wide", {"const": 9007199254740993}, [9007199254740993]),
    "a lone anchor": (
        "native",
        {"$anchor": "x", "properties": {"a": {"$ref": "#x"}}, "type": "object"},
        [{"a": {}}, {"a": 1}],
    ),
    "recursion": ("native", TREE, [{}, {"next": {"next": {}}}, {"next": 1}]),
    "a reference to nowhere special": (
        "exact",
        {"properties": {"a": {"not": {"type": "null"}}, "b": {"$ref": "#/properties/a"}}},
        [{"b": 1}, {"b": None}],
    ),
    "beside a reference": (
        "native",
        {"$defs": {"a": {"type": "string"}}, "$ref": "#/$defs/a", "maxLength": 1},
        ["a", "ab", 1],
    ),
    "beside an old reference": (
        "native",
        {"$schema": DRAFT_7, "definitions": {"a": {"type": "string"}}, "$ref": "#/definitions/a", "maxLength": 1},
        ["a", "ab", 1],
    ),
    "named parts": (
        "native",
        {"$id": "https://a.invalid/b", "$defs": {"x": {"$id": "c", "type": "null"}}, "items": {"$ref": "c"}},
        [[None], [1]],
    ),
    "one dynamic place": (
        "exact",
        {"$dynamicAnchor": "n", "type": "object", "additionalProperties": {"$dynamicRef": "#n"}},
        [{"a": {}}, {"a": 1}],
    ),
    "boolean bounds": ("native", {"$schema": DRAFT_4, "minimum": 1, "exclusiveMinimum": True}, [1, 2, ""]),
    "too new for its draft": ("wide", {"$schema": DRAFT_4, "const": 1}, [1]),
    "overlapping patterns": ("wide", {"patternProperties": {"a": {"type": "null"}, "^.{1,3}$": {}}}, [{"a": None}]),
    "unknown formats": ("exact", {"type": "string", "format": "colour"}, ["red", 1]),
}


@pytest.mark.parametrize("rule", AGREED)
def test_the_grammar_takes_what_a_validator_takes(rule: str) -> None:
    mode, schema, values = AGREED[rule]
    validator = jsonschema_rs.validator_for(schema)

    constraint = build.from_schema(schema)
    check.check(constraint)
    engine = Acceptance(constraint.grammar)

    assert constraint.mode == mode
    assert {json.dumps(value): engine.accepts(value, is_valid=True) for value in values} == {
        json.dumps(value): validator.is_valid(value) for value in values
    }


def test_notes_name_the_keyword_and_its_place() -> None:
    schema = {"properties": {"a": {"uniqueItems": True}, "b": {"not": {"type": "null"}}}}

    _, notes = lower(schema)

    assert [(note.keyword, note.pointer, note.kind) for note in notes] == [
        ("not", "/properties/b/not", "exact"),
        ("uniqueItems", "/properties/a/uniqueItems", "wide"),
    ]


def test_strict_refuses_what_is_wide_by_name() -> None:
    with pytest.raises(RefusedConstraintError) as refused:
        lower({"properties": {"a/b": {"uniqueItems": True}}}, strict=True)

    assert (refused.value.keyword, refused.value.pointer) == ("uniqueItems", "/properties/a~1b/uniqueItems")


def test_strict_takes_what_is_exact() -> None:
    assert build.from_schema({"oneOf": [CAT, DOG]}, strict=True).mode == "exact"


@pytest.mark.parametrize(
    ("schema", "keyword"),
    [
        ({"$ref": "https://example.com/x"}, "$ref"),
        ({"$ref": "#/$defs/nobody"}, "$ref"),
        ({"type": "strin"}, "type"),
        ({"$schema": "https://example.com/mine"}, "$schema"),
        ({"minLength": -1}, "minLength"),
        ({"anyOf": []}, "anyOf"),
        ({"required": True}, "required"),
        ({"minimum": "1"}, "minimum"),
        (False, "schema"),
        ({"allOf": [{"not": {}}]}, "schema"),
    ],
)
def test_what_cannot_be_done_is_refused_by_name(schema: Any, keyword: str) -> None:
    with pytest.raises(RefusedConstraintError) as refused:
        build.from_schema(schema)

    assert refused.value.keyword == keyword


@pytest.mark.parametrize("text", ['{"a": 1}', '{"a":1}', '{\n  "a": 1\n}'])
def test_natural_compact_and_pretty_are_all_allowed(text: str) -> None:
    engine = Acceptance(build.from_schema({"type": "object"}).grammar)

    assert engine.writes(text)


@pytest.mark.parametrize("text", ['{"a":  1}', '{"a":\n\n1}', '{"a":\t1}', ' {"a":1}'])
def test_spaces_end(text: str) -> None:
    engine = Acceptance(build.from_schema({"type": "object"}).grammar)

    assert not engine.writes(text)


def test_a_client_says_which_spaces() -> None:
    engine = Acceptance(build.from_schema({"type": "object"}, whitespace="_?").grammar)

    assert engine.writes('{"a":_1}')
    assert not engine.writes('{"a": 1}')


def test_without_formats_any_string_will_do() -> None:
    engine = Acceptance(build.from_schema({"format": "date"}, formats=False).grammar)

    assert engine.writes('"tomorrow"')
