import base64
import json
import socket
import time
from collections.abc import Iterator
from typing import Any

import pytest

from common import broker
from common.broker import Tickets
from common.settings import Model, Settings
from ops.embedded import free_port

SLOTS = 4
WINDOW = 2 * SLOTS + 64
QUEUE = "llm.org/m"


@pytest.fixture
def settings(settings: Settings) -> Settings:
    return settings.model_copy(update={"models": (Model(name="org/m", path="nowhere", slots=SLOTS),)})


@pytest.fixture
def tickets(settings: Settings) -> Iterator[Tickets]:
    tickets = Tickets(settings)
    yield tickets
    tickets.close()


@pytest.fixture
def away(settings: Settings) -> Iterator[Tickets]:
    """For a broker that is not there."""
    tickets = Tickets(settings.model_copy(update={"broker_url": f"redis://127.0.0.1:{free_port()}/0"}))
    yield tickets
    tickets.close()


def test_a_ticket_is_json_and_says_only_whom_it_wakes(tickets: Tickets, raw: Any) -> None:
    assert tickets.send("org/m")

    (message,) = map(json.loads, raw.lrange(QUEUE, 0, -1))
    args, kwargs, _ = json.loads(base64.b64decode(message["body"]))
    assert (message["content-type"], message["headers"]["task"]) == ("application/json", "llm.ticket")
    assert (args, kwargs) == ([], {"model": "org/m"})


def test_the_length_of_a_queue_that_nobody_used_is_nothing(tickets: Tickets) -> None:
    assert broker.length(tickets._app, "org/m") == 0


def test_nobody_sends_more_tickets_than_workers_could_take_soon(tickets: Tickets, raw: Any) -> None:
    sent = [tickets.send("org/m") for _ in range(WINDOW + 3)]

    assert sent == [True] * WINDOW + [False] * 3
    assert raw.llen(QUEUE) == WINDOW


def test_tickets_are_sent_again_when_some_were_taken(tickets: Tickets, raw: Any) -> None:
    raw.lpush(QUEUE, *["{}"] * WINDOW)
    assert not tickets.send("org/m")

    raw.ltrim(QUEUE, 0, WINDOW - 2)
    _until_sampled(tickets)

    assert [tickets.send("org/m") for _ in range(2)] == [True, False]


def test_what_is_missing_is_sent_and_not_more(tickets: Tickets, raw: Any) -> None:
    tickets.send("org/m")

    assert tickets.reconcile("org/m", 3) == 2
    assert tickets.reconcile("org/m", 3) == 0
    assert raw.llen(QUEUE) == 3


def test_the_reconciler_keeps_to_the_window_as_well(tickets: Tickets, raw: Any) -> None:
    assert tickets.reconcile("org/m", 10_000) == WINDOW
    assert raw.llen(QUEUE) == WINDOW


def test_a_broker_that_is_away_is_not_waited_for(away: Tickets) -> None:
    assert [away.send("org/m") for _ in range(100)] == [False] * 100


def test_a_broker_that_hangs_is_waited_for_once(settings: Settings) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"redis://127.0.0.1:{silent.getsockname()[1]}/0"
        tickets = Tickets(settings.model_copy(update={"broker_url": url}))
        began = time.monotonic()

        sent = [tickets.send("org/m") for _ in range(10)]

        tickets.close()
    assert sent == [False] * 10
    assert time.monotonic() - began < 6  # each alone would take a second


def test_nothing_is_missing_while_nobody_can_tell(away: Tickets) -> None:
    assert (away.missing("org/m", 5), away.reconcile("org/m", 5)) == (0, 0)


def test_a_broker_that_came_back_is_used_again(tickets: Tickets, raw: Any) -> None:
    limit = raw.config_get("maxmemory")["maxmemory"]
    raw.config_set("maxmemory", 1)
    refused = tickets.send("org/m")
    raw.config_set("maxmemory", limit)

    assert not refused
    end = time.monotonic() + 10
    while not tickets.send("org/m"):
        assert time.monotonic() < end
        time.sleep(0.05)
    assert raw.llen(QUEUE) == 1


def _until_sampled(tickets: Tickets) -> None:
    """The length is read twice a second at most."""
    end = time.monotonic() + 10
    while tickets.waiting("org/m") == WINDOW:
        assert time.monotonic() < end
        time.sleep(0.05)
