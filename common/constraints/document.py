"""A schema document: its draft, where its subschemas are, and what a reference means. Nothing is ever fetched."""

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any
from urllib.parse import unquote, urldefrag, urljoin

from common.constraints.spec import RefusedConstraintError

_ROOT = "https://schema.invalid/"  # the base of a document without a name
_ONE: tuple[str, ...] = (
    "additionalItems",
    "additionalProperties",
    "contains",
    "contentSchema",
    "else",
    "if",
    "items",
    "not",
)
_ONE += ("propertyNames", "then", "unevaluatedItems", "unevaluatedProperties")
_LISTS = ("allOf", "anyOf", "items", "oneOf", "prefixItems")
_MAPS = ("$defs", "definitions", "dependencies", "dependentSchemas", "patternProperties", "properties")
_ALL = frozenset((*_ONE, *_LISTS, *_MAPS))
_DRAFTS = {"draft-04": 4, "draft-06": 6, "draft-07": 7, "draft/2019-09": 2019, "draft/2020-12": 2020}


@dataclass(frozen=True, slots=True)
class Place:
    """Where a subschema stands."""

    pointer: str
    base: str


def escaped(name: str) -> str:
    """A step of a JSON pointer."""
    return name.replace("~", "~0").replace("/", "~1")


def subschemas(schema: dict[str, Any]) -> Iterator[tuple[str, Any]]:
    """Each with its pointer from here; only what is a schema: no const, no unknown keyword."""
    if _ALL.isdisjoint(schema):  # most are leaves, and are asked often
        return
    for keyword in _ONE:
        if isinstance(schema.get(keyword), dict | bool):
            yield f"/{keyword}", schema[keyword]
    for keyword in _LISTS:
        if isinstance(schema.get(keyword), list):
            yield from ((f"/{keyword}/{at}", one) for at, one in enumerate(schema[keyword]))
    for keyword in _MAPS:
        if isinstance(schema.get(keyword), dict):
            named = schema[keyword].items()
            yield from ((f"/{keyword}/{escaped(name)}", one) for name, one in named if isinstance(one, dict | bool))


def _joined(base: str, reference: str) -> str:
    """As a browser would, and for any scheme."""
    return base + reference if reference.startswith("#") else urljoin(base, reference)


def draft_of(schema: Any) -> int:
    """4, 6, 7, 2019 or 2020: as declared, else what its spelling fits. Raises RefusedConstraintError."""
    declared = schema.get("$schema") if isinstance(schema, dict) else None
    if declared is None:
        return _guessed(schema)
    for name, draft in _DRAFTS.items():
        if isinstance(declared, str) and declared.rstrip("#").endswith(f"json-schema.org/{name}/schema"):
            return draft
    if isinstance(declared, str) and declared.rstrip("#").endswith("json-schema.org/schema"):
        return 2020
    raise RefusedConstraintError(f"$schema: {declared!r} is no draft that we know.", "$schema", "/$schema")


def _guessed(root: Any) -> int:
    """2020, unless only an older draft has these spellings."""
    draft, waiting = 2020, [root]
    while waiting:
        schema = waiting.pop()
        if not isinstance(schema, dict):
            continue
        if any(isinstance(schema.get(name), bool) for name in ("exclusiveMinimum", "exclusiveMaximum")):
            return 4
        if isinstance(schema.get("items"), list):
            draft = 7
        waiting += [one for _, one in subschemas(schema)]
    return draft


