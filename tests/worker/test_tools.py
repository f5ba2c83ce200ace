"""Answers that call tools, while they are made: pieces of calls, cuts anywhere, stop strings, scores."""

import json
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import jsonschema_rs
import pytest

from common.constraints.build import from_lark
from common.constraints.tools import plan
from common.jobs import Call, Delta, Done, Event, Job, Sampling, Usage, decode_event
from common.toolformat import ToolFormat, ToolPlan, own
from tests.builders import a_job
from tests.common.tools.forms import FORMS, a_plan, a_tool
from tests.common.tools.walk import IDS, TOKENS
from tests.worker.claims import a_claim, answers, spelled
from tests.worker.test_constraints import MAKERS
from worker.items import merged, tokens_in
from worker.tools import Calls, unsaid

OWN = own(ToolFormat("own", "", "", None, "", ""))
SCHEMA = {
    "type": "object",
    "properties": {"kind": {"enum": ["cat", "dog"]}, "age": {"type": "integer", "minimum": 0, "maximum": 20}},
    "required": ["kind", "age"],
    "additionalProperties": False,
}


def _job(choice: Any, seed: int = 1, **changes: Any) -> Job:
    made = plan([a_tool("look"), a_tool("buy")], choice, OWN, lowered={"look": SCHEMA, "buy": SCHEMA})
    assert made.grammar is not None
    told = {"prompts": (spelled("Go: "),), "sampling": Sampling(150, 1.0), "seed": seed, "tools": made}
    return a_job(**(told | {"constraint": from_lark("tools", made.grammar)} | changes))


def _calls(events: Sequence[Event]) -> list[tuple[str, str]]:
    """Each call's tool and arguments, which come in order."""
    calls: list[tuple[str, str]] = []
    for event in events:
        if isinstance(event, Delta) and (call := event.call):
            if call.name:
                assert call.index == len(calls)
                calls.append((call.name, ""))
            else:
                assert call.index == len(calls) - 1
                calls[-1] = (calls[-1][0], calls[-1][1] + call.arguments)
    return calls


@pytest.mark.parametrize("path", MAKERS)
def test_calls_come_in_pieces_and_fit(path: str) -> None:
    jobs = [_job("look", seed) for seed in range(1, 7)]

    notes = answers(MAKERS[path](), *map(a_claim, jobs))

    ended = [job for job in jobs if notes.finish(job) == "stop"]
    assert len(ended) >= 3
    for job in ended:
        ((name, arguments),) = _calls(notes.events[job.id])
        assert name == "look"
        assert jsonschema_rs.is_valid(SCHEMA, json.loads(arguments))
        assert notes.text(job) == ""
    assert all(not (delta.call and (delta.text or delta.finish)) for job in jobs for delta in notes.deltas(job))


@pytest.mark.parametrize("path", MAKERS)
def test_an_answer_with_calls_cut_anywhere_goes_on_the_same(path: str) -> None:
    job = _job("required", 3, sampling=Sampling(260, 1.0))
    whole = answers(MAKERS[path](), a_claim(job)).events[job.id]
    assert len(_calls(whole)) >= 2

    for cut in range(0, len(whole), 9):
        rest = answers(MAKERS[path](), a_claim(job, whole[:cut])).events[job.id]
        assert _calls([*whole[:cut], *rest]) == _calls(whole)
        assert rest[-1] == whole[-1]


def test_calls_whose_time_is_up_are_told_as_far_as_they_came() -> None:
    job = _job("required", 3, sampling=Sampling(260, 1.0), max_time_s=5)
    whole = answers(MAKERS["packed"](), a_claim(job)).events[job.id]
    told = "".join(f"{name}{arguments}" for name, arguments in _calls(whole))

    for cut in range(0, len(whole) - 2, 9):
        rest = answers(MAKERS["packed"](), a_claim(job, whole[:cut], since_s=6))
        calls = _calls([*whole[:cut], *rest.events[job.id]])
        assert told.startswith("".join(f"{name}{arguments}" for name, arguments in calls))
        assert rest.deltas(job)[-1] == Delta("", (), 0, "length", why="max_time")
        assert rest.events[job.id][-1] == Done(Usage(job.prompt_tokens, sum(map(tokens_in, whole[:cut]))))


