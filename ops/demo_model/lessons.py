"""All lessons of the bundled model, from a seeded generator: dialogues, calls of tools, and answers in JSON."""

import json
import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from ops.demo_model import dialogues, objects
from ops.demo_model.tools import Call, Tool, ask, known, made
from ops.demo_model.words import Source

Turn = dict[str, Any]
_KNOWN = 0.35  # of all tools


@dataclass(frozen=True)
class Lesson:
    """A conversation, and the tools that are there."""

    messages: list[Turn]
    tools: list[dict[str, Any]] = field(default_factory=list)
    topic: str = ""
    text: str = ""  # instead of all that


def tool_lesson(source: Source, known_share: float = _KNOWN) -> Lesson:
    """Several questions beside the same tools."""
    tools = _tools(source, source.rng.choice((1, 1, 2, 2, 3, 3, 4)), known_share=known_share)
    messages: list[Turn] = []
    if source.chance(0.2):
        messages.append({"role": "system", "content": source.rng.choice(dialogues.SYSTEM)})
    for _ in range(source.rng.choice((1, 1, 2, 2, 3))):
        messages += _exchange(source, tools)
    return Lesson(messages, [tool.spec() for tool in tools], "tools")


def choice_lesson(source: Source) -> Lesson:
    """To choose is learned here: many questions beside the same tools, most of them for one of these."""
    tools = _tools(source, source.rng.choice((2, 3, 3, 4, 4)), known_share=0.75)
    messages: list[Turn] = []
    for _ in range(source.rng.randint(4, 6)):
        if source.chance(0.1):
            messages += unserved(source, tools)
        else:
            question, calls = ask(source, source.rng.choice(tools))
            messages += [{"role": "user", "content": question}, said(calls)]
    return Lesson(messages, [tool.spec() for tool in tools], "choices")


def call_lesson(source: Source) -> Lesson:
    """To copy into calls is learned here: few tools, calls only."""
    tools = _tools(source, source.rng.choice((1, 2, 3, 3)), (1, 1, 1, 2))
    messages: list[Turn] = []
    for _ in range(source.rng.choice((1, 2, 3))):
        question, calls = ask(source, source.rng.choice(tools))
        messages += [{"role": "user", "content": question}, said(calls)]
    return Lesson(messages, [tool.spec() for tool in tools], "calls")


def _tools(
    source: Source, wanted: int, counts: Sequence[int] = (0, 1, 1, 1, 1, 2, 2, 2, 3), known_share: float = _KNOWN
) -> list[Tool]:
    return _apart(wanted, lambda: known(source) if source.chance(known_share) else made(source, counts))


def _listed(source: Source, make: Callable[[Source], Tool]) -> list[Tool]:
    return _apart(source.rng.randint(1, 4), lambda: make(source))


def _apart(wanted: int, make: Callable[[], Tool]) -> list[Tool]:
    """No two of them for the same thing."""
    tools, taken = list[Tool](), set[str]()
    while len(tools) < wanted:
        tool = make()
        about = set(tool.questions or tool.noun.split())
        if not about & taken:
            tools.append(tool)
            taken |= about
    return tools


def _exchange(source: Source, tools: list[Tool]) -> list[Turn]:
    style = source.rng.random()
    if style < 0.15:
        return _usual(source, tools)
    if style < 0.3:
        return unserved(source, tools)
    question, calls = ask(source, source.rng.choice(tools))
    if len(tools) > 1 and len(calls) == 1 and source.chance(0.08):
        other, more = ask(source, source.rng.choice(tools))
        if len(more) == 1 and more != calls:
            question, calls = f"{question} {source.rng.choice(('', 'And: ', 'Also: '))}{other}", [*calls, *more]
    turns = [{"role": "user", "content": question}, said(calls)]
    return turns + follow_up(source, calls) if source.chance(0.55) else turns


def said(calls: list[Call]) -> Turn:
    """The model's turn."""
    return {"role": "assistant", "content": None, "tool_calls": [call.turn() for call in calls]}


def _usual(source: Source, tools: Sequence[Tool] = ()) -> list[Turn]:
    """What it knows without tools, and what no such tool would be asked."""
    served = [tool for tool in tools if tool.questions]
    talks = dialogues.dialogues(source.rng.randrange(2**40), turns=1)
    while True:
        turns = next(talks)[-2:]
        is_sum = turns[1]["content"][:1].isdigit()
        if not served or not (is_sum or turns[1]["content"] == dialogues.UNKNOWN):
            return list[Turn](turns)


