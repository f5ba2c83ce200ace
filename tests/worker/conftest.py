from collections.abc import Iterator

import pytest

from common.files import Files
from common.ledger.batches import Batches
from common.ledger.ledger import Ledger
from common.settings import Settings
from tests.worker.driving import DRIVERS


@pytest.fixture
def files(settings: Settings, ledger: Ledger) -> Files:
    return Files(settings, ledger.partitions[0])


@pytest.fixture
def batches(ledger: Ledger) -> Batches:
    return Batches(ledger)


@pytest.fixture(autouse=True)
def _drivers() -> Iterator[None]:
    yield
    while DRIVERS:
        DRIVERS.pop().close()
