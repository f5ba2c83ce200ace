"""Who listens for a job, as Redis knows it and as it is."""

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path

import pytest

from api.feed import Feed
from api.hangup import Sweeper
from api.hub import Hub
from common.jobs import Entry, Job, new_id
from common.ledger import keys
from common.ledger.ledger import Ledger
from common.ledger.replies import KnownJobError, Once
from common.settings import Limits, Settings
from ops.embedded import Embedded, free_port
from tests.api.conftest import submitter
from tests.api.hand import Hand
from tests.api.test_feed import shown
from tests.builders import a_job
from tests.common.lossy import lossy
from tests.waiting import until

ONCE = Once("a" * 32, "b" * 64)


@pytest.fixture
def hand(ledger: Ledger) -> Hand:
    return Hand(ledger)


def watching(ledger: Ledger, job: Job) -> list[str]:
    """The front ends that hear of it."""
    told: bytes = ledger.partitions[0].redis.hget(f"{{q00}}:j:{job.id}", "fe")
    return told.decode().split(",") if told else []


def soon(feed: Feed) -> list[Entry]:
    """What comes long before its heartbeat."""
    entries: list[Entry] = []
    with ThreadPoolExecutor(1) as pool:

        def read() -> None:
            while not entries:
                entries.extend(feed.read(20))

        reading = pool.submit(read)
        try:
            reading.result(10)
        except TimeoutError:
            feed.hang_up()
            raise
    return entries


def rung(hand: Hand, job: Job, opened: Callable[[Job], Feed]) -> None:
    """It says something, and the hub has heard that: what another says after it is here."""
    other = opened(a_job())
    hand.claim()
    hand.text(job, "a")
    hand.text(other.job, "b")
    assert shown([*other.read(5)]) == "b"


# rings for nobody -----------------------------------------------------------------------------------------------------
@pytest.mark.usefixtures("front")
def test_a_job_that_was_stored_after_its_request_had_failed_is_left(ledger: Ledger, hand: Hand) -> None:
    (front_end,) = until(ledger.front_end_beats)
    ledger.submit(a_job(), Limits(), front_end.who)  # sent again by the kernel when its line had healed
    job = hand.claim()

    until(lambda: hand.text(job, "a") and not watching(ledger, job))

    ledger.sweep(unwatched_s=0.0)
    assert hand.text(job, "b").cancelled == (job.id,)


def test_a_job_that_was_joined_by_a_request_that_failed_is_left(
    ledger: Ledger, hub: Hub, hand: Hand, opened: Callable[[Job], Feed]
) -> None:
    ledger.submit(a_job(), Limits(), "f1", ONCE)
    job = hand.claim()
    with pytest.raises(KnownJobError):
        ledger.submit(a_job(), Limits(), hub.front_end, ONCE)
    ledger.unwatch(job.id, "f1")

    rung(hand, job, opened)
    hub.leave_unheard()

    ledger.sweep(unwatched_s=0.0)
    assert hand.text(job, "b").cancelled == (job.id,)


@pytest.fixture
def own(tmp_path: Path) -> Iterator[Ledger]:
    """Of a server that the test may fill."""
    embedded = Embedded(Settings(data_dir=tmp_path))
    with closing(Ledger((embedded.start().url,))) as own:
        yield own
    embedded.stop()


def test_a_job_whose_last_reader_left_while_redis_was_full_is_left_later(own: Ledger) -> None:
    with closing(Hub(own)) as hub:
        hub.start()
        hub.wait_heard(0, 5)
        feed, hand = Feed(hub, own, a_job(), submit=submitter(own, hub)), Hand(own)
        feed.open()
        job = hand.claim()

        own.partitions[0].redis.config_set("maxmemory", 1)
        feed.close()
        own.partitions[0].redis.config_set("maxmemory", 2**30)
        before = watching(own, job)
        hand.text(job, "a")

        def is_left() -> bool:
            hub.leave_unheard()
            return not watching(own, job)

        until(is_left)
        assert before == [hub.front_end]


