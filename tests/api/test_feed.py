import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from api.feed import MOST_BUFFERED, Feed, HangUp
from api.hub import Hub
from api.stream import KEEP_ALIVE, Sse
from common.errors import DrainingError, StorageError
from common.jobs import Delta, Done, Entry, Job, Reply, Usage, new_id
from common.ledger.ledger import Ledger
from common.ledger.replies import Place
from common.render import chat
from common.settings import Limits, Settings
from ops.embedded import Embedded
from tests.api.conftest import submitter
from tests.api.hand import Hand
from tests.builders import a_job

STREAMED = Reply("chat", stream=True)


def rest(feed: Feed) -> list[Entry]:
    entries: list[Entry] = []
    while not feed.is_over:
        entries += feed.read(5)
    return entries


def shown(entries: list[Entry]) -> str:
    return "".join(entry.event.text for entry in entries if isinstance(entry.event, Delta))


def numbers(entries: list[Entry]) -> list[int]:
    return [entry.seq for entry in entries]


def test_a_reader_gets_every_entry_once_and_in_order(ledger: Ledger, opened: Callable[[Job], Feed]) -> None:
    feed, hand = opened(a_job()), Hand(ledger)

    job = hand.claim()
    hand.text(job, "a")
    hand.text(job, "b", "c")
    hand.end(job, "d")

    entries = rest(feed)
    assert (shown(entries), numbers(entries)) == ("abcd", [1, 2, 3, 4, 5, 6])
    assert entries[-1].event == Done(Usage(3, 4))


def test_a_ring_that_was_lost_is_read_from_the_log(ledger: Ledger, hub: Hub, opened: Callable[[Job], Feed]) -> None:
    feed, hand = opened(a_job()), Hand(ledger)
    job = hand.claim()

    ledger.unwatch(job.id, hub.front_end)  # deaf
    hand.text(job, "a")
    hand.text(job, "b")
    ledger.watch(job.owner, job.id, hub.front_end)
    hand.end(job, "c")

    assert shown(rest(feed)) == "abc"


def test_a_ring_that_was_lost_at_the_very_end_is_found_after_a_quiet_while(
    ledger: Ledger, hub: Hub, opened: Callable[[Job], Feed]
) -> None:
    feed, hand = opened(a_job()), Hand(ledger)
    job = hand.claim()

    ledger.unwatch(job.id, hub.front_end)
    hand.end(job, "a")

    assert shown([*feed.read(0.05)]) == "a"
    assert feed.is_over


def test_rings_that_come_while_the_log_is_read_are_merged_by_their_numbers(
    ledger: Ledger, opened: Callable[[Job], Feed]
) -> None:
    feed, hand = opened(a_job()), Hand(ledger)
    job = hand.claim()
    stop = threading.Event()
    teller = threading.Thread(target=lambda: tell(hand, job, 200, stop))

    teller.start()
    entries: list[Entry] = []
    while not feed.is_over:
        feed.renew()  # every read is one of the log, rings arrive all the time
        entries += feed.read(5)
    teller.join()

    assert numbers(entries) == list(range(1, 203))


def test_a_reader_that_is_too_slow_is_served_from_the_log(ledger: Ledger, opened: Callable[[Job], Feed]) -> None:
    feed, hand = opened(a_job()), Hand(ledger)
    job = hand.claim()

    tell(hand, job, 3 * MOST_BUFFERED, threading.Event())
    settled(ledger, job, 3 * MOST_BUFFERED + 2)

    assert feed.buffered() <= MOST_BUFFERED + 1
    assert numbers(rest(feed)) == list(range(1, 3 * MOST_BUFFERED + 3))


def test_a_reader_that_falls_behind_twice_still_gets_everything(ledger: Ledger, opened: Callable[[Job], Feed]) -> None:
    feed, hand = opened(a_job()), Hand(ledger)
    job = hand.claim()
    teller = threading.Thread(target=lambda: tell(hand, job, 4 * MOST_BUFFERED, threading.Event()))

    teller.start()
    entries = [*feed.read(5)]
    teller.join()
    entries += rest(feed)

    assert numbers(entries) == list(range(1, 4 * MOST_BUFFERED + 3))


def test_two_readers_of_one_job_hear_the_same(ledger: Ledger, opened: Callable[[Job], Feed]) -> None:
    one = opened(a_job())
    other = opened(one.job)
    hand = Hand(ledger)

    hand.end(hand.claim(), "a")

    assert rest(one) == rest(other)


