"""More requests than can be kept: how soon the others hear their no, and what becomes of those that were taken.

``penstock up`` with the counting model and a short queue; every request goes the whole way through the door.
"""

import json
import statistics
import tempfile
import threading
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from http import HTTPStatus
from http.client import HTTPConnection
from pathlib import Path
from urllib.parse import urlsplit

from common.identity import Principal
from ops.bench.stack import Stack

_TOML = """
[[models]]
name = "counting"
path = "counting:?step_ms=20&answer=10000000"
slots = 4
"""
_WAITING, _CLIENTS, _REQUESTS = 100, 32, 2000
_WORDS = "Tell me how many there are of them. "


class Askers:
    """Clients who come again at once, whatever they hear; those who are taken leave it at that."""

    def __init__(self, url: str) -> None:
        self._address = urlsplit(url)
        self._lock = threading.Lock()
        self.statuses: Counter[int] = Counter()
        self.refused_ms: list[float] = []
        self.without_time = 0  # refusals that do not say when to come again

    def run(self) -> None:
        """All of them at once."""
        with ThreadPoolExecutor(_CLIENTS) as pool:
            list(pool.map(self._ask, [_REQUESTS // _CLIENTS] * _CLIENTS))

    def _ask(self, times: int) -> None:
        told = {"model": "counting", "prompt": _WORDS * 8, "max_tokens": 100, "on_disconnect": "finish", "stream": True}
        body, headers = json.dumps(told), {"Content-Type": "application/json"}
        for _ in range(times):
            connection = HTTPConnection(self._address.hostname or "", self._address.port, timeout=60)
            began = time.monotonic()
            connection.request("POST", "/v1/completions", body, headers)
            answer = connection.getresponse()
            spent = time.monotonic() - began
            with self._lock:
                self.statuses[answer.status] += 1
                if answer.status != HTTPStatus.OK:
                    self.refused_ms.append(1000 * spent)
                    self.without_time += not answer.getheader("Retry-After")
            connection.close()


def measure() -> dict[str, float]:
    """Flat figures."""
    with tempfile.TemporaryDirectory() as folder:
        stack = Stack(Path(folder), _TOML, limits__waiting_class=str(_WAITING))
        try:
            stack.wait_ready()
            askers = Askers(stack.url)
            askers.run()
            ended = _await_ends(stack)
        finally:
            stack.stop()
    cuts = statistics.quantiles(askers.refused_ms, n=100)
    return {
        "overload_taken": askers.statuses[HTTPStatus.OK],
        "overload_done": ended,
        "overload_refused_429": askers.statuses[HTTPStatus.TOO_MANY_REQUESTS],
        "overload_refused_p50_ms": round(cuts[49], 1),
        "overload_refused_p99_ms": round(cuts[98], 1),
        "overload_without_retry_after": askers.without_time,
    }


def _await_ends(stack: Stack) -> int:
    """How many of those that were taken are done, when none is left."""
    ledger = stack.ledger()
    while any(ledger.waiting("counting").values()) or any(one.free < one.slots for one in ledger.workers()):
        time.sleep(0.1)
    records = [ledger.record(Principal().owner, job_id) for job_id in ledger.owned(Principal().owner)]
    ledger.close()
    return sum(record is not None and record.state == "done" for record in records)
