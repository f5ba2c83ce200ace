"""The OpenAPI document says what the server does."""

import re
from collections.abc import Iterator
from typing import Any

import httpx2
import pytest

from common.protocol.chat import ChatRequest
from common.protocol.completions import CompletionRequest
from tests.api.conftest import FrontEnd, Serve


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
        assert operation["responses"]["default"]["content"]["application/json"]["schema"] == {
            "$ref": "#/components/schemas/Error"
        }
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


def test_it_is_public_and_says_what_is_not(serve: Serve) -> None:
    with serve(api_keys="sk-right") as front:
        answer = httpx2.get(f"{front.base}/openapi.json")
        for path, method, operation in _operations(answer.json()):
            body: Any = {"json": {}} if method == "post" else {}
            is_refused = httpx2.request(method, front.base + path, **body).status_code == 401
            assert is_refused == ("security" not in operation), path

    assert answer.json()["components"]["securitySchemes"]["key"]["scheme"] == "bearer"
