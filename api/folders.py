"""Where front-end processes keep things on disk."""

from pathlib import Path

from common.settings import Settings


def metrics(settings: Settings) -> Path:
    """Their counters."""
    return settings.data_dir.resolve() / "metrics"
