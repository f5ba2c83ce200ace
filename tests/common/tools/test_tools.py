import json
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest

from common.constraints.splitter import Piece, Splitter
from common.constraints.tools import plan
from common.errors import InvalidRequestError
from common.toolformat import HOLES, ToolFormat, instructions
from tests.common.tools.forms import FORMS, WRITTEN, a_plan, a_tool
from tests.common.tools.templates import TEMPLATES, tokenizer
from tests.common.tools.walk import Said, is_allowed, joined, letters, pieces, recut, split

SCHEMA = {"type": "object", "properties": {"s": {"type": "string"}, "n": {"type": "integer"}, "o": {}}}
FAMILIES = {
    "objects between tokens": "object",
    "objects between words": "object",
    "one bare object": "object",
    "an array with ids": "array",
    "an array that counts": "array",
    "a name, then a string of JSON": "named",
    "an id that says the name": "named",
    "a channel": "named",
    "tags of words": "tagged",
    "tags with tokens": "tagged",
    "tags that a line parts": "tagged",
    "a part for calls": "named",
    "a name that comes twice": "own",
    "thoughts first": "object",
    "tools, no calls": "own",
    "no tools": "own",
    "none at all": "own",
}


def test_each_template_tells_its_family() -> None:
    assert {name: form.family for name, form in FORMS.items()} == FAMILIES
    assert {name for name, form in FORMS.items() if form.shows_tools} == FAMILIES.keys() - {"no tools", "none at all"}
    assert {name for name, form in FORMS.items() if form.wants == "string"} == {"a name, then a string of JSON"}
    assert {name for name in WRITTEN if FORMS[name].between is None} == {"one bare object", "a channel"}
    assert {name for name, form in FORMS.items() if form.is_thinking} == {"thoughts first"}


def test_a_call_begins_behind_what_answers_in_words_say_as_well() -> None:
    form = FORMS["a part for calls"]

    assert (form.begin, form.trigger) == ("<arg>tools<msg><arg>call ", "<arg>")
    assert is_allowed(a_plan("a part for calls"), pieces("So.<q>say<msg>"))


@pytest.mark.parametrize("name", TEMPLATES)
def test_a_format_comes_back_from_the_card(name: str) -> None:
    assert ToolFormat.decode(FORMS[name].encode()) == FORMS[name]


def test_the_markers_have_names() -> None:
    assert FORMS["an array with ids"].parts() == {
        "block_begin": "<call>[",
        "call_begin": '{"name": "',
        "call_end": ', "id": "\ue000"}',
        "separator": ", ",
        "block_end": "]",
        "keys": "name, arguments",
    }
    assert FORMS["an array with ids"].specials == (("<call>", 261),)
    assert FORMS["an id that says the name"].parts()["block_begin"] == "<q>"


def test_the_system_says_what_the_template_does_not() -> None:
    told = {name: instructions([a_tool("one")], FORMS[name]) for name in ("no tools", "tools, no calls")}

    assert '\n{"name": "one"}\n' in told["no tools"]
    assert '"one"' not in told["tools, no calls"]
    assert all(
        '<tool_call>\n{"name": "NAME", "arguments": {"ARGUMENT": VALUE}}\n</tool_call>' in it for it in told.values()
    )


def test_a_template_that_writes_calls_but_lists_no_tools_is_told_of_both() -> None:
    told = {name: instructions([a_tool("one")], replace(FORMS[name], shows_tools=False)) for name in WRITTEN}

    assert told["an array with ids"].endswith(
        '<call>[{"name": "NAME", "arguments": {"ARGUMENT": VALUE}, "id": "123456789"}]'
    )
    assert told["tags of words"].endswith("<tool=NAME>\n<in=ARGUMENT>\nVALUE\n</in>\n</tool>\n</use>")
    assert not any(hole in text for text in told.values() for hole in HOLES)


