"""The OpenAPI document says what the server does."""

import re
from collections.abc import Iterator
from typing import Any

import httpx2
import jsonschema_rs
import pytest
from flask import Flask

from api.app import close_app, create_app
from common.protocol.chat import ChatRequest
from common.protocol.completions import CompletionRequest
from common.settings import Settings
from tests.api.conftest import FrontEnd, Serve
from tests.api.served import CountingDoor


@pytest.fixture
def told(front: FrontEnd) -> Any:
    return httpx2.get(f"{front.base}/openapi.json").json()


def _refs(part: Any) -> Iterator[str]:
    if isinstance(part, dict):
        if "$ref" in part:
            yield part["$ref"]
        for inner in part.values():
            yield from _refs(inner)
    elif isinstance(part, list):
        for inner in part:
            yield from _refs(inner)


def _operations(told: Any) -> Iterator[tuple[str, str, Any]]:
    for path, methods in told["paths"].items():
        for method, operation in methods.items():
            yield path, method, operation


def test_every_reference_leads_somewhere(told: Any) -> None:
    refs = set(_refs(told))

    assert len(refs) > 5
    for ref in refs:
        part = told
        for name in ref.removeprefix("#/").split("/"):
            part = part[name]


def test_each_operation_answers_and_each_other_method_does_not(front: FrontEnd, told: Any) -> None:
    operations = list(_operations(told))

    assert told["openapi"] == "3.1.0"
    assert {(path, method) for path, method, _ in operations} >= {
        ("/v1/chat/completions", "post"),
        ("/v1/completions", "post"),
        ("/v1/models", "get"),
        ("/v1/models/{name}", "get"),
        ("/openapi.json", "get"),
    }
    for path, method, operation in operations:
        told_name = re.sub(r"\{\w+\}", "none", path)
        answer = httpx2.request(method, front.base + told_name)
        assert answer.status_code not in {404, 405} or "{" in path
        assert operation["summary"].endswith(".")
        assert operation["responses"]["default"] == {"$ref": "#/components/responses/Failed"}
        assert len({one["operationId"] for _, _, one in operations}) == len(operations)


@pytest.mark.parametrize("kind", [ChatRequest, CompletionRequest])
def test_a_body_has_every_field_of_its_model_and_none_of_ours(told: Any, kind: Any) -> None:
    schema = told["components"]["schemas"][kind.__name__]

    assert set(schema["properties"]) == set(kind.model_fields) - {"ignored"}
    assert schema["required"] == [kind.asked]
    assert schema["properties"]["temperature"]["maximum"] == 2


def test_a_short_form_is_allowed_where_the_server_takes_one(told: Any) -> None:
    schemas = told["components"]["schemas"]

    assert {"string", "array"} == {one["type"] for one in schemas["ChatRequest"]["properties"]["stop"]["anyOf"]}
    assert schemas["CompletionRequest"]["properties"]["prompt"]["anyOf"][0]["type"] == "string"


def test_a_request_of_the_document_names_its_model_and_may_be_answered_by_a_stream(told: Any) -> None:
    operation = told["paths"]["/v1/chat/completions"]["post"]

    assert operation["requestBody"]["content"]["application/json"]["schema"]["$ref"].endswith("/ChatRequest")
    assert set(operation["responses"]["200"]["content"]) == {"application/json", "text/event-stream"}


@pytest.fixture
def app(settings: Settings) -> Iterator[Flask]:
    app = create_app(settings, CountingDoor())
    yield app
    close_app(app)


def test_every_route_stands_in_it_and_nothing_else(app: Flask, told: Any) -> None:
    routes = {
        (re.sub(r"<(?:\w+:)?(\w+)>", r"{\1}", rule.rule), method)
        for rule in app.url_map.iter_rules()
        for method in (rule.methods or set()) - {"HEAD", "OPTIONS"}
    }

    assert {(path, method.upper()) for path, method, _ in _operations(told)} == routes


def test_each_place_of_a_path_is_a_parameter(told: Any) -> None:
    for path, _, operation in _operations(told):
        places = [parameter["name"] for parameter in operation["parameters"] if parameter["in"] == "path"]
        assert places == re.findall(r"\{(\w+)\}", path)


def _schemas(part: Any) -> Iterator[dict[str, Any]]:
    """A schema and all inside of it."""
    yield part
    named = [part.get(word, {}) for word in ("properties", "patternProperties")]
    listed = [part.get(word, []) for word in ("anyOf", "oneOf", "allOf", "prefixItems")]
    alone = [part[word] for word in ("items", "additionalProperties", "propertyNames") if word in part]
    for inner in [
        *(one for names in named for one in names.values()),
        *(one for many in listed for one in many),
        *alone,
    ]:
        if isinstance(inner, dict):
            yield from _schemas(inner)


