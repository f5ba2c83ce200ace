"""What a schema does not take, as a schema: every keyword that may be broken is one alternative."""

import itertools
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from common.constraints.algebra import any_of, is_great, joined
from common.constraints.disjoint import TYPES, type_of, values_of
from common.constraints.patterns import none_of

if TYPE_CHECKING:
    from common.constraints.lower import Lowering

_LONGEST = 125  # characters of words that a pattern leaves out
_EMPTY: tuple[list[Any], ...] = ([[]], [{}])
_OPENING = {"minimum": "exclusiveMaximum", "maximum": "exclusiveMinimum"}
_OPENING |= {"exclusiveMinimum": "maximum", "exclusiveMaximum": "minimum"}
_HARMLESS = ("title", "description", "default", "examples", "then", "else", "minContains", "maxContains")

_Options = list[Any]


def rejects(lowering: "Lowering", schema: Any) -> Any:
    """At least what this schema does not take."""
    if isinstance(schema, bool):
        return not schema
    if not isinstance(schema, dict):
        return lowering.accepts(schema)  # which says what is wrong with it
    document = lowering.document
    if document.overrides(schema):
        return lowering.reference(document.resolve(schema, schema["$ref"]), is_accepted=False)
    options: _Options = []
    for keyword in schema:
        if keyword in lowering.given_up or (keyword in _WIDE and not _is_void(schema, keyword)):
            lowering.note(schema, keyword, wide=True)
            return any_of([*options, True])
        if keyword in _RULES:
            options += _RULES[keyword](lowering, schema)
    return any_of(options)


def _is_void(schema: dict[str, Any], keyword: str) -> bool:
    """Whether it cannot be broken."""
    value = schema[keyword]
    if keyword == "uniqueItems":
        return value is not True
    return value is True or value == {}


def _wide(lowering: "Lowering", schema: dict[str, Any], keyword: str, kind: str) -> _Options:
    """Any value of the only type that can break it."""
    lowering.note(schema, keyword, wide=True)
    return [{"type": kind}]


def _type(lowering: "Lowering", schema: dict[str, Any]) -> _Options:
    names = schema["type"] if isinstance(schema["type"], list) else [schema["type"]]
    if "integer" in names and "number" not in names:
        lowering.note(schema, "type", wide=True)  # what is left of the numbers has no schema
    return _only(TYPES - set(names))


def _only(types: frozenset[str]) -> _Options:
    return [{"type": sorted(types)}] if types else []


def _values(lowering: "Lowering", schema: dict[str, Any]) -> _Options:
    keyword = "const" if "const" in schema else "enum"
    values = values_of(schema) or []
    groups: dict[str, list[Any]] = {}
    for value in values:
        groups.setdefault(type_of(value), []).append(value)
    options = _only(TYPES - groups.keys())
    for kind, some in groups.items():
        options += _without(lowering, schema, keyword, kind, some)
    return options


def _without(lowering: "Lowering", schema: dict[str, Any], keyword: str, kind: str, some: list[Any]) -> _Options:
    if kind == "boolean":
        return [{"const": value} for value in (True, False) if value not in some]
    if kind == "string" and sum(map(len, some)) <= _LONGEST:
        return [{"type": "string", "pattern": none_of(some)}]
    if kind == "number" and not is_great(some):
        return _between(sorted(set(some)))
    if some in _EMPTY:
        return [{"type": kind, "minItems" if kind == "array" else "minProperties": 1}]
    return [] if kind == "null" else _wide(lowering, schema, keyword, kind)


def _between(numbers: list[float]) -> _Options:
    ends: list[float | None] = [None, *numbers, None]
    return [
        {"type": "number"}
        | ({} if low is None else {"exclusiveMinimum": low})
        | ({} if high is None else {"exclusiveMaximum": high})
        for low, high in itertools.pairwise(ends)
    ]


def _bound(keyword: str) -> Callable[["Lowering", dict[str, Any]], _Options]:
    def broken(lowering: "Lowering", schema: dict[str, Any]) -> _Options:
        value = schema[keyword]
        if isinstance(value, bool) or is_great(value) or isinstance(schema.get(_exclusive(keyword)), bool):
            return _wide(lowering, schema, keyword, "number")
        return [{"type": "number", _OPENING[keyword]: value}]

    return broken


