"""Constraints that were made to do harm, each with what must become of it.

The body's part is built when it is asked for, as text: some of it no JSON writer would write.
"""

import json
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

Fate = Literal["taken", "refused", "either"]  # either: how fast the machine is decides
_PRIME = 999_983
_URL = "http://127.0.0.1:9/"  # nobody listens there, and nobody may ask


@dataclass(frozen=True, slots=True)
class Attack:
    """What stands in a body beside its prompt."""

    name: str
    fate: Fate
    fields: Callable[[], str]  # without the braces around them
    param: str | None = None  # of its refusal; None: the body as a whole is refused


def _schema(at: int, name: str, fate: Fate, make: Callable[[], str]) -> Attack:
    """By one of the ways that a schema may come."""
    wrapped = {"type": "json_schema", "json_schema": {"name": "a", "schema": None}}
    fields = [
        ("response_format", lambda: f'"response_format":{json.dumps(wrapped).replace("null", make())}'),
        ("guided_json", lambda: f'"guided_json":{make()}'),
        ("structured_outputs", lambda: f'"structured_outputs":{{"json":{make()}}}'),
    ]
    param, made = fields[at % 3]
    return Attack(name, fate, made, param)


def _text(at: int, kind: str, name: str, fate: Fate, make: Callable[[], Any]) -> Attack:
    """A regex, choices or a grammar, by one of its two names."""
    if at % 2:
        return Attack(f"{kind}: {name}", fate, lambda: f'"guided_{kind}":{json.dumps(make())}', f"guided_{kind}")
    made = lambda: f'"structured_outputs":{{"{kind}":{json.dumps(make())}}}'  # noqa: E731
    return Attack(f"{kind}: {name}", fate, made, "structured_outputs")


def _nested(levels: int, step: Callable[[Any], Any], inner: Any = None) -> Any:
    inner = {} if inner is None else inner
    for _ in range(levels):
        inner = step(inner)
    return inner


def _chain(length: int, link: Callable[[str], Any]) -> Any:
    """Definitions, each of which leads to the next."""
    made: dict[str, Any] = {f"d{at}": link(f"#/$defs/d{at + 1}") for at in range(length)}
    return {"$defs": made | {f"d{length}": {"type": "null"}}, "$ref": "#/$defs/d0"}


def _wide(count: int, one: Callable[[int], Any]) -> dict[str, Any]:
    return {str(at): one(at) for at in range(count)}


def _doubled(levels: int, word: str) -> Any:
    """As many ways as two to the power of it, each definition once."""
    made = {f"d{at}": {word: [{"$ref": f"#/$defs/d{at + 1}"}] * 2} for at in range(levels)}
    return {"$defs": made | {f"d{levels}": {"type": "integer"}}, "$ref": "#/$defs/d0"}


def _objects(count: int) -> list[Any]:
    return [{"type": "object", "properties": {"a": {"type": "string"}, f"k{at}": {}}} for at in range(count)]


KEYWORDS: dict[str, tuple[Any, ...]] = {  # and values of a wrong type
    "$defs": (5, []),
    "$ref": (5, {}, []),
    "$schema": (5, {}),
    "additionalProperties": (5, "a", []),
    "allOf": (5, {}, [], [5]),
    "anyOf": (5, {}, [], [None]),
    "contains": (5, [], "a"),
    "dependentRequired": (5, [], {"a": 5}, {"a": [5]}),
    "dependentSchemas": (5, [], {"a": 5}),
    "dependencies": (5, {"a": 5}),
    "enum": (5, {}, "ab"),
    "exclusiveMinimum": ("5", [], {}),
    "format": (5, {}, []),
    "if": (5, []),
    "items": (5, "a", [5]),
    "maxItems": ("5", -1, 1.5, [], True, 1e308),
    "maxLength": ("5", -1, 1.5, {}, True),
    "maximum": ("5", [], {}, True),
    "minProperties": ("5", -1, 1.5, []),
    "multipleOf": ("5", 0, -1, [], True),
    "not": (5, [], "a"),
    "oneOf": (5, {}, [], ["a"]),
    "pattern": (5, [], {}),
    "patternProperties": (5, [], {"a": 5}),
    "prefixItems": (5, {}, [], [5]),
    "properties": (5, [], {"a": 5}, {"a": []}),
    "propertyNames": (5, [], "a"),
    "required": (5, {}, "a", [5], [[]], ["a", {}]),
    "type": (5, {}, [], [5], [[]], "strin", ["string", "strin"]),
    "unevaluatedItems": (5, []),
    "unevaluatedProperties": (5, "a"),
    "uniqueItems": (5, "yes", []),
    "minContains": ("a", -1, []),
    "additionalItems": (5, "a"),
    "$dynamicRef": (5, []),
    "$id": (5, []),
    "$anchor": (5, []),
}

