"""Ends that are put down for webhooks, in the step in which they happen."""

import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import openai
import pytest
import standardwebhooks
from openai.types.webhooks import BatchCompletedWebhookEvent

from common.errors import InvalidRequestError, StorageError
from common.jobs import Reply, new_id
from common.ledger import wire
from common.ledger.batches import Batch, Batches, BatchState
from common.ledger.ledger import Ledger
from common.ledger.replies import End
from common.ledger.webhooks import Delivery, Webhook, Webhooks, new_secret
from common.webhooks import EVENTS, Ended, signed
from tests.builders import OWNER, a_job, a_webhook
from tests.common.ledger_audit import LIMITS, Hand, failed
from tests.common.lossy import lossy

OTHER = "1" * 32
MOST = 10_000  # that wait for one endpoint


@pytest.fixture
def webhooks(ledger: Ledger) -> Webhooks:
    return Webhooks(ledger)


def kept(webhooks: Webhooks, **changes: Any) -> Webhook:
    webhook = a_webhook(**changes)
    webhooks.put(webhook, 9)
    return webhook


def told(webhooks: Webhooks, webhook: Webhook) -> list[tuple[str, str]]:
    """What it is told, one after the other: of what, and of whom."""
    found = []
    while (delivery := webhooks.next(webhook.owner, webhook.id)) is not None:
        found.append((delivery.ended.type, delivery.ended.of))
        assert webhooks.mark(delivery, "delivered")
    assert webhooks.due(0, 9) == []
    return found


def _left(raw: Any) -> list[str]:
    """Keys of endpoints and of what waits for them."""
    return [*raw.keys("{q00}:w[oqt]:*"), *raw.keys("{q00}:wn")]


def a_batch() -> Batch:
    now = int(time.time())
    return Batch(new_id(), OWNER, "file-x", "/v1/completions", "24h", now, now + 60)


# ends --------------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("kind", "end", "event"),
    [
        ("chat", "failed", "chat.completion.failed"),
        ("chat", "cancelled", "chat.completion.cancelled"),
        ("chat", "expired", "chat.completion.failed"),
        ("completion", "failed", "completion.failed"),
        ("completion", "cancelled", "completion.cancelled"),
    ],
)
def test_the_end_of_a_job_is_told(
    ledger: Ledger, hand: Hand, webhooks: Webhooks, kind: Any, end: End, event: str
) -> None:
    webhook, job = kept(webhooks), a_job(reply=Reply(kind))
    ledger.submit(job, LIMITS)

    hand.emit(failed(hand.claim(), wire.EXPIRED, end))

    assert told(webhooks, webhook) == [(event, job.id)]


@pytest.mark.parametrize(
    ("kind", "event"), [("chat", "chat.completion.completed"), ("completion", "completion.completed")]
)
def test_the_good_end_of_a_job_is_told_with_its_time(
    ledger: Ledger, hand: Hand, webhooks: Webhooks, kind: Any, event: str
) -> None:
    webhook, job, before = kept(webhooks), a_job(reply=Reply(kind)), int(time.time())
    ledger.submit(job, LIMITS)

    hand.end(hand.claim())

    delivery = webhooks.next(OWNER, webhook.id)
    assert delivery is not None
    assert before <= delivery.ended.at <= time.time()
    assert told(webhooks, webhook) == [(event, job.id)]


def test_the_end_of_a_job_that_never_ran_is_told(ledger: Ledger, webhooks: Webhooks) -> None:
    webhook, job = kept(webhooks), a_job()
    ledger.submit(job, LIMITS)

    ledger.cancel(OWNER, job.id)

    assert told(webhooks, webhook) == [("chat.completion.cancelled", job.id)]


@pytest.mark.parametrize("end", ["completed", "failed", "expired", "cancelled"])
def test_each_end_of_a_batch_is_told_and_nothing_before(ledger: Ledger, webhooks: Webhooks, end: BatchState) -> None:
    webhook, batches, batch = kept(webhooks), Batches(ledger), a_batch()
    batches.put(batch, 9)

    assert batches.move(batch, "in_progress")
    before = told(webhooks, webhook)
    assert batches.move(replace(batch, state="in_progress"), end)
    assert not batches.move(replace(batch, state="in_progress"), "failed")

    assert before == []
    assert told(webhooks, webhook) == [(f"batch.{end}", batch.id)]


def test_rows_of_a_batch_and_jobs_of_others_are_not_told_nor_what_was_not_asked_for(
    ledger: Ledger, hand: Hand, webhooks: Webhooks
) -> None:
    webhook = kept(webhooks, events=("chat.completion.completed",), name="completion.completed")
    stranger = kept(webhooks, owner=OTHER)
    jobs = [a_job(parent=new_id(), cls="batch"), a_job(reply=Reply("completion")), a_job()]
    for job in jobs:
        ledger.submit(job, LIMITS)
        hand.end(hand.claim())

    assert told(webhooks, webhook) == [("chat.completion.completed", jobs[2].id)]
    assert told(webhooks, stranger) == []


