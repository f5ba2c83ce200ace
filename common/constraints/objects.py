"""The keywords of objects, and of what is left over in objects and arrays."""

import itertools
import math
from typing import TYPE_CHECKING, Any

from common.constraints.algebra import any_of, joined
from common.constraints.disjoint import values_of

if TYPE_CHECKING:
    from common.constraints.lower import Lowering

_COMBINATIONS = 64
_DEPTH = 8
_NO_OBJECT = ["null", "boolean", "number", "string", "array"]
_BRANCHING = ("anyOf", "oneOf", "if", "dependentSchemas", "dependencies", "$dynamicRef", "$recursiveRef")


def lower_object(lowering: "Lowering", schema: dict[str, Any], out: dict[str, Any], parts: list[Any]) -> None:
    """All of them; ``parts`` takes what needs a schema of its own."""
    if "properties" in schema:
        out["properties"] = {name: lowering.accepts(one) for name, one in schema["properties"].items()}
    _others(lowering, schema, out)
    if "required" in schema:
        out["required"] = _required(lowering, schema)
    if lowering.has(schema, "minProperties"):
        _least(lowering, schema, out, parts)
    if lowering.has(schema, "maxProperties"):
        _most(lowering, schema, out, parts)
    if "propertyNames" in schema:
        _names(lowering, schema, out)
    for keyword in ("dependentRequired", "dependentSchemas", "dependencies"):
        if lowering.has(schema, keyword):
            _dependent(lowering, schema, keyword, parts)
    _unevaluated(lowering, schema, parts)


def _required(lowering: "Lowering", schema: dict[str, Any]) -> list[str]:
    names = schema["required"]
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise lowering.refuse(schema, "required", "a list of names is expected")
    return names


def _others(lowering: "Lowering", schema: dict[str, Any], out: dict[str, Any]) -> None:
    """Patterns of names, and what is left over; without a pattern, what it meant is left over too."""
    is_kept = True
    patterns = schema.get("patternProperties", {})
    if patterns and not lowering.has(schema, "patternProperties"):
        patterns, is_kept = {}, False
    found = {}
    for pattern, one in patterns.items():
        text = lowering.pattern(schema, "patternProperties", pattern)
        if text is None or text in found:
            lowering.note(schema, "patternProperties", wide=True)
            is_kept = False
        else:
            found[text] = lowering.accepts(one)
    if found:
        out["patternProperties"] = found
    if "additionalProperties" in schema and is_kept:
        out["additionalProperties"] = lowering.accepts(schema["additionalProperties"])


def _is_closed(out: dict[str, Any]) -> bool:
    return out.get("additionalProperties") is False and "patternProperties" not in out


def _least(lowering: "Lowering", schema: dict[str, Any], out: dict[str, Any], parts: list[Any]) -> None:
    """The engine counts a name that comes twice as two, so more than one is only sure in closed objects."""
    least = lowering.count(schema, "minProperties")
    required, names = set(out.get("required", ())), out.get("properties", {})
    if least <= len(required):
        lowering.note(schema, "minProperties")
    elif _is_closed(out) and math.comb(len(names), min(least, len(names))) <= _COMBINATIONS:
        lowering.note(schema, "minProperties")
        chosen = itertools.combinations(names, least)
        parts.append(any_of([{"required": list(some)} for some in chosen]) or {"type": _NO_OBJECT})
    elif least == 1 and not names:
        out["minProperties"] = 1
    else:
        lowering.note(schema, "minProperties", wide=True)
        out["minProperties"] = 1


def _most(lowering: "Lowering", schema: dict[str, Any], out: dict[str, Any], parts: list[Any]) -> None:
    most = lowering.count(schema, "maxProperties")
    names = out.get("properties", {})
    spare = len(names) - most
    if set(names) <= set(out.get("required", ())):
        out["maxProperties"] = most
    elif not _is_closed(out):
        lowering.note(schema, "maxProperties", wide=True)
    elif spare <= 0:
        lowering.note(schema, "maxProperties")
    elif math.comb(len(names), spare) <= _COMBINATIONS:
        lowering.note(schema, "maxProperties")
        left_out = itertools.combinations(names, spare)
        parts.append(any_of([{"properties": dict.fromkeys(some, False)} for some in left_out]))
    else:
        lowering.note(schema, "maxProperties", wide=True)


def _names(lowering: "Lowering", schema: dict[str, Any], out: dict[str, Any]) -> None:
    """As patterns or as a list of properties."""
    rule = schema["propertyNames"]
    known = out.get("properties", {})
    rest = out.get("additionalProperties", True)
    if rule is True or rule == {}:
        return
    allowed = values_of(rule) if isinstance(rule, dict) and rule.keys() <= {"const", "enum", "type"} else None
    pattern = _name_pattern(lowering, schema, rule)
    if rule is False:
        allowed = []
    if allowed is not None and "patternProperties" not in out:
        lowering.note(schema, "propertyNames")
        out["properties"] = {name: known.get(name, rest) for name in allowed if isinstance(name, str)}
        out["additionalProperties"] = False
    elif pattern is not None and not known and "patternProperties" not in out:
        lowering.note(schema, "propertyNames")
        out["patternProperties"] = {pattern: rest}
        out["additionalProperties"] = False
    else:
        lowering.note(schema, "propertyNames", wide=True)