_REMARKS = {"additionalItems", "dependencies"}  # not of the draft that is taken for granted

SCHEMAS: dict[str, tuple[Fate, Callable[[], Any]]] = {
    "60 levels": ("taken", lambda: _nested(60, lambda one: {"items": one})),
    "200 levels": ("refused", lambda: _nested(200, lambda one: {"items": one})),
    "25 levels of not": ("taken", lambda: _nested(25, lambda one: {"not": one}, {"type": "string"})),
    "12 levels of if": ("either", lambda: _nested(12, lambda one: {"if": one, "then": one}, {"type": "string"})),
    "20 levels of oneOf": ("either", lambda: _nested(20, lambda one: {"oneOf": [one, {"minLength": 2}]}, {})),
    "anyOf 2^18": ("refused", lambda: _nested(18, lambda one: {"anyOf": [one, one]}, {"type": "null"})),
    "anyOf of 10,000": ("refused", lambda: {"anyOf": [{"const": at} for at in range(10_000)]}),
    "anyOf of 4,000 objects": ("either", lambda: {"anyOf": _objects(4_000)}),
    "oneOf of 250 alike": ("either", lambda: {"oneOf": _objects(250)}),
    "oneOf of 60 alike": ("either", lambda: {"oneOf": _objects(60)}),
    "allOf of anyOfs": ("either", lambda: {"allOf": [{"anyOf": [{"minLength": at}, {"pattern": f"{at}"}]} for at in range(40)]}),
    "allOf of 300 oneOfs": ("either", lambda: {"allOf": [{"oneOf": _objects(3)} for _ in range(300)]}),
    "enum of 4,999 strings": ("taken", lambda: {"enum": [f"value number {at}" for at in range(4_999)]}),
    "enum of 100,000": ("refused", lambda: {"enum": list(range(100_000))}),
    "enum that repeats": ("either", lambda: {"enum": ["same"] * 4_000}),
    "enum of nested objects": ("either", lambda: {"enum": [{"a": {"b": [at, {"c": at}]}} for at in range(2_000)]}),
    "enum without values": ("refused", lambda: {"enum": []}),
    "not of 4,999 strings": ("either", lambda: {"not": {"enum": [f"v{at}" for at in range(4_999)]}}),
    "$ref chain of 5,000": ("refused", lambda: _chain(5_000, lambda to: {"properties": {"n": {"$ref": to}}})),
    "$ref chain of 190": ("taken", lambda: _chain(190, lambda to: {"properties": {"n": {"$ref": to}}})),
    "allOf $ref chain of 1,500": ("refused", lambda: _chain(1_500, lambda to: {"allOf": [{"$ref": to}]})),
    "allOf $ref chain of 190": ("taken", lambda: _chain(190, lambda to: {"allOf": [{"$ref": to}, {"title": "a"}]})),
    "not $ref chain of 190": ("either", lambda: _chain(190, lambda to: {"not": {"$ref": to}})),
    "$ref to itself": ("refused", lambda: {"$ref": "#"}),
    "$ref in a circle": ("refused", lambda: {"$defs": {"a": {"$ref": "#/$defs/b"}, "b": {"$ref": "#/$defs/a"}}, "$ref": "#/$defs/a"}),
    "endless value": ("taken", lambda: {"type": "object", "properties": {"a": {"$ref": "#"}}, "required": ["a"]}),
    "its own opposite": ("refused", lambda: {"not": {"$ref": "#"}}),
    "$ref fan-out": ("either", lambda: _chain(40, lambda to: {"properties": _wide(10, lambda _: {"$ref": to})})),
    "anyOf doubled 40 times": ("either", lambda: _doubled(40, "anyOf")),
    "allOf doubled 40 times": ("either", lambda: _doubled(40, "allOf")),
    "oneOf doubled 40 times": ("either", lambda: _doubled(40, "oneOf")),
    "remote $ref": ("refused", lambda: {"$ref": f"{_URL}schema.json"}),
    "file $ref": ("refused", lambda: {"$ref": "file:///etc/passwd"}),
    "remote $ref in a branch": ("refused", lambda: {"anyOf": [{"type": "null"}, {"$ref": f"{_URL}#/a"}]}),
    "remote $dynamicRef": ("refused", lambda: {"$dynamicRef": f"{_URL}#a"}),
    "remote $id": ("either", lambda: {"$id": _URL, "$ref": "other.json"}),
    "$ref into a keyword": ("refused", lambda: {"x": {"properties": 5}, "$ref": "#/x"}),
    "$ref into an enum": ("either", lambda: {"enum": [{"type": 5}], "anyOf": [{"$ref": "#/enum/0"}]}),
    "foreign root $schema": ("refused", lambda: {"$schema": f"{_URL}meta", "type": "null"}),
    "foreign $schema within": ("refused", lambda: {"$defs": {"a": {"$id": "a", "$schema": f"{_URL}meta"}}, "$ref": "#/$defs/a"}),
    "foreign $schema behind uniqueItems": ("refused", lambda: {"uniqueItems": True, "items": {"$schema": f"{_URL}meta"}}),
    "$schema that is a number": ("refused", lambda: {"items": {"$schema": 5}}),
    "x-guidance at the root": ("taken", lambda: {"x-guidance": {"lenient": True}, "type": "null"}),
    "x-guidance within": ("taken", lambda: {"items": {"x-guidance": {"whitespace_pattern": ".*"}, "type": "null"}}),
    "x-guidance behind a pointer": ("taken", lambda: {"o": {"x-guidance": {"lenient": 5}}, "items": {"$ref": "#/o"}}),
    "x-guidance as a number": ("taken", lambda: {"x-guidance": 5, "items": {"x-guidance": []}}),
    "5,000 optional properties": ("refused", lambda: {"properties": _wide(5_000, lambda _: {})}),
    "1,000 optional properties": ("taken", lambda: {"properties": _wide(1_000, lambda _: {}), "additionalProperties": False}),
    "1,000 optional strings five times": ("either", lambda: {"items": [{"properties": _wide(999, lambda _: {"type": "string"})}] * 5}),
    "1,000 optional properties by pattern": ("either", lambda: {"properties": _wide(1_000, lambda _: {}), "patternProperties": {".*": {}}}),
    "200 patternProperties": ("either", lambda: {"patternProperties": {f"^.{{{at}}}.*a$": {} for at in range(200)}}),
    "patternProperties that overlap": ("either", lambda: {"patternProperties": {f"(a|b)*a(a|b){{{at}}}": {} for at in range(14)}}),
    "dependentSchemas of 200": ("either", lambda: {"dependentSchemas": _wide(200, lambda at: {"required": [str(at + 1)]})}),
    "dependentRequired of 200": ("either", lambda: {"dependentRequired": _wide(200, lambda at: [str(at + 1)])}),
    "minProperties of 25 in 50": ("either", lambda: {"properties": _wide(50, lambda _: {}), "minProperties": 25, "additionalProperties": False}),
    "multipleOf a prime": ("either", lambda: {"type": "integer", "multipleOf": _PRIME, "minimum": 10**9, "maximum": 10**12}),
    "multipleOf a great product": ("either", lambda: {"type": "integer", "multipleOf": _PRIME * 1_000_003}),
    "multipleOf 1e-300": ("either", lambda: {"type": "number", "multipleOf": 1e-300}),
    "multipleOfs": ("either", lambda: {"allOf": [{"type": "integer", "multipleOf": one} for one in (9973, 9967, 9949, 9941)]}),
    "numbers of 300 digits": ("either", lambda: {"type": "integer", "minimum": 10**299, "maximum": 10**300}),
    "const of 4,000 digits": ("either", lambda: {"const": 10**4000}),
    "maxLength 10^9": ("taken", lambda: {"type": "string", "minLength": 10**9, "maxLength": 10**9}),
    "maxLength 10^30": ("refused", lambda: {"type": "string", "maxLength": 10**30}),
    "minItems 10^9": ("either", lambda: {"type": "array", "minItems": 10**9}),
    "minItems 10^5 of objects": ("either", lambda: {"items": {"properties": {"a": {}}}, "minItems": 10**5, "maxItems": 10**6, "type": "array"}),
    "prefixItems of 4,000": ("either", lambda: {"prefixItems": [{"type": "integer"}] * 4_000, "minItems": 4_000}),
    "catastrophic pattern": ("taken", lambda: {"type": "string", "pattern": "^(a+)+$"}),
    "exponential pattern": ("either", lambda: {"type": "string", "pattern": "^(a|b)*a(a|b){200}$"}),
    "patterns that must all hold": ("either", lambda: {"allOf": [{"type": "string", "pattern": f"(a|b)*a(a|b){{{at}}}"} for at in range(12)]}),
    "counted counts": ("either", lambda: {"type": "string", "pattern": "((.{0,99}){0,99}){0,99}"}),
    "invalid pattern": ("refused", lambda: {"type": "string", "pattern": "(["}),
    "pattern with a NUL": ("either", lambda: {"type": "string", "pattern": "\\u0000"}),
    "pattern of half a character": ("either", lambda: {"type": "string", "pattern": "\\ud800"}),
    "pattern with look-around": ("taken", lambda: {"type": "string", "pattern": "^(?!a)b"}),
    "pattern of strange classes": ("either", lambda: {"type": "string", "pattern": r"^\p{Script=Greek}+\p{L}[\w-z]$"}),
    "formats": ("either", lambda: {"properties": {name: {"format": name} for name in ("regex", "uri", "iri", "../x", "", "date-time")}}),
    "NUL in a constant": ("refused", lambda: {"const": "a\0b"}),
    "a megabyte of a string": ("refused", lambda: {"const": "x" * 2**20}),
    "a name of 200 kB": ("either", lambda: {"properties": {"x" * 200_000: {}}, "required": ["x" * 200_000], "additionalProperties": False}),
    "names in all scripts": ("taken", lambda: {"properties": {"é中\U0001f388\u202e\ufeff": {"const": "\u2028\x7f"}}, "required": ["é中\U0001f388\u202e\ufeff"]}),
    "names that are paths": ("taken", lambda: {"properties": {"a/b~c%d": {"$ref": "#/properties/a~1b~0c%25d/$defs/x~0", "$defs": {"x~": {}}}}}),
    "special tokens as text": ("taken", lambda: {"enum": ["<|im_end|>", "<|end|>", "</s>", "<[0-999999]>"]}),
    "20,000 values": ("refused", lambda: {"x": [0] * 20_001}),
    "no value": ("refused", lambda: False),
    "no value, written out": ("refused", lambda: {"type": "string", "enum": [1]}),
    "a negative length": ("refused", lambda: {"type": "string", "minLength": 5, "maxLength": 2}),
    "uniqueItems of many": ("taken", lambda: {"type": "array", "items": {"enum": list(range(2_000))}, "uniqueItems": True, "minItems": 1_999}),
    "unevaluatedProperties around": ("either", lambda: _nested(12, lambda one: {"allOf": [one], "unevaluatedProperties": False}, {})),
    "every anchor the same": ("either", lambda: {"$defs": _wide(400, lambda _: {"$anchor": "a"}), "$ref": "#a"}),
}  # fmt: skip

