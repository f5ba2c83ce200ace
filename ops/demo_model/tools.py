"""Made-up tools and questions for them, each with the call that answers it."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from ops.demo_model.catalogue import KNOWN
from ops.demo_model.words import Source

_TYPES = {"integer": "integer", "number": "number", "boolean": "boolean", "list": "array"}
_STRINGS = ("word", "place", "person", "email", "date", "time", "code", "phrase", "file", "content", "title")

_VERBS = (
    "get find fetch show read check list count measure open close create delete update start stop cancel order rent paint send "
    "clean move load save print share lock draw turn copy build mix watch"
).split()
_ASKING = {"get", "find", "fetch", "show", "read", "check", "list", "count", "measure", "watch"}
_NOUNS = (
    "invoice temperature ticket song lamp tide score package price schedule account salary address recipe menu balance profile "
    "table room car bike door heater robot garden photo message document folder contract order booking status level speed "
    "height weight review rating phone number river engine pump valve sensor battery channel model job queue worker log page "
    "chart map route bus train ferry parcel letter stamp coin loan tax flag badge guest visitor member player team match"
).split()
_PARAMETERS = (
    "name city id code date title value size color level mode kind place user target text number speed count unit limit owner "
    "room label group category brand format region status priority email person team key topic reason amount angle depth"
).split()
_ENUMS = (
    ("celsius", "fahrenheit"), ("on", "off"), ("small", "medium", "large"), ("low", "high"), ("red", "green", "blue"),
    ("kilometers", "miles"), ("open", "closed"), ("asc", "desc"), ("north", "south", "east", "west"), ("day", "night"),
)  # fmt: skip
_ASKS = (
    "What is the {noun} {cue}?", "Show me the {noun} {cue}.", "{Verb} the {noun} {cue}.", "I need the {noun} {cue}.",
    "Can you {verb} the {noun} {cue}?", "Please {verb} the {noun} {cue}.", "Tell me the {noun} {cue}.", "{noun} {cue}",
    "Give me the {noun} {cue}.", "Could you {verb} the {noun} {cue}?",
)  # fmt: skip
_DEEDS = (
    "{Verb} the {noun} {cue}.", "Please {verb} the {noun} {cue}.", "{Verb} a {noun} {cue}.", "Can you {verb} a {noun} {cue}?",
    "I want to {verb} the {noun} {cue}.", "{Verb} my {noun} {cue}, please.", "{verb} {noun} {cue}", "You should {verb} the {noun} {cue}.",
    "I would like to {verb} a {noun} {cue}.", "Could you {verb} the {noun} {cue}?",
)  # fmt: skip
_ALONE = ("of {v}", "for {v}", "in {v}", "at {v}", "from {v}", "named {v}", "to {v}", '"{v}"', "by {v}", "on {v}")
_CUES = ("with {p} {v}", "with the {p} {v}", "{p} {v}", "{p}: {v}", 'with {p} "{v}"', "for {p} {v}", "using {p} {v}", "where {p} is {v}")  # fmt: skip
_JOINTS = (" and ", ", ", " ")


@dataclass(frozen=True)
class Parameter:
    """One of a tool's."""

    name: str
    kind: str  # what Source draws, or integer, number, boolean, list, enum
    is_required: bool = True
    choices: tuple[str, ...] = ()

    def schema(self) -> dict[str, Any]:
        """As JSON schema has it."""
        told: dict[str, Any] = {"type": _TYPES.get(self.kind, "string")}
        if self.kind == "list":
            told["items"] = {"type": "string"}
        return told | ({"enum": list(self.choices)} if self.choices else {})


@dataclass(frozen=True)
class Tool:
    """A tool, and how it may be asked for."""

    name: str
    description: str
    parameters: tuple[Parameter, ...]
    questions: tuple[str, ...] = ()  # none: made from verb and noun
    verb: str = ""
    noun: str = ""

    def spec(self) -> dict[str, Any]:
        """As OpenAI has it."""
        function: dict[str, Any] = {"name": self.name}
        if self.description:
            function["description"] = self.description
        if self.parameters or self.description:
            function["parameters"] = {
                "type": "object",
                "properties": {one.name: one.schema() for one in self.parameters},
                "required": [one.name for one in self.parameters if one.is_required],
            }
        return {"type": "function", "function": function}


