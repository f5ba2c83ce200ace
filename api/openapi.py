"""The OpenAPI document: routes from the application, bodies from the request models."""

import re
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

from flask import Flask
from pydantic.json_schema import models_json_schema
from werkzeug.routing import Rule

from common.protocol import Request

REFS = "#/components/schemas/"
V = TypeVar("V", bound=Callable[..., Any])
_PLACE = re.compile(r"<(?:\w+:)?(\w+)>")
_EVERYWHERE = {"HEAD", "OPTIONS"}  # these follow from the others
_BOUNDS = {"ge": "minimum", "gt": "exclusiveMinimum", "le": "maximum", "lt": "exclusiveMaximum"}
_ERROR = {
    "type": "object",
    "required": ["error"],
    "properties": {
        "error": {
            "type": "object",
            "required": ["message", "type", "param", "code"],
            "properties": {
                "message": {"type": "string"},
                "type": {"type": "string"},
                "param": {"type": ["string", "null"]},
                "code": {"type": ["string", "null"]},
            },
        }
    },
}
_HEADERS = {"x-request-id": {"$ref": "#/components/headers/RequestId"}}
_FAILED = {
    "description": "What went wrong, and which field caused it.",
    "headers": _HEADERS,
    "content": {"application/json": {"schema": {"$ref": f"{REFS}Error"}}},
}
_REQUEST_ID = {
    "description": "The request's name in our logs: the one that it came with, or a new one.",
    "schema": {"type": "string"},
}
_TAKEN = {
    "x-deadline-ms": {
        "description": "Refuse with 429 what cannot start before.",
        "schema": {"type": "number", "exclusiveMinimum": 0},
    },
    "Idempotency-Key": {
        "description": "Equal requests with one key make one thing, within a day.",
        "schema": {"type": "string", "maxLength": 255},
    },
}
_KEYS = {
    "bearer": {"type": "http", "scheme": "bearer"},
    "header": {"type": "apiKey", "in": "header", "name": "api-key"},
}
_JSON = {"application/json": {"schema": {"type": "object"}}}
_STREAM = {"text/event-stream": {"schema": {"type": "string"}}}


def reads(kind: type[Request]) -> Callable[[V], V]:
    """Mark a view: its body is such a request, and its answer may be a stream."""

    def mark(view: V) -> V:
        view.reads = kind  # type: ignore[attr-defined]  # read by ``document``
        return view

    return mark


def takes(*queries: str, headers: Sequence[str] = ()) -> Callable[[V], V]:
    """Mark a view: what may stand behind its path, and in its headers."""
    told = [(name, "query") for name in queries] + [(name, "header") for name in headers]

    def mark(view: V) -> V:
        text = {"schema": {"type": "string"}}
        view.takes = [{"name": name, "in": place} | _TAKEN.get(name, text) for name, place in told]  # type: ignore[attr-defined]  # read by ``document``
        return view

    return mark


def uploads(file: str, **fields: dict[str, Any]) -> Callable[[V], V]:
    """Mark a view: its body is a form with such a file and fields, the ``optional`` ones marked."""
    told = {file: {"type": "string", "format": "binary"}} | fields
    needed = [name for name, schema in told.items() if not schema.pop("optional", False)]

    def mark(view: V) -> V:
        view.form = {"type": "object", "properties": told, "required": needed}  # type: ignore[attr-defined]  # read by ``document``
        return view

    return mark


def tells(status: int, what: str) -> Callable[[V], V]:
    """Mark a view: this status comes with an object of its own, not with an error."""

    def mark(view: V) -> V:
        view.tells = {str(status): _answer(what, _JSON)}  # type: ignore[attr-defined]  # read by ``document``
        return view

    return mark


def document(app: Flask, version: str, *, strict: bool) -> dict[str, Any]:
    """What ``/openapi.json`` says; ``strict``: fields that no model holds are refused."""
    views = app.view_functions
    kinds = [kind for view in views.values() if (kind := getattr(view, "reads", None))]
    paths: dict[str, dict[str, Any]] = {}
    for rule in app.url_map.iter_rules():
        for method in sorted((rule.methods or set()) - _EVERYWHERE):
            path = _PLACE.sub(r"{\1}", rule.rule)
            paths.setdefault(path, {})[method.lower()] = _operation(rule, views[rule.endpoint])
    return {
        "openapi": "3.1.0",
        "info": {"title": "penstock", "version": version, "license": {"name": "Apache-2.0"}},
        "paths": dict(sorted(paths.items())),
        "components": {
            "schemas": _schemas(kinds, strict=strict) | {"Error": _ERROR},
            "responses": {"Failed": _FAILED},
            "headers": {"RequestId": _REQUEST_ID},
            "securitySchemes": _KEYS,
        },
        "security": [{name: []} for name in _KEYS],
    }


def _schemas(kinds: Sequence[type[Request]], *, strict: bool) -> dict[str, Any]:
    _, told = models_json_schema([(kind, "validation") for kind in kinds], ref_template=REFS + "{model}")
    schemas: dict[str, Any] = _bounded(told["$defs"])
    for kind in kinds:
        schema = schemas[kind.__name__]
        del schema["properties"]["ignored"]  # ours, not the client's
        schema["additionalProperties"] = not strict
    return schemas


def _bounded(part: Any) -> Any:
    """Pydantic leaves a bound in its own words where a validator runs before."""
    if isinstance(part, dict):
        is_bound = {name for name, value in part.items() if isinstance(value, int | float)} & set(_BOUNDS)
        return {_BOUNDS[name] if name in is_bound else name: _bounded(inner) for name, inner in part.items()}
    return [_bounded(inner) for inner in part] if isinstance(part, list) else part


def _answer(description: str, content: dict[str, Any]) -> dict[str, Any]:
    return {"description": description, "headers": _HEADERS, "content": content}


def _operation(rule: Rule, view: Callable[..., Any]) -> dict[str, Any]:
    kind = getattr(view, "reads", None)
    answers = {"200": _answer("The answer.", _JSON if kind is None else _JSON | _STREAM)}
    told: dict[str, Any] = {
        "operationId": rule.endpoint,
        "tags": [rule.endpoint.partition(".")[0]],
        "summary": (view.__doc__ or "").splitlines()[0],
        "parameters": [
            {"name": place, "in": "path", "required": True, "schema": {"type": "string"}}
            for place in _PLACE.findall(rule.rule)
        ],
        "responses": answers | getattr(view, "tells", {}) | {"default": {"$ref": "#/components/responses/Failed"}},
    }
    if kind is not None:
        body = {"application/json": {"schema": {"$ref": REFS + kind.__name__}}}
        told["requestBody"] = {"required": True, "content": body}
    if form := getattr(view, "form", None):
        told["requestBody"] = {"required": True, "content": {"multipart/form-data": {"schema": form}}}
    told["parameters"] += getattr(view, "takes", [])
    if getattr(view, "is_public", False):
        told["security"] = []
    return told