def _exclusive(keyword: str) -> str:
    return f"exclusive{keyword.capitalize()}"


def _count(kind: str, least: str, most: str, keyword: str) -> Callable[["Lowering", dict[str, Any]], _Options]:
    def broken(lowering: "Lowering", schema: dict[str, Any]) -> _Options:
        value = lowering.count(schema, keyword)
        if keyword == most:
            if kind == "object" and value:
                return _wide(lowering, schema, keyword, kind)  # a name may come twice
            return [{"type": kind, least: value + 1}]
        return [{"type": kind, most: value - 1}] if value else []

    return broken


def _required(_lowering: "Lowering", schema: dict[str, Any]) -> _Options:
    return [{"type": "object", "properties": {name: False}} for name in schema["required"]]


def _properties(lowering: "Lowering", schema: dict[str, Any]) -> _Options:
    broken = {name: rejects(lowering, one) for name, one in schema["properties"].items()}
    return [
        {"type": "object", "properties": {name: one}, "required": [name]}
        for name, one in broken.items()
        if one is not False
    ]


def _prefix(lowering: "Lowering", schema: dict[str, Any]) -> _Options:
    broken = [rejects(lowering, one) for one in schema["prefixItems"]]
    return [
        {"type": "array", "prefixItems": [{}] * at + [one], "minItems": at + 1}
        for at, one in enumerate(broken)
        if one is not False
    ]


def _items(lowering: "Lowering", schema: dict[str, Any]) -> _Options:
    rule = schema["items"]
    if rule is True or rule == {}:
        return []
    if rule is False:
        return [{"type": "array", "minItems": len(schema.get("prefixItems", ())) + 1}]
    return _wide(lowering, schema, "items", "array")


def _contains(lowering: "Lowering", schema: dict[str, Any]) -> _Options:
    if "minContains" in schema or "maxContains" in schema:
        return _wide(lowering, schema, "contains", "array")
    return [{"type": "array", "items": rejects(lowering, schema["contains"])}]


def _all(lowering: "Lowering", schema: dict[str, Any]) -> _Options:
    return [rejects(lowering, one) for one in lowering.branches(schema, "allOf")]


def _any(lowering: "Lowering", schema: dict[str, Any]) -> _Options:
    return [joined([rejects(lowering, one) for one in lowering.branches(schema, "anyOf")])]


def _not(lowering: "Lowering", schema: dict[str, Any]) -> _Options:
    return [lowering.accepts(schema["not"])]


def _if(lowering: "Lowering", schema: dict[str, Any]) -> _Options:
    holds = [lowering.accepts(schema["if"]), rejects(lowering, schema.get("then", True))]
    fails = [rejects(lowering, schema["if"]), rejects(lowering, schema.get("else", True))]
    return [joined(both) for both in (holds, fails)]


def _reference(lowering: "Lowering", schema: dict[str, Any]) -> _Options:
    target = lowering.document.resolve(schema, schema["$ref"])
    return [lowering.reference(target, is_accepted=False)]


_Rule = Callable[["Lowering", dict[str, Any]], _Options]
_RULES: dict[str, _Rule] = {
    "$ref": _reference,
    "allOf": _all,
    "anyOf": _any,
    "const": _values,
    "contains": _contains,
    "enum": _values,
    "if": _if,
    "items": _items,
    "not": _not,
    "prefixItems": _prefix,
    "properties": _properties,
    "required": _required,
    "type": _type,
}
_RULES |= {keyword: _bound(keyword) for keyword in _OPENING}
_RULES |= {keyword: _count("string", "minLength", "maxLength", keyword) for keyword in ("minLength", "maxLength")}
_RULES |= {keyword: _count("array", "minItems", "maxItems", keyword) for keyword in ("minItems", "maxItems")}
_RULES |= {
    keyword: _count("object", "minProperties", "maxProperties", keyword)
    for keyword in ("minProperties", "maxProperties")
}
_WIDE = {  # what breaks them has no schema
    "$dynamicRef",
    "$recursiveRef",
    "additionalItems",
    "additionalProperties",
    "dependencies",
    "dependentRequired",
    "dependentSchemas",
    "format",
    "multipleOf",
    "oneOf",
    "pattern",
    "patternProperties",
    "propertyNames",
    "unevaluatedItems",
    "unevaluatedProperties",
    "uniqueItems",
}