@dataclass(frozen=True)
class Call:
    """What the model must write."""

    name: str
    arguments: dict[str, Any]

    def turn(self) -> dict[str, Any]:
        """As OpenAI has it."""
        return {"type": "function", "function": {"name": self.name, "arguments": self.arguments}}


def known(source: Source) -> Tool:
    """One of those that people ask for."""
    names, descriptions, parameters, questions = source.rng.choice(KNOWN)
    taken = tuple(Parameter(source.rng.choice(some.split()), kind) for some, kind in parameters)
    if source.chance(0.15):
        taken += (_made_parameter(source, {one.name for one in taken}, is_required=False),)
    description = "" if source.chance(0.1) else source.ask(descriptions.split("|"))
    return Tool(source.rng.choice(names.split()), description, taken, questions)


def made(source: Source, counts: Sequence[int] = (0, 1, 1, 1, 1, 2, 2, 2, 3)) -> Tool:
    """One that nobody has."""
    verb = source.word() if source.chance(0.3) else source.pick(_VERBS)
    nouns = [source.word() if source.chance(0.35) else source.pick(_NOUNS) for _ in range(1 + source.chance(0.1))]
    noun = " ".join(nouns)
    parts = [verb, *nouns]
    style = source.rng.random()
    if style < 0.76:
        name = "_".join(parts)
    elif style < 0.84:
        name = verb + "".join(map(str.capitalize, nouns))
    elif style < 0.92:
        name = "_".join(nouns)
    else:
        name = "_".join([*nouns, verb])
    taken: list[Parameter] = []
    for at in range(source.rng.choice(counts)):
        taken.append(_made_parameter(source, {one.name for one in taken}, is_required=at == 0 or source.chance(0.6)))
    described = (
        "{Verb} the {noun}.",
        "{Verb} a {noun}",
        "{Verb}s the {noun}",
        "{Verb} {noun} by {p}.",
        "{Noun}",
        "The {noun}",
    )
    first = taken[0].name.replace("_", " ") if taken else "name"
    description = _filled(source.rng.choice(described), verb, noun).replace("{p}", first)
    return Tool(name, "" if source.chance(0.2) else description, tuple(taken), (), verb, noun)


def _made_parameter(source: Source, others: set[str], *, is_required: bool) -> Parameter:
    while (name := _parameter_name(source)) in others:
        pass
    kind = source.rng.choice((*_STRINGS, "integer", "integer", "integer", "number", "boolean", "list", "enum"))
    choices: tuple[str, ...] = ()
    if kind == "enum":
        choices = source.rng.choice(_ENUMS) if source.chance(0.5) else _made_choices(source)
    return Parameter(name, kind, is_required, choices)


def _made_choices(source: Source) -> tuple[str, ...]:
    return tuple(dict.fromkeys(source.word() if source.chance(0.5) else source.content() for _ in range(4)))


def _parameter_name(source: Source) -> str:
    name = source.word() if source.chance(0.3) else source.pick(_PARAMETERS)
    return name if source.chance(0.9) else f"{name}_{source.pick(_PARAMETERS)}"


def _value(source: Source, parameter: Parameter) -> tuple[Any, str]:
    """As JSON, and as people say it."""
    match parameter.kind:
        case "enum":
            value = source.rng.choice(parameter.choices)
            return value, value
        case "boolean":
            is_on = source.chance(0.5)
            return is_on, source.rng.choice(("true", "on", "yes") if is_on else ("false", "off", "no"))
        case "list":
            kind = source.rng.choice(("word", "content", "person", "place"))
            values = list(dict.fromkeys(source.value(kind) for _ in range(source.rng.randint(1, 3))))
            return values, listed(values)
        case "currency":
            value = source.pick(
                ("USD", "EUR", "GBP", "yen", "CHF", "dollars", "euros", "pounds", "SEK", "PLN", "NOK", "krona")
            )
            return value, value
        case "language":
            value = source.pick(
                ("German", "French", "Spanish", "Italian", "Polish", "Greek", "English", "Dutch", "Danish")
            )
            return value, value
    value = source.value(parameter.kind)
    return value, str(value)


