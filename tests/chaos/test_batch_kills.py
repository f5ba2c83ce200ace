"""A batch, while its processes die."""

import json
import random
import signal
import threading
from pathlib import Path
from typing import Any

import httpx2
import openai
import pytest

from tests.chaos.house import House, Size

ROWS, SEED = 400, 11
ENDED = {"failed", "completed", "expired", "cancelled"}
BROKEN = (openai.APIConnectionError, openai.InternalServerError, openai.APITimeoutError)


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_a_batch_answers_each_line_once_whoever_is_killed_meanwhile(tmp_path: Path) -> None:
    stop, chance = threading.Event(), random.Random(SEED)
    with House(tmp_path, Size(workers=2, front_ends=1, chores=2)) as house:
        assert house.wait_whole(stop)
        client = openai.OpenAI(base_url=f"{house.urls[0]}/v1", api_key="x", max_retries=4, timeout=20)
        with client:
            file = client.files.create(file=("in", _lines()), purpose="batch")
            batch = client.batches.create(input_file_id=file.id, endpoint="/v1/completions", completion_window="24h")
            kills = 0
            while (told := _told(client, batch.id)) is None or told.status not in ENDED:
                _kill(house, chance)
                kills += 1
                stop.wait(chance.uniform(0.5, 2.0))
            house.wait_whole(stop)
            answers = client.files.content(told.output_file_id or "").read().splitlines()

    found = [json.loads(line) for line in answers]
    assert (told.status, told.error_file_id) == ("completed", None)
    assert sorted(one["custom_id"] for one in found) == sorted(str(at) for at in range(ROWS))
    assert all(one["response"]["body"]["choices"][0]["text"] == _text(int(one["custom_id"])) for one in found)
    assert kills >= 5


def _lines() -> bytes:
    rows = []
    for at in range(ROWS):
        body = {"model": "counting", "prompt": f"count on: {at} ", "max_tokens": 60, "temperature": 0}
        rows.append({"custom_id": str(at), "method": "POST", "url": "/v1/completions", "body": body})
    return "\n".join(map(json.dumps, rows)).encode()


def _text(at: int) -> str:
    return " ".join(map(str, range(at + 1, at + 61)))[:60]


def _told(client: openai.OpenAI, batch_id: str) -> Any:
    try:
        return client.batches.retrieve(batch_id)
    except (*BROKEN, httpx2.HTTPError):
        return None


def _kill(house: House, chance: random.Random) -> None:
    """One of all processes, Redis among them."""
    kind = chance.choice(("worker", "engine", "chores", "chores", "redis", "front"))
    if kind == "redis":
        house.kill_redis()
        house.restart_redis()
        return
    services = {"front": house.front_ends, "chores": house.chores}.get(kind, house.workers)
    chance.choice(services).signal(signal.SIGKILL, "worker.boot" if kind == "engine" else "")