def test_a_log_that_has_half_of_what_a_token_said_gets_the_other_half() -> None:
    job = _job("look", 2)
    whole = answers(MAKERS["packed"](), a_claim(job)).events[job.id]
    at = next(at for at, event in enumerate(whole) if isinstance(event, Delta) and event.call and event.call.arguments)
    half = whole[at]
    assert isinstance(half, Delta)
    assert half.call is not None
    said = [*whole[:at], Delta("", half.tokens, call=Call(0, "", half.call.arguments[:1]))]

    rest = answers(MAKERS["packed"](), a_claim(job, said)).events[job.id]

    assert _calls([*said, *rest]) == _calls(whole)


def test_the_reason_of_the_end_is_the_plans() -> None:
    ends = {}
    for choice in ("look", "required"):
        jobs = [_job(choice, seed, sampling=Sampling(400, 1.0)) for seed in range(1, 9)]
        notes = answers(MAKERS["packed"](), *map(a_claim, jobs))
        ends[choice] = {notes.finish(job) for job in jobs} - {"length"}
    assert ends == {"look": {"stop"}, "required": {"tool_calls"}}


def test_a_call_that_does_not_fit_in_is_cut_and_not_mended() -> None:
    job = _job("look", sampling=Sampling(45, 0.0))

    notes = answers(MAKERS["packed"](), a_claim(job))

    ((name, arguments),) = _calls(notes.events[job.id])
    assert (notes.finish(job), name) == ("length", "look")
    assert arguments.startswith("{")
    with pytest.raises(json.JSONDecodeError):
        json.loads(arguments)


def test_every_token_is_scored_whatever_it_says() -> None:
    job = _job("look", 2, sampling=Sampling(150, 1.0, logprobs=1))

    notes = answers(MAKERS["packed"](), a_claim(job))

    scored = [one for delta in notes.deltas(job) for one in delta.logprobs]
    tokens = notes.tokens(job)
    assert len(scored) in {len(tokens), len(tokens) - 1}  # an end token has none
    assert "".join(str(one.token) for one in scored).startswith('<tool_call>\n{"name": "look"')


class _Speech:
    """Tokens of the tests' tokenizer of bytes; special ones are shown by their spelling only."""

    def decode(self, tokens: Sequence[int]) -> str:
        return b"".join(TOKENS[at] for at in tokens if at not in IDS).decode(errors="replace")

    def spell(self, token: int) -> bytes:
        return TOKENS[token]


def _spoken(made: ToolPlan, tokens: Sequence[int], stops: Sequence[str] = ()) -> tuple[str, list[Call], bool]:
    text = Calls(_Speech(), stops, made)
    content, calls, is_stopped = "", list[Call](), False
    for token in tokens:
        new, is_stopped = text.push(token)
        content, calls = content + new, [*calls, *text.drain()]
        if is_stopped:
            return content, calls, True
    return content + text.close(), [*calls, *text.drain()], is_stopped


def _ids(*parts: str) -> list[int]:
    return [at for part in parts for at in ([TOKENS.index(part.encode())] if part[0] == "<" else [*part.encode()])]


def test_special_tokens_open_and_close_calls() -> None:
    made = a_plan("objects between tokens")
    said = _ids("Let é", "<call>", '\n{"name": "one", "arguments": {"a": [1]}}\n', "</call>")

    content, calls, _ = _spoken(made, said)

    assert content == "Let é"
    assert _calls([Delta("", (), call=call) for call in calls]) == [("one", '{"a": [1]}')]


def test_tokens_of_thoughts_are_content_where_the_tokenizer_shows_them() -> None:
    class Showing(_Speech):
        def decode(self, tokens: Sequence[int]) -> str:
            return b"".join(TOKENS[at] for at in tokens if at == thought or at not in IDS).decode(errors="replace")

    (thought,) = _ids("<q>")
    form = FORMS["objects between tokens"]
    form = replace(form, thinks=("<q>", "<q>"), specials=(*form.specials, ("<q>", thought)))
    made = plan([a_tool("one")], "auto", form, lowered={})
    said = _ids("<q>", "hm", "<q>", "so")

    shown, hidden = (
        "".join(text.push(at)[0] for at in said)
        for text in (Calls(speech, (), made) for speech in (Showing(), _Speech()))
    )

    assert (shown, hidden) == ("<q>hm<q>so", "hmso")


