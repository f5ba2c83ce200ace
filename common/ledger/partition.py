"""One Redis: its connections, its scripts, and the one place where Redis' errors become ours."""

import re
from collections.abc import Callable, Sequence
from importlib import resources
from typing import Any, TypeVar

import redis
from redis.backoff import ExponentialBackoff
from redis.retry import Retry

from common.errors import StorageError
from common.ledger import keys, wire

_CONNECTIONS = 64  # whoever finds all of them busy waits for one
_TIMEOUT_S = 2.0
_CONNECT_S = 1.0
_HEALTH_S = 10
_TRIES = 2  # beyond the first
_ENDING = ("submit", "claim", "emit", "watch", "unwatch", "cancel", "reap", "release", "beat", "sweep")
_READING = ("place", "full", "record", "owned")  # with the same words
_OF_FILES = ("put_file", "drop_file", "put_batch", "move_batch", "feed_batch", "collect_batch")
_OF_WEBHOOKS = ("put_webhook", "drop_webhook", "due_webhooks", "next_delivery", "mark_delivery")
_PLAIN = ("lease", "beat_front_end", "workers", *_OF_FILES, *_OF_WEBHOOKS)
_AWAY = (
    redis.ConnectionError,
    redis.TimeoutError,
    redis.exceptions.NoScriptError,  # it died after it was told the script, and is back without it
)
_NOT_READY = re.compile("(^|-)(OOM|LOADING|BUSY|MISCONF|MASTERDOWN|NOREPLICAS) ")  # Redis 6.2 quotes a script's error
_DEMOTED = "-READONLY "  # so quoted
T = TypeVar("T")


def _text(name: str) -> str:
    return (resources.files(__package__) / f"{name}.lua").read_text()


class Partition:
    """A Redis that holds a part of all jobs.

    Every script may be sent twice and changes nothing the second time (CLAIM and BEAT by their names, EMIT by its
    positions), so a lost reply is asked for again here.
    """

    def __init__(self, url: str, number: int) -> None:
        self.number = number
        self.tag = keys.tag(number)
        self.is_away = False  # it did not answer the last call
        self._line = {"protocol": 2, "socket_connect_timeout": _CONNECT_S, "socket_keepalive": True}
        self._url = url
        pool = redis.BlockingConnectionPool.from_url(
            url,
            max_connections=_CONNECTIONS,
            timeout=_TIMEOUT_S,
            socket_timeout=_TIMEOUT_S,
            health_check_interval=_HEALTH_S,
            retry=Retry(ExponentialBackoff(cap=0.1, base=0.02), _TRIES),
            **self._line,
        )
        self.redis: Any = redis.Redis.from_pool(pool)  # its annotations mix bytes, text and awaitables
        plain = _text("announce") + _text("once")
        ending = plain + wire.lua_items() + _text("end_job")
        texts = {name: plain + _text(name) for name in _PLAIN} | {
            name: ending + _text(name) for name in _ENDING + _READING
        }
        self._scripts = {name: self.redis.register_script(text) for name, text in texts.items()}

    def run(self, script: str, *args: str | bytes | float) -> Any:
        """One atomic step. Raises StorageError."""
        return self.ask(lambda: self._scripts[script](keys=[self.tag], args=args))

    def run_each(self, script: str, calls: Sequence[Sequence[str | bytes | float]]) -> list[Any]:
        """As many atomic steps in one round trip; those of others may come between. Raises StorageError."""

        def call() -> list[Any]:
            pipeline = self.redis.pipeline(transaction=False)
            for args in calls:
                self._scripts[script](keys=[self.tag], args=args, client=pipeline)
            replies: list[Any] = pipeline.execute(raise_on_error=False)  # which would change their words
            for reply in replies:
                if isinstance(reply, Exception):
                    raise reply
            return replies

        return self.ask(call)

    def ask(self, call: Callable[[], T]) -> T:
        """Any call to this Redis. Raises StorageError."""
        try:
            answer = call()
        except redis.RedisError as error:
            is_demoted = isinstance(error, redis.ReadOnlyError) or _DEMOTED in str(error)
            if is_demoted:  # it would say so for ever, and its name leads to another by now
                self.redis.connection_pool.disconnect(inuse_connections=False)
            self.is_away = is_demoted or isinstance(error, _AWAY)
            if self.is_away:
                raise StorageError("The storage does not answer; try again later.", retry_after_s=2) from error
            if isinstance(error, redis.OutOfMemoryError) or _NOT_READY.search(str(error)):
                raise StorageError("The storage is full or not ready; try again later.", retry_after_s=5) from error
            raise
        self.is_away = False
        return answer

    def subscriber(self) -> Any:
        """A client of its own for pub/sub: silence is normal there, pings find out whether the line is cut."""
        return redis.Redis.from_url(
            self._url,
            socket_timeout=_TIMEOUT_S,  # of the handshake: whoever listens says how long
            health_check_interval=_HEALTH_S,
            retry=Retry(ExponentialBackoff(cap=0.1, base=0.02), 0),
            **self._line,
        )

    def fullness(self) -> float:
        """used_memory ÷ maxmemory; 0 without a limit."""
        memory: dict[str, int] = self.ask(lambda: self.redis.info("memory"))
        return memory["used_memory"] / memory["maxmemory"] if memory.get("maxmemory") else 0.0

    def close(self) -> None:
        """Give all connections back."""
        self.redis.close()