def test_its_schemas_have_no_word_that_json_schema_does_not_know(told: Any) -> None:
    words = {"type", "const", "enum", "default", "title", "description", "$ref", "required", "pattern", "format"}
    words |= {"properties", "patternProperties", "additionalProperties", "propertyNames", "anyOf", "oneOf", "allOf"}
    words |= {"minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "minLength", "maxLength"}
    words |= {"items", "prefixItems", "minItems", "maxItems", "maxProperties", "examples"}

    for name, schema in told["components"]["schemas"].items():
        jsonschema_rs.meta.validate(schema)
        for part in _schemas(schema):
            assert set(part) <= words, name


def _complaints(told: Any, name: str, body: Any) -> list[str]:
    schema = {"$ref": f"#/components/schemas/{name}", "components": told["components"]}
    return [error.message for error in jsonschema_rs.validator_for(schema).iter_errors(body)]


HI = {"messages": [{"role": "user", "content": "Hi"}]}


@pytest.mark.parametrize(
    "body",
    [
        {},
        {"messages": []},
        HI | {"temperature": 2.5},
        HI | {"n": 0},
        HI | {"n": 17},
        HI | {"top_k": -1},
        HI | {"seed": 2**63},
        HI | {"stop": ""},
        HI | {"service_tier": "best"},
        HI | {"stream_options": {"include": True}},
        {"messages": [{"role": "nobody", "content": "Hi"}]},
    ],
)
def test_what_it_forbids_is_refused(front: FrontEnd, told: Any, body: dict[str, Any]) -> None:
    assert _complaints(told, "ChatRequest", body) != []
    assert httpx2.post(f"{front.base}/v1/chat/completions", json=body).status_code == 400


@pytest.mark.parametrize(
    "more",
    [
        {},
        {"n": 16, "temperature": 2, "top_k": 0, "seed": -(2**63)},
        {"stop": "x", "max_tokens": 5, "stream": True, "stream_options": {"include_usage": True}},
        {"unheard_of": 1},
        {"model": 0, "logit_bias": {"5": -100}, "metadata": {"a": "b"}},
    ],
)
def test_what_it_allows_comes_through(front: FrontEnd, told: Any, more: dict[str, Any]) -> None:
    body = HI | more | {"user": "oops"}  # at which the door fails

    assert _complaints(told, "ChatRequest", body) == []
    assert httpx2.post(f"{front.base}/v1/chat/completions", json=body).status_code == 500


def test_where_parameters_are_strict_it_says_so(serve: Serve, told: Any) -> None:
    with serve(strict_params="1") as front:
        strict = httpx2.get(f"{front.base}/openapi.json").json()

    assert _complaints(told, "ChatRequest", HI | {"unheard_of": 1}) == []
    assert _complaints(strict, "ChatRequest", HI | {"unheard_of": 1}) != []


@pytest.mark.parametrize(("method", "path"), [("GET", "/nothing"), ("PUT", "/health"), ("POST", "/v1/completions")])
def test_errors_look_as_it_says(front: FrontEnd, told: Any, method: str, path: str) -> None:
    assert _complaints(told, "Error", httpx2.request(method, front.base + path).json()) == []
    assert _complaints(told, "Error", {"error": {"message": "x"}}) != []


def test_an_answer_of_another_status_that_is_no_error_is_told(front: FrontEnd, told: Any) -> None:
    responses = told["paths"]["/ready"]["get"]["responses"]

    answer = httpx2.get(f"{front.base}/ready")
    assert (answer.status_code, "error" in answer.json()) == (503, False)
    assert responses["503"]["content"]["application/json"]["schema"] == {"type": "object"}


def test_it_is_public_and_says_what_is_not(serve: Serve) -> None:
    with serve(api_keys="sk-right") as front:
        answer = httpx2.get(f"{front.base}/openapi.json")
        for path, method, operation in _operations(answer.json()):
            body: Any = {"json": {}} if method == "post" else {}
            is_refused = httpx2.request(method, front.base + path, **body).status_code == 401
            assert is_refused == ("security" not in operation), path

    assert answer.json()["components"]["securitySchemes"]["bearer"]["scheme"] == "bearer"


def test_what_stands_behind_a_path_and_in_headers_is_told(told: Any) -> None:
    def names(path: str, method: str) -> set[str]:
        return {one["name"] for one in told["paths"][path][method]["parameters"]}

    assert names("/v1/jobs", "get") == {"status", "model", "user", "limit", "after"}
    assert names("/v1/jobs/{job_id}/events", "get") == {"job_id", "after", "Last-Event-ID"}
    assert {"Idempotency-Key", "x-deadline-ms"} <= names("/v1/completions", "post")
    makers = ("/v1/batches", "/v1/files", "/v1/webhook_endpoints")
    assert [names(path, "post") for path in makers] == [{"Idempotency-Key"}] * 3
    assert names("/v1/jobs/{job_id}/replay", "post") == {"job_id", "seed", "Idempotency-Key"}
    assert names("/v1/webhook_endpoints/{webhook_id}", "post") == {"webhook_id"}
