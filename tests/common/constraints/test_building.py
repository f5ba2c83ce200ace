"""Regexes, choices and grammars; and constraints as data."""

import pytest

from common.constraints import build, check
from common.constraints.spec import Constraint, RefusedConstraintError
from ops.bench.schemas import Acceptance

GBNF = 'root ::= "yes" | no\nno ::= "no" [!.]?\n'
LARK = 'start: "yes" | no\nno: "no" /[!.]/?\n'


def test_a_constraint_comes_back_from_json_as_it_was() -> None:
    constraint = build.from_schema({"uniqueItems": True, "not": {"const": "é"}})

    assert Constraint.decode(constraint.encode()) == constraint
    assert (constraint.kind, constraint.mode, len(constraint.digest)) == ("json", "wide", 32)


def test_what_was_asked_travels_along() -> None:
    assert build.from_schema({"not": {"type": "null"}}).schema == '{"not": {"type": "null"}}'


@pytest.mark.parametrize(
    ("pattern", "good", "bad"),
    [
        (r"\d{2}", ("12",), ("1", "123", "१२")),
        (r"^a|b$", ("a", "b"), ("ab", "c")),
        (r"\w+/x", ("ab_1/x",), ("é/x",)),
        ("", ("",), ("a",)),
        ("a\nb", ("a\nb",), ("ab",)),
    ],
)
def test_a_regex_matches_the_whole(pattern: str, good: tuple[str, ...], bad: tuple[str, ...]) -> None:
    constraint = build.from_regex(pattern)
    check.check(constraint)
    engine = Acceptance(constraint.grammar)

    assert [text for text in (*good, *bad) if engine.writes(text)] == list(good)


@pytest.mark.parametrize("pattern", ["ab(?=c)", "ab(?!c)", "ab(?<=c)", r"ab\b", r"(a)\1"])
def test_what_is_not_regular_is_refused_with_its_place(pattern: str) -> None:
    with pytest.raises(RefusedConstraintError, match=r"at position [23]"):
        build.from_regex(pattern)


def test_a_broken_regex_is_refused() -> None:
    with pytest.raises(RefusedConstraintError, match="unclosed group"):
        check.check(build.from_regex("(a"))


def test_choices_may_be_any_text() -> None:
    choices = ("a", "ab", 'say "hi"\n', "<tool_call>", "\\d", "世界", "")
    constraint = build.from_choice(choices)
    check.check(constraint, {300: "<tool_call>"})
    engine = Acceptance(constraint.grammar)

    assert [text for text in (*choices, "b", "abc", "tool_call") if engine.writes(text)] == list(choices)


@pytest.mark.parametrize("text", [GBNF, LARK])
def test_grammars_come_in_two_notations(text: str) -> None:
    constraint = build.from_grammar(text)
    check.check(constraint)
    engine = Acceptance(constraint.grammar)

    assert [said for said in ("yes", "no", "no!", "no?", "") if engine.writes(said)] == ["yes", "no", "no!"]


@pytest.mark.parametrize("text", ["start: nobody", "root ::= (", "what?", 'start: <no_such_token> "a"'])
def test_a_broken_grammar_is_refused(text: str) -> None:
    with pytest.raises(RefusedConstraintError):
        check.check(build.from_grammar(text))


def test_a_grammar_may_name_the_special_tokens_of_a_model() -> None:
    constraint = build.from_grammar('start: <tool_call> "a"')

    check.check(constraint, {300: "<tool_call>"})


def test_what_no_value_fits_is_found_by_the_first_mask() -> None:
    schema = {
        "type": "object",
        "properties": {"a": {"type": "string", "minLength": 3, "maxLength": 1}},
        "required": ["a"],
    }

    with pytest.raises(RefusedConstraintError):
        check.check(build.from_schema(schema))


def test_a_thousand_optional_properties_are_taken() -> None:
    schema = {"type": "object", "properties": {f"p{at}": {"type": "null"} for at in range(1_000)}}

    check.check(build.from_schema(schema))
