"""What is checked before anything is started: each refusal is one sentence and an exit status."""

import errno
import os
import socket
from typing import Any

from api.auth import Gate, is_loopback
from common import settings as told
from common.checkpoints import complaint
from common.settings import Model, Settings, SettingsError
from ops.embedded import Embedded, EmbeddedError, Server, external

WRONG = 2  # usage, settings
UNREACHABLE = 3


class Refusal(Exception):  # noqa: N818  it is what we do
    """Why nothing was started."""

    def __init__(self, sentence: str, status: int = WRONG) -> None:
        super().__init__(sentence)
        self.status = status


def settings(**changes: Any) -> Settings:
    """Those of this process; None among the changes means: not said. Raises Refusal."""
    try:
        return told.load(**{name: value for name, value in changes.items() if value is not None})
    except SettingsError as error:
        raise Refusal(str(error)) from None


def door(settings: Settings) -> None:
    """Who may come in, and from where. Raises Refusal."""
    try:
        is_open = Gate(settings).is_open
    except SettingsError as error:
        raise Refusal(str(error)) from None
    if is_open and not settings.allow_anonymous and not is_loopback(settings.host):
        raise Refusal(f"{settings.host} is not loopback: set PENSTOCK_API_KEYS, or PENSTOCK_ALLOW_ANONYMOUS=1.")


def model(model: Model) -> None:
    """What can be said of it before it is loaded. Raises Refusal."""
    if sentence := complaint(model):
        raise Refusal(f"The model {model.name}: {sentence}")


def ports(settings: Settings) -> None:
    """Nobody else listens where we shall. Raises Refusal."""
    if settings.port == settings.metrics_port != 0:
        raise Refusal(f"PENSTOCK_PORT and PENSTOCK_METRICS_PORT are both {settings.port}.")
    for name, port in (("PENSTOCK_PORT", settings.port), ("PENSTOCK_METRICS_PORT", settings.metrics_port)):
        try:
            family = socket.AF_INET6 if ":" in settings.host else socket.AF_INET
            socket.create_server((settings.host, port), family=family).close()
        except OSError as error:
            reason = "is taken" if error.errno == errno.EADDRINUSE else f"cannot be used ({_reason(error)})"
            raise Refusal(f"{settings.host}:{port} {reason}; choose another with {name}.") from None


def storage(settings: Settings) -> list[Server]:
    """Every Redis that the settings name answers. Raises Refusal."""
    urls = dict.fromkeys(url for url in (*settings.ledgers, settings.broker) if url)
    try:
        return [external(url) for url in urls]
    except EmbeddedError as error:
        raise Refusal(f"{_sentence(error)}.", UNREACHABLE) from None


def named_storage(settings: Settings) -> list[Server]:
    """Likewise, for a part that brings none along. Raises Refusal."""
    if not settings.ledgers or not settings.broker:
        raise Refusal("PENSTOCK_REDIS_URL is not set; `penstock up` starts a server of its own.")
    return storage(settings)


def folder(embedded: Embedded) -> None:
    """Nobody else works in our data folder. Raises Refusal."""
    try:
        embedded.lock()
    except EmbeddedError as error:
        raise Refusal(f"{_sentence(error)}.") from None


def started(embedded: Embedded) -> Server:
    """The server that we bring along. Raises Refusal."""
    try:
        return embedded.start()
    except EmbeddedError as error:
        raise Refusal(f"{_sentence(error)}.", UNREACHABLE) from None


def _sentence(error: Exception) -> str:
    text = str(error)
    return text[0].upper() + text[1:]


def _reason(error: OSError) -> str:
    return os.strerror(error.errno) if error.errno and error.errno > 0 else str(error)
