"""Deliveries of webhooks: at least once, in time, to nobody inside."""

import socket
import threading
import time
from dataclasses import replace
from typing import Any

import openai
import pytest

from common.door.fetch import Fetcher
from common.jobs import new_id
from common.ledger.ledger import Ledger
from common.ledger.webhooks import Webhook, Webhooks
from common.settings import Limits, Settings
from common.webhooks import signed
from tests.api.hand import Hand
from tests.builders import OWNER, a_job, a_webhook
from tests.common.peer import OK, Peer, Watched, near, peer
from worker.chores.webhooks import BACK_OFF_S, JITTER, THREADS, Sender, periodic

REFUSED = b"HTTP/1.1 503 Not Now\r\n\r\n"
PUBLIC, PRIVATE = "93.184.216.34", "169.254.169.254"


@pytest.fixture
def webhooks(ledger: Ledger) -> Webhooks:
    return Webhooks(ledger)


def hooked(webhooks: Webhooks, it: Peer | None = None, **changes: Any) -> Webhook:
    """An endpoint of somebody's, at this peer."""
    webhook = a_webhook(**({"url": f"http://good.example:{it.port}/hook"} if it else {}) | changes)
    webhooks.put(webhook, 99)
    return webhook


def end_one(ledger: Ledger, owner: str = OWNER) -> str:
    """A job comes to its end."""
    ledger.submit(a_job(id=new_id(ledger.partition(owner)), owner=owner), Limits())
    hand = Hand(ledger)
    job = hand.claim()
    hand.end(job, "hello")
    return job.id


def wait_s(raw: Any, webhook: Webhook) -> float:
    """Until the next try; then its time has come."""
    queue = f"{{q00}}:wq:{webhook.owner}:{webhook.id}"
    ((name, due),) = raw.zrange(queue, 0, -1, withscores=True)
    raw.zadd(queue, {name: 0})
    raw.zadd("{q00}:wn", {f"{webhook.owner}:{webhook.id}": 0})
    return float(due) - time.time()


def heard(asked: bytes, secret: str) -> Any:
    """What a receiver makes of a request, with the SDK."""
    head, _, body = asked.partition(b"\r\n\r\n")
    headers = dict(line.decode().split(": ", 1) for line in head.split(b"\r\n")[1:])
    with openai.OpenAI(api_key="none") as sdk:
        return sdk.webhooks.unwrap(body, headers, secret=secret)


def is_left(raw: Any) -> bool:
    return bool(raw.exists("{q00}:wn") or raw.keys("{q00}:w[qt]:*"))


def test_an_end_is_told_once_and_signed(ledger: Ledger, webhooks: Webhooks, raw: Any) -> None:
    with peer(OK) as it:
        webhook, sender = hooked(webhooks, it), Sender(ledger, near(it.port))
        job_id = end_one(ledger)
        for _ in range(3):
            sender()

    (asked,) = it.asked
    event = heard(asked, webhook.secret)
    assert (event.type, event.data.id) == ("chat.completion.completed", f"chatcmpl-{job_id}")
    with pytest.raises(openai.InvalidWebhookSignatureError):
        heard(asked.replace(b"chatcmpl", b"chatcmpI"), webhook.secret)
    assert webhooks.outcomes() == {"delivered": 1}
    assert not is_left(raw)


def test_who_fails_five_times_is_told_at_last_though_every_sender_is_another(
    ledger: Ledger, redis_url: str, webhooks: Webhooks, raw: Any
) -> None:
    waits = []
    with peer(*[REFUSED] * 5, OK) as it:
        webhook = hooked(webhooks, it)
        end_one(ledger)
        for _ in range(5):
            _sent_by_another(redis_url, it)
            _sent_by_another(redis_url, it)  # too soon
            waits.append(wait_s(raw, webhook))
        for _ in range(2):
            _sent_by_another(redis_url, it)

    assert len(it.asked) == 6
    assert len({heard(asked, webhook.secret).id for asked in it.asked}) == 1
    for waited, planned in zip(waits, BACK_OFF_S, strict=False):
        assert planned - 3 <= waited <= planned * (1 + JITTER)
    assert webhooks.outcomes() == {"retried": 5, "delivered": 1}
    assert not is_left(raw)


def _sent_by_another(redis_url: str, it: Peer) -> None:
    ledger = Ledger((redis_url,))
    Sender(ledger, near(it.port))()
    ledger.close()


