"""The look at the end: of the right draft, and without a word to anybody else."""

import contextlib
import json
import socket
from typing import Any

import pytest

from common.constraints.build import from_schema
from common.constraints.check import check
from common.constraints.spec import RefusedConstraintError
from common.constraints.verify import errors


@pytest.mark.parametrize("place", ["$schema", "$ref"])
def test_nothing_that_a_schema_names_elsewhere_is_fetched(place: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.settimeout(0.5)
        url = f"http://127.0.0.1:{listener.getsockname()[1]}/c"
        schema = {"uniqueItems": True, "properties": {"a": {"$id": "http://n.invalid/y", place: url}}}
        with contextlib.suppress(RefusedConstraintError):
            check(from_schema(schema))
        with contextlib.suppress(ValueError):
            errors(json.dumps(schema), '{"a": 1}')
        with pytest.raises(TimeoutError):
            listener.accept()


@pytest.mark.parametrize(
    ("schema", "good", "bad"),
    [
        ({"items": [{"type": "integer"}], "uniqueItems": True}, [1, "a"], ["a"]),
        ({"uniqueItems": True, "items": {"minimum": 1, "exclusiveMinimum": True}}, [2], [1]),
        ({"uniqueItems": True}, [1, 2], [1, 1]),
    ],
)
def test_each_draft_is_looked_at_as_what_it_is(schema: Any, good: Any, bad: Any) -> None:
    constraint = from_schema(schema)
    check(constraint)

    assert constraint.mode == "wide"
    assert errors(json.dumps(schema), json.dumps(good)) == ()
    assert errors(json.dumps(schema), json.dumps(bad)) != ()


def test_text_that_is_no_json_does_not_fit() -> None:
    assert errors("{}", "{") == ("",)


def test_text_that_is_too_deep_to_be_looked_at_is_not_called_valid() -> None:
    deep = "[" * 100_000 + "]" * 100_000

    assert errors("{}", deep) == ("",)


@pytest.mark.parametrize(
    ("schema", "is_fine"),
    [
        ({"type": "number"}, True),
        ({"not": {"type": "integer"}}, False),
        ({"maximum": 5}, False),
        ({"minimum": 5}, True),
    ],
)
def test_a_number_that_no_float_holds_is_looked_at_as_a_number(schema: Any, *, is_fine: bool) -> None:
    assert (errors(json.dumps(schema), "1e999") == ()) == is_fine
