"""Conversations, texts and tokens on their way to prompt ids: templates, tools, history, budgets and echoes."""

import json
from collections.abc import Callable, Iterator
from dataclasses import asdict
from typing import Any

import pytest

from common.door.admission import Door
from common.door.children import Children
from common.errors import ContextLengthError, InvalidRequestError
from common.jobs import Echo, Job
from common.ledger.ledger import Ledger
from common.ledger.replies import WorkerInfo
from common.settings import Model, Settings
from tests.common.asking import CALL, HI, chat, text
from tests.common.test_door import TURNS, admit, card, files, said
from worker.models.counting import tokenizer

QWEN = (
    "{% for m in messages %}<{{ m.role }}>{{ m.content }}"
    "{% for c in m.tool_calls or [] %}[{{ c.function.name }} {{ c.function.arguments | tojson }}]{% endfor %}"
    "</>{% endfor %}{% if add_generation_prompt %}<assistant>{% endif %}"
)
PLAIN = "{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}"
PICKY = (
    "{% for m in messages %}{% if m.tool_calls or m.role == 'tool' %}{{ raise_exception('No tools') }}{% endif %}"
    "{{ m.role }}: {{ m.content }}\n{% endfor %}"
)
SILENT = "{% for m in messages %}{{ m.content | upper }}{% endfor %}"
EXACT = (
    "{% for m in messages %}<{{ m.role }}>{{ m.content }}{% for c in m.tool_calls or [] %}"
    "[{{ c.function.name }}{% for key, value in c.function.arguments | items %} {{ key }}={{ value }}{% endfor %}]"
    "{% endfor %}</>{% endfor %}"
)
CONTEXT = 400
TEMPLATES = {
    "qwen": QWEN,
    "exact": EXACT,
    "plain": PLAIN,
    "turns": TURNS,
    "picky": PICKY,
    "silent": SILENT,
    "none": None,
}
Say = Callable[..., str]
ASKED = {"role": "user", "content": "Where?"}
CALLED = {"role": "assistant", "content": None, "tool_calls": [CALL]}
TOLD = {"role": "tool", "content": "by the river", "tool_call_id": "c1"}


@pytest.fixture(scope="module")
def children() -> Iterator[Children]:
    """One will do for all tests here."""
    children = Children(1)
    yield children
    children.close()


@pytest.fixture
def door(settings: Settings, ledger: Ledger, children: Children) -> Door:
    """One model for each template, all of bytes."""
    models = tuple(Model(name=name, path="x") for name in TEMPLATES)
    for name, template in TEMPLATES.items():
        blob = files(template)
        ledger.put_card(card(blob, name, CONTEXT), blob)
        ledger.beat(WorkerInfo(f"w-{name}", name, 4, 4, "ready"), {})
    return Door(settings.model_copy(update={"models": models}), ledger, children)


@pytest.fixture
def say(door: Door) -> Say:
    """A conversation as the model will read it."""
    return lambda model, messages, **fields: said(admit(door, chat(model=model, messages=messages, **fields)))


def _whole(job: Job, which: int = 0) -> str:
    return str(tokenizer().decode(job.prompts[which], skip_special_tokens=False))


def test_calls_and_results_reach_a_template_that_knows_them(say: Say) -> None:
    assert say("qwen", [ASKED, CALLED, TOLD]) == (
        '<user>Where?</><assistant>[look {"at": "Rome"}]</><tool>by the river</><assistant>'
    )


@pytest.mark.parametrize("model", ["plain", "picky"])
def test_calls_and_results_are_text_for_a_template_that_does_not_know_them(say: Say, model: str) -> None:
    seen = say(model, [ASKED, CALLED | {"content": "Let me see."}, TOLD])

    assert seen.startswith(
        'user: Where?\nassistant: Let me see.\n{"name": "look", "arguments": {"at": "Rome"}}\n'
        "user: Result of look:\nby the river\n"
    )


def test_a_template_that_insists_on_turns_gets_calls_and_results_as_turns(say: Say) -> None:
    seen = say("turns", [{"role": "system", "content": "Brief."}, ASKED, CALLED, TOLD, ASKED])

    assert seen == (
        'user: Brief.\n\nWhere?\nassistant: {"name": "look", "arguments": {"at": "Rome"}}\n'
        "user: Result of look:\nby the river\n\nWhere?\nassistant: "
    )


@pytest.mark.parametrize("arguments", ["{not json", '{"a": NaN}', '{"a": "\\ud800"}', "[" * 90 + "]" * 90, "[" * 90])
def test_arguments_that_are_no_object_are_passed_on_as_they_are(say: Say, arguments: str) -> None:
    strange = CALLED | {"tool_calls": [CALL | {"function": {"name": "look", "arguments": arguments}}]}

    seen = say("qwen", [ASKED, strange, TOLD])

    assert f"[look {json.dumps(arguments)}]" in seen


