"""Whatever a POST makes, with its ``Idempotency-Key`` it makes it once."""

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx2
import openai
import pytest

from api.auth import Keys
from common.identity import Principal
from common.ledger.batches import Batches, bare
from common.ledger.ledger import Ledger
from common.settings import Limits
from tests.api.conftest import FrontEnd, Serve
from tests.api.hand import Hand
from tests.builders import a_job

KEY = {"Idempotency-Key": "order-7"}
HOOK = {"name": "ends", "url": "https://good.example/hook", "event_types": ["batch.completed"]}
LINES = b'{"custom_id": "1"}\n'
OWNER = Principal().owner
Raw = Any


@pytest.fixture
def client(front: FrontEnd) -> Iterator[openai.OpenAI]:
    with front.client() as client:
        yield client


def file(client: openai.OpenAI, content: bytes = LINES, **changes: Any) -> Raw:
    asked: dict[str, Any] = {"file": ("in.jsonl", content), "purpose": "batch", "extra_headers": KEY}
    return client.files.with_raw_response.create(**asked | changes)


def batch(client: openai.OpenAI, file_id: str, **changes: Any) -> Raw:
    asked: dict[str, Any] = {"input_file_id": file_id, "endpoint": "/v1/completions", "completion_window": "24h"}
    return client.batches.with_raw_response.create(**asked | {"extra_headers": KEY} | changes)


def hook(client: openai.OpenAI, **changes: Any) -> Raw:
    return client.post("/webhook_endpoints", body=HOOK | changes, options={"headers": KEY}, cast_to=httpx2.Response)


def replay(client: openai.OpenAI, job_id: str, **query: Any) -> Raw:
    options: Any = {"headers": KEY, "params": query}
    return client.post(f"/jobs/job_{job_id}/replay", options=options, cast_to=httpx2.Response)


def told(answer: Raw) -> Any:
    return answer.json() if isinstance(answer, httpx2.Response) else answer.http_response.json()


def is_replayed(answer: Raw) -> bool:
    return bool(answer.headers.get("idempotent-replayed") == "true")


def at_once(call: Callable[[], Raw]) -> str:
    """Eight times; the id of the one thing that came of it."""
    with ThreadPoolExecutor(8) as pool:
        answers = [one.result() for one in [pool.submit(call) for _ in range(8)]]
    (made,) = {told(answer)["id"] for answer in answers}
    assert sum(not is_replayed(answer) for answer in answers) == 1
    return str(made)


def is_conflict(call: Callable[[], Raw]) -> bool:
    with pytest.raises(openai.ConflictError) as refused:
        call()
    assert refused.value.response.headers["x-should-retry"] == "false"
    return refused.value.code == "idempotency_key_conflict"


# batches -----------------------------------------------------------------------------------------------------------
def test_equal_batches_with_one_key_are_one(serve: Serve, ledger: Ledger) -> None:
    with serve(limits__batches="1") as front, front.client() as client:
        sent = client.files.create(file=("in", LINES), purpose="batch")
        made = at_once(lambda: batch(client, sent.id))
        known = Batches(ledger).get(OWNER, bare(made) or "")
        assert known is not None
        Batches(ledger).move(known, "in_progress", total=3)
        client.files.delete(sent.id)
        late = batch(client, sent.id)

        assert [one.id for one in client.batches.list()] == [made]
    assert (told(late)["id"], told(late)["status"], is_replayed(late)) == (made, "in_progress", True)


def test_a_batch_that_asks_for_something_else_under_a_key_is_refused(client: openai.OpenAI) -> None:
    sent = client.files.create(file=("in", LINES), purpose="batch").id
    made = told(batch(client, sent))["id"]

    assert is_conflict(lambda: batch(client.with_options(max_retries=3), sent, completion_window="7d"))
    assert [one.id for one in client.batches.list()] == [made]


def test_a_batch_that_was_cancelled_frees_its_key(client: openai.OpenAI) -> None:
    sent = client.files.create(file=("in", LINES), purpose="batch").id
    first = told(batch(client, sent))["id"]
    client.batches.cancel(first)

    second = batch(client, sent)
    third = batch(client, sent)

    assert (is_replayed(second), is_replayed(third)) == (False, True)
    assert told(third)["id"] == told(second)["id"] != first


# files -------------------------------------------------------------------------------------------------------------
def test_equal_uploads_with_one_key_are_one_file(serve: Serve) -> None:
    with serve(limits__files="1") as front, front.client() as client:
        made = at_once(lambda: file(client))

        assert [one.id for one in client.files.list()] == [made]
        assert client.files.content(made).read() == LINES
        assert [path.name for path in (front.folder / "files").iterdir()] == [made]


