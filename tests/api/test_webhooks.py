"""Webhook endpoints, as the unchanged SDK speaks of them."""

import json
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import httpx2
import openai
import pytest

from api.app import close_app, create_app
from common.door.fetch import Fetcher
from common.ledger.ledger import Ledger
from common.settings import Limits, Settings
from common.webhooks import EVENTS
from ops.embedded import free_port
from tests.api.conftest import FrontEnd
from tests.api.served import CountingDoor
from tests.common.hostile_urls import FORMS
from tests.common.peer import OK, near, peer

URL = "https://good.example/hook"
Told = dict[str, Any]


@contextmanager
def sdk(settings: Settings, fetcher: Fetcher | None = None, key: str = "EMPTY") -> Iterator[openai.OpenAI]:
    """The SDK at an application in this process."""
    app = create_app(settings, CountingDoor(), fetcher)
    http = httpx2.Client(transport=httpx2.WSGITransport(app=app, raise_app_exceptions=False))
    try:
        with openai.OpenAI(base_url="http://127.0.0.1/v1", api_key=key, max_retries=0, http_client=http) as client:
            yield client
    finally:
        close_app(app)


@pytest.fixture
def client(settings: Settings) -> Iterator[openai.OpenAI]:
    with sdk(settings) as client:
        yield client


def a_hook(client: openai.OpenAI, **changes: Any) -> Any:
    asked: Told = {"name": "ends", "url": URL, "event_types": ["batch.completed", "batch.failed"]}
    return client.webhooks.create(**asked | changes)


def refused(call: Callable[[], object], kind: type[openai.APIStatusError] = openai.BadRequestError) -> Any:
    with pytest.raises(kind) as error:
        call()
    return error.value


def test_an_endpoint_is_made_and_its_secret_shown_once(client: openai.OpenAI) -> None:
    made = a_hook(client)

    known = client.webhooks.retrieve(made.id)

    assert made.signing_secret.startswith("whsec_")
    assert known.model_dump() == made.model_dump(exclude={"signing_secret"})
    assert (known.object, known.name, known.url) == ("webhook_endpoint", "ends", URL)
    assert (known.event_types, known.created_at) == (["batch.completed", "batch.failed"], known.updated_at)
    assert known.signing_secret_hint == "whsec_****" + made.signing_secret[-4:]
    assert [one.model_dump() for one in client.webhooks.list()] == [known.model_dump()]


def test_endpoints_are_listed_page_by_page_the_newest_first(client: openai.OpenAI) -> None:
    made = [a_hook(client, name=str(at)).id for at in range(5)]

    page = client.webhooks.list(limit=2)

    assert [one.id for one in page.data] == made[:-3:-1]
    assert page.has_more
    assert [one.id for one in page] == made[::-1]
    assert [one.id for one in client.webhooks.list(after=made[1])] == [made[0]]


def test_what_is_named_is_changed_and_the_rest_stays(client: openai.OpenAI, ledger: Ledger) -> None:
    made = a_hook(client)
    (key,) = ledger.partitions[0].redis.keys("{q00}:wo:*")
    raw = ledger.partitions[0].redis.hget(key, made.id.removeprefix("wh_"))
    old = raw.replace(b'"updated":1', b'"updated":')
    ledger.partitions[0].redis.hset(key, made.id.removeprefix("wh_"), old)
    before = client.webhooks.retrieve(made.id)

    unchanged = client.webhooks.update(made.id, name="ends")
    changed = client.webhooks.update(made.id, url="https://else.example/", event_types=["completion.failed"])  # type: ignore[list-item]  # ours

    assert unchanged == before
    assert (changed.name, changed.url, changed.event_types) == ("ends", "https://else.example/", ["completion.failed"])
    assert (before.updated_at or 0) < made.created_at <= (changed.updated_at or 0)
    assert client.webhooks.retrieve(made.id) == changed