def test_arguments_that_a_template_cannot_read_are_written_as_text(say: Say) -> None:
    strange = CALLED | {"tool_calls": [CALL | {"function": {"name": "look", "arguments": "{not json"}}]}

    assert "[look at=Rome]" in say("exact", [ASKED, CALLED, TOLD])
    assert '{"name": "look", "arguments": "{not json"}' in say("exact", [ASKED, strange, TOLD])


@pytest.mark.parametrize("depth", [65, 400, 900, 9000])
def test_arguments_that_are_nested_too_deeply_stay_text(depth: int) -> None:
    arguments = '{"a":' * depth + "1" + "}" * depth
    call = CALL | {"function": {"name": "look", "arguments": arguments}}

    (asked,) = chat(messages=[ASKED, CALLED | {"tool_calls": [call]}, TOLD]).asks()

    assert asked.turns is not None
    assert asked.turns[1]["tool_calls"][0]["function"]["arguments"] == arguments
    assert asdict(asked)["turns"] == asked.turns


def test_the_last_message_is_continued_on_request_and_a_turn_like_others_else(say: Say) -> None:
    begun = [*HI, {"role": "assistant", "content": "Once upon"}]

    assert say("qwen", begun, continue_final_message=True) == "<user>Hi</><assistant>Once upon"
    assert say("qwen", begun) == "<user>Hi</><assistant>Once upon</><assistant>"
    assert say("qwen", begun, add_generation_prompt=False) == "<user>Hi</><assistant>Once upon</>"


def test_a_template_that_changes_the_last_message_cannot_continue_it(door: Door) -> None:
    begun = [*HI, {"role": "assistant", "content": "Once upon"}]

    with pytest.raises(InvalidRequestError) as refused:
        admit(door, chat(model="silent", messages=begun, continue_final_message=True))

    assert refused.value.param == "continue_final_message"


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"continue_final_message": True}, "continue_final_message"),
        ({"continue_final_message": True, "messages": [*HI, CALLED]}, "continue_final_message"),
        (
            {"continue_final_message": True, "messages": [*HI, {"role": "assistant", "content": ""}]},
            "continue_final_message",
        ),
        (
            {
                "continue_final_message": True,
                "add_generation_prompt": True,
                "messages": [{"role": "assistant", "content": "a"}],
            },
            "add_generation_prompt",
        ),
    ],
)
def test_what_cannot_be_continued_is_refused(fields: dict[str, Any], param: str) -> None:
    with pytest.raises(InvalidRequestError) as refused:
        chat(**fields)

    assert refused.value.param == param


def test_a_body_may_bring_the_system_prompt(say: Say) -> None:
    assert say("qwen", HI, system_prompt="Be brief.") == "<system>Be brief.</><user>Hi</><assistant>"


@pytest.mark.parametrize("value", ["auto", "", "None", None])
def test_some_system_prompts_mean_none(say: Say, value: str | None) -> None:
    assert say("qwen", HI, system_prompt=value) == "<user>Hi</><assistant>"


def test_a_system_message_wins_over_the_body_and_the_loser_is_named() -> None:
    messages = [{"role": "developer", "content": "Long."}, *HI]

    asked = chat(messages=messages, system_prompt="Brief.")

    assert asked.ignored == ("system_prompt",)
    assert asked.asks()[0].turns == [{"role": "system", "content": "Long."}, *HI]
    assert chat(messages=messages, system_prompt="auto").ignored == ()


HISTORY = [["a", "b"], [None, "c"], ["d", None]]


def test_a_body_may_bring_the_history(say: Say) -> None:
    seen = say("qwen", [{"role": "system", "content": "S"}, *HI], chat_conversation=HISTORY)

    assert seen == "<system>S</><user>a</><assistant>b</><assistant>c</><user>d</><user>Hi</><assistant>"


def test_messages_with_a_history_win_over_the_bodys_and_the_loser_is_named() -> None:
    messages = [*HI, {"role": "assistant", "content": "Ho"}, *HI]

    asked = chat(messages=messages, chat_conversation=HISTORY)

    assert asked.ignored == ("chat_conversation",)
    assert asked.asks()[0].turns == messages


def test_history_can_be_left_out(say: Say) -> None:
    messages = [{"role": "system", "content": "S"}, *HI, {"role": "assistant", "content": "Ho"}, ASKED, CALLED, TOLD]

    seen = say("qwen", messages, add_chat_history_to_context=False)

    assert seen.startswith("<system>S</><user>Where?</><assistant>[look")
    assert say("qwen", HI, add_chat_history_to_context=False, chat_conversation=HISTORY) == "<user>Hi</><assistant>"


def test_a_budget_leaves_the_oldest_turns_out_and_no_more_than_it_must(say: Say) -> None:
    turns = [{"role": role, "content": f"{role}{at}"} for at in range(4) for role in ("user", "assistant")]
    messages = [{"role": "system", "content": "S"}, *turns, *HI]

    pairs = [f"<user>user{at}</><assistant>assistant{at}</>" for at in range(4)]
    shortened = ["<system>S</>" + "".join(pairs[at:]) + "<user>Hi</><assistant>" for at in range(5)]
    for budget in range(len(shortened[-1]), len(shortened[0]) + 2, 5):
        seen = say("qwen", messages, max_input_tokens=budget)
        assert seen == next(one for one in shortened if len(one) <= budget)


