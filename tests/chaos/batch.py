"""A batch, while its processes die: ``make chaos ROWS=5000``."""

import json
import random
import signal
import threading
from collections import Counter
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import httpx2
import openai

from tests.chaos.house import House, Size

_TOKENS = 60  # of a row
_PAUSES_S = (0.5, 2.0)  # between two kills
_ENDED = {"failed", "completed", "expired", "cancelled"}
_BROKEN = (openai.APIConnectionError, openai.InternalServerError, openai.APITimeoutError, httpx2.HTTPError)


@dataclass(frozen=True)
class Outcome:
    """What became of the rows."""

    seed: int
    rows: int
    kills: int
    status: str
    lost: int  # rows without a line
    doubled: int  # rows with more than one
    wrong: int  # lines that say something else than they should
    seconds: int

    def is_good(self) -> bool:
        """Each row is answered once, and rightly."""
        return self.status == "completed" and not (self.lost or self.doubled or self.wrong)

    def told(self) -> dict[str, Any]:
        """For people and files."""
        return asdict(self)


def killed(folder: Path, rows: int, seed: int, stop: threading.Event, say: Callable[[str], None]) -> Outcome:
    """A batch of so many rows, and a kill -9 of some process every second or so until it is over."""
    chance, kills = random.Random(seed), 0
    with House(folder, Size(workers=2, front_ends=1, chores=2)) as house:
        house.wait_whole(stop)
        with openai.OpenAI(base_url=f"{house.urls[0]}/v1", api_key="x", max_retries=8, timeout=20) as client:
            file = client.files.create(file=("in", _lines(rows)), purpose="batch")
            batch = client.batches.create(input_file_id=file.id, endpoint="/v1/completions", completion_window="24h")
            while ((told := _told(client, batch.id)) is None or told.status not in _ENDED) and not stop.is_set():
                _kill(house, chance)
                kills += 1
                say(f"{kills} kills, {told and told.request_counts.completed} rows")
                stop.wait(chance.uniform(*_PAUSES_S))
            house.wait_whole(threading.Event())
            told = client.batches.retrieve(batch.id)
            files = [name for name in (told.output_file_id, told.error_file_id) if name]
            lines = [json.loads(line) for name in files for line in client.files.content(name).read().splitlines()]
    spent = (told.completed_at or told.created_at) - told.created_at
    return _outcome(lines, Outcome(seed, rows, kills, told.status, 0, 0, 0, spent))


def _outcome(lines: list[dict[str, Any]], run: Outcome) -> Outcome:
    count = Counter(line["custom_id"] for line in lines)
    return replace(
        run,
        lost=sum(not count[str(at)] for at in range(run.rows)),
        doubled=sum(times - 1 for times in count.values()),
        wrong=sum(not _is_right(line) for line in lines),
    )


def _is_right(line: dict[str, Any]) -> bool:
    if line["response"]["status_code"] != httpx2.codes.OK:
        return False
    text = " ".join(map(str, range(int(line["custom_id"]) + 1, int(line["custom_id"]) + 1 + _TOKENS)))
    return bool(line["response"]["body"]["choices"][0]["text"] == text[:_TOKENS])


def _lines(rows: int) -> bytes:
    lines = []
    for at in range(rows):
        body = {"model": "counting", "prompt": f"count on: {at} ", "max_tokens": _TOKENS, "temperature": 0}
        lines.append({"custom_id": str(at), "method": "POST", "url": "/v1/completions", "body": body})
    return "\n".join(map(json.dumps, lines)).encode()


def _told(client: openai.OpenAI, batch_id: str) -> Any:
    try:
        return client.batches.retrieve(batch_id)
    except _BROKEN:
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
