from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from ops.bench.stack import Stack


@pytest.fixture(scope="session")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    """The bundled model behind one worker, for tests that break nothing."""
    running = Stack(tmp_path_factory.mktemp("stack"))
    try:
        yield running.wait_ready()
    finally:
        running.stop()


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[..., Stack]]:
    """Stacks of a test's own, to break."""
    running: list[Stack] = []

    def make(toml: str = "", **settings: str) -> Stack:
        folder = tmp_path / str(len(running))
        folder.mkdir()
        running.append(Stack(folder, toml, **settings))
        return running[-1].wait_ready()

    yield make
    for one in running:
        one.stop()
