"""Redis came back with nothing: nothing can be saved, and everything is said honestly."""

import json
import threading
from pathlib import Path

import pytest

from tests.chaos.clients import Client
from tests.chaos.history import Question
from tests.chaos.house import House, Size
from tests.chaos.wire import Call


@pytest.mark.slow
@pytest.mark.timeout(120)
def test_redis_that_forgot_everything_is_gone_on_with(tmp_path: Path) -> None:
    stop = threading.Event()
    asked = _question("cut", 5000)
    with House(tmp_path, Size(workers=1, front_ends=1, chores=1)) as house:
        assert house.wait_whole(stop)
        client = Client(house.urls, 1, 1, stop)
        ended = client.ask(_question("ended", 20))
        engines = [process.pid for process in house.workers[0].family()]
        with Call(house.urls[0], "POST", "/v1/completions", asked.body()) as call:
            blocks = call.blocks()
            told = [next(blocks)]
            house.empty_redis()
            house.restart_redis()
            told += blocks
        assert house.wait_whole(stop)
        again = client.ask(_question("again", 50))
        with Call(house.urls[0], "GET", f"/v1/jobs/job_{ended.jobs()[-1]}") as call:
            forgotten = call.answer().status
        kept = [process.pid for process in house.workers[0].family()]

    text = "".join(json.loads(body)["choices"][0]["text"] for number, body in told if number)
    assert (ended.end, again.end) == ("done", "done"), again.errors
    assert text
    assert asked.answer()[0].startswith(text)
    assert json.loads(told[-1][1])["error"]["code"] == "storage_unavailable"
    assert forgotten == 404
    assert kept == engines


def _question(name: str, tokens: int) -> Question:
    return Question(name, "stream", "count on: 7 ", tokens, has_key=False, on_disconnect="cancel")