def test_whoever_fails_rests_however_much_waits(ledger: Ledger, webhooks: Webhooks, raw: Any) -> None:
    with peer(REFUSED, OK) as it:
        webhook, sender = hooked(webhooks, it), Sender(ledger, near(it.port))
        for _ in range(3):
            end_one(ledger)
        for _ in range(3):
            sender()
        before, rest = len(it.asked), raw.zscore("{q00}:wn", f"{OWNER}:{webhook.id}") - time.time()
        raw.zadd("{q00}:wn", {f"{OWNER}:{webhook.id}": 0})
        sender()

    assert before == 1
    assert 3 < rest <= 5
    assert webhooks.outcomes() == {"retried": 1, "delivered": 2}


def test_after_three_days_it_is_given_up(ledger: Ledger, webhooks: Webhooks, raw: Any) -> None:
    with peer(REFUSED) as it:
        webhook, sender = hooked(webhooks, it), Sender(ledger, near(it.port))
        end_one(ledger)
        waits = []
        for _ in BACK_OFF_S:
            sender()
            waits.append(wait_s(raw, webhook))
        sender()

    assert len(it.asked) == len(BACK_OFF_S) + 1
    assert 2.7 <= sum(waits) / 86_400 <= 3.4
    assert webhooks.outcomes() == {"retried": len(BACK_OFF_S), "dropped": 1}
    assert not is_left(raw)


def test_who_says_gone_is_not_asked_again(ledger: Ledger, webhooks: Webhooks, raw: Any) -> None:
    with peer(b"HTTP/1.1 410 Gone\r\n\r\n", OK) as it:
        hooked(webhooks, it)
        sender = Sender(ledger, near(it.port))
        end_one(ledger)
        sender()
        assert not is_left(raw)
        end_one(ledger)
        sender()

    assert webhooks.outcomes() == {"dropped": 1, "delivered": 1}


def test_two_senders_at_once_tell_it_once(ledger: Ledger, redis_url: str, webhooks: Webhooks) -> None:
    with peer(OK) as it:
        webhook = hooked(webhooks, it)
        for _ in range(20):
            end_one(ledger)
        senders = [threading.Thread(target=_sent_by_another, args=(redis_url, it)) for _ in range(4)]
        for sender in senders:
            sender.start()
        for sender in senders:
            sender.join()
        _sent_by_another(redis_url, it)

    ids = [heard(asked, webhook.secret).id for asked in it.asked]
    assert (len(ids), len(set(ids))) == (20, 20)
    assert webhooks.outcomes() == {"delivered": 20}


def test_while_one_receiver_is_slow_the_others_hear(ledger: Ledger, webhooks: Webhooks) -> None:
    asked, go_on = threading.Event(), threading.Event()

    def slow(_: Peer, connected: socket.socket) -> None:
        asked.set()
        assert go_on.wait(20)
        connected.sendall(OK)

    with peer(slow) as late, peer(OK) as quick:
        hooked(webhooks, late)
        end_one(ledger)
        waiting = threading.Thread(target=Sender(ledger, near(late.port)))
        waiting.start()
        assert asked.wait(20)
        hooked(webhooks, quick, owner="1" * 32)
        end_one(ledger, "1" * 32)
        Sender(ledger, near(quick.port))()
        during = webhooks.outcomes()
        go_on.set()
        waiting.join()

    assert during == {"delivered": 1}
    assert len(late.asked) == 1
    assert webhooks.outcomes() == {"delivered": 2}


def test_who_died_between_telling_and_marking_is_followed_by_one_who_tells_again(
    ledger: Ledger, webhooks: Webhooks, raw: Any
) -> None:
    with peer(OK) as it:
        webhook, fetcher = hooked(webhooks, it), near(it.port)
        end_one(ledger)
        assert ledger.lease(f"webhook:{webhook.id}", "the one who dies", 30)
        delivery = webhooks.next(OWNER, webhook.id)
        assert delivery is not None
        fetcher.post(webhook.url, delivery.ended.body(), signed(delivery.ended, (webhook.secret,), time.time()))
        Sender(ledger, fetcher)()
        while_leased = len(it.asked)
        raw.delete(f"{{q00}}:lease:webhook:{webhook.id}")  # it lapses
        Sender(ledger, fetcher)()

    assert (while_leased, len(it.asked)) == (1, 2)
    assert len({heard(asked, webhook.secret).id for asked in it.asked}) == 1