def test_whoever_has_no_endpoint_leaves_nothing_to_tell(
    ledger: Ledger, hand: Hand, webhooks: Webhooks, raw: Any
) -> None:
    webhook = kept(webhooks)
    webhooks.drop(OWNER, webhook.id)

    ledger.submit(a_job(), LIMITS)
    hand.end(hand.claim())

    assert _left(raw) == []


def test_an_end_whose_receipt_was_lost_is_told_once(ledger: Ledger, redis_url: str, webhooks: Webhooks) -> None:
    webhook, job, batch = kept(webhooks), a_job(), a_batch()
    ledger.submit(job, LIMITS)
    Batches(ledger).put(batch, 9)

    with lossy(redis_url) as line:
        far = Ledger((line.url,))
        hand = Hand(far)
        claim = hand.claim()
        for end in (lambda: hand.end(claim), lambda: Batches(far).move(batch, "failed")):
            far.ping()
            line.losses = 1
            end()
        far.close()

    assert told(webhooks, webhook) == [("chat.completion.completed", job.id), ("batch.failed", batch.id)]


def test_a_batch_that_ends_while_redis_is_full_is_told_when_it_has_ended(
    ledger: Ledger, webhooks: Webhooks, raw: Any
) -> None:
    webhook, batches, batch = kept(webhooks), Batches(ledger), a_batch()
    batches.put(batch, 9)
    limit = raw.config_get("maxmemory")["maxmemory"]

    raw.config_set("maxmemory", 1)
    try:
        with pytest.raises(StorageError):
            batches.move(batch, "failed")
    finally:
        raw.config_set("maxmemory", limit)
    early = told(webhooks, webhook)
    batches.move(batch, "failed")

    assert early == []
    assert told(webhooks, webhook) == [("batch.failed", batch.id)]


def test_what_waits_for_one_endpoint_is_bounded_and_the_rest_is_counted(
    ledger: Ledger, hand: Hand, webhooks: Webhooks, raw: Any
) -> None:
    webhook = kept(webhooks)
    queue = f"{{q00}}:wq:{OWNER}:{webhook.id}"
    raw.zadd(queue, {f"batch.failed {at} 1": at for at in range(MOST)})

    ledger.submit(a_job(), LIMITS)
    hand.end(hand.claim())

    assert raw.zcard(queue) == MOST
    assert webhooks.outcomes() == {"dropped": 1}


# deliveries --------------------------------------------------------------------------------------------------------
@pytest.fixture
def waiting(ledger: Ledger, hand: Hand, webhooks: Webhooks) -> Callable[[Webhook], Delivery]:
    """One end that an endpoint is to be told."""

    def end(webhook: Webhook) -> Delivery:
        ledger.submit(a_job(owner=webhook.owner), LIMITS)
        hand.end(hand.claim())
        delivery = webhooks.next(webhook.owner, webhook.id)
        assert delivery is not None
        return delivery

    return end


def test_a_try_is_marked_once(webhooks: Webhooks, waiting: Callable[[Webhook], Delivery]) -> None:
    webhook = kept(webhooks)
    delivery = waiting(webhook)

    marks = [webhooks.mark(delivery, "retried", 60) for _ in range(2)]

    assert marks == [True, False]
    assert webhooks.next(OWNER, webhook.id) is None
    assert not webhooks.mark(delivery, "delivered")
    assert webhooks.mark(replace(delivery, tries=1), "delivered")
    assert webhooks.outcomes() == {"retried": 1, "delivered": 1}


def test_a_new_end_does_not_wait_for_one_that_is_tried_later(
    webhooks: Webhooks, waiting: Callable[[Webhook], Delivery]
) -> None:
    webhook = kept(webhooks)
    first = waiting(webhook)
    webhooks.mark(first, "retried", 3600)

    second = waiting(webhook)

    assert second.ended.of != first.ended.of
    assert webhooks.due(0, 9) == [(OWNER, webhook.id)]


def test_an_endpoint_that_had_its_turn_stands_behind_the_others(
    webhooks: Webhooks, waiting: Callable[[Webhook], Delivery]
) -> None:
    busy, quiet = kept(webhooks), kept(webhooks, owner=OTHER)
    delivery = waiting(busy)
    waiting(busy)
    waiting(quiet)

    before = webhooks.due(0, 9)
    webhooks.mark(delivery, "delivered")

    assert (before, webhooks.due(0, 9)) == (
        [(OWNER, busy.id), (OTHER, quiet.id)],
        [(OTHER, quiet.id), (OWNER, busy.id)],
    )