def test_a_deleted_endpoint_is_gone(client: openai.OpenAI) -> None:
    made = a_hook(client)

    gone = client.webhooks.delete(made.id)

    assert (gone.id, gone.object, gone.deleted) == (made.id, "webhook_endpoint.deleted", True)
    for ask in (
        client.webhooks.retrieve,
        client.webhooks.delete,
        client.webhooks.update,
        client.webhooks.rotate_secret,
    ):
        refused(lambda ask=ask: ask(made.id), openai.NotFoundError)  # type: ignore[misc]
    assert client.webhooks.list().data == []


def test_the_events_that_happen_here_are_listed(client: openai.OpenAI) -> None:
    listed = client.webhooks.event_types.list()

    assert listed.data == list(EVENTS)
    assert {"batch.completed", "chat.completion.cancelled", "completion.failed"} < set(listed.data)


# tests -------------------------------------------------------------------------------------------------------------
def test_a_test_is_sent_at_once_and_tells_the_status(settings: Settings) -> None:
    with peer(OK, b"HTTP/1.1 500 X\r\n\r\n") as it, sdk(settings, near(it.port)) as client:
        made = a_hook(client, url=f"http://good.example:{it.port}/hook")
        results = [client.webhooks.test(made.id, event_type="batch.expired") for _ in range(2)]
        for asked in it.asked:
            event = unwrapped(client, asked, made.signing_secret)
            assert (event.type, event.data.id[:6]) == ("batch.expired", "batch_")

    assert len(it.asked) == 2
    assert [(result.status_code, result.success, result.webhook_endpoint_id) for result in results] == [
        (200, True, made.id),
        (500, True, made.id),
    ]
    assert (results[0].object, results[0].event_type) == ("webhook_endpoint.test", "batch.expired")


def test_a_test_that_reaches_nobody_is_refused(settings: Settings) -> None:
    port = free_port()
    with sdk(settings, near(port)) as client:
        made = a_hook(client, url=f"http://good.example:{port}/hook")
        error = refused(lambda: client.webhooks.test(made.id, event_type="batch.failed"))

    assert (error.code, error.body["message"]) == ("webhook_endpoint_unreachable", "The URL could not be fetched.")


@pytest.mark.parametrize("keep", [True, False])
def test_the_old_secret_holds_after_a_rotation_where_it_is_kept(settings: Settings, *, keep: bool) -> None:
    with peer(OK) as it, sdk(settings, near(it.port)) as client:
        made = a_hook(client, url=f"http://good.example:{it.port}/hook")
        rotated = client.webhooks.rotate_secret(made.id, keep_old_secret_active_for_24_hours=keep)
        client.webhooks.test(made.id, event_type="batch.failed")

        assert unwrapped(client, it.asked[0], rotated.signing_secret).type == "batch.failed"
        if keep:
            assert unwrapped(client, it.asked[0], made.signing_secret).type == "batch.failed"
        else:
            with pytest.raises(openai.InvalidWebhookSignatureError):
                unwrapped(client, it.asked[0], made.signing_secret)
    assert made.signing_secret != rotated.signing_secret
    assert rotated.signing_secret_hint == "whsec_****" + rotated.signing_secret[-4:]


def test_a_rotation_without_a_word_ends_the_old_secret(client: openai.OpenAI, ledger: Ledger) -> None:
    made = a_hook(client)

    client.webhooks.rotate_secret(made.id)

    (kept,) = ledger.partitions[0].redis.hvals(ledger.partitions[0].redis.keys("{q00}:wo:*")[0])
    assert made.signing_secret.encode() not in kept


def unwrapped(client: openai.OpenAI, asked: bytes, secret: str) -> Any:
    """What a receiver makes of a request."""
    head, _, body = asked.partition(b"\r\n\r\n")
    headers = dict(line.decode().split(": ", 1) for line in head.split(b"\r\n")[1:])
    return client.webhooks.unwrap(body, headers, secret=secret)


