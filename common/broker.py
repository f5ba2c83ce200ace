"""Celery carries tickets: messages that only wake an idle worker of a model.

A ticket holds no prompt and belongs to no job, so a lost, doubled or late one does no harm.
"""

import math
import threading
import time
from typing import Any

import structlog
from celery import Celery
from kombu import Exchange, Queue
from kombu.exceptions import ChannelError, KombuError, OperationalError

from common.settings import Settings

TICKET = "llm.ticket"
_EXCHANGE = Exchange("llm", type="direct")
_SAMPLE_S = 0.5
_SPARE = 64
_ANSWER_S = 1.0
_AWAY_S = 1.0  # a request must not wait for a broker that has just not answered another
log = structlog.get_logger(part="broker")

_CONFIG: dict[str, Any] = {
    # Tickets are data we wrote; nothing is unpickled.
    "task_serializer": "json",
    "accept_content": ["json"],
    "event_serializer": "json",
    # The ledger keeps results.
    "result_backend": None,
    "task_ignore_result": True,
    # A full worker holds one ticket and leaves the others to its neighbours.
    "worker_prefetch_multiplier": 1,
    "worker_disable_prefetch": True,
    "task_acks_late": True,
    # A ticket only wakes: nothing is lost with it, nothing is gained by counting it twice.
    "worker_enable_prefetch_count_reduction": False,
    "worker_cancel_long_running_tasks_on_connection_loss": False,
    # Redis may come back any time; the worker outlives its absence.
    "broker_connection_retry_on_startup": True,
    "broker_connection_max_retries": None,
    "broker_transport_options": {
        "visibility_timeout": 604_800,  # Celery must never redeliver; lost tickets are healed elsewhere
        "socket_timeout": 5,  # half-open connections are found
        "socket_connect_timeout": 1,
        "socket_keepalive": True,
        "health_check_interval": 5,
        "retry_on_timeout": False,
        # kombu's default channel would otherwise try for ever, inside a request.
        "max_retries": 1,
        "interval_start": 0,
        "interval_step": 0.05,
        "interval_max": 0.05,
    },
    # A request must not wait for the broker: the reconciler sends what was not sent.
    "task_publish_retry": True,
    "task_publish_retry_policy": {"max_retries": 2, "interval_start": 0.05, "interval_step": 0.05, "interval_max": 0.1},
    # No chatter: who lives is said by beats in the ledger.
    "worker_enable_remote_control": False,
    "worker_send_task_events": False,
    # Our processes, our logs, our signals.
    "worker_hijack_root_logger": False,
    "worker_redirect_stdouts": False,
    "worker_soft_shutdown_timeout": 0,
}


def queue(model: str) -> Queue:
    """The queue of a model's tickets."""
    name = f"llm.{model}"
    return Queue(name, _EXCHANGE, routing_key=name)


def celery_app(settings: Settings) -> Celery:
    """Celery, told all of the above."""
    app = Celery("penstock", broker=settings.broker, set_as_current=False)
    app.conf.update(_CONFIG)
    app.conf.task_queues = [queue(model.name) for model in settings.models]
    return app


def length(app: Celery, model: str) -> int:
    """Tickets in a model's queue. Raises KombuError."""
    with app.pool.acquire(block=True, timeout=1) as connection:
        try:
            return int(connection.default_channel.queue_declare(queue(model).name, passive=True).message_count)
        except ChannelError:  # an empty queue does not exist
            return 0
        except connection.connection_errors + connection.channel_errors as error:
            raise OperationalError(str(error)) from error


class Tickets:
    """Sends tickets; skips while enough of them wait, and for a moment after the broker did not answer."""

    def __init__(self, settings: Settings) -> None:
        self._app = celery_app(settings)
        self._app.conf.broker_transport_options = _CONFIG["broker_transport_options"] | {"socket_timeout": _ANSWER_S}
        self._most = {model.name: 2 * model.slots + _SPARE for model in settings.models}
        self._lock = threading.Lock()
        self._sampled: dict[str, tuple[float, int]] = {}  # model -> when, tickets in its queue (sent since included)
        self._away_until = 0.0

    def send(self, model: str) -> bool:
        """Wake a worker of ``model``; False when it was skipped, or could not be sent (the reconciler will)."""
        if time.monotonic() < self._away_until:
            return False
        try:
            if self.waiting(model) >= self._most[model]:
                return False
            self._app.send_task(
                TICKET, kwargs={"model": model}, queue=queue(model), headers={"v": 1}, ignore_result=True
            )
        except KombuError as error:
            self._fail(model, error)
            return False
        with self._lock:
            at, count = self._sampled[model]
            self._sampled[model] = (at, count + 1)
        return True

    def waiting(self, model: str) -> int:
        """Tickets in the queue, read at most every half second. Raises KombuError."""
        with self._lock:
            at, count = self._sampled.get(model, (-math.inf, 0))
        now = time.monotonic()
        if now - at < _SAMPLE_S:
            return count
        count = length(self._app, model)
        with self._lock:
            self._sampled[model] = (now, count)
        return count

    def missing(self, model: str, waiting_jobs: int) -> int:
        """How many tickets there should be, but are not: one for each waiting job, up to the window."""
        try:
            return max(0, min(waiting_jobs, self._most[model]) - self.waiting(model))
        except KombuError as error:
            self._fail(model, error)
            return 0

    def reconcile(self, model: str, waiting_jobs: int) -> int:
        """Send what is missing. Returns how many were sent."""
        return sum(self.send(model) for _ in range(self.missing(model, waiting_jobs)))

    def close(self) -> None:
        """Give all connections back."""
        self._app.close()

    def _fail(self, model: str, error: KombuError) -> None:
        self._away_until = time.monotonic() + _AWAY_S
        log.warning("the broker does not answer", model=model, error=type(error).__name__)
