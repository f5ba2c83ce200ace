from collections.abc import Iterator

import pytest

from common.ledger.ledger import Ledger
from tests.common.ledger_audit import Hand, audit


@pytest.fixture
def ledger(redis_url: str) -> Iterator[Ledger]:
    """The ledger of one partition; fails a test whose keys contradict each other at its end."""
    ledger = Ledger((redis_url,))
    yield ledger
    ledger.close()
    audit(redis_url)


@pytest.fixture
def hand(ledger: Ledger) -> Hand:
    """A worker."""
    return Hand(ledger)
