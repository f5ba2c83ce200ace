"""The OpenAPI document: routes from the application, bodies from the request models."""

import re
from collections.abc import Callable
from typing import Any, TypeVar

from flask import Flask
from pydantic.json_schema import models_json_schema
from werkzeug.routing import Rule

from common.protocol import Request

REFS = "#/components/schemas/"
V = TypeVar("V", bound=Callable[..., Any])
_PLACE = re.compile(r"<(?:\w+:)?(\w+)>")
_METHODS = ("GET", "POST", "DELETE")
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
_FAILED = {
    "description": "What went wrong, and which field caused it.",
    "content": {"application/json": {"schema": {"$ref": f"{REFS}Error"}}},
}
_JSON = {"application/json": {"schema": {"type": "object"}}}
_STREAM = {"text/event-stream": {"schema": {"type": "string"}}}


def reads(kind: type[Request]) -> Callable[[V], V]:
    """Mark a view: its body is such a request, and its answer may be a stream."""

    def mark(view: V) -> V:
        view.reads = kind  # type: ignore[attr-defined]  # read by ``document``
        return view

    return mark


def document(app: Flask, version: str) -> dict[str, Any]:
    """What ``/openapi.json`` says."""
    views = app.view_functions
    kinds = {kind.__name__: kind for view in views.values() if (kind := getattr(view, "reads", None))}
    _, schemas = models_json_schema([(kind, "validation") for kind in kinds.values()], ref_template=REFS + "{model}")
    for name in kinds:
        schemas["$defs"][name]["properties"].pop("ignored")  # ours, not the client's
    paths: dict[str, dict[str, Any]] = {}
    for rule in app.url_map.iter_rules():
        for method in sorted(set(_METHODS) & set(rule.methods or ())):
            path = _PLACE.sub(r"{\1}", rule.rule)
            paths.setdefault(path, {})[method.lower()] = _operation(rule, views[rule.endpoint])
    return {
        "openapi": "3.1.0",
        "info": {"title": "penstock", "version": version, "license": {"name": "Apache-2.0"}},
        "paths": dict(sorted(paths.items())),
        "components": {
            "schemas": schemas["$defs"] | {"Error": _ERROR},
            "securitySchemes": {"key": {"type": "http", "scheme": "bearer"}},
        },
        "security": [{"key": []}],
    }


def _operation(rule: Rule, view: Callable[..., Any]) -> dict[str, Any]:
    told: dict[str, Any] = {"operationId": rule.endpoint, "summary": (view.__doc__ or "").splitlines()[0]}
    kind = getattr(view, "reads", None)
    answer = {"description": "The answer.", "content": _JSON if kind is None else _JSON | _STREAM}
    told["responses"] = {"200": answer, "default": _FAILED}
    if kind is not None:
        body = {"application/json": {"schema": {"$ref": REFS + kind.__name__}}}
        told["requestBody"] = {"required": True, "content": body}
    if places := _PLACE.findall(rule.rule):
        told["parameters"] = [
            {"name": place, "in": "path", "required": True, "schema": {"type": "string"}} for place in places
        ]
    if getattr(view, "is_public", False):
        told["security"] = []
    return told
