"""From the SDK's ``webhooks.create`` to its ``webhooks.unwrap``, past the real door, views, ledger and chores."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import httpx2
import openai
import pytest

from api.app import close_app, create_app
from common.ledger.ledger import Ledger
from common.settings import REPOSITORY, Settings, bare_environment
from tests.api.hand import Hand
from tests.api.served import CountingDoor
from tests.common.peer import OK, certificate, near, peer
from tests.whole.hooked import NAME, heard
from worker.chores.batches import Driver
from worker.chores.webhooks import Sender

LINE = {"custom_id": "a", "method": "POST", "url": "/v1/completions", "body": {"model": "m", "prompt": "x"}}


def test_a_batch_that_the_sdk_orders_is_told_of_where_the_sdk_listens(settings: Settings, ledger: Ledger) -> None:
    with peer(OK) as it:
        door: Any = CountingDoor()
        app = create_app(settings, door, near(it.port))
        http = httpx2.Client(transport=httpx2.WSGITransport(app=app))
        driver, sender = Driver(settings, ledger, "one", door), Sender(ledger, near(it.port))
        with openai.OpenAI(base_url="http://127.0.0.1/v1", api_key="EMPTY", http_client=http) as client:
            url = f"http://good.example:{it.port}/hook"
            hook = client.webhooks.create(name="nightly", url=url, event_types=["batch.completed"])
            file = client.files.create(file=("in", json.dumps(LINE).encode()), purpose="batch")
            batch = client.batches.create(input_file_id=file.id, endpoint="/v1/completions", completion_window="24h")
            for _ in range(3):
                driver()
            hand = Hand(ledger)
            hand.end(hand.claim(), "hello")
            while client.batches.retrieve(batch.id).status != "completed":
                driver()
            sender()

            (asked,) = it.asked
            event = heard(client, asked, hook.signing_secret)
            ended = client.batches.retrieve(event.data.id)
        close_app(app)

    assert (event.type, ended.id, ended.status) == ("batch.completed", batch.id, "completed")
    assert abs(event.created_at - (ended.completed_at or 0)) <= 1


def test_a_running_house_tells_a_receiver_with_a_certificate_of_its_own(tmp_path: Path) -> None:
    """In namespaces of its own, where a public name leads here and port 443 is free."""
    alone = ["unshare", "--user", "--map-root-user", "--mount", "--net"]
    if subprocess.run([*alone, "mount", "--bind", "/etc/hosts", "/etc/hosts"], check=False).returncode:
        pytest.skip("this system gives nobody namespaces")

    done = subprocess.run(
        [*alone, sys.executable, "-m", "tests.whole.hooked", str(tmp_path)],
        env=bare_environment() | {"SSL_CERT_FILE": str(certificate(tmp_path, NAME))},
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        check=False,
    )

    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout.splitlines()[-1])
    assert told["heard"] == [["batch.completed", batch] for batch in told["batches"]]
    assert told["tries"] == 1 + len(told["batches"])  # the first was not taken at once
