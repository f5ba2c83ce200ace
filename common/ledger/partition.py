"""One Redis: its connections, its scripts, and the one place where Redis' errors become ours."""

from collections.abc import Callable
from importlib import resources
from typing import Any

import redis
from redis.backoff import ExponentialBackoff
from redis.retry import Retry

from common.errors import StorageError
from common.ledger import keys

_TIMEOUT_S = 2.0
_CONNECT_S = 1.0
_HEALTH_S = 10
_ENDING = ("submit", "claim", "emit", "watch", "unwatch", "cancel", "reap", "release", "beat", "sweep", "place")
_PLAIN = ("lease", "beat_front_end", "workers")
_AWAY = (redis.ConnectionError, redis.TimeoutError, redis.BusyLoadingError, redis.OutOfMemoryError, redis.ReadOnlyError)


def _text(name: str) -> str:
    return (resources.files(__package__) / f"{name}.lua").read_text()


class Partition:
    """A Redis that holds a part of all jobs.

    Every script may be sent twice: a repeat changes nothing (CLAIM by its request number, EMIT by its positions), so
    lost replies are retried here.
    """

    def __init__(self, url: str, number: int) -> None:
        self.number = number
        self.tag = keys.tag(number)
        self._url = url
        self.redis: Any = redis.Redis.from_url(  # its annotations mix bytes, text and awaitables
            url,
            protocol=2,
            socket_timeout=_TIMEOUT_S,
            socket_connect_timeout=_CONNECT_S,
            socket_keepalive=True,
            health_check_interval=_HEALTH_S,
            retry=Retry(ExponentialBackoff(cap=0.1, base=0.02), 2),
        )
        end_job = _text("end_job")
        self._scripts = {name: self.redis.register_script(end_job + _text(name)) for name in _ENDING}
        self._scripts |= {
            name: self.redis.register_script("local p = KEYS[1] .. ':'\n" + _text(name)) for name in _PLAIN
        }

    def run(self, script: str, *args: str | bytes | float) -> Any:
        """One atomic step. Raises StorageError."""
        return self.ask(lambda: self._scripts[script](keys=[self.tag], args=args))

    def ask(self, call: Callable[[], Any]) -> Any:
        """Any call to this Redis. Raises StorageError."""
        try:
            return call()
        except _AWAY as error:
            raise StorageError("The store does not answer; try again later.", retry_after_s=2) from error
        except redis.ResponseError as error:
            if str(error).startswith(("OOM", "LOADING", "MISCONF")) or "OOM command" in str(error):
                raise StorageError("The store is full or not ready; try again later.", retry_after_s=5) from error
            raise

    def subscriber(self) -> Any:
        """A client of its own for pub/sub: silence is normal there."""
        return redis.Redis.from_url(
            self._url,
            protocol=2,
            socket_timeout=None,
            socket_connect_timeout=_CONNECT_S,
            socket_keepalive=True,
            health_check_interval=_HEALTH_S,
            retry=Retry(ExponentialBackoff(cap=0.1, base=0.02), 0),
        )

    def close(self) -> None:
        """Give all connections back."""
        self.redis.close()