def test_text_that_spells_them_is_content() -> None:
    said = [*map(ord, '<call>\n{"name": "one"')]

    assert _spoken(a_plan("objects between tokens"), said)[:2] == ('<call>\n{"name": "one"', [])


def test_stop_strings_are_looked_for_in_the_content_only() -> None:
    made = a_plan("objects between tokens")
    call = _ids("<call>", '\n{"name": "one", "arguments": {"a": "end"}}\n', "</call>")

    stopped = _spoken(made, [*_ids("the e", "nd"), *call], ["end"])
    passed = _spoken(made, [*_ids("the en"), *call], ["end"])

    assert stopped == ("the ", [], True)
    assert passed[0] == "the en"
    assert _calls([Delta("", (), call=one) for one in passed[1]]) == [("one", '{"a": "end"}')]


def test_what_a_stop_string_cuts_off_is_not_shown() -> None:
    text = Calls(_Speech(), ["end"], a_plan("objects between tokens"))

    told = [text.push(at) for at in _ids("the end")]

    assert told[-1] == ("", True)
    assert (text.decoded, text.shown) == (7, 4)


def test_the_space_that_a_tokenizer_leaves_out_is_not_content() -> None:
    class Stripping(_Speech):
        def decode(self, tokens: Sequence[int]) -> str:
            return super().decode(tokens).removeprefix(" ")

    text = Calls(Stripping(), (), a_plan("objects between words"))
    assert [text.push(at)[0] for at in b" a b"] == ["", "a", " ", "b"]


def test_arguments_are_looked_at_where_their_schema_is_not_held_in_full() -> None:
    made = plan([a_tool("one")], "auto", FORMS["objects between tokens"], lowered={"one": {"type": "object"}})
    made = ToolPlan.decode(made.encode())
    made.looked_at["one"] = '{"properties": {"a": {"uniqueItems": true}}}'
    found = []
    for values in ("[1, 2]", "[1, 1]"):
        text = Calls(_Speech(), (), made)
        for at in _ids("<call>", f'\n{{"name": "one", "arguments": {{"a": {values}}}}}\n', "</call>"):
            text.push(at)
        found.append(text.errors('{"type": "integer"}'))
    assert found == [(), ("/tool_calls/0/function/arguments/a",)]


def test_an_answer_without_calls_is_looked_at_itself() -> None:
    made = a_plan("objects between tokens")
    found = []
    for said in ("1", "x"):
        text = Calls(_Speech(), (), made)
        text.push(ord(said))
        found.append((text.errors('{"type": "integer"}'), text.errors(None)))
    assert found == [((), ()), (("",), ())]


def test_what_is_said_again_is_told_from_where_it_was() -> None:
    calls = [Call(0, "a"), Call(0, "", "{}"), Call(1, "b"), Call(1, "", '{"x"')]

    for size in range(len(calls) + 1):
        assert list(unsaid(calls, calls[:size])) == calls[size:]
    assert list(unsaid(calls, [Call(0, "a"), Call(0, "", "{")])) == [Call(0, "", "}"), *calls[2:]]


def test_pieces_of_one_call_are_one_item_and_nothing_else_is() -> None:
    pieces = [
        Delta("a", (1,)),
        Delta("", (2,)),
        Delta("", (3,), call=Call(0, "look")),
        Delta("", (), call=Call(0, "", "{")),
        Delta("", (4,), call=Call(0, "", "}")),
        Delta("", (5,)),
        Delta("", (), call=Call(1, "look")),
        Delta("", (6,), 0, "tool_calls"),
    ]

    assert list(merged(pieces)) == [
        Delta("a", (1, 2)),
        Delta("", (3,), call=Call(0, "look")),
        Delta("", (4, 5), call=Call(0, "", "{}")),
        Delta("", (), call=Call(1, "look")),
        Delta("", (6,), 0, "tool_calls"),
    ]


def test_a_piece_comes_back_from_the_log() -> None:
    for call in (Call(0, "look"), Call(3, "", '{"é": "\\n')):
        event = Delta("", (1, 2), 1, call=call)
        assert decode_event(event.encode()) == event