def test_a_job_that_redis_forgot_is_submitted_again_while_nothing_was_seen(
    ledger: Ledger, opened: Callable[[Job], Feed]
) -> None:
    feed, hand = opened(a_job(reply=STREAMED)), Hand(ledger)

    ledger.partitions[0].redis.flushall()
    feed.renew()
    feed.read(1)
    hand.end(hand.claim(), "a")

    assert shown(rest(feed)) == "a"


def test_a_stream_ends_with_an_error_when_redis_forgot_what_was_seen(
    ledger: Ledger, opened: Callable[[Job], Feed]
) -> None:
    feed, hand = opened(a_job(reply=STREAMED)), Hand(ledger)
    hand.text(hand.claim(), "a")
    feed.read(5)

    ledger.partitions[0].redis.flushall()
    feed.renew()

    assert feed.job.prompts == ()  # so long a thing is not kept for what is never asked again
    with pytest.raises(StorageError):
        feed.read(1)


def test_an_answer_that_nobody_saw_begins_anew_when_redis_forgot_it(
    ledger: Ledger, opened: Callable[[Job], Feed]
) -> None:
    feed, hand = opened(a_job()), Hand(ledger)
    hand.text(hand.claim(), "a")
    feed.read(5)

    ledger.partitions[0].redis.flushall()
    feed.renew()
    feed.read(1)
    hand.end(hand.claim(), "b")

    assert numbers(rest(feed)) == [1, 2, 3]


def test_a_stream_waits_for_its_worker_to_say_lost_items_again(ledger: Ledger, opened: Callable[[Job], Feed]) -> None:
    feed, hand = opened(a_job(reply=STREAMED)), Hand(ledger)
    job = hand.claim()
    hand.text(job, "a", "b")
    feed.read(5)

    lose(ledger, job, kept=1)
    feed.renew()
    nothing = feed.read(0.05)
    hand.forget_said(job, 1)
    hand.end(job, "b", "c")

    assert nothing == ()
    entries = rest(feed)
    assert (shown(entries), numbers(entries)) == ("c", [3, 4, 5])


def test_an_answer_that_was_asked_for_as_a_whole_is_shown_as_a_stream_like_one(
    ledger: Ledger, opened: Callable[[Job], Feed]
) -> None:
    feed, hand = opened(a_job()), Hand(ledger)
    stream = iter(Sse(feed, chat.frames(feed.job), lambda *_: None, 0.1))
    job = hand.claim()
    hand.text(job, "a", "b")
    next(stream), next(stream)

    lose(ledger, job, kept=1)
    feed.renew()
    waiting = next(stream)
    hand.forget_said(job, 1)
    hand.end(job, "b", "c")

    assert waiting == KEEP_ALIVE
    assert [frame.count(b'"content"') for frame in stream if frame != KEEP_ALIVE] == [1]


def test_a_stream_ends_when_another_worker_takes_over_what_was_lost(
    ledger: Ledger, opened: Callable[[Job], Feed]
) -> None:
    feed, hand = opened(a_job(reply=STREAMED)), Hand(ledger)
    job = hand.claim()
    hand.text(job, "a", "b")
    feed.read(5)
    lose(ledger, job, kept=1)
    feed.renew()
    feed.read(0.05)

    ledger.reap("w1")
    Hand(ledger, "w2").claim()

    with pytest.raises(StorageError):
        feed.read(0.05)


def test_a_stream_ends_when_lost_items_were_said_again_in_other_pieces(
    ledger: Ledger, opened: Callable[[Job], Feed]
) -> None:
    feed, hand = opened(a_job(reply=STREAMED)), Hand(ledger)
    hand.text(hand.claim(), "a", "b")
    feed.read(5)

    forget_claim(ledger, feed.job)
    hand.text(hand.claim(), "abc", "d", "e")
    feed.renew()

    with pytest.raises(StorageError):
        feed.read(1)


def test_a_ring_of_a_claim_that_redis_forgot_is_not_taken_for_the_next_ones(
    ledger: Ledger, opened: Callable[[Job], Feed]
) -> None:
    feed, hand = opened(a_job(reply=STREAMED)), Hand(ledger)
    hand.text(hand.claim(), "a", "b")
    settled(ledger, feed.job, 2)

    forget_claim(ledger, feed.job)
    hand.text(hand.claim(), "abc", "d", "e")
    settled(ledger, feed.job, 3)

    with pytest.raises(StorageError):
        rest(feed)


