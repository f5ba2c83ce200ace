"""Batches, as the unchanged SDK speaks of them, through the whole house."""

import json
import time
from collections.abc import Iterator, Sequence
from typing import Any

import openai
import pytest
from openai.types import Batch

from ops.bench.stack import Stack

COUNTING = """
[[models]]
name = "counting"
path = "counting:?step_ms=1&answer=10000000"
slots = 8
"""
ENDED = {"failed", "completed", "expired", "cancelled"}


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory) -> Iterator[openai.OpenAI]:
    """The SDK at a house that counts."""
    running = Stack(tmp_path_factory.mktemp("stack"), COUNTING)
    try:
        sdk = running.wait_ready().client()
        ended(sdk, sent(sdk, [row(0)]))  # what reads the rows starts with the first
        yield sdk
    finally:
        running.stop()


def row(at: int, **changes: Any) -> dict[str, Any]:
    body = {"model": "counting", "prompt": f"count on: {at} ", "max_tokens": 12, "temperature": 0} | changes
    return {"custom_id": f"row {at}", "method": "POST", "url": "/v1/completions", "body": body}


def sent(client: openai.OpenAI, rows: Sequence[dict[str, Any]], **changes: Any) -> Batch:
    lines = "\n".join(json.dumps(one) for one in rows).encode()
    file = client.files.create(file=("in.jsonl", lines), purpose="batch")
    asked: dict[str, Any] = {"input_file_id": file.id, "endpoint": "/v1/completions", "completion_window": "24h"}
    return client.batches.create(**asked | changes)


def ended(client: openai.OpenAI, batch: Batch) -> Batch:
    for _ in range(600):
        told = client.batches.retrieve(batch.id)
        if told.status in ENDED:
            return told
        time.sleep(0.05)  # nothing tells but asking, as SDKs do
    raise AssertionError(told)


def lines(client: openai.OpenAI, file: str | None) -> list[dict[str, Any]]:
    return [json.loads(line) for line in client.files.content(file).read().splitlines()] if file else []


def test_each_line_is_answered_once(client: openai.OpenAI) -> None:
    batch = ended(client, sent(client, [row(at) for at in range(300)], metadata={"name": "nightly"}))
    answers = lines(client, batch.output_file_id)

    assert (batch.status, batch.errors, batch.error_file_id) == ("completed", None, None)
    assert batch.request_counts is not None
    assert (batch.request_counts.total, batch.request_counts.completed, batch.request_counts.failed) == (300, 300, 0)
    assert batch.metadata == {"name": "nightly"}
    assert sorted(answer["custom_id"] for answer in answers) == sorted(f"row {at}" for at in range(300))
    for answer in answers:
        at = int(answer["custom_id"].split()[1])
        body = answer["response"]["body"]
        assert body["choices"][0]["text"] == " ".join(map(str, range(at + 1, at + 13)))[:12]
        assert answer["response"]["status_code"] == 200
    assert batch.id in [one.id for one in client.batches.list(limit=3)]


def test_a_bad_line_is_an_error_line_and_the_others_are_answered(client: openai.OpenAI) -> None:
    bad = [row(1, temperature=9), row(2, model="none"), row(3, stream=True), row(4, prompt="x" * 9000)]

    batch = ended(client, sent(client, [*bad, row(5)]))
    errors = {line["custom_id"]: line["response"] for line in lines(client, batch.error_file_id)}

    assert batch.status == "completed"
    assert [line["custom_id"] for line in lines(client, batch.output_file_id)] == ["row 5"]
    assert {name: told["status_code"] for name, told in errors.items()} == {
        "row 1": 400,
        "row 2": 404,
        "row 3": 400,
        "row 4": 400,
    }
    assert errors["row 1"]["body"]["error"]["param"] == "temperature"


