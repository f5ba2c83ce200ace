"""Arguments in tags, one by one: ``common/toolformat.py`` has the literals, the tool's schema the types."""

from collections.abc import Iterator, Mapping
from itertools import pairwise
from typing import Any

from common.constraints.build import quoted
from common.constraints.lark import literal, regex, rule_of
from common.toolformat import HOLES, ToolFormat, is_special

Schema = dict[str, Any]

_SAID = {"title", "description", "default", "examples", "$comment", "deprecated", "readOnly", "writeOnly", "$schema"}
_ROOT = _SAID | {"type", "properties", "required", "additionalProperties", "$defs", "definitions", "x-guidance"}
_STRING = _SAID | {"type", "minLength", "maxLength"}
_LONGEST = 10_000  # characters that are counted in a string which is written as it is
_MOST = 200  # arguments of a tool: each is a rule, which may name the next, and a branch of the splitter's pattern


def is_beyond(schema: Schema, form: ToolFormat) -> bool:
    """Whether tags cannot say such arguments."""
    listed = schema.get("properties", {})
    others = schema.get("additionalProperties", None if "properties" in schema else True)
    return (
        not schema.keys() <= _ROOT
        or others not in (None, False)
        or any(key not in listed or listed[key] is False for key in schema.get("required", ()))
        or any(not ref.startswith(("#/$defs/", "#/definitions/")) for ref in _references(schema))
        or len(listed) > _MOST
        or not _are_told_apart(kinds(schema, form), form)
    )


def _are_told_apart(keys: Mapping[str, bool], form: ToolFormat) -> bool:
    """Whether each key is read as itself: it spells no token, and is not the beginning of another with its tag."""
    assert form.tags is not None  # noqa: S101  only this family has any
    before = {False: form.tags.json[0], True: form.tags.text[0]}
    begins = sorted(key + before[is_text] for key, is_text in keys.items())
    return not any(later.startswith(one) for one, later in pairwise(begins)) and not any(
        is_special(one) or one in HOLES for key in keys for one in form.coded(key)
    )


def kinds(schema: Schema, form: ToolFormat) -> dict[str, bool]:
    """Its arguments, and which of them are written as text; the others are JSON."""
    if form.tags is None:
        return {}
    listed = {key: one for key, one in schema.get("properties", {}).items() if one is not False}
    return {key: isinstance(one, dict) and _is_text(one, form.tags.text[1]) for key, one in listed.items()}


def rules(head: str, name: str, schema: Schema, form: ToolFormat) -> Iterator[str]:
    """Those of one call, in the order of its schema; ``head`` is the beginning of the first, ``name`` its name."""
    assert form.tags is not None  # noqa: S101  only this family has any
    skips = ["" if key in schema.get("required", ()) else "?" for key in kinds(schema, form)]
    for at, (key, is_text) in enumerate(kinds(schema, form).items()):
        before = form.tags.text[0] if is_text else form.tags.json[0]
        yield f"{name}p{at}: {literal(form, form.tags.begin + key + before)} {name}v{at}"
        yield from _value(f"{name}v{at}", key, schema, form, is_text=is_text)
    if not form.tags.separator:
        yield " ".join((head, *(f"{name}p{at}{skip}" for at, skip in enumerate(skips))))
        return
    yield f"{head} {name}a0"
    for at, ((key, is_text), skip) in enumerate(zip(kinds(schema, form).items(), skips, strict=True)):
        before = form.tags.text[0] if is_text else form.tags.json[0]
        more = literal(
            form, form.tags.separator + form.tags.begin + key + before
        )  # one literal: what ends may begin so
        yield f"{name}a{at}: {name}p{at} {name}b{at + 1}" + (f" | {name}a{at + 1}" if skip else "")
        yield f"{name}b{at}: {more} {name}v{at} {name}b{at + 1}" + (f" | {name}b{at + 1}" if skip else "")
    yield from (f'{name}{state}{len(skips)}: ""' for state in "ab")


def _value(name: str, key: str, schema: Schema, form: ToolFormat, *, is_text: bool) -> Iterator[str]:
    """Up to the next tag."""
    assert form.tags is not None  # noqa: S101  as above
    own = schema["properties"][key]
    if not is_text:
        shared = {word: schema[word] for word in ("$defs", "definitions") if word in schema}
        yield f"{name}: {rule_of((own if isinstance(own, dict) else {}) | shared)} {literal(form, form.tags.json[1])}"
        return
    after = literal(form, form.tags.text[1])
    if words := _words(own):
        yield f"{name}: ({' | '.join(map(quoted, words))}) {after}"
        return
    code = form.coded(form.tags.text[1])
    least, most = own.get("minLength", 0), own.get("maxLength", "")
    text = f"/(.|\\n){{{least},{most}}}/" if least or most != "" else "/(.|\\n)*/"
    if is_special(code[0]):
        yield f"{name}: {text} {after}"
        return
    if least:  # a short one could hold the tag that ends it
        text += f" & ~/(.|\\n)*{regex(''.join(one for one in code if not is_special(one)))}(.|\\n)*/"
    yield f"{name.upper()}: {text}"
    first, *others = after.split(" <[", 1)
    yield f"{name}: {name}l" + "".join(f" <[{other}" for other in others)
    yield f"{name}l[lazy]: {name.upper()} {first}"


def _is_text(schema: Schema, after: str) -> bool:
    """A string of which every one can stand as it is."""
    if words := _words(schema):
        return not any(after in word for word in words)
    limits = (schema.get("minLength", 0), schema.get("maxLength", 0))
    return schema.get("type") == "string" and schema.keys() <= _STRING and max(limits) <= _LONGEST


def _words(schema: Schema) -> list[str]:
    """The strings of which it must be one, if that is all there is to it."""
    if not schema.keys() <= _SAID | {"type", "enum", "const"} or schema.get("type", "string") != "string":
        return []
    words = schema.get("enum", [schema["const"]] if "const" in schema else [])
    if "const" in schema and "enum" in schema:
        return []
    return list(words) if all(isinstance(word, str) and word for word in words) else []


def _references(schema: Any) -> Iterator[str]:
    waiting = [schema]
    while waiting:
        match waiting.pop():
            case dict() as inner:
                yield from (ref for word, ref in inner.items() if word == "$ref" and isinstance(ref, str))
                waiting += inner.values()
            case list() as inner:
                waiting += inner
