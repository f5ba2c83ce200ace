"""Subscriptions: who waits for a job's items, or for a job, hears of it at once.

Only stdlib threading primitives: the same code runs on greenlets and on threads.
"""

import threading
import time
from collections.abc import Callable, Sequence

import redis

from common import telemetry
from common.ledger import wire
from common.ledger.partition import Partition
from common.ledger.replies import Ring

_CONFIRM_S = 2.0
_MOST_PINGS = 8  # without an answer
_RETRY_S = (0.02, 0.25)
_TURN_S, _REST_S = 0.008, 0.001  # of handing rings on before others may run: keeps short requests quick
_LISTEN_S = 0.25  # how soon a stop is seen
log = telemetry.logger("bell")


class Bell:
    """A subscription in one partition: quick, may lose a ring."""

    def __init__(self, partition: Partition, channel: str) -> None:
        """Nothing is opened before ``subscribe``."""
        self.partition = partition.number
        self._client = partition.subscriber()
        self._pubsub = self._client.pubsub()
        self._channel = channel

    def subscribe(self) -> None:
        """Subscribe and wait for the confirmation: from now on we hear all. Raises redis.RedisError."""
        self._pubsub.close()
        self._pubsub = self._client.pubsub()
        self._pubsub.subscribe(self._channel)
        if self._pubsub.get_message(timeout=_CONFIRM_S) is None:
            raise redis.TimeoutError("the subscription was not confirmed")

    def listen(self, timeout_s: float) -> Sequence[Ring] | None:
        """The next message's rings; None when nothing came in time. Raises redis.RedisError when the line is lost."""
        message = self._pubsub.get_message(timeout=timeout_s)
        if message is None and self._pubsub.health_check_response_counter > _MOST_PINGS:
            raise redis.TimeoutError("no answer to pings")  # a cut line is silent, and so is a quiet one
        if message is None or message["type"] != "message":
            return None
        return [wire.ring(record) for record in message["data"].split(b"\x1e")]

    def close(self) -> None:
        """Give the connection back."""
        self._pubsub.close()
        self._client.close()


class Line:
    """A subscription for as long as the process lives: where it was cut it is taken up again."""

    def __init__(self, bell: Bell, take: Callable[[Ring], None], renewed: Callable[[], None]) -> None:
        """Nothing is opened yet. ``renewed``: it is heard again, and rings may have been lost."""
        self.hears = threading.Event()
        self._bell, self._take, self._renewed = bell, take, renewed
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="bell", daemon=True)

    def start(self) -> None:
        """Begin."""
        self._thread.start()

    def stop(self) -> None:
        """End soon."""
        self._stopping.set()
        self._thread.join()

    def _run(self) -> None:
        delay, most = _RETRY_S
        while not self._stopping.is_set():
            try:
                self._bell.subscribe()
                self._renewed()
                self.hears.set()
                delay = _RETRY_S[0]
                self._listen()
            except Exception as error:  # noqa: BLE001  whatever it is, this line must be heard again
                if self.hears.is_set() or delay == _RETRY_S[0]:
                    log.warning("line lost", partition=self._bell.partition, reason=type(error).__name__)
                self.hears.clear()
                self._stopping.wait(delay)
                delay = min(2 * delay, most)
        self._bell.close()

    def _listen(self) -> None:
        turn = time.monotonic()
        while not self._stopping.is_set():
            for ring in self._bell.listen(_LISTEN_S) or ():
                self._take(ring)
                if time.monotonic() - turn > _TURN_S:
                    time.sleep(_REST_S)  # after a sleep(0) gevent looks at sockets only every fiftieth time
                    turn = time.monotonic()