def listed(words: list[str]) -> str:
    """``a, b and c``."""
    return f"{', '.join(words[:-1])} and {words[-1]}" if len(words) > 1 else "".join(words)


def _filled(pattern: str, verb: str, noun: str, cue: str = "") -> str:
    return (
        pattern.replace("{verb}", verb)
        .replace("{Verb}", verb.capitalize())
        .replace("{noun}", noun)
        .replace("{Noun}", noun[:1].upper() + noun[1:])
        .replace(" {cue}", f" {cue}" if cue else "")
    )


def ask(source: Source, tool: Tool) -> tuple[str, list[Call]]:
    """A question that this tool serves, and its calls."""
    if tool.questions:
        return _ask_known(source, tool)
    given = [one for one in tool.parameters if one.is_required or source.chance(0.5)]
    values = {one.name: _value(source, one) for one in given}
    cues = [_cue(source, one, values[one.name][1], is_alone=len(given) == 1) for one in given]
    calls = [{name: value for name, (value, _) in values.items()}]
    if len(given) == 1 and given[0].kind not in {"list", "boolean", "enum"} and source.chance(0.1):
        value, said = _value(source, given[0])
        if {given[0].name: value} not in calls:
            calls.append({given[0].name: value})
            joint, pattern = source.rng.choice((" and ", " and ", " and for ")), cues[0]
            cues = [pattern + joint + said]
    elif source.chance(0.25):
        source.rng.shuffle(cues)
    cue = source.rng.choice(_JOINTS).join(cues)
    pattern = source.pick(_ASKS if tool.verb in _ASKING else _DEEDS)
    question = _filled(pattern, tool.verb, tool.noun, cue)
    return _spoken(source, question), [Call(tool.name, arguments) for arguments in calls]


def _cue(source: Source, parameter: Parameter, said: str, *, is_alone: bool) -> str:
    name = parameter.name if source.chance(0.3) else parameter.name.replace("_", " ")
    if is_alone and parameter.kind not in {"boolean", "list"} and source.chance(0.6):
        return source.pick(_ALONE).replace("{v}", said)
    return source.pick(_CUES).replace("{p}", name).replace("{v}", said)


def _ask_known(source: Source, tool: Tool) -> tuple[str, list[Call]]:
    given = [one for one in tool.parameters if one.is_required]
    extra = [one for one in tool.parameters if not one.is_required and source.chance(0.5)]
    values = {one.name: _value(source, one) for one in (*given, *extra)}
    question = source.ask(tool.questions).format(*(values[one.name][1] for one in given))
    end = question[-1] if question[-1] in ".?" else ""
    for one in extra:
        question = f"{question.removesuffix(end)} {_cue(source, one, values[one.name][1], is_alone=False)}{end}"
    arguments = [{name: value for name, (value, _) in values.items()}]
    if len(given) == 1 and not extra and source.chance(0.2):
        value, said = _value(source, given[0])
        if {given[0].name: value} not in arguments:
            place = values[given[0].name][1]
            joint = source.rng.choice((" and ", " and ", " and in " if given[0].kind == "place" else " and "))
            question = question.replace(place, f"{place}{joint}{said}")
            arguments.append({given[0].name: value})
    return _spoken(source, question), [Call(tool.name, one) for one in arguments]


def _spoken(source: Source, question: str) -> str:
    if source.chance(0.12):
        question = (
            source.rng.choice(("Please tell me: ", "Quick question: ", "Hey, ", "Hi! ", "I have a question. "))
            + question
        )
    if source.chance(0.06):
        question = question.rstrip(".?")
    return question