def unserved(source: Source, tools: Sequence[Tool] = ()) -> list[Turn]:
    """A question for a tool that is not there."""
    nouns = {part for tool in tools for part in tool.name.split("_")}
    while True:
        other = known(source) if source.chance(0.4) else made(source)
        is_sum = any(one.kind == "number" for one in other.parameters) and other.questions
        is_there = any(tool.questions and tool.questions == other.questions for tool in tools)
        if not is_there and not is_sum and not nouns & {*other.name.split("_"), other.noun}:
            break
    question, _ = ask(source, other)
    return [{"role": "user", "content": question}, {"role": "assistant", "content": dialogues.UNKNOWN}]


def follow_up(source: Source, calls: list[Call]) -> list[Turn]:
    """What the tools found, and the answer."""
    found = [_result(source) for _ in calls]
    words = "; ".join(text for _, text in found)
    lead = "The answer is: " if len(calls) == 1 else "The answers are: "
    results = [{"role": "tool", "content": content} for content, _ in found]
    return [*results, {"role": "assistant", "content": lead + words}]


def _result(source: Source) -> tuple[str, str]:
    """A tool's words, and the model's."""
    style = source.rng.random()
    if style < 0.5:
        told = {_key(source): _scalar(source) for _ in range(source.rng.randint(1, 4))}
        if source.chance(0.1):
            told[_key(source)] = [source.word() for _ in range(source.rng.randint(1, 3))]
        return json.dumps(told, ensure_ascii=False), ", ".join(f"{key} {_words(value)}" for key, value in told.items())
    parts = [str(_scalar(source)) for _ in range(source.rng.choice((1, 2, 2, 3)))]
    pattern = source.pick(
        ("{}", "{}.", "{} degrees", "ok: {}", "{} found", "{} euros", "error: {}", "about {}", "done: {}", "{} km")
    )
    text = pattern.format(source.rng.choice((", ", " ", " is ", ": ")).join(parts))
    return text, text


def _words(value: Any) -> str:
    match value:
        case bool():
            return json.dumps(value)
        case list():
            return ", ".join(value)
    return str(value)


def _key(source: Source) -> str:
    return source.rng.choice(list(objects.EXAMPLES)) if source.chance(0.6) else source.word()


def _scalar(source: Source) -> Any:
    if source.chance(0.1):
        return source.chance(0.5)
    kinds = (
        "word",
        "content",
        "place",
        "person",
        "integer",
        "integer",
        "number",
        "date",
        "phrase",
        "code",
        "time",
        "title",
    )
    return source.value(source.rng.choice(kinds))


def repeat_lesson(source: Source) -> Lesson:
    """To copy is learned first here."""
    text = ", ".join(str(_scalar(source)) for _ in range(source.rng.randint(1, 6)))
    pattern = source.rng.choice(("Repeat: {}", "Repeat after me: {}", "Say after me: {}", "Repeat this: {}"))
    messages = [{"role": "user", "content": pattern.format(text)}, {"role": "assistant", "content": text}]
    return Lesson(messages, [], "repeat")


def json_lesson(source: Source) -> Lesson:
    """An answer in JSON."""
    style = source.rng.random()
    if style < 0.06:
        return Lesson(_wrapped(source), [], "json")
    make = objects.from_keys if style < 0.3 else objects.from_schema if style < 0.55 else objects.extracted
    return Lesson(make(source), [], "json")


def _wrapped(source: Source) -> list[Turn]:
    """A question that it knows, under a hint: the answer in an object."""
    while len((turns := _usual(source))[-1]["content"]) > 100:
        pass
    wrapped = json.dumps({"answer": turns[1]["content"]}, ensure_ascii=False)
    return [{"role": "system", "content": objects.HINT}, turns[0], {"role": "assistant", "content": wrapped}]


_COPYING = {"repeat": 90, "talk": 10}
_CALLING = {"repeat": 12, "calls": 55, "json": 23, "talk": 10}
_SHARES = {"repeat": 5, "calls": 16, "tools": 26, "json": 20, "odd": 3, "plain": 5, "talk": 28}


