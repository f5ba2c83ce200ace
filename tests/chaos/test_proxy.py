from collections.abc import Iterator
from typing import Any

import pytest
import redis

from tests.chaos.proxy import Line, Lines


@pytest.fixture
def line(redis_url: str) -> Iterator[Line]:
    with Lines(redis_url) as lines:
        yield lines.line()


@pytest.fixture
def client(line: Line) -> Iterator[Any]:
    client: Any = redis.Redis.from_url(line.url, socket_timeout=0.3, retry=None)
    client.ping()
    yield client
    client.close()


def test_a_line_that_is_cut_answers_again_when_it_is_healed(line: Line, client: Any) -> None:
    line.cut()
    with pytest.raises(redis.ConnectionError):
        client.incr("n")
    line.heal()

    assert client.incr("n") == 1


def test_what_is_sent_on_a_stalled_line_arrives_later(line: Line, client: Any, redis_url: str) -> None:
    line.stall()
    with pytest.raises(redis.TimeoutError):
        client.incr("n")
    line.heal()

    assert client.ping()
    with redis.Redis.from_url(redis_url) as straight:
        assert straight.get("n") in {None, b"1"}  # its connection may have been given up first


def test_a_lost_reply_is_that_of_a_call_that_was_made(line: Line, client: Any) -> None:
    line.lose(1)
    with pytest.raises(redis.ConnectionError):
        client.incr("n")

    assert client.incr("n") == 2