RAW: dict[str, tuple[Fate, Callable[[], str]]] = {
    "1e400": ("refused", lambda: '{"minimum":1e400}'),
    "-1e400 in an enum": ("refused", lambda: '{"enum":[[-1e400]]}'),
    "a string": ("refused", lambda: '"string"'),
    "text that is no JSON": ("refused", lambda: '"{"'),
    "a number": ("refused", lambda: "5"),
    "a list": ("refused", lambda: '[{"type":"null"}]'),
    "a bomb within a text": ("refused", lambda: json.dumps("[" * 100_000)),
    "a bomb of objects within a text": ("refused", lambda: json.dumps('{"items":' * 300 + "{}" + "}" * 300)),
    "NaN within a text": ("refused", lambda: json.dumps('{"minimum":NaN}')),
    "half a character within a text": ("refused", lambda: json.dumps('{"const":"\\ud800"}')),
    "a great number within a text": ("refused", lambda: json.dumps('{"minimum":' + "9" * 5000 + "}")),
}
BODIES: dict[str, tuple[Fate, Callable[[], str]]] = {
    "an integer of 5,000 digits": ("refused", lambda: '"guided_json":{"minimum":' + "9" * 5000 + "}"),
    "a name twice": ("refused", lambda: '"guided_json":{"type":"null","type":"string"}'),
    "half a character": ("refused", lambda: '"guided_json":{"const":"\\ud800"}'),
    "half a character as a name": ("refused", lambda: '"guided_json":{"properties":{"\\udfff":{}}}'),
    "100,000 levels": ("refused", lambda: '"guided_json":' + '{"items":' * 100_000 + "{}" + "}" * 100_000),
    "a million values": ("refused", lambda: '"guided_json":{"x":[' + "0," * 1_000_000 + "0]}"),
    "NaN": ("refused", lambda: '"guided_json":{"minimum":NaN}'),
}

