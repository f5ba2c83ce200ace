"""A client's schema in the keywords that the engine enforces: the same language, or a wider one, told note by note.

``accepts`` gives a superset of what a schema takes, ``negation.rejects`` a superset of what it does not take; each is
the very set unless it left a note of kind wide.
"""

from typing import Any

from common.constraints import negation, objects
from common.constraints.algebra import any_of, is_great, joined
from common.constraints.disjoint import are_disjoint, type_of, values_of
from common.constraints.document import Document, escaped
from common.constraints.limits import NODES
from common.constraints.patterns import PatternError, to_rust
from common.constraints.spec import Note, RefusedConstraintError

FORMATS = frozenset(
    {"date", "date-time", "duration", "email", "hostname", "ipv4", "ipv6", "time", "uri", "uuid"}  # the engine's
)
_CHECKED_FORMATS = frozenset(  # not the engine's, but a validator may know them; any other format is only a remark
    {"idn-email", "idn-hostname", "iri", "iri-reference", "json-pointer", "regex", "relative-json-pointer"}
    | {"uri-reference", "uri-template"}
)
_COUNTS = ("maxItems", "maxLength", "minItems", "minLength")
_NUMBERS = ("exclusiveMaximum", "exclusiveMinimum", "maximum", "minimum", "multipleOf")
_SINCE = {"const": 6, "contains": 6, "propertyNames": 6, "if": 7, "dependentRequired": 2019, "dependentSchemas": 2019}
_SINCE |= {"unevaluatedItems": 2019, "unevaluatedProperties": 2019, "prefixItems": 2020}
_REMARKS = frozenset({"$comment", "$defs", "$id", "$ref", "$schema", "default", "definitions", "description", "title"})
_BRANCHES = 64  # of a product that the engine has to multiply out


def lower(
    schema: Any, *, strict: bool = False, formats: bool = True, given_up: frozenset[str] = frozenset()
) -> tuple[Any, tuple[Note, ...]]:
    """The engine's schema, and what was rewritten. Raises RefusedConstraintError, under strict also for wide notes.

    Without ``formats`` none is enforced; keywords in ``given_up`` are left to the check at the end.
    """
    lowering = Lowering(Document(schema), given_up if formats else given_up | {"format"}, strict=strict)
    return lowering.whole(), tuple(sorted(lowering.notes))