def test_a_name_that_leads_inside_by_now_is_not_followed(ledger: Ledger, webhooks: Webhooks, raw: Any) -> None:
    def no_way(address: Any, _port: int, _seconds: float) -> socket.socket:
        raise ConnectionRefusedError(address)

    watched = Watched([PUBLIC], [PRIVATE], connect=no_way)
    fetcher = Fetcher.of(Settings())
    fetcher.check("https://good.example/hook")
    webhook = hooked(webhooks)
    end_one(ledger)
    sender = Sender(ledger, Fetcher(fetcher._rules, watched.network()))
    for _ in range(3):
        sender()
        wait_s(raw, webhook)

    assert len(watched.resolved) == 3
    assert watched.connected == [PUBLIC]
    assert webhooks.outcomes() == {"retried": 3}


def test_old_and_new_secrets_hold_while_both_do(ledger: Ledger, webhooks: Webhooks) -> None:
    with peer(OK) as it:
        old, sender = hooked(webhooks, it), Sender(ledger, near(it.port))
        new = webhooks.change(OWNER, old.id, lambda webhook: webhook.rotated(keep_old=True))
        assert new is not None
        end_one(ledger)
        sender()
        webhooks.change(OWNER, old.id, lambda webhook: replace(webhook, old_until=time.time()))
        end_one(ledger)
        sender()

    first, second = it.asked
    assert heard(first, old.secret) == heard(first, new.secret)
    heard(second, new.secret)
    with pytest.raises(openai.InvalidWebhookSignatureError):
        heard(second, old.secret)


def test_an_endpoint_that_was_moved_hears_at_its_new_place_and_a_deleted_one_nowhere(
    ledger: Ledger, webhooks: Webhooks
) -> None:
    with peer(OK) as it:
        moved, deleted = hooked(webhooks), hooked(webhooks, it)
        end_one(ledger)
        webhooks.change(OWNER, moved.id, lambda old: old.changed(url=f"http://good.example:{it.port}/new"))
        webhooks.drop(OWNER, deleted.id)
        Sender(ledger, near(it.port))()

    assert [asked.split(b" ")[1] for asked in it.asked] == [b"/new"]


def test_where_the_door_is_busy_nothing_counts_as_tried(ledger: Ledger, webhooks: Webhooks, raw: Any) -> None:
    with peer(OK) as it:
        webhook = hooked(webhooks, it)
        end_one(ledger)
        fetcher = near(it.port, at_once=1, deadline_s=0.2)
        with fetcher._turn():
            Sender(ledger, fetcher)()
        before = webhooks.next(OWNER, webhook.id)
        Sender(ledger, fetcher)()

    assert before is not None
    assert before.tries == 0
    assert raw.keys("{q00}:lease:*") == []
    assert webhooks.outcomes() == {"delivered": 1}


def test_ends_of_every_partition_are_told(redis_url: str) -> None:
    base, owners = redis_url.rsplit("/", 1)[0], ("00" + "a" * 30, "01" + "a" * 30)
    ledger = Ledger((f"{base}/0", f"{base}/1"))
    with peer(OK) as it:
        for owner in owners:
            hooked(Webhooks(ledger), it, owner=owner)
            end_one(ledger, owner)
        Sender(ledger, near(it.port))()
    outcomes = [part.redis.hgetall(f"{part.tag}:wc") for part in ledger.partitions]
    ledger.close()

    assert len(it.asked) == 2
    assert outcomes == [{b"delivered": b"1"}] * 2


def test_the_threads_tell_and_end(ledger: Ledger, webhooks: Webhooks) -> None:
    told = threading.Event()

    def say(_: Peer, connected: socket.socket) -> None:
        connected.sendall(OK)
        told.set()

    with peer(say) as it:
        hooked(webhooks, it)
        sender = Sender(ledger, near(it.port))
        threads = periodic(sender)
        for thread in threads:
            thread.start()
        end_one(ledger)
        assert told.wait(10)
        sender.close()
        for thread in threads:
            thread.stop()
        end_one(ledger)
        sender()

    assert (len(threads), len(it.asked)) == (THREADS, 1)
    assert webhooks.outcomes() == {"delivered": 1}