def test_a_budget_below_the_last_question_is_refused_by_name(door: Door) -> None:
    for ask in (chat(model="qwen", max_input_tokens=10), text(model="qwen", prompt="a" * 11, max_input_tokens=10)):
        with pytest.raises(ContextLengthError) as refused:
            admit(door, ask)
        assert refused.value.param == "max_input_tokens"


@pytest.mark.parametrize("value", [0, -2, "5", 1.5])
def test_a_budget_is_a_number_of_tokens_or_none(value: Any) -> None:
    with pytest.raises(InvalidRequestError) as refused:
        chat(max_input_tokens=value)

    assert refused.value.param == "max_input_tokens"


def test_a_budget_saves_a_conversation_that_the_context_would_refuse(door: Door, say: Say) -> None:
    long = [*HI, {"role": "assistant", "content": "x" * CONTEXT}, ASKED]

    with pytest.raises(ContextLengthError):
        admit(door, chat(model="qwen", messages=long))
    assert say("qwen", long, max_input_tokens=100) == "<user>Where?</><assistant>"


def test_a_prompt_type_says_whether_there_is_a_template(door: Door) -> None:
    def seen(ask: Any) -> str:
        return said(admit(door, ask))

    assert seen(text(model="qwen", prompt="Hi", prompt_type="template")) == "<user>Hi</><assistant>"
    assert seen(text(model="qwen", prompt="Hi", prompt_type="plain")) == "Hi"
    assert seen(
        text(model="qwen", prompt="Hi", prompt_type="template", system_prompt="S", chat_conversation=[["a", "b"]])
    ) == ("<system>S</><user>a</><assistant>b</><user>Hi</><assistant>")
    assert seen(chat(model="none", messages=[*HI, ASKED], prompt_type="plain")) == "Hi\nWhere?"
    assert seen(chat(model="qwen", prompt_type="template")) == "<user>Hi</><assistant>"


def test_a_hand_written_prompt_type_is_ignored_and_named() -> None:
    assert chat(prompt_type="llama2").ignored == ("prompt_type",)
    assert text(prompt_type=7).ignored == ("prompt_type",)


def test_what_needs_a_conversation_is_named_where_there_is_none() -> None:
    fields = {"system_prompt": "S", "chat_conversation": HISTORY}

    assert text(**fields).ignored == ("chat_conversation", "system_prompt")
    assert text(**fields, prompt_type="template").ignored == ()


def test_many_prompts_are_one_job(door: Door) -> None:
    job = admit(door, text(model="none", prompt=["a", "bc", [100, 101, 102]], n=2))

    assert [_whole(job, which) for which in range(2)] == ["a", "bc"]
    assert job.prompts[2] == (100, 101, 102)
    assert (job.n, job.choices, job.prompt_tokens, job.echo) == (2, 6, 6, ())


def test_tokens_that_the_model_lacks_are_refused(door: Door) -> None:
    with pytest.raises(InvalidRequestError) as refused:
        admit(door, text(model="none", prompt=[[5], [5, 300]]))

    assert (refused.value.param, "300 is no token" in refused.value.message) == ("prompt", True)


def test_an_empty_prompt_among_others_is_refused(door: Door) -> None:
    with pytest.raises(InvalidRequestError) as refused:
        admit(door, text(model="none", prompt=["a", ""]))

    assert refused.value.param == "prompt"


def test_an_echo_is_the_prompt_as_it_was_sent(door: Door) -> None:
    ids = tokenizer().encode("né").ids
    job = admit(door, text(model="qwen", prompt=["Hé", ids], echo=True))

    assert job.echo == (Echo("Hé"), Echo("né"))
    assert admit(door, text(model="qwen", prompt="Hi", echo=True, prompt_type="template")).echo == (Echo("Hi"),)


def test_an_echo_with_logprobs_says_where_each_token_begins(door: Door) -> None:
    ids = tokenizer().encode("né<|end|>!").ids
    job = admit(door, text(model="qwen", prompt=["Hé!", ids], echo=True, logprobs=0))

    assert job.echo[0] == Echo("Hé!", (0, 1, 1, 2))  # two bytes are one character
    assert job.echo[1] == Echo("né<|end|>!", (0, 1, 1, 2, 9))
    assert job.sampling.logprobs == 0


def test_an_echo_in_a_template_has_no_logprobs() -> None:
    with pytest.raises(InvalidRequestError) as refused:
        text(prompt_type="template", echo=True, logprobs=1)

    assert refused.value.param == "echo"
    with pytest.raises(InvalidRequestError) as also:
        text(prompt_type="template", prompt=[1])
    assert also.value.param == "prompt_type"
