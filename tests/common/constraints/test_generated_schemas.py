"""Whatever the schema: native and exact mean what a validator says, and wide loses nothing."""

import json
from typing import Any

import jsonschema_rs
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from common.constraints import build, check
from common.constraints.spec import RefusedConstraintError
from ops.bench.schemas import Acceptance

NAMES = ("a", "b", "ab", "c")
SCALARS = (
    st.none()
    | st.booleans()
    | st.integers(-1, 3)
    | st.sampled_from((0.5, 1.5))
    | st.sampled_from(("", "a", "ab", "bb"))
)
VALUES = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(NAMES), inner, max_size=3),
    max_leaves=4,
)
TYPES = ("null", "boolean", "integer", "number", "string", "array", "object")
PLAIN: dict[str, st.SearchStrategy[Any]] = {
    "type": st.sampled_from(TYPES) | st.lists(st.sampled_from(TYPES), min_size=1, max_size=2, unique=True),
    "const": VALUES,
    "enum": st.lists(VALUES, min_size=1, max_size=3),
    "minimum": st.integers(-1, 2),
    "maximum": st.integers(0, 3),
    "exclusiveMinimum": st.integers(-1, 2),
    "exclusiveMaximum": st.integers(0, 3),
    "multipleOf": st.sampled_from((1, 2, 0.5)),
    "minLength": st.integers(0, 2),
    "maxLength": st.integers(0, 2),
    "pattern": st.sampled_from(("^a", "b$", "^a|b$", "a", r"^\w*$", "^[^b]*$", "(?=a)", "^(a|b)*$")),
    "minItems": st.integers(0, 2),
    "maxItems": st.integers(0, 2),
    "uniqueItems": st.booleans(),
    "minProperties": st.integers(0, 2),
    "maxProperties": st.integers(0, 2),
    "required": st.lists(st.sampled_from(NAMES), max_size=2, unique=True),
    "dependentRequired": st.dictionaries(
        st.sampled_from(NAMES), st.lists(st.sampled_from(NAMES), max_size=1), max_size=2
    ),
}


def _nested(inner: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    some = st.lists(inner, min_size=1, max_size=3)
    named = st.dictionaries(st.sampled_from(NAMES), inner, max_size=3)
    nested = {
        "allOf": some,
        "anyOf": some,
        "oneOf": some,
        "not": inner,
        "if": inner,
        "then": inner,
        "else": inner,
        "items": inner,
        "prefixItems": some,
        "contains": inner,
        "properties": named,
        "additionalProperties": inner,
        "patternProperties": st.dictionaries(st.sampled_from(("^a", "^b")), inner, max_size=2),
        "propertyNames": inner,
        "dependentSchemas": st.dictionaries(st.sampled_from(NAMES), inner, max_size=1),
        "unevaluatedProperties": inner,
        "unevaluatedItems": inner,
    }
    return _some_of(PLAIN | nested)


def _some_of(keywords: dict[str, st.SearchStrategy[Any]]) -> st.SearchStrategy[Any]:
    chosen = st.lists(st.sampled_from(sorted(keywords)), max_size=3, unique=True)
    return chosen.flatmap(lambda names: st.fixed_dictionaries({name: keywords[name] for name in names}))


SCHEMAS = st.recursive(st.booleans() | _some_of(PLAIN), _nested, max_leaves=5)


@settings(max_examples=400, deadline=None, suppress_health_check=list(HealthCheck))
@given(SCHEMAS, st.lists(VALUES, min_size=4, max_size=8))
def test_a_grammar_and_a_validator_agree(schema: Any, values: list[Any]) -> None:
    validator = jsonschema_rs.Draft202012Validator(schema)
    try:
        constraint = build.from_schema(schema)
        check.check(constraint)
    except RefusedConstraintError as refused:
        if "No value" in refused.message or "nsatisfiable" in refused.message:
            assert not any(validator.is_valid(value) for value in values)
        return
    engine = Acceptance(constraint.grammar)

    for value in values:
        is_valid = validator.is_valid(value)
        is_accepted = engine.accepts(value, is_valid=is_valid)
        if constraint.mode == "wide":
            assert is_accepted or not is_valid, (constraint, json.dumps(value))
        else:
            assert is_accepted == is_valid, (constraint, json.dumps(value))
