"""Made-up objects, and questions that are answered in JSON."""

import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from ops.demo_model.dialogues import SYSTEM
from ops.demo_model.tools import listed
from ops.demo_model.words import Source

HINT = "Answer with one JSON object and nothing else."
SHAPE = "Answer in JSON that fits this schema: "
_TYPES: dict[type, str] = {str: "string", int: "integer", float: "number", bool: "boolean", list: "array"}
_DEFAULTS: dict[str, Any] = {"integer": 1, "number": 1.5, "boolean": True, "array": ["one", "two"]}

# what it says where nothing is told
EXAMPLES: dict[str, Any] = {
    "name": "Ada", "age": 36, "city": "London", "country": "England", "email": "ada@example.com", "colour": "blue",
    "color": "blue", "job": "engineer", "price": 9.5, "title": "The River", "year": 2024, "id": 1, "active": True,
    "language": "English", "capital": "London", "date": "2026-01-31", "quantity": 3, "count": 3, "tags": ["one", "two"],
    "description": "A small thing.", "phone": "555-0100", "street": "1 Main Street", "zip": "10001", "animal": "cat",
    "author": "Ada Lovelace", "first_name": "Ada", "last_name": "Lovelace", "temperature": 21, "score": 7, "weight": 70,
    "height": 170, "status": "ok", "answer": "yes", "species": "cat", "food": "bread", "size": "small", "number": 7,
    "address": "1 Main Street", "company": "Penstock", "hobby": "chess", "population": 9000000, "day": "Monday",
    "month": "January", "time": "12:00", "is_active": True, "hobbies": ["chess", "music"], "items": ["one", "two"],
}  # fmt: skip
# what is told of a person, and the key and kind of what stands in it
_FACTS: tuple[tuple[str, str, str], ...] = (
    ("age", "integer", "is {} years old"), ("city", "place", "lives in {}"), ("email", "email", "has the email address {}"),
    ("job", "word", "works as a {}"), ("country", "place", "comes from {}"), ("year", "integer", "was born in {}"),
    ("weight", "integer", "weighs {} kilos"), ("company", "title", "works for {}"), ("hobby", "content", "likes {}"),
    ("animal", "content", "has a {}"), ("language", "word", "speaks {}"), ("phone", "integer", "has the number {}"),
    ("date", "date", "was born on {}"), ("height", "integer", "is {} cm tall"),
)  # fmt: skip
_KINDS = (
    "word",
    "content",
    "place",
    "person",
    "integer",
    "integer",
    "number",
    "email",
    "date",
    "phrase",
    "code",
    "list",
    "boolean",
)
_THINGS = (
    "person book user city car product house dog movie order ticket country song recipe cat event team game".split()
)
_FROM_KEYS = (
    "Return a JSON object with keys {}.", "Return a JSON object with the keys {}.", "Give me a JSON object with keys {}.",
    "Give me JSON with keys {}.", "Answer in JSON with the keys {}.", "Write a JSON object with {}.", "JSON with {}, please.",
    "Make a JSON object with the fields {}.", "I need a JSON object with keys {}.", "Return JSON with the fields {}.",
    "Create an object with the keys {}.", "Please write JSON with {}.",
)  # fmt: skip
_FROM_SCHEMA = (
    "Return a {} object.", "Give me a {}.", "Make up a {}.", "Return a {} as JSON.", "A {}, please.", "Describe a {}.",
    "Write a {} object.", "I need a {}.", "Give me an example of a {}.", "Create a {} object.", "Invent a {}.",
)  # fmt: skip
_EXTRACT = (
    "{}", "Extract the data: {}", "Put this in JSON: {}", "Read this: {}", "{} Return it as JSON.", "Extract the fields from this text: {}",
    "Turn this into an object: {}", "Extract: {}", "Find the fields in this: {}", "Parse this: {}",
)  # fmt: skip
_PLAIN = ("The {k} is {v}.", "{k}: {v}.", "{k} {v}.", "Its {k} is {v}.", "The {k}: {v}.", "It has the {k} {v}.")


@dataclass(frozen=True)
class Field:
    """A key, the type its schema says, and its value."""

    key: str
    type: str
    value: Any
    choices: tuple[str, ...] = ()

    def schema(self, *, is_titled: bool) -> dict[str, Any]:
        """As JSON schema has it; pydantic writes titles."""
        told: dict[str, Any] = {"title": self.key.replace("_", " ").title()} if is_titled else {}
        told["type"] = self.type
        if self.type == "array":
            told = {"items": {"type": "string"}} | told
        return ({"enum": list(self.choices)} | told) if self.choices else told


def example(key: str, kind: str) -> Any:
    """What stands at a key of which nothing is told."""
    value = EXAMPLES.get(key)
    fits = value is not None and _TYPES[type(value)] == kind
    return value if fits else _DEFAULTS.get(kind, f"some {key}")


def answer(fields: list[Field]) -> str:
    """As the model writes it."""
    return json.dumps({one.key: one.value for one in fields}, ensure_ascii=False)


