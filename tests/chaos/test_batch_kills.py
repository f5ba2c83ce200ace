"""A batch, while its processes die."""

import threading
from pathlib import Path

import pytest

from tests.chaos import batch

ROWS, SEED = 400, 11


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_a_batch_answers_each_line_once_whoever_is_killed_meanwhile(tmp_path: Path) -> None:
    found = batch.killed(tmp_path, ROWS, SEED, threading.Event(), print)

    assert found.is_good(), found
    assert found.kills >= 5
