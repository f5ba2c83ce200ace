"""Logs and metrics: one set-up, one list of names.

Logs carry ids, never what was said: known secrets are dropped wherever they turn up as a field.
"""

import logging
import sys
from typing import Any

import structlog
from prometheus_client import Counter, Gauge, Histogram

from common.settings import Settings

_SECRET = {"authorization", "api_key", "h2ogpt_key", "user", "password", "body", "prompt", "messages"}
_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120)

REQUESTS = Counter("penstock_requests_total", "Requests by endpoint and status", ["endpoint", "status"])
FIRST_TOKEN = Histogram("penstock_time_to_first_token_seconds", "From request to first text", buckets=_SECONDS)
DURATION = Histogram("penstock_e2e_request_latency_seconds", "From request to last item", buckets=_SECONDS)
STREAMS = Gauge("penstock_streams", "Open answers", multiprocess_mode="livesum")


def logger(part: str) -> Any:
    """The logger of a part of the house."""
    return structlog.get_logger(part=part)


def configure(settings: Settings) -> None:
    """Once a process: where logs go and how they look."""
    as_console = settings.log_format == "console" or (settings.log_format is None and sys.stderr.isatty())
    level = getattr(logging, settings.log_level.upper())
    logging.basicConfig(level=logging.WARNING, format="%(message)s", stream=sys.stderr, force=True)
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper("iso", utc=True),
            _drop_secrets,
            structlog.processors.format_exc_info,
            structlog.dev.ConsoleRenderer() if as_console else structlog.processors.JSONRenderer(),
        ],
        wrapper_class=structlog.make_filtering_bound_logger(level),
        logger_factory=structlog.WriteLoggerFactory(sys.stderr),
        cache_logger_on_first_use=False,
    )


def _drop_secrets(_logger: Any, _method: str, event: structlog.typing.EventDict) -> structlog.typing.EventDict:
    return {name: value for name, value in event.items() if name.lower() not in _SECRET}
