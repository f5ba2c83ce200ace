"""Answers drawn by the unkindest policies from the worker's own rows: what ends under a schema fits it."""

from collections import Counter
from dataclasses import replace

import pytest

from common.constraints import build
from ops.bench.samples import Bench, judged, made, public, sampled
from ops.bench.voices import POLICIES, trained


@pytest.fixture(scope="module")
def bench() -> Bench:
    return Bench(trained(2_000, 1))


def test_what_ends_under_a_schema_fits_it(bench: Bench) -> None:
    schemas = [*made(60), *list(public())[::60]]

    found = sampled(bench, schemas, rounds=1, enough=1)

    assert [one for one in found if one.fate == "invalid"] == []
    counts = Counter((one.mode, one.fate) for one in found)
    assert counts["native", "valid"] + counts["exact", "valid"] > 150
    assert counts["wide", "valid"] > 10
    assert counts["wide", "missed"] > 10
    assert {one.policy for one in found if one.fate == "valid"} == set(POLICIES)


def test_an_answer_that_misses_its_schema_would_be_seen() -> None:
    loose = build.from_schema({"type": "object", "properties": {"a": {"type": "string"}}, "required": ["a"]})
    schema = {"type": "object", "required": ["a"], "properties": {"a": {"type": "string", "maxLength": 1}}}

    assert judged(schema, loose, b'{"a": "ab"}') == "invalid"
    assert judged(schema, loose, b'{"a": "ab", "a": "b"}') == "invalid"
    assert judged(schema, loose, b'{"a": "b') == "invalid"
    assert judged(schema, loose, b'{"a": "\xc3"}') == "invalid"
    assert judged(schema, loose, b'{"a": "b"}') == "valid"
    assert judged({"type": "number"}, loose, b"NaN") == "invalid"
    assert judged({"type": "number", "minimum": 0}, loose, b"1e999") == "valid"
    assert judged({"type": "number", "maximum": 0}, loose, b"1e999") == "invalid"
    assert judged(schema, replace(loose, mode="wide"), b'{"a": "ab"}') == "invalid"
    assert judged(schema, build.from_schema(schema | {"uniqueItems": True}), b'{"a": "ab"}') == "missed"