@pytest.mark.parametrize(
    "changes",
    [
        {"content": LINES * 2},
        {"purpose": "user_data"},
        {"file": ("other.jsonl", LINES)},
        {"expires_after": {"anchor": "created_at", "seconds": 7200}},
    ],
)
def test_another_file_under_a_key_is_refused_and_leaves_nothing(
    client: openai.OpenAI, front: FrontEnd, changes: dict[str, Any]
) -> None:
    before = set((front.folder / "files").glob("*"))
    made = told(file(client))["id"]

    assert is_conflict(lambda: file(client, **changes))
    assert [one.id for one in client.files.list()] == [made]
    assert {path.name for path in set((front.folder / "files").glob("*")) - before} == {made}


def test_a_file_that_was_deleted_frees_its_key(client: openai.OpenAI) -> None:
    first = told(file(client))["id"]
    client.files.delete(first)

    second = file(client, LINES * 2)

    assert not is_replayed(second)
    assert client.files.content(told(second)["id"]).read() == LINES * 2
    assert told(file(client, LINES * 2))["id"] == told(second)["id"] != first


# replays -----------------------------------------------------------------------------------------------------------
def test_equal_replays_with_one_key_are_one_job(client: openai.OpenAI, ledger: Ledger) -> None:
    old, hand = a_job(owner=OWNER), Hand(ledger)
    ledger.submit(old, Limits())
    hand.end(hand.claim())

    made = at_once(lambda: replay(client, old.id))
    job = hand.claim()
    hand.end(job)
    late = replay(client, old.id)

    assert made == f"job_{job.id}" == late.headers["x-job-id"]
    assert (late.status_code, told(late)["status"], is_replayed(late)) == (201, "done", True)
    assert job.keep_s >= 86_400
    assert is_conflict(lambda: replay(client, old.id, seed=5))
    with pytest.raises(AssertionError):
        hand.claim()


# webhook endpoints -------------------------------------------------------------------------------------------------
def test_equal_endpoints_with_one_key_are_one(serve: Serve) -> None:
    with serve(limits__webhooks="1") as front, front.client() as client:
        made = at_once(lambda: hook(client))

        assert [one.id for one in client.webhooks.list()] == [made]
        assert told(hook(client))["signing_secret"] == told(hook(client))["signing_secret"]
        assert is_conflict(lambda: hook(client, name="other"))
        client.webhooks.delete(made)
        assert not is_replayed(hook(client))


# all of them -------------------------------------------------------------------------------------------------------
def test_a_key_is_its_owners_and_one_of_each_kind_may_have_it(serve: Serve, ledger: Ledger) -> None:
    jobs = [a_job(owner=Keys("one,two").known(key).owner) for key in ("one", "two")]
    for job in jobs:
        ledger.submit(job, Limits())
    with serve(api_keys="one,two") as front, front.client() as client:
        clients = [client.with_options(api_key=key) for key in ("one", "two")]
        made, again = ([_all_of(sdk, job.id) for sdk, job in zip(clients, jobs, strict=True)] for _ in range(2))

    first, second = ([answer for answers in each for answer in answers] for each in (made, again))
    assert ({*map(is_replayed, first)}, {*map(is_replayed, second)}) == ({False}, {True})
    assert len({told(answer)["id"] for answer in first}) == 8
    assert [told(answer)["id"] for answer in second] == [told(answer)["id"] for answer in first]


def _all_of(client: openai.OpenAI, job_id: str) -> list[Raw]:
    sent = file(client)
    return [sent, batch(client, told(sent)["id"]), hook(client), replay(client, job_id)]


@pytest.mark.parametrize("key", ["", "x" * 256, "a b", "ü"])
def test_a_key_that_is_none_is_refused_wherever_it_is_taken(client: openai.OpenAI, ledger: Ledger, key: str) -> None:
    job = a_job(owner=OWNER)
    ledger.submit(job, Limits())
    sent = client.files.create(file=("in", LINES), purpose="batch").id
    headers = {b"Idempotency-Key": key.encode("latin-1")}
    calls: list[tuple[str, dict[str, Any]]] = [
        ("/files", {"files": {"file": LINES}, "data": {"purpose": "batch"}}),
        ("/batches", {"json": {"input_file_id": sent, "endpoint": "/v1/completions"}}),
        ("/webhook_endpoints", {"json": HOOK}),
        (f"/jobs/job_{job.id}/replay", {}),
    ]

    for path, more in calls:
        url = f"{str(client.base_url).rstrip('/')}{path}"
        answer = httpx2.post(url, headers=headers, timeout=20, **more)
        assert (answer.status_code, answer.json()["error"]["param"]) == (400, "Idempotency-Key"), path