# refusals ----------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("changes", "param"),
    [
        ({"event_types": []}, "event_types"),
        ({"event_types": ["batch.failed", "batch.failed"]}, "event_types"),
        ({"event_types": ["batch.failed", "response.completed"]}, "event_types[1]"),
        ({"event_types": ["eval.run.failed"]}, "event_types[0]"),
        ({"event_types": ["video.completed"]}, "event_types[0]"),
        ({"event_types": ["x" * 999]}, "event_types[0]"),
        ({"event_types": "batch.failed"}, "event_types"),
        ({"name": ""}, "name"),
        ({"name": "x" * 257}, "name"),
        ({"name": 5}, "name"),
        ({"url": "https://localhost/hook"}, "url"),
        ({"url": "http://good.example/hook"}, "url"),
        ({"url": "https://127.0.0.1/hook"}, "url"),
        ({"url": "https://good.example:8443/hook"}, "url"),
        ({"url": "https://good.example/" + "x" * 2048}, "url"),
    ],
)
def test_a_value_that_cannot_be_is_refused_by_name(client: openai.OpenAI, changes: Told, param: str) -> None:
    made = a_hook(client)

    errors = [refused(lambda: a_hook(client, **changes)), refused(lambda: client.webhooks.update(made.id, **changes))]

    assert [error.param for error in errors] == [param] * 2
    assert client.webhooks.list().data == [client.webhooks.retrieve(made.id)]
    assert all(len(error.body["message"]) < 500 for error in errors)


def test_an_event_that_nothing_produces_is_refused_with_a_sentence(client: openai.OpenAI) -> None:
    made = a_hook(client)

    errors = [
        refused(lambda: a_hook(client, event_types=["response.completed"])),
        refused(lambda: client.webhooks.test(made.id, event_type="response.completed")),
    ]

    assert [error.param for error in errors] == ["event_types[0]", "event_type"]
    assert "nothing here ends as 'response.completed' yet: one of batch.completed, " in errors[0].body["message"]


def test_every_form_of_url_that_leads_inside_is_refused(front: FrontEnd) -> None:
    path, headers = f"{front.base}/v1/webhook_endpoints", {"content-type": "application/json"}
    asked = [json.dumps({"name": "x", "url": url, "event_types": ["batch.failed"]}) for url in FORMS]

    with httpx2.Client() as http:
        answers = [http.post(path, content=body, headers=headers) for body in asked]
        listed = http.get(path).json()["data"]

    codes = {answer.json()["error"]["code"] for answer in answers}
    assert {answer.status_code for answer in answers} == {400}
    assert codes == {"invalid_webhook_url", None}  # None: too long, or half a character
    assert listed == []


def test_a_missing_field_is_named_and_an_unknown_one_is_told(client: openai.OpenAI) -> None:
    missing = refused(lambda: client.post("/webhook_endpoints", body={"name": "x", "url": URL}, cast_to=object))
    raw = client.webhooks.with_raw_response.create(
        name="x", url=URL, event_types=["batch.failed"], extra_body={"colour": "red"}
    )

    assert missing.param == "event_types"
    assert raw.headers["x-ignored-params"] == "colour"


def test_an_owner_may_have_so_many_endpoints_over_http(settings: Settings) -> None:
    with sdk(settings.model_copy(update={"limits": Limits(webhooks=1)})) as client:
        made = a_hook(client)
        error = refused(lambda: a_hook(client))
        client.webhooks.delete(made.id)
        a_hook(client)

    assert error.code == "too_many_webhook_endpoints"


def test_endpoints_of_others_look_like_none(settings: Settings) -> None:
    keyed = settings.model_copy(update={"api_keys": "one,two"})
    with ExitStack() as open_ones:
        one, two = (open_ones.enter_context(sdk(keyed, key=key)) for key in ("one", "two"))
        made = a_hook(one)
        asks: list[Callable[[str], object]] = [
            two.webhooks.retrieve,
            two.webhooks.delete,
            two.webhooks.rotate_secret,
            two.webhooks.update,
            lambda name: two.webhooks.test(name, event_type="batch.failed"),
        ]
        ids = (made.id, "wh_" + "0" * 34, "x")
        told = {refused(lambda: ask(name), openai.NotFoundError).message for ask in asks for name in ids}  # noqa: B023  called at once

        assert list(two.webhooks.list()) == []
        assert [hook.id for hook in one.webhooks.list()] == [made.id]
    assert len(told) == 1