def test_a_job_that_rang_before_its_reader_had_come_is_kept(
    ledger: Ledger, hub: Hub, hand: Hand, opened: Callable[[Job], Feed]
) -> None:
    ledger.submit(a_job(), Limits(), hub.front_end)
    job = hand.claim()
    rung(hand, job, opened)

    with closing(Feed(hub, ledger, job)) as late:
        late.open()
        hub.leave_unheard()

        assert watching(ledger, job) == [hub.front_end]


# watched, and not heard of --------------------------------------------------------------------------------------------
def test_the_fifth_that_watches_reads_again_after_a_short_while(ledger: Ledger, hub: Hub, hand: Hand) -> None:
    ledger.submit(a_job(), Limits(), "f1")
    job = hand.claim()
    for front_end in ("f2", "f3", "f4"):
        ledger.watch(job.owner, job.id, front_end)
    hand.text(job, "a")

    with closing(Feed(hub, ledger, job)) as fifth:
        fifth.open()
        first = soon(fifth)
        hand.text(job, "b")

        assert (shown(first), shown(soon(fifth))) == ("a", "b")
        assert hub.front_end not in watching(ledger, job)


class Slow(Ledger):
    """One whose UNWATCH waits for a connection, and something else comes first."""

    def __init__(self, url: str) -> None:
        super().__init__((url,))
        self.meanwhile: Callable[[], None] = lambda: None

    def unwatch(self, job_id: str, front_end: str) -> None:
        self.meanwhile()
        super().unwatch(job_id, front_end)


@pytest.mark.parametrize("losses", [0, 3])  # of replies; each call is tried three times
def test_who_comes_back_while_its_last_stream_leaves_is_not_deaf(redis_url: str, hand: Hand, losses: int) -> None:
    with lossy(redis_url) as line, closing(Slow(line.url)) as slow, closing(Hub(slow)) as hub:
        hub.start()
        hub.wait_heard(0, 5)
        gone = Feed(hub, slow, a_job(), submit=submitter(slow, hub))
        gone.open()
        job = hand.claim()
        back = Feed(hub, slow, job)

        def come_back() -> None:
            back.open()
            back.read(0.05)
            line.losses = losses

        slow.meanwhile = come_back
        gone.close()
        slow.meanwhile = lambda: None
        hand.text(job, "a")

        assert shown(soon(back)) == "a"
        back.close()


# several partitions ---------------------------------------------------------------------------------------------------
def is_cancelled(ledger: Ledger, job: Job) -> bool:
    watched = ledger.read(job.owner, job.id)
    assert watched is not None
    return watched.state == "cancelled"


def test_a_dead_partition_does_not_stop_the_cancels_of_the_others(redis_url: str) -> None:
    with closing(Ledger((f"redis://127.0.0.1:{free_port()}/0", redis_url))) as half:
        hub = Hub(half)  # which nobody starts
        jobs = [a_job(id=new_id(number), grace_s=0.0) for number in (0, 1)]
        half.submit(jobs[1], Limits(), hub.front_end)
        sweeper = Sweeper(half, hub)
        for job in jobs:
            sweeper.lost(Feed(hub, half, job))
        sweeper.start()

        until(lambda: is_cancelled(half, jobs[1]))
        sweeper.close()


def test_a_partition_that_is_away_is_left_alone_until_a_beat_finds_it(redis_url: str) -> None:
    with (
        lossy(redis_url) as line,
        closing(Ledger((line.url, redis_url))) as ledger,
        closing(Ledger((redis_url, redis_url))) as straight,
    ):
        hub = Hub(ledger)  # which nobody starts
        jobs = [a_job(id=new_id(number), grace_s=0.0) for number in (0, 1)]
        sweeper = Sweeper(ledger, hub)
        line.losses = 3  # one call is tried that often
        hub.beat()
        for job in jobs:
            straight.submit(job, Limits(), hub.front_end)
            feed = Feed(hub, ledger, job)
            feed.orphan = "a" * 64
            sweeper.lost(feed)
        sweeper.start()

        until(lambda: is_cancelled(straight, jobs[1]))
        before = is_cancelled(straight, jobs[0])
        named = [part.redis.exists(keys.orphan(part.tag, "a" * 64)) for part in straight.partitions]
        hub.beat()

        until(lambda: is_cancelled(straight, jobs[0]))
        sweeper.close()
        assert (before, named) == (False, [0, 1])