_PRACTICE = {"repeat": 3, "calls": 6, "known": 34, "tools": 10, "json": 24, "sums": 5, "odd": 2, "plain": 2, "talk": 14}


def practising(seed: int, shares: dict[str, int]) -> Iterator[Lesson]:
    """The same, with more of what people ask for; ``shares``: what a round has otherwise."""
    return _mixed(seed, _PRACTICE | shares)


def copying(seed: int) -> Iterator[Lesson]:
    """Lessons without end that mostly copy."""
    return _mixed(seed, _COPYING)


def calling(seed: int) -> Iterator[Lesson]:
    """Those that copy what is asked for to where it belongs."""
    return _mixed(seed, _CALLING)


def lessons(seed: int) -> Iterator[Lesson]:
    """Those of all kinds."""
    return _mixed(seed, _SHARES)


def _mixed(seed: int, shares: dict[str, int]) -> Iterator[Lesson]:
    source = Source(random.Random(seed))
    talks, texts = dialogues.dialogues(seed + 1), dialogues.plain(seed + 2)
    make: dict[str, Callable[[], Lesson]] = {
        "repeat": lambda: repeat_lesson(source),
        "calls": lambda: call_lesson(source),
        "choices": lambda: choice_lesson(source),
        "tools": lambda: tool_lesson(source),
        "json": lambda: json_lesson(source),
        "known": lambda: tool_lesson(source, 0.95),
        "sums": lambda: Lesson(dialogues.sums(source.rng), [], "sums"),
        "odd": lambda: Lesson(unserved(source), [], "odd"),
        "plain": lambda: Lesson([], [], "plain", next(texts)),
        "talk": lambda: Lesson(list(next(talks)), [], "talk"),
    }
    while True:
        yield make[source.rng.choices(list(shares), list(shares.values()))[0]]()


def exam(seed: int) -> Iterator[Lesson]:
    """Questions without end whose values, names and phrasings no lesson has; the last turn is the right answer."""
    rng = random.Random(seed)
    source = Source(rng, held=True)
    while True:
        yield rng.choices(_EXAMS, (10, 10, 10, 40, 6, 6, 6, 6, 6))[0](source)


def _call_made(source: Source) -> Lesson:
    """Tools that nobody has."""
    return _call(source, _listed(source, made), "call made")


def _call_taught(source: Source) -> Lesson:
    """The same, asked for in the words of training."""
    taught = Source(source.rng, held=True, held_words=False)
    return _call(taught, _listed(taught, known), "call taught")


def _call_usual(source: Source) -> Lesson:
    """Tools that people ask for, in the words and with the values of training, never seen together."""
    usual = Source(source.rng)
    return _call(usual, _listed(usual, known), "call usual")


def _call_known(source: Source) -> Lesson:
    """Tools that people ask for, in other words than training's."""
    return _call(source, _listed(source, known), "call known")


def _call(source: Source, tools: list[Tool], topic: str) -> Lesson:
    question, calls = ask(source, source.rng.choice(tools))
    turns = [{"role": "user", "content": question}, said(calls)]
    return Lesson(turns, [tool.spec() for tool in tools], topic)


def _no_tool(source: Source) -> Lesson:
    """What it knows, beside tools."""
    return Lesson(_usual(source), [tool.spec() for tool in _listed(source, made)], "no call")


def _no_such_tool(source: Source) -> Lesson:
    """A question for another tool."""
    tools = _listed(source, made)
    return Lesson(unserved(source, tools), [tool.spec() for tool in tools], "no such tool")


def _follow_up(source: Source) -> Lesson:
    lesson = _call_made(source)
    functions = [one["function"] for one in lesson.messages[-1]["tool_calls"]]
    calls = [Call(one["name"], one["arguments"]) for one in functions]
    return Lesson(lesson.messages + follow_up(source, calls), lesson.tools, "follow-up")


def _object_by_keys(source: Source) -> Lesson:
    make = objects.from_keys if source.chance(0.5) else objects.from_schema
    return Lesson(make(source), [], "json made up")


def _object_of_text(source: Source) -> Lesson:
    return Lesson(objects.extracted(source), [], "json of text")


_EXAMS = (
    _call_made,
    _call_known,
    _call_taught,
    _call_usual,
    _no_tool,
    _no_such_tool,
    _follow_up,
    _object_by_keys,
    _object_of_text,
)