def _answer(name: str, arguments: dict[str, Any]) -> Said:
    """As the template has a model say it, up to the end of its turn."""
    form = FORMS[name]
    call = {
        "id": "functions.one:0" if name == "an id that says the name" else "qidqidqiA",
        "type": "function",
        "function": {
            "name": "one",
            "arguments": json.dumps(arguments, ensure_ascii=False) if form.wants == "string" else arguments,
        },
    }
    turns = [{"role": "user", "content": "q"}, {"role": "assistant", "content": "", "tool_calls": [call]}]
    text: str = tokenizer(TEMPLATES[name]).apply_chat_template(turns, tools=[a_tool("one")], tokenize=False)
    return pieces(text[text.index(form.begin, text.index("<bot>")) :].removesuffix("<eot>"))


@pytest.mark.parametrize("name", WRITTEN)
def test_what_the_template_writes_the_grammar_allows_and_the_splitter_reads(name: str) -> None:
    arguments = {"s": 'a <b "é"\\n', "n": 7, "o": {"x": [1, "z"]}}
    auto, must = (
        plan([a_tool("one")], choice, FORMS[name], lowered={"one": SCHEMA}) for choice in ("auto", "required")
    )
    said = _answer(name, arguments)

    assert is_allowed(auto, said)
    assert is_allowed(must, [*[("</think>", False)] * must.format.is_thinking, *said])
    content, ((called, text, is_over),) = joined(split(auto, said))
    assert (content, called, json.loads(text), is_over) == ("", "one", arguments, True)


@pytest.mark.parametrize("name", WRITTEN)
def test_however_an_answer_is_cut_the_same_has_come_out_by_then(name: str) -> None:
    made = plan([a_tool("one")], "auto", FORMS[name], lowered={"one": SCHEMA})
    before = [] if FORMS[name].is_bare else [("Text < [in <to", False)]
    units = letters([*before, *_answer(name, {"s": 'a <b \\\\ "é"', "n": 7})])
    so_far = [("", []), *map(joined, _growing(Splitter(made), units))]

    for cut in range(len(units)):
        whole = Splitter(made)
        begun = _fed(whole, recut(units[:cut]))
        assert joined(begun) == so_far[cut]
        assert joined([*begun, *_fed(whole, recut(units[cut:]))]) == so_far[-1]


def _fed(splitter: Splitter, said: Said) -> list[Piece]:
    return [piece for text, is_special in said for piece in splitter.feed(text, is_special=is_special)]


def _growing(splitter: Splitter, said: Said) -> Iterator[list[Piece]]:
    told: list[Piece] = []
    for one in said:
        told += _fed(splitter, [one])
        yield told


def test_half_a_marker_at_the_end_is_text() -> None:
    made = a_plan("objects between words")

    assert joined(split(made, [("so [inv", False)])) == ("so [inv", [])
    assert joined(split(made, [("so [inv", False), ("[invoke", False)])) == ("so [inv[invoke", [])


def test_text_that_spells_a_marker_token_stays_text() -> None:
    made = a_plan("objects between tokens")

    assert joined(split(made, [('<call>\n{"name": "one', False)])) == ('<call>\n{"name": "one', [])
    assert is_allowed(made, [("<call>\nno", False)])
    assert not is_allowed(made, [("<call>", True), ("\nno", False)])


@pytest.mark.parametrize("name", TEMPLATES)
def test_no_call_comes_where_none_is_wanted(name: str) -> None:
    made = a_plan(name, "none")

    assert made.tools == {}
    assert joined(split(made, pieces(FORMS[name].begin)))[1] == []
    if made.grammar is not None:
        assert not is_allowed(made, pieces(FORMS[name].trigger))
        assert is_allowed(made, [("any {text}", False)])


def test_a_model_that_thinks_first_may_do_so_before_a_call_that_must_come() -> None:
    made = a_plan("thoughts first", "required")
    call = pieces('<call>{"name": "one", "arguments": {}}</call>')

    assert is_allowed(made, [("hm.\n</think>\n\n", False), *call])
    assert not is_allowed(made, call)
    assert joined(split(made, [("hm.</think>", False), *call])) == ("hm.</think>", [("one", "{}", True)])