def schema_of(source: Source, fields: list[Field]) -> dict[str, Any]:
    """One of the spellings that people and programs have."""
    is_titled = source.chance(0.25)
    properties = {one.key: one.schema(is_titled=is_titled) for one in fields}
    required = [one.key for one in fields]
    if is_titled:
        told = {"properties": properties, "required": required, "title": "Answer", "type": "object"}
        return told | ({"additionalProperties": False} if source.chance(0.6) else {})
    told = {"type": "object", "properties": properties}
    told |= {"required": required} if source.chance(0.85) else {}
    return told | ({"additionalProperties": False} if source.chance(0.2) else {})


def _key(source: Source) -> str:
    if source.chance(0.7):
        return source.rng.choice(list(EXAMPLES))
    return source.word() if source.chance(0.9) else f"{source.word()}_{source.content()}"


def _keys(source: Source, most: int = 4) -> list[str]:
    return list(dict.fromkeys(_key(source) for _ in range(source.rng.randint(1, most))))


def _turns(source: Source, hint: str | None, ask: str, said: str) -> list[dict[str, Any]]:
    system = source.rng.choice(SYSTEM) if source.chance(0.15) else None
    head = "\n\n".join(filter(None, (system, hint)))
    told = [{"role": "user", "content": ask}, {"role": "assistant", "content": said}]
    return [{"role": "system", "content": head}, *told] if head else told


def from_keys(source: Source) -> list[dict[str, Any]]:
    """The caller names the keys."""
    keys = _keys(source, 5)
    quoted = [f'"{key}"' for key in keys] if source.chance(0.2) else keys
    style = source.rng.random()
    said = (
        listed(quoted) if style < 0.7 else ", ".join(quoted) if style < 0.9 else listed(quoted).replace(" and", ", and")
    )
    values = [Field(key, "", EXAMPLES.get(key, f"some {key}")) for key in keys]
    hint = HINT if source.chance(0.7) else None
    return _turns(source, hint, source.pick(_FROM_KEYS).format(said), answer(values))


def from_schema(source: Source) -> list[dict[str, Any]]:
    """The schema names them."""
    fields: list[Field] = []
    for key in _keys(source, 5):
        value = EXAMPLES.get(key)
        kind = source.rng.choice(list(_TYPES.values())) if value is None or source.chance(0.06) else _TYPES[type(value)]
        choices: tuple[str, ...] = ()
        if kind == "string" and source.chance(0.15):
            choices = tuple(dict.fromkeys(source.content() for _ in range(3)))
        fields.append(Field(key, kind, choices[0] if choices else example(key, kind), choices))
    thing = source.rng.choice(_THINGS) if source.chance(0.7) else source.word()
    hint = SHAPE + json.dumps(schema_of(source, fields), ensure_ascii=False)
    return _turns(source, hint, source.pick(_FROM_SCHEMA).format(thing), answer(fields))


def _of_person(source: Source) -> tuple[str, list[Field]]:
    name = source.person()
    facts = source.rng.sample(_FACTS, source.rng.choice((1, 2, 2, 3)))
    fields, said = [Field("name", "string", name)], list[str]()
    for key, kind, text in facts:
        value = source.value(kind)
        is_text = key == "phone" or not isinstance(value, int)
        fields.append(Field(key, "string" if is_text else "integer", str(value) if is_text else value))
        said.append(text.format(value))
    if source.chance(0.75):
        return f"{name} {listed(said)}.", fields
    return f"{name} {said[0]}." + "".join(f" {source.rng.choice(('He', 'She'))} {one}." for one in said[1:]), fields


def _of_anything(source: Source) -> tuple[str, list[Field]]:
    fields, said = list[Field](), list[str]()
    pattern = source.pick(_PLAIN)
    for key in _keys(source):
        kind = source.rng.choice(_KINDS)
        choices: tuple[str, ...] = ()
        if kind == "list":
            value: Any = list(
                dict.fromkeys(source.word() if source.chance(0.5) else source.content() for _ in range(3))
            )
            text = listed(value)
        elif kind == "boolean":
            value = source.chance(0.5)
            text = source.rng.choice(("true", "yes") if value else ("false", "no"))
        else:
            value = source.value(kind)
            text = str(value)
            if kind == "content" and source.chance(0.4):
                choices = tuple(sorted({value, source.content(), source.content()}))
        fields.append(Field(key, _TYPES[type(value)], value, choices))
        if source.chance(0.3):
            pattern = source.pick(_PLAIN)
        said.append(pattern.replace("{k}", key.replace("_", " ")).replace("{v}", text))
    said = [one[0].upper() + one[1:] if source.chance(0.3) else one for one in said]
    return " ".join(said), fields


def extracted(source: Source) -> list[dict[str, Any]]:
    """The values stand in a text."""
    make: Callable[[Source], tuple[str, list[Field]]] = _of_person if source.chance(0.5) else _of_anything
    text, fields = make(source)
    if source.chance(0.25):
        source.rng.shuffle(fields)
    if len(fields) > 1 and source.chance(0.2):
        fields = fields[:-1]  # of what is said, not all is asked for
    if source.chance(0.25):
        keys = listed([one.key for one in fields])
        ask = source.pick(_FROM_KEYS).format(keys)
        ask = f"{ask.removesuffix('.')}: {text}" if source.chance(0.5) else f"{text} {ask}"
        return _turns(source, HINT if source.chance(0.7) else None, ask, answer(fields))
    hint = SHAPE + json.dumps(schema_of(source, fields), ensure_ascii=False)
    return _turns(source, hint, source.pick(_EXTRACT).format(text), answer(fields))