class Document:
    """One client's schema, indexed."""

    def __init__(self, root: Any) -> None:
        self.root = root
        self.draft = draft_of(root)
        self.dynamic: Counter[str] = Counter()
        self.outside: list[tuple[str, Any]] = []  # what references found behind keywords that we do not know
        self._places: dict[int, Place] = {}
        self._resources: dict[str, tuple[Any, str]] = {_ROOT: (root, "")}
        self._anchors: dict[tuple[str, str], Any] = {}
        self._index(root, Place("", _ROOT))

    def pointer(self, schema: Any) -> str:
        """Of a subschema, from the root."""
        place = self._places.get(id(schema))
        return place.pointer if place else ""

    @cached_property
    def reached(self) -> list[dict[str, Any]]:
        """Every subschema, and what the references lead to. Raises RefusedConstraintError."""
        found: dict[int, dict[str, Any]] = {}
        waiting = [self.root]
        while waiting:
            schema = waiting.pop()
            if isinstance(schema, dict) and id(schema) not in found:
                found[id(schema)] = schema
                waiting += [one for _, one in subschemas(schema)]
                if "$ref" in schema:
                    waiting.append(self.resolve(schema, schema["$ref"]))
        return list(found.values())

    @property
    def is_one_resource(self) -> bool:
        """Whether no part of it has a name of its own."""
        return len({id(schema) for schema, _ in self._resources.values()}) == 1

    def is_resource(self, schema: dict[str, Any]) -> bool:
        """Whether this part has a name of its own."""
        return any(named is schema for named, _ in self._resources.values())

    def overrides(self, schema: dict[str, Any]) -> bool:
        """Whether its $ref makes all else here void, as before 2019."""
        return self.draft < 2019 and isinstance(schema.get("$ref"), str)  # noqa: PLR2004  a year

    def resolve(self, schema: dict[str, Any], reference: Any) -> Any:
        """What this reference, standing in this schema, means. Raises RefusedConstraintError."""
        place = self._places[id(schema)]
        if not isinstance(reference, str):
            raise self._refused(place, "a string is expected")
        target, fragment = urldefrag(_joined(place.base, reference))
        fragment = unquote(fragment)
        if target not in self._resources:
            raise self._refused(place, f"{reference!r} is not within the schema, and nothing is fetched")
        if fragment and not fragment.startswith("/"):
            if (target, fragment) not in self._anchors:
                raise self._refused(place, f"{reference!r} leads nowhere")
            return self._anchors[target, fragment]
        return self._step(place, target, fragment)

    def _step(self, place: Place, target: str, fragment: str) -> Any:
        found, pointer = self._resources[target]
        base = target
        for raw in fragment.split("/")[1:]:
            step = raw.replace("~1", "/").replace("~0", "~")
            if isinstance(found, dict) and step in found:
                found = found[step]
            elif isinstance(found, list) and step.isdecimal() and int(step) < len(found):
                found = found[int(step)]
            else:
                raise self._refused(place, f"'#{fragment}' leads nowhere")
            pointer += f"/{raw}"
            base = self._places[id(found)].base if id(found) in self._places else base
        if not isinstance(found, dict | bool):
            raise self._refused(place, f"'#{fragment}' is no schema")
        if isinstance(found, dict) and id(found) not in self._places:  # behind a keyword that we do not know
            self.outside.append((pointer, found))
            self._index(found, Place(pointer, base))
        return found

    def _refused(self, place: Place, why: str) -> RefusedConstraintError:
        return RefusedConstraintError(f"$ref: {why}.", "$ref", f"{place.pointer}/$ref")

    def _index(self, root: Any, at: Place) -> None:
        waiting = [(root, at)]
        while waiting:
            schema, place = waiting.pop()
            if not isinstance(schema, dict) or id(schema) in self._places:
                continue
            place = self._named(schema, place)
            self._places[id(schema)] = place
            waiting += [(one, Place(place.pointer + step, place.base)) for step, one in subschemas(schema)]

    def _named(self, schema: dict[str, Any], place: Place) -> Place:
        """Notes the names that it gives itself."""
        name = schema.get("id" if self.draft == 4 else "$id")  # noqa: PLR2004  a draft
        base = place.base
        if isinstance(name, str) and name and not self.overrides(schema):
            whole, fragment = urldefrag(_joined(base, name))
            if fragment:
                self._anchors[whole, fragment] = schema
            else:
                base = whole
                self._resources[base] = (schema, place.pointer)
        for keyword in ("$anchor", "$dynamicAnchor"):
            if isinstance(schema.get(keyword), str):
                self._anchors[base, schema[keyword]] = schema
        if schema.get("$recursiveAnchor") is True or "$dynamicAnchor" in schema:
            self.dynamic[str(schema.get("$dynamicAnchor", ""))] += 1
        return Place(place.pointer, base)