@pytest.mark.parametrize(
    ("line", "code"),
    [
        ("{", "invalid_json_line"),
        ("[]", "invalid_json_line"),
        (json.dumps(row(1)), "duplicate_custom_id"),
        (json.dumps(row(2) | {"url": "/v1/chat/completions"}), "invalid_url"),
        (json.dumps(row(2) | {"method": "GET"}), "invalid_method"),
        (json.dumps(row(2) | {"custom_id": ""}), "invalid_custom_id"),
        (json.dumps(row(2) | {"body": 1}), "invalid_body"),
    ],
)
def test_a_malformed_file_fails_with_the_number_of_its_line(client: openai.OpenAI, line: str, code: str) -> None:
    file = client.files.create(file=("in", f"{json.dumps(row(1))}\n\n{line}".encode()), purpose="batch")

    batch = ended(
        client,
        client.batches.create(input_file_id=file.id, endpoint="/v1/completions", completion_window="24h"),
    )

    assert batch.status == "failed"
    assert batch.errors is not None
    assert [(error.code, error.line) for error in batch.errors.data or ()] == [(code, 3)]


def test_what_is_answered_stays_when_a_batch_is_cancelled(client: openai.OpenAI) -> None:
    batch = sent(client, [*(row(at) for at in range(8)), *(row(at, max_tokens=5000) for at in range(8, 60))])
    while not client.batches.retrieve(batch.id).output_file_id:
        time.sleep(0.05)  # nothing tells but asking

    cancelling = client.batches.cancel(batch.id)
    end = ended(client, batch)

    assert cancelling.status in {"cancelling", "cancelled"}
    assert end.status == "cancelled"
    assert end.request_counts is not None
    told = [line["custom_id"] for file in (end.output_file_id, end.error_file_id) for line in lines(client, file)]
    assert len(told) == len(set(told)) == end.request_counts.completed + end.request_counts.failed
    assert end.request_counts.completed >= 1
    assert client.batches.cancel(batch.id).status == "cancelled"


def test_a_dry_run_says_what_a_batch_would_take(client: openai.OpenAI) -> None:
    ended(client, sent(client, [row(at) for at in range(200)]))  # now it is known how quick the model is

    batch = ended(client, sent(client, [row(1), row(2, temperature=9)], metadata={"dry_run": "true"}))
    told = (batch.model_extra or {})["x_estimate"]
    (line,) = lines(client, batch.output_file_id)
    (error,) = lines(client, batch.error_file_id)

    assert line["response"]["body"] == {
        "object": "estimate",
        "model": "counting",
        "prompt_tokens": 12,
        "max_completion_tokens": 12,
    }
    assert (error["custom_id"], error["response"]["status_code"]) == ("row 2", 400)
    assert (told["prompt_tokens"], told["max_completion_tokens"], told["completion_tokens"]) == (12, 12, 12)
    assert 0 < told["seconds"] <= told["max_seconds"] < 1
    assert batch.usage is not None
    assert batch.usage.total_tokens == 0


def test_what_a_batch_has_used_is_told(client: openai.OpenAI) -> None:
    batch = ended(client, sent(client, [row(at) for at in range(5)]))

    assert batch.usage is not None
    assert (batch.usage.input_tokens, batch.usage.output_tokens) == (5 * 12, 5 * 12)
    assert batch.usage.total_tokens == 120


@pytest.mark.parametrize(
    ("metadata", "param"),
    [
        ({"window": "22:00"}, "metadata.window"),
        ({"window": "22:00-06:00 Nowhere"}, "metadata.window"),
        ({"not_before": "soon"}, "metadata.not_before"),
        ({"not_before": "2999-01-01T00:00:00Z"}, "metadata.not_before"),
        ({"dry_run": "yes"}, "metadata.dry_run"),
    ],
)
def test_metadata_that_mean_something_are_checked(client: openai.OpenAI, metadata: dict[str, str], param: str) -> None:
    with pytest.raises(openai.BadRequestError) as refused:
        sent(client, [row(1)], metadata=metadata)

    assert refused.value.param == param


def test_a_window_that_opens_too_late_is_refused(client: openai.OpenAI) -> None:
    hour = time.gmtime(time.time() + 7200).tm_hour
    window = f"{hour:02}:00-{(hour + 1) % 24:02}:00 UTC"

    with pytest.raises(openai.BadRequestError, match=r"before metadata\.window opens") as refused:
        sent(client, [row(1)], metadata={"window": window}, completion_window="1h")

    assert refused.value.param == "completion_window"
    assert client.batches.cancel(sent(client, [row(1)], metadata={"window": window}).id).status != "failed"
