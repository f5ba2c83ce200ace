"""Where front-end processes keep things on disk."""

from pathlib import Path

from common.settings import Settings


def metrics(settings: Settings) -> Path:
    """The counters of those that listen on this port."""
    return settings.data_dir.resolve() / "metrics" / str(settings.port)
