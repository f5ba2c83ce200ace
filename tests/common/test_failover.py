"""A master that is one no more, and lives on: what is connected to it stays so, and its name leads to another."""

from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
import redis

from common.errors import StorageError
from common.ledger.ledger import Ledger
from common.settings import Settings
from ops.embedded import Embedded, free_port
from tests.builders import a_job
from tests.common.ledger_audit import LIMITS
from tests.common.lossy import lossy

QUOTED = (  # word for word what Redis 6.2 says of a script
    "ERR Error running script (call to f_5a3860cc4bbe44bba128e4b3f9d4beff28585bc6): @user_script:35: "
    "@user_script: 35: -READONLY You can't write against a read only replica. "
)


@pytest.fixture
def heir(tmp_path: Path, redis_url: str) -> Iterator[str]:
    """Another server, with the same password."""
    embedded = Embedded(Settings(data_dir=tmp_path))
    url = embedded.start().url
    password = urlsplit(redis_url).password or ""
    with redis.Redis.from_url(url) as client:
        client.config_set("requirepass", password)
    yield url.replace(urlsplit(url).password or "", password)
    embedded.stop()


def test_who_has_a_demoted_masters_name_is_found_at_once(redis_url: str, heir: str, raw: Any) -> None:
    jobs = [a_job() for _ in range(3)]
    with lossy(redis_url) as name, closing(Ledger((name.url,))) as ledger, closing(Ledger((heir,))) as straight:
        ledger.submit(a_job(), LIMITS)

        raw.replicaof("127.0.0.1", free_port())
        try:
            name.lead_to(heir)
            with pytest.raises(StorageError):
                ledger.submit(jobs[0], LIMITS)
            places = [ledger.submit(job, LIMITS).position for job in jobs]
        finally:
            raw.replicaof("no", "one")

        assert places == [1, 2, 3]
        assert straight.waiting("m")["interactive"] == 3


def test_a_demoted_master_is_known_by_an_old_ones_words(ledger: Ledger) -> None:
    (part,) = ledger.partitions
    before = part.ask(part.redis.client_id)

    with pytest.raises(StorageError):
        part.ask(lambda: part.redis.eval("return redis.error_reply(ARGV[1])", 0, QUOTED))

    assert part.is_away
    assert part.ask(part.redis.client_id) != before