def test_a_call_that_must_come_leaves_no_place_for_an_answer() -> None:
    made = a_plan("thoughts first", "required", answer={"type": "object"})
    call = pieces('<call>{"name": "one", "arguments": {}}</call>')

    assert is_allowed(made, [("hm.</think>", False), *call])
    assert joined(split(made, [("hm.</think>", False), *call])) == ("hm.</think>", [("one", "{}", True)])


def test_a_thought_before_a_call_that_must_come_spells_no_marker() -> None:
    form = replace(FORMS["objects between words"], thinks=("<think>", "</think>"), is_thinking=True)
    made = plan([a_tool("one")], "required", form, lowered={})
    call = '[invoke]{"name": "one", "arguments": {}}[/invoke]'

    assert is_allowed(made, [("so [invo</think>" + call, False)])
    assert not is_allowed(made, [("so [invoke]</think>" + call, False)])


def test_the_other_channels_stay_free() -> None:
    made = a_plan("a channel")
    said = pieces("<chan>final<msg>hi")

    assert is_allowed(made, said)
    assert joined(split(made, said)) == ("finalhi", [])
    assert not is_allowed(made, pieces("<chan>tool to=nobody"))


def test_arguments_that_tags_cannot_say_are_written_in_our_own_format() -> None:
    schema = {"type": "object", "anyOf": [{"required": ["a"]}, {"required": ["b"]}]}

    assert a_plan("tags of words", lowered={"one": schema}).format.family == "own"
    assert a_plan("tags of words").format.family == "tagged"


@pytest.mark.parametrize(
    "schema",
    [
        {"type": "object", "properties": {"\ue000": {"type": "string"}}},
        {"type": "object", "properties": {"<call>": {"type": "string"}}},
        {"type": "object", "properties": {"a": {"type": "string"}, "a:<q>b": {"type": "string"}}},
        {"type": "object", "properties": {f"k{at}": {} for at in range(201)}},
        {"type": "object", "additionalProperties": {"type": "string"}},
        {"type": "object"},
    ],
)
def test_keys_that_tags_could_not_tell_apart_are_written_in_our_own_format(schema: dict[str, Any]) -> None:
    assert a_plan("tags with tokens", lowered={"one": schema}).format.family == "own"


@pytest.mark.parametrize("key", ["", "a b", 'q"', "n\nl", "é", "😀", "</in>", "a:", "\u2028"])
def test_odd_keys_come_back(key: str) -> None:
    schema = {"type": "object", "properties": {key: {"type": "string"}}, "required": [key]}
    made = plan([a_tool("one")], "required", FORMS["tags with tokens"], lowered={"one": schema})
    said = pieces(f"<call>do:one{{{key}:<q>v<q>}}</call>")

    assert made.format.family == "tagged"
    assert is_allowed(made, said)
    assert joined(split(made, said)) == ("", [("one", json.dumps({key: "v"}, ensure_ascii=False), True)])


@pytest.mark.parametrize(
    "choice", ["nobody", {"type": "function", "function": {"name": "nobody"}}, {"type": "tool"}, 7]
)
def test_a_choice_that_cannot_be_met_is_refused(choice: Any) -> None:
    with pytest.raises(InvalidRequestError, match="tool_choice"):
        plan([a_tool("one")], choice, FORMS["no tools"], lowered={})


def test_a_call_must_have_a_tool() -> None:
    with pytest.raises(InvalidRequestError, match="no tool"):
        plan([], "required", FORMS["no tools"], lowered={})


@pytest.mark.parametrize("names", [("one", "one"), ("a b",), ("",)])
def test_names_are_names_and_stand_for_one_tool(names: tuple[str, ...]) -> None:
    with pytest.raises(InvalidRequestError, match="tools"):
        plan(list(map(a_tool, names)), None, FORMS["no tools"], lowered={})


def test_a_named_choice_ends_like_text() -> None:
    ends = {choice: a_plan("no tools", choice).finish for choice in ("one", "auto", "required", None)}

    assert ends == {"one": "stop", "auto": "tool_calls", "required": "tool_calls", None: "tool_calls"}