TEXTS: dict[str, dict[str, tuple[Fate, Callable[[], Any]]]] = {
    "regex": {
        "catastrophic": ("taken", lambda: "(a+)+"),
        "exponential": ("either", lambda: "(a|b)*a(a|b){200}"),
        "counted counts": ("either", lambda: "((.{0,1000}){0,1000}){0,1000}"),
        "counted to 100,000": ("taken", lambda: ".{0,100000}"),
        "counted to 10^12": ("refused", lambda: "a{1000000000000}"),
        "1,000 groups deep": ("either", lambda: "(" * 1000 + "a" + ")" * 1000),
        "8,000 groups deep": ("refused", lambda: "(" * 8000 + "a" + ")" * 8000),
        "8,000 stars": ("either", lambda: "a*" * 8000),
        "5,000 alternatives": ("either", lambda: "|".join(f"{at:x}" for at in range(3_000))),
        "open group": ("refused", lambda: "(a"),
        "open class": ("refused", lambda: "[a"),
        "lone star": ("refused", lambda: "*"),
        "backwards class": ("refused", lambda: "[z-a]"),
        "look-ahead": ("refused", lambda: "(?=a)a"),
        "look-behind": ("refused", lambda: "a(?<!b)"),
        "back-reference": ("refused", lambda: r"(a)\1"),
        "recursion": ("refused", lambda: "(?1)(?P>a)"),
        "flags": ("either", lambda: "(?i:straße)(?x) a # b"),
        "NUL": ("refused", lambda: "a\0"),
        "escaped NUL": ("either", lambda: r"\x00\u0000"),
        "half a character": ("either", lambda: r"[\ud800-\udfff]"),
        "nothing matches": ("refused", lambda: r"[^\s\S]"),
        "slashes": ("taken", lambda: "/a/b\\/c\n/ start: x"),
        "too long": ("refused", lambda: "a" * 2**20),
        "class names": ("refused", lambda: r"\p{NoSuchScript}"),
        "all of Unicode, often": ("either", lambda: r"[\p{L}\p{N}]{1,500}[\p{Lu}]{500}"),
        "a number": ("refused", lambda: 5),
    },
    "choice": {
        "5,001 of them": ("refused", lambda: [str(at) for at in range(5_001)]),
        "4,999 of them": ("taken", lambda: [f"choice number {at}" for at in range(4_999)]),
        "4,000 with one beginning": ("either", lambda: ["x" * 40 + str(at) for at in range(4_000)]),
        "200 kB each": ("either", lambda: ["x" * 200_000, "y"]),
        "a megabyte": ("refused", lambda: ["x" * 2**20]),
        "NUL": ("refused", lambda: ["a\0b"]),
        "empty ones": ("either", lambda: ["", ""]),
        "rules": ("taken", lambda: ['" | start', "%import x", "<[0-9]>", "\n\nstart: start", "\\", "/a/"]),
        "numbers": ("refused", lambda: [1, 2]),
        "lists": ("refused", lambda: [["a"]]),
        "a text": ("refused", lambda: "abc"),
        "signs": ("taken", lambda: ["\u2028", "\x7f", "\x01", "\U000e0001", "\ufeff", '"', "\r\n"]),
    },
    "grammar": {
        "chain of 3,000 rules": ("refused", lambda: "start: r0\n" + "".join(f"r{at}: r{at + 1}\n" for at in range(3_000)) + 'r3000: "a"\n'),
        "chain of 990 rules": ("either", lambda: "start: r0\n" + "".join(f"r{at}: r{at + 1}\n" for at in range(990)) + 'r990: "a"\n'),
        "3,000 rules on few lines": ("either", lambda: "start: r0\n" + " ".join(f"r{at}: r{at + 1}" for at in range(3_000)) + ' r3000: "a"\n'),
        "chain of 990 terminals": ("either", lambda: "start: R0\n" + "".join(f'R{at}: "a" R{at + 1}\n' for at in range(990)) + 'R990: "a"\n'),
        "terminals that double": ("either", lambda: "start: R0\n" + "".join(f"R{at}: R{at + 1} R{at + 1}\n" for at in range(60)) + 'R60: "a"\n'),
        "rules that double": ("either", lambda: "start: r0\n" + "".join(f"r{at}: r{at + 1} r{at + 1}\n" for at in range(60)) + 'r60: "a" | ""\n'),
        "ambiguous": ("taken", lambda: 'start: s\ns: s s | "a" | ""\n'),
        "very ambiguous": ("taken", lambda: 'start: s\ns: s s s s s | s s s | s s | "a" | "b" | ""\n'),
        "ambiguous in many rules": ("either", lambda: "start: " + " | ".join(f"s{at}" for at in range(60)) + "\n" + "".join(f's{at}: s{at} s{(at + 1) % 60} | "a" | ""\n' for at in range(60))),
        "left recursion": ("taken", lambda: 'start: start "a" | "a"\n'),
        "only itself": ("refused", lambda: "start: start\n"),
        "empty language": ("taken", lambda: 'start: "a" start\n'),
        "empty": ("refused", lambda: " "),
        "no start": ("refused", lambda: 'begin: "a"\n'),
        "missing rule": ("refused", lambda: "start: nothing\n"),
        "no grammar": ("refused", lambda: "Once upon a time"),
        "terminal that names itself": ("refused", lambda: 'start: A\nA: "a" A\n'),
        "%import": ("refused", lambda: "%import /etc/passwd\nstart: passwd\n"),
        "%import of a library": ("either", lambda: "%import common.WORD\nstart: WORD\n"),
        "%include": ("refused", lambda: '%include "/etc/passwd"\nstart: "a"\n'),
        "%ignore of everything": ("either", lambda: '%ignore /(.|\\n)*/\nstart: "a"\n'),
        "%json with orders": ("refused", lambda: 'start: %json {"x-guidance":{"lenient":true},"not":{}}\n'),
        "%json with spaces": ("taken", lambda: 'start: %json {"x-guidance":{"whitespace_flexible":false},"const":{}}\n'),
        "%json with a remote $ref": ("refused", lambda: f'start: %json {{"$ref":"{_URL}"}}\n'),
        "%json in a string": ("taken", lambda: 'start: "%json {"\n'),
        "%json that dies": ("refused", lambda: "start: %json " + json.dumps(_chain(900, lambda to: {"items": {"$ref": to}})) + "\n"),
        "%json that nests": ("refused", lambda: "start: %json " + '{"items":' * 3_000 + "{}" + "}" * 3_000 + "\n"),
        "%json of 5,000 properties": ("either", lambda: "start: %json " + json.dumps({"properties": _wide(3_000, lambda _: {})}) + "\n"),
        "%llguidance with orders": ("either", lambda: '%llguidance {"no_forcing": true, "allow_initial_skip": true}\nstart: "a"\n'),
        "%llguidance that is wrong": ("refused", lambda: '%llguidance {"nothing": [}\nstart: "a"\n'),
        "all special tokens": ("refused", lambda: "start: <[0-999999]>\n"),
        "special tokens by name": ("either", lambda: "start: <|endoftext|> <s> <|im_end|>\n"),
        "a token of the tokenizer": ("either", lambda: "start: <[256]>+\n"),
        "%regex": ("either", lambda: 'start: A\nA: %regex {"substring_chars": "' + "ab" * 10_000 + '"}\n'),
        "nested groups": ("either", lambda: "start: " + "(" * 3_000 + '"a"' + ")" * 3_000 + "\n"),
        "counted": ("either", lambda: 'start: s{0,100000}\ns: /a/{1000} | s2{5,10000}\ns2: "b"~3..9\n'),
        "intersection and complement": ("either", lambda: "start: A\nA: ~(/(a|b)*a(a|b){20}/ & /(b|a)*b(a|b){19}/)\n"),
        "lookahead": ("refused", lambda: "start: /(?=a)a/\n"),
        "maximal tokens": ("either", lambda: "start: a\na[max_tokens=100000000000000000000]: /./\n"),
        "lazy": ("either", lambda: 'start: A A A\nA[lazy]: /(.|\\n)*/ "x"\n'),
        "GBNF": ("taken", lambda: 'root ::= [a-c]+ ("x" | root)?\n'),
        "GBNF in pieces": ("refused", lambda: 'root ::= ([ | \n ::= root ::= "\n'),
        "GBNF of 990 rules": ("either", lambda: "root ::= r0\n" + "".join(f"r{at} ::= r{at + 1}\n" for at in range(990)) + 'r990 ::= "a"\n'),
        "GBNF, counted": ("either", lambda: 'root ::= "a"{0,100000}\n'),
        "too long": ("refused", lambda: "start: " + '"a" ' * 300_000),
        "NUL": ("refused", lambda: 'start: "a\0"\n'),
        "names in other scripts": ("refused", lambda: 'start: naïve\nnaïve: "é"\n'),
        "a number": ("refused", lambda: 5),
    },
}  # fmt: skip


def _written(make: Callable[[], Any]) -> str:
    return json.dumps(make())


def all_of_them() -> list[Attack]:
    """Some three hundred."""
    schemas = [(name, fate, partial(_written, make)) for name, (fate, make) in SCHEMAS.items()]
    schemas += [(name, fate, partial(str, make())) for name, (fate, make) in RAW.items()]
    for keyword, values in KEYWORDS.items():
        fate: Fate = "either" if keyword in _REMARKS else "refused"
        told = [json.dumps({keyword: value}) for value in values]
        schemas += [(one, fate, partial(str, one)) for one in told]
    texts = [(kind, name, fate, make) for kind, some in TEXTS.items() for name, (fate, make) in some.items()]
    found = [_schema(at, *one) for at, one in enumerate(schemas)]
    found += [_text(at, *one) for at, one in enumerate(texts)]
    return found + [Attack(name, fate, make) for name, (fate, make) in BODIES.items()]