def _name_pattern(lowering: "Lowering", schema: dict[str, Any], rule: Any) -> str | None:
    if not isinstance(rule, dict):
        return None
    keywords = rule.keys() - {"type", "title", "description"}
    if rule.get("type", "string") != "string":
        return None
    if keywords == {"pattern"} and isinstance(rule["pattern"], str):
        return lowering.pattern(schema, "propertyNames", rule["pattern"])
    if keywords and keywords <= {"minLength", "maxLength"}:
        least = lowering.count(rule, "minLength") if "minLength" in rule else 0
        most = lowering.count(rule, "maxLength") if "maxLength" in rule else ""
        return f"^[\\s\\S]{{{least},{most}}}$"
    return None


def _dependent(lowering: "Lowering", schema: dict[str, Any], keyword: str, parts: list[Any]) -> None:
    """Either the name is absent, or what depends on it holds."""
    if not isinstance(schema[keyword], dict):
        raise lowering.refuse(schema, keyword, "an object is expected")
    for name, needed in schema[keyword].items():
        lowering.note(schema, keyword)
        if isinstance(needed, str | list):
            names = [needed] if isinstance(needed, str) else needed
            then: Any = {"required": [one for one in names if one != name]}
        else:
            then = lowering.accepts(needed)
        parts.append(any_of([{"properties": {name: False}}, joined([then])]) if then != {"required": []} else True)


def _unevaluated(lowering: "Lowering", schema: dict[str, Any], parts: list[Any]) -> None:
    rule = schema.get("unevaluatedProperties", True)
    if rule is True or rule == {}:
        return
    seen: dict[str, set[str]] = {"properties": set(), "patternProperties": set()}
    is_known, is_all = _evaluated(lowering, schema, seen, _DEPTH)
    lowering.note(schema, "unevaluatedProperties", wide=not is_known)
    if is_all or not is_known:
        return
    part: dict[str, Any] = {"properties": {name: {} for name in sorted(seen["properties"])}}
    patterns = [lowering.pattern(schema, "unevaluatedProperties", text) for text in sorted(seen["patternProperties"])]
    if None in patterns:
        return
    if patterns:
        part["patternProperties"] = {text: {} for text in patterns}
    parts.append(part | {"additionalProperties": lowering.accepts(rule)})


def _evaluated(lowering: "Lowering", schema: Any, seen: dict[str, set[str]], depth: int) -> tuple[bool, bool]:
    """Which names are seen to, whatever the value; whether that is known, and whether it is all of them."""
    if not isinstance(schema, dict):
        return True, False
    if not depth or any(keyword in schema for keyword in _BRANCHING):
        return False, False
    inner = list(schema.get("allOf", ()))
    if "$ref" in schema:
        inner.append(lowering.document.resolve(schema, schema["$ref"]))
    seen["properties"].update(schema.get("properties", ()))
    seen["patternProperties"].update(schema.get("patternProperties", ()))
    found = [_evaluated(lowering, one, seen, depth - 1) for one in inner]
    is_all = "additionalProperties" in schema or (depth < _DEPTH and "unevaluatedProperties" in schema)
    return all(known for known, _ in found), is_all or any(whole for _, whole in found)


def lower_unevaluated_items(lowering: "Lowering", schema: dict[str, Any], parts: list[Any]) -> None:
    """As ``items`` after all that something else sees to."""
    rule = schema.get("unevaluatedItems", True)
    if rule is True or rule == {}:
        return
    firsts = _evaluated_items(lowering, schema, _DEPTH)
    lowering.note(schema, "unevaluatedItems", wide=firsts is None)
    if firsts is not None and firsts < math.inf:
        parts.append({"prefixItems": [{}] * int(firsts), "items": lowering.accepts(rule)})


def _evaluated_items(lowering: "Lowering", schema: Any, depth: int) -> float | None:
    """How many items something sees to; None where that depends on the value."""
    if not isinstance(schema, dict):
        return 0
    if not depth or "contains" in schema or any(keyword in schema for keyword in _BRANCHING):
        return None
    inner = list(schema.get("allOf", ()))
    if "$ref" in schema:
        inner.append(lowering.document.resolve(schema, schema["$ref"]))
    counts = [_evaluated_items(lowering, one, depth - 1) for one in inner]
    items = schema.get("items")
    counts.append(len(items) if isinstance(items, list) else len(schema.get("prefixItems", ())))
    if isinstance(items, dict | bool) or (isinstance(items, list) and "additionalItems" in schema):
        counts.append(math.inf)
    if depth < _DEPTH and "unevaluatedItems" in schema:
        counts.append(math.inf)
    known = [count for count in counts if count is not None]
    return max(known) if len(known) == len(counts) else None
