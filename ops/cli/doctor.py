"""``penstock doctor``: what is here and what is missing, a line each; starts nothing."""

import platform
import shutil
from collections.abc import Callable, Iterator
from functools import partial
from importlib.metadata import PackageNotFoundError, version

from common.settings import Settings
from ops.cli import preflight
from ops.cli.preflight import Refusal
from ops.embedded import EmbeddedError, binary

_SECRET = {"api_keys", "redis_url", "broker_url", "ledger_urls"}
Check = tuple[str, Callable[[], object]]


def run(settings: Settings) -> int:
    """The exit status: 0, or that of the first thing that would stop `penstock up`."""
    print(f"penstock {release()}, Python {platform.python_version()}, {platform.platform(terse=True)}")
    for name in ("torch", "transformers", "celery", "redis", "flask"):
        print(f"  {name} {_version_of(name)}")
    print(f"  gpu: {shutil.which('nvidia-smi') or 'none'}")
    for name, value in settings:
        if value != type(settings).model_fields[name].default:
            print(f"  {name} = {'(set)' if name in _SECRET else value}")
    status = 0
    for name, check in _checks(settings):
        try:
            found = check()
        except Refusal as refusal:
            print(f"bad: {name}: {refusal}")
            status = status or refusal.status
        else:
            print(f"ok: {name}" + (f": {found}" if found else ""))
    return status


def release() -> str:
    """Which penstock this is."""
    found = _version_of("penstock")
    return "0.1.0+source" if found == "none" else found


def _checks(settings: Settings) -> Iterator[Check]:
    yield "redis", partial(_storage, settings)
    yield "keys", partial(preflight.door, settings)
    yield "ports", partial(preflight.ports, settings)
    for model in settings.models:
        yield f"model {model.name}", partial(preflight.model, model)


def _storage(settings: Settings) -> str:
    found = [server.label for server in preflight.storage(settings)]
    try:
        return ", ".join(found) or f"{binary()} would be started"
    except EmbeddedError as error:
        raise Refusal(str(error), preflight.UNREACHABLE) from None


def _version_of(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "none"