def test_what_waits_goes_with_its_endpoint(
    webhooks: Webhooks, waiting: Callable[[Webhook], Delivery], raw: Any
) -> None:
    webhook = kept(webhooks)
    delivery = waiting(webhook)
    webhooks.mark(delivery, "retried", 0)

    webhooks.drop(OWNER, webhook.id)

    assert not webhooks.mark(replace(delivery, tries=1), "retried", 0)
    assert _left(raw) == []


# endpoints ---------------------------------------------------------------------------------------------------------
def test_an_owner_may_have_so_many_endpoints(webhooks: Webhooks) -> None:
    first = kept(webhooks)

    with pytest.raises(InvalidRequestError, match="You have 1 webhook endpoints here"):
        webhooks.put(a_webhook(), 1)
    webhooks.put(first, 1)  # its reply was lost
    webhooks.put(a_webhook(owner=OTHER), 1)

    assert webhooks.every(OWNER) == [first]


def test_two_who_change_an_endpoint_at_once_both_do(webhooks: Webhooks) -> None:
    webhook = kept(webhooks)

    def renamed(old: Webhook) -> Webhook:
        if old.url == webhook.url:
            webhooks.change(OWNER, webhook.id, lambda other: other.changed(url="https://else.example/"))
        return old.changed(name="new")

    now = webhooks.change(OWNER, webhook.id, renamed)

    assert now is not None
    assert now == webhooks.get(OWNER, webhook.id)
    assert (now.name, now.url) == ("new", "https://else.example/")
    assert webhooks.change(OTHER, webhook.id, renamed) is None


# what is sent ------------------------------------------------------------------------------------------------------
@pytest.fixture
def sdk() -> Iterator[openai.OpenAI]:
    with openai.OpenAI(api_key="none") as client:
        yield client


def test_the_sdk_and_the_library_of_the_standard_accept_what_is_signed(sdk: openai.OpenAI) -> None:
    secret, ended = new_secret(), Ended("batch.completed", "a" * 34, 1_700_000_000)
    headers = signed(ended, (secret,), time.time())

    event = sdk.webhooks.unwrap(ended.body(), headers, secret=secret)

    assert isinstance(event, BatchCompletedWebhookEvent)
    assert (event.id, event.object, event.created_at) == (ended.id, "event", 1_700_000_000)
    assert event.data.id == "batch_" + "a" * 34
    assert standardwebhooks.Webhook(secret).verify(ended.body(), headers)["id"] == headers["webhook-id"]


@pytest.mark.parametrize("event", EVENTS)
def test_every_event_can_be_unwrapped(sdk: openai.OpenAI, event: str) -> None:
    secret, ended = new_secret(), Ended(event, "a" * 34, 1)

    found: Any = sdk.webhooks.unwrap(ended.body(), signed(ended, (secret,), time.time()), secret=secret)

    prefixes = {"batch": "batch_", "chat": "chatcmpl-", "completion": "cmpl-"}
    assert (found.type, found.data.id) == (event, prefixes[event.partition(".")[0]] + "a" * 34)


def test_what_was_changed_is_old_or_is_signed_by_another_is_rejected(sdk: openai.OpenAI) -> None:
    secret, ended, now = new_secret(), Ended("batch.failed", "a" * 34, 1), time.time()
    headers = signed(ended, (secret,), now)

    for body, told, key in (
        (ended.body().replace(b"failed", b"failes"), headers, secret),
        (ended.body(), headers | {"webhook-id": "evt_other"}, secret),
        (ended.body(), signed(ended, (secret,), now - 400), secret),
        (ended.body(), headers, new_secret()),
    ):
        with pytest.raises(openai.InvalidWebhookSignatureError):
            sdk.webhooks.unwrap(body, told, secret=key)


def test_both_secrets_hold_for_a_day_after_a_rotation_that_keeps_the_old(sdk: openai.OpenAI) -> None:
    old, ended = a_webhook(), Ended("batch.failed", "a" * 34, 1)
    new = old.rotated(keep_old=True)
    now = time.time()

    for secret in (old.secret, new.secret):
        sdk.webhooks.unwrap(ended.body(), signed(ended, new.secrets(now), now), secret=secret)
    assert old.secret != new.secret
    assert new.secrets(now + 86_300) == (new.secret, old.secret)
    assert new.secrets(now + 86_401) == (new.secret,)
    assert old.secret not in old.rotated(keep_old=False).secrets(now)


def test_an_event_has_one_id_however_often_it_is_told() -> None:
    ids = {Ended(event, of, at).id for event in EVENTS for of in ("a", "b") for at in (1, 2)}

    assert len(ids) == 2 * len(EVENTS)
