import json
import logging
from collections.abc import Iterator

import pytest
import structlog

from common import telemetry
from common.settings import Settings


@pytest.fixture(autouse=True)
def _as_it_was() -> Iterator[None]:
    handlers = logging.root.handlers[:]
    yield
    logging.root.handlers[:] = handlers
    structlog.reset_defaults()


def test_a_line_is_json_with_its_part_and_level(capfd: pytest.CaptureFixture[str]) -> None:
    telemetry.configure(Settings(log_format="json"))

    telemetry.logger("engine").warning("slow step", took_s=1.5)

    line = json.loads(capfd.readouterr().err)
    assert {name: line[name] for name in ("part", "level", "event", "took_s")} == {
        "part": "engine",
        "level": "warning",
        "event": "slow step",
        "took_s": 1.5,
    }


@pytest.mark.parametrize("name", ["authorization", "Authorization", "h2ogpt_key", "user", "prompt", "body"])
def test_a_secret_is_dropped_by_its_name(capfd: pytest.CaptureFixture[str], name: str) -> None:
    telemetry.configure(Settings(log_format="json"))

    telemetry.logger("api").warning("refused", **{name: "hush"})

    assert "hush" not in capfd.readouterr().err


def test_below_the_level_nothing_is_said(capfd: pytest.CaptureFixture[str]) -> None:
    telemetry.configure(Settings(log_format="json", log_level="warning"))

    telemetry.logger("api").info("hello")

    assert capfd.readouterr().err == ""