class Lowering:
    """One schema on its way."""

    def __init__(self, document: Document, given_up: frozenset[str], *, strict: bool) -> None:
        self.document = document
        self.given_up = given_up
        self.notes: set[Note] = set()
        self._strict = strict
        self._names: dict[tuple[int, bool], str] = {}
        self._waiting: list[tuple[str, Any, bool]] = []
        self._nodes = 0

    def whole(self) -> Any:
        """The root, and every definition that it turned out to need."""
        root = self.accepts(self.document.root)
        definitions = {}
        while self._waiting:
            name, target, is_accepted = self._waiting.pop()
            definitions[name] = self.accepts(target) if is_accepted else negation.rejects(self, target)
        if root is False:
            raise RefusedConstraintError("No value fits this schema.", "schema", "")
        root = {} if root is True else root
        return root | {"$defs": definitions} if definitions else root

    def note(self, schema: dict[str, Any], keyword: str, *, wide: bool = False) -> None:
        """Under strict, wide is an error."""
        pointer = f"{self.document.pointer(schema)}/{escaped(keyword)}"
        if wide and self._strict:
            raise RefusedConstraintError(
                f"{keyword} cannot be enforced in full here (at {pointer}), which strict demands.", keyword, pointer
            )
        self.notes.add(Note(keyword, pointer, "wide" if wide else "exact"))

    def refuse(self, schema: dict[str, Any], keyword: str, why: str) -> RefusedConstraintError:
        """An error that names the keyword."""
        pointer = f"{self.document.pointer(schema)}/{escaped(keyword)}"
        return RefusedConstraintError(f"{keyword}: {why} (at {pointer}).", keyword, pointer)

    def reference(self, target: Any, *, is_accepted: bool) -> Any:
        """A schema that stands for a definition, which will be lowered once."""
        if isinstance(target, bool):
            return target == is_accepted
        key = (id(target), is_accepted)
        if key not in self._names:
            self._names[key] = f"{'is' if is_accepted else 'not'}{len(self._names)}"
            self._waiting.append((self._names[key], target, is_accepted))
        return {"$ref": f"#/$defs/{self._names[key]}"}

    def accepts(self, schema: Any) -> Any:
        """At least what this schema takes."""
        if isinstance(schema, bool):
            return schema
        if not isinstance(schema, dict):
            raise RefusedConstraintError("A schema is an object or a boolean.")
        self._count()
        if self.document.overrides(schema):
            return self.reference(self.document.resolve(schema, schema["$ref"]), is_accepted=True)
        for keyword in schema.keys() & _SINCE.keys():
            if self.document.draft < _SINCE[keyword] and not self._is_guessed:
                self.note(schema, keyword, wide=True)
        parts = self._logic(schema)
        out: dict[str, Any] = {}
        self._plain(schema, out)
        self._values(schema, out)
        self._array(schema, out, parts)
        objects.lower_object(self, schema, out, parts)
        return joined([out, *parts])

    @property
    def _is_guessed(self) -> bool:
        return "$schema" not in self.document.root

    def has(self, schema: dict[str, Any], keyword: str) -> bool:
        """Whether it stands here and is not given up."""
        if keyword in schema and keyword in self.given_up:
            self.note(schema, keyword, wide=keyword != "format")
        return keyword in schema and keyword not in self.given_up

    def _count(self) -> None:
        self._nodes += 1
        if self._nodes > NODES:
            raise RefusedConstraintError("The schema becomes too large when it is written out.")

    def _plain(self, schema: dict[str, Any], out: dict[str, Any]) -> None:
        """Type, numbers and strings."""
        if "type" in schema:
            out["type"] = self._type(schema)
        for keyword in _COUNTS:
            if self.has(schema, keyword):
                out[keyword] = self.count(schema, keyword)
        for keyword in _NUMBERS:
            if self.has(schema, keyword):
                self._number(schema, keyword, out)
        if self.has(schema, "pattern"):
            out |= self._pattern(schema)
        if self.has(schema, "format"):
            self._format(schema, out)

    def _format(self, schema: dict[str, Any], out: dict[str, Any]) -> None:
        """One that nobody knows is only a remark."""
        if schema["format"] in FORMATS:
            out["format"] = schema["format"]
        else:
            self.note(schema, "format", wide=schema["format"] in _CHECKED_FORMATS)

    def _type(self, schema: dict[str, Any]) -> Any:
        names = schema["type"] if isinstance(schema["type"], list) else [schema["type"]]
        known = {"null", "boolean", "number", "integer", "string", "array", "object"}
        if not names or not all(isinstance(name, str) and name in known for name in names):
            raise self.refuse(schema, "type", f"{schema['type']!r} is unknown")
        return schema["type"]

    def count(self, schema: dict[str, Any], keyword: str) -> int:
        """A whole number, however it is spelled. Raises RefusedConstraintError."""
        value = schema[keyword]
        if isinstance(value, bool) or not isinstance(value, int | float) or value != int(value) or value < 0:
            raise self.refuse(schema, keyword, "a whole number is expected")
        if isinstance(value, float):
            self.note(schema, keyword)
        return int(value)

    def _number(self, schema: dict[str, Any], keyword: str, out: dict[str, Any]) -> None:
        value = schema[keyword]
        if isinstance(value, bool) and keyword.startswith("exclusive"):
            out[keyword] = value
        elif isinstance(value, bool) or not isinstance(value, int | float):
            raise self.refuse(schema, keyword, "a number is expected")
        elif is_great(value):
            self.note(schema, keyword, wide=True)
        else:
            out[keyword] = value

    def _pattern(self, schema: dict[str, Any]) -> dict[str, Any]:
        text = self.pattern(schema, "pattern", schema["pattern"])
        return {} if text is None else {"pattern": text}

    def pattern(self, schema: dict[str, Any], keyword: str, text: str) -> str | None:
        """In the engine's syntax; None where it has none."""
        try:
            rust = to_rust(text)
        except PatternError:
            self.note(schema, keyword, wide=True)
            return None
        if rust != text:
            self.note(schema, keyword)
        return rust

    def _values(self, schema: dict[str, Any], out: dict[str, Any]) -> None:
        values = values_of(schema)
        keyword = "const" if "const" in schema else "enum"
        if values is None:
            return
        if any(is_great(value) for value in values):
            self.note(schema, keyword, wide=True)
            out.setdefault("type", sorted({type_of(value) for value in values}))
        elif "const" in schema:
            out["const"] = values[0]
        else:
            out["enum"] = values
        if keyword == "const" and isinstance(schema.get("enum"), list):
            self.note(schema, "enum", wide=True)

    def _array(self, schema: dict[str, Any], out: dict[str, Any], parts: list[Any]) -> None:
        items, rest = schema.get("items"), "items"
        firsts = schema.get("prefixItems") if "prefixItems" in schema else None
        if isinstance(items, list):
            firsts, rest = items, "additionalItems"
            self.note(schema, "items")
        if firsts is not None:
            out["prefixItems"] = [self.accepts(one) for one in firsts]
        if rest in schema:
            out["items"] = self.accepts(schema[rest])
        if schema.get("uniqueItems") is True and self._may_repeat(schema):
            self.note(schema, "uniqueItems", wide=True)
        if self.has(schema, "contains"):
            self._contains(schema, parts)
        objects.lower_unevaluated_items(self, schema, parts)

    def _may_repeat(self, schema: dict[str, Any]) -> bool:
        most = schema.get("maxItems")
        if isinstance(most, int) and most <= 1:
            self.note(schema, "uniqueItems")
            return False
        return True

    def _contains(self, schema: dict[str, Any], parts: list[Any]) -> None:
        """Any item will do, or none need be there; otherwise only their number is held."""
        least = self.count(schema, "minContains") if "minContains" in schema else 1
        most = self.count(schema, "maxContains") if "maxContains" in schema else None
        is_any = schema["contains"] is True or schema["contains"] == {}
        self.note(schema, "contains", wide=not is_any and bool(least or most is not None))
        if least:
            parts.append({"minItems": least})
        if is_any and most is not None:
            parts.append({"maxItems": most})

    def _logic(self, schema: dict[str, Any]) -> list[Any]:
        """What else must hold."""
        parts: list[Any] = []
        if "$ref" in schema and (schema.keys() <= _REMARKS or self.has(schema, "$ref")):
            parts.append(self.reference(self.document.resolve(schema, schema["$ref"]), is_accepted=True))
        parts += self._dynamic(schema)
        if self.has(schema, "allOf"):
            parts += [self.accepts(one) for one in self.branches(schema, "allOf")]
        if self.has(schema, "anyOf"):
            parts.append(any_of([self.accepts(one) for one in self.branches(schema, "anyOf")]))
        if "oneOf" in schema:
            parts.append(self._one_of(schema))
        if self.has(schema, "not"):
            self.note(schema, "not")
            parts.append(negation.rejects(self, schema["not"]))
        if self.has(schema, "if") and schema.keys() & {"then", "else"}:
            parts.append(self._conditional(schema))
        return parts

    def branches(self, schema: dict[str, Any], keyword: str) -> list[Any]:
        """A list of schemas that is not empty. Raises RefusedConstraintError."""
        if not isinstance(schema[keyword], list) or not schema[keyword]:
            raise self.refuse(schema, keyword, "a list of schemas is expected")
        return list(schema[keyword])

    def _dynamic(self, schema: dict[str, Any]) -> list[Any]:
        """A dynamic reference is a plain one where only one place can be meant."""
        parts = []
        for keyword in ("$dynamicRef", "$recursiveRef"):
            if keyword not in schema:
                continue
            target = schema[keyword]
            name = target.split("#")[-1] if keyword == "$dynamicRef" else ""
            is_one = self.document.is_one_resource and self.document.dynamic[name] <= 1
            self.note(schema, keyword, wide=not is_one)
            if is_one:
                parts.append(self.reference(self.document.resolve(schema, target), is_accepted=True))
        return parts

    def _one_of(self, schema: dict[str, Any]) -> Any:
        """Each branch without those of the others that it may overlap."""
        branches = self.branches(schema, "oneOf")
        self.note(schema, "oneOf")
        rivals = self._rivals(branches)
        if sum(map(len, rivals)) > _BRANCHES or "oneOf" in self.given_up:
            self.note(schema, "oneOf", wide=True)
            rivals = [[] for _ in branches]
        options = []
        for branch, others in zip(branches, rivals, strict=True):
            option = self.accepts(branch)
            options.append(joined([option, *(negation.rejects(self, other) for other in others)]))
        return any_of(options)

    def _rivals(self, branches: list[Any]) -> list[list[Any]]:
        if len(branches) > _BRANCHES * 4:
            return [branches]
        return [
            [b for at_b, b in enumerate(branches) if at_b != at_a and not are_disjoint(self.document, a, b)]
            for at_a, a in enumerate(branches)
        ]

    def _conditional(self, schema: dict[str, Any]) -> Any:
        self.note(schema, "if")
        then = joined([self.accepts(schema["if"]), self.accepts(schema.get("then", True))])
        other = joined([negation.rejects(self, schema["if"]), self.accepts(schema.get("else", True))])
        return any_of([then, other])
