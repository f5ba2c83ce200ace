"""What is written where it is heard, while the stream that it belongs to waits."""

import math
from collections.abc import Callable, Generator, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor

import gevent.socket
import pytest

from api.connection import Connection
from api.feed import Feed, Push
from api.hub import Hub
from api.stream import Sink, Sse
from common.jobs import Delta, Entry, Job
from common.ledger.ledger import Ledger
from common.render import chat
from tests.api.hand import Hand
from tests.api.test_feed import STREAMED
from tests.builders import a_job
from tests.waiting import until

Opened = Callable[[Job], Feed]


class Taker:
    """Takes what is pushed, while there is room."""

    def __init__(self, room: int = 1000) -> None:
        self.room = room
        self.taken: list[Entry] = []

    def __call__(self, entries: Sequence[Entry]) -> bool:
        self.taken += entries
        return len(self.taken) < self.room

    @property
    def text(self) -> str:
        return text(self.taken)


def text(entries: Sequence[Entry]) -> str:
    return "".join(entry.event.text for entry in entries if isinstance(entry.event, Delta))


def until_waiting(feed: Feed) -> None:
    until(lambda: feed.wake_at < math.inf)


class Reader:
    """A stream that has begun, and its next look at the feed, in a thread of its own."""

    def __init__(self, feed: Feed, hand: Hand, pool: ThreadPoolExecutor) -> None:
        self.feed, self.hand, self._pool = feed, hand, pool
        self.job = hand.claim()
        hand.text(self.job, "a")
        assert text(feed.read(5)) == "a"

    def waits(self, push: Push, timeout_s: float = 20) -> Future[Sequence[Entry]]:
        """When it does."""
        reading = self._pool.submit(self.feed.read, timeout_s, push)
        until_waiting(self.feed)
        return reading


@pytest.fixture
def reader(ledger: Ledger, opened: Opened) -> Iterator[Reader]:
    with ThreadPoolExecutor(1) as pool:
        yield Reader(opened(a_job(reply=STREAMED)), Hand(ledger), pool)


def test_what_comes_while_a_reader_waits_does_not_wake_it(reader: Reader) -> None:
    taker = Taker()
    reading = reader.waits(taker)

    reader.hand.text(reader.job, "b")
    reader.hand.text(reader.job, "c", "d")
    until(lambda: taker.text == "bcd")

    assert not reading.done()
    assert [entry.seq for entry in taker.taken] == [2, 3, 4]
    reader.hand.end(reader.job, "e")
    assert [entry.seq for entry in reading.result(20)] == [5, 6, 7]  # the end is the reader's
    assert (taker.text, reader.feed.is_over) == ("bcd", True)


def test_a_reader_is_woken_when_there_is_no_room_for_more(reader: Reader) -> None:
    taker = Taker(room=2)
    reading = reader.waits(taker)

    reader.hand.text(reader.job, "b", "c")

    assert (reading.result(20), taker.text) == ([], "bc")


def test_what_cannot_be_pushed_is_read(reader: Reader) -> None:
    def broken(_entries: Sequence[Entry]) -> bool:
        raise ValueError

    reading = reader.waits(broken)

    reader.hand.text(reader.job, "b")

    assert text(reading.result(20)) == "b"


def test_behind_a_ring_that_was_lost_nothing_is_pushed(reader: Reader, ledger: Ledger, hub: Hub) -> None:
    taker = Taker()
    reading = reader.waits(taker)

    ledger.unwatch(reader.job.id, hub.front_end)  # deaf
    reader.hand.text(reader.job, "b")
    ledger.watch(reader.job.owner, reader.job.id, hub.front_end)
    reader.hand.text(reader.job, "c")

    assert (reading.result(20), taker.taken) == ([], [])
    assert text(reader.feed.read(5)) == "bc"


def test_a_wait_in_which_something_was_pushed_was_no_quiet_one(reader: Reader, ledger: Ledger, hub: Hub) -> None:
    taker = Taker()
    reading = reader.waits(taker, 1)

    reader.hand.text(reader.job, "b")
    until(lambda: taker.taken)
    ledger.unwatch(reader.job.id, hub.front_end)  # deaf
    reader.hand.text(reader.job, "c")

    assert (reading.result(20), taker.text) == ([], "b")
    assert text(reader.feed.read(0.1, taker)) == "c"  # nobody rang: a reason to look


def stream(feed: Feed, sink: Sink | None = None) -> Generator[bytes]:
    return iter(Sse(feed, chat.frames(feed.job), lambda *_: None, 20, sink))


class Paper:
    """A sink that keeps what is written."""

    def __init__(self) -> None:
        self.blocks: list[bytes] = []

    def offer(self, block: bytes) -> bool:
        self.blocks.append(block)
        return True

    def flush(self) -> None:
        self.blocks.append(b"")


def test_a_stream_writes_the_same_blocks_itself_and_where_they_are_heard(ledger: Ledger, opened: Opened) -> None:
    job, paper, hand = a_job(reply=STREAMED), Paper(), Hand(ledger)
    feed, other = opened(job), opened(job)
    pushed, asked = stream(feed, paper), stream(other)
    claimed = hand.claim()
    hand.text(claimed, "a")
    begun = [next(pushed) + next(pushed), next(asked) + next(asked)]
    with ThreadPoolExecutor(1) as pool:
        end = pool.submit(list, pushed)
        until_waiting(feed)
        hand.text(claimed, "b")
        until(lambda: paper.blocks)
        hand.text(claimed, "c", "d")
        until(lambda: paper.blocks[1:])
        hand.end(claimed, "e")
        ended = b"".join(end.result(20))

    assert begun[0] == begun[1]
    assert paper.blocks[0].count(b"data: ") == 1
    assert b"".join(paper.blocks) + ended == b"".join(asked)


@pytest.fixture
def ends() -> Iterator[tuple[Connection, gevent.socket.socket]]:
    ours, theirs = gevent.socket.socketpair()
    with Connection(fileno=ours.detach()) as connection, theirs:
        connection.write = connection.sendall
        yield connection, theirs


def test_an_offer_never_waits_and_the_rest_comes_first(ends: tuple[Connection, gevent.socket.socket]) -> None:
    connection, reader = ends
    long = bytes(range(256)) * 2**13

    assert connection.offer(b"begin")
    assert not connection.offer(long)
    assert not connection.offer(b"more")
    reading = gevent.spawn(lambda: b"".join(iter(lambda: reader.recv(2**17), b"")))
    connection.flush()
    connection.sendall(b"end")
    connection.close()

    assert reading.get() == b"begin" + long + b"more" + b"end"


def test_whoever_may_wait_learns_that_the_client_has_gone(ends: tuple[Connection, gevent.socket.socket]) -> None:
    connection, reader = ends
    reader.close()

    assert not connection.offer(b"a")
    with pytest.raises(BrokenPipeError):
        connection.flush()


class Full(Paper):
    """A client who takes nothing, and then is gone."""

    def offer(self, block: bytes) -> bool:
        return super().offer(block) and False

    def flush(self) -> None:
        raise BrokenPipeError


def test_a_client_who_went_meanwhile_is_the_servers_business(ledger: Ledger, opened: Opened) -> None:
    feed, paper, hand = opened(a_job(reply=STREAMED)), Full(), Hand(ledger)
    told, claimed = stream(feed, paper), hand.claim()
    hand.text(claimed, "a")
    next(told), next(told)

    with ThreadPoolExecutor(1) as pool:
        end = pool.submit(list, told)
        until_waiting(feed)
        hand.text(claimed, "b")

        assert isinstance(end.exception(20), BrokenPipeError)
    assert len(paper.blocks) == 1