def test_an_answer_that_nobody_saw_begins_anew_when_lost_items_were_said_again_in_other_pieces(
    ledger: Ledger, opened: Callable[[Job], Feed]
) -> None:
    feed, hand = opened(a_job()), Hand(ledger)
    hand.text(hand.claim(), "a", "b")
    feed.read(5)

    forget_claim(ledger, feed.job)
    hand.end(hand.claim(), "abc", "d", "e")
    feed.renew()

    assert numbers(rest(feed)) == [1, 2, 3, 4, 5]


def test_a_drained_stream_says_so(opened: Callable[[Job], Feed]) -> None:
    feed = opened(a_job())

    feed.drain()

    with pytest.raises(DrainingError):
        rest(feed)


def test_a_stream_whose_client_has_gone_ends(opened: Callable[[Job], Feed]) -> None:
    feed = opened(a_job())

    feed.hang_up()

    with pytest.raises(HangUp):
        rest(feed)


def test_a_job_that_is_left_alone_is_unwatched(ledger: Ledger, opened: Callable[[Job], Feed]) -> None:
    feed = opened(a_job())

    feed.close()

    assert ledger.partitions[0].redis.hget(f"{{q00}}:j:{feed.job.id}", "fe") == b""


def test_streams_of_every_partition_are_heard_once(redis_url: str) -> None:
    ledger = Ledger((redis_url, redis_url))
    hub = Hub(ledger)
    hub.start()
    jobs = [a_job(id=new_id(number), owner=f"{number:02x}" * 16, share=f"{number:02x}" * 16) for number in (0, 1)]
    feeds = [Feed(hub, ledger, job, submit=submitter(ledger, hub)) for job in jobs]
    hand = Hand(ledger)
    for number, feed in enumerate(feeds):
        hub.wait_heard(number, 5)
        feed.open()

    for _ in jobs:
        hand.end(hand.claim(), "a", "b")
    heard = [numbers(rest(feed)) for feed in feeds]
    hub.close()
    ledger.close()

    assert heard == [[1, 2, 3, 4]] * 2


def test_a_refused_job_is_not_listened_for(hub: Hub, ledger: Ledger) -> None:
    def refuse(_job: Job) -> Place:
        raise StorageError("No.")

    with pytest.raises(StorageError):
        Feed(hub, ledger, a_job(), submit=refuse).open()

    assert hub.count() == 0


@pytest.fixture
def own_server(tmp_path: Path) -> Iterator[tuple[Embedded, str, int]]:
    """A server that the test may kill."""
    embedded = Embedded(Settings(data_dir=tmp_path))
    server = embedded.start()
    yield embedded, server.url, server.pid or 0
    embedded.stop()


def test_a_stream_survives_a_redis_that_is_killed_and_comes_back(own_server: tuple[Embedded, str, int]) -> None:
    embedded, url, pid = own_server
    ledger = Ledger((url,))
    hub = Hub(ledger)
    hub.start()
    hub.wait_heard(0, 5)
    feed, hand = Feed(hub, ledger, a_job(reply=STREAMED), submit=submitter(ledger, hub)), Hand(ledger)
    feed.is_shown = True
    feed.open()
    job = hand.claim()
    hand.text(job, "a")
    first = [*feed.read(5)]

    kill(pid)
    away = [*feed.read(0.1)]
    embedded.restart()
    hand.end(job, "b")

    assert (shown(first), away, shown(rest(feed))) == ("a", [], "b")
    feed.close()
    hub.close()
    ledger.close()


def kill(pid: int) -> None:
    os.kill(pid, signal.SIGKILL)


def lose(ledger: Ledger, job: Job, kept: int) -> None:
    """What an older append-only file would say."""
    client = ledger.partitions[0].redis
    client.ltrim(f"{{q00}}:t:{job.id}", 0, kept - 1)


def forget_claim(ledger: Ledger, job: Job) -> None:
    """What an append-only file of before the claim would say."""
    client = ledger.partitions[0].redis
    watching = client.hget(f"{{q00}}:j:{job.id}", "fe").decode()
    client.flushall()
    ledger.submit(job, Limits(), watching)


def tell(hand: Hand, job: Job, count: int, stop: threading.Event) -> None:
    for _ in range(count):
        if stop.is_set():
            return
        hand.text(job, "x")
    hand.end(job)


def settled(ledger: Ledger, job: Job, seq: int) -> None:
    """Until the log is so long, and the bell has had its time."""
    watched = ledger.read(job.owner, job.id)
    assert watched is not None
    assert watched.seq == seq
    time.sleep(0.05)
