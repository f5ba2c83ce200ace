"""From the SDK's ``webhooks.create`` to its ``webhooks.unwrap``, past the real door, views, ledger and chores."""

import json
from typing import Any

import httpx2
import openai

from api.app import close_app, create_app
from common.ledger.ledger import Ledger
from common.settings import Settings
from tests.api.hand import Hand
from tests.api.served import CountingDoor
from tests.common.peer import OK, near, peer
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
            event = _heard(client, asked, hook.signing_secret)
            ended = client.batches.retrieve(event.data.id)
        close_app(app)

    assert (event.type, ended.id, ended.status) == ("batch.completed", batch.id, "completed")
    assert abs(event.created_at - (ended.completed_at or 0)) <= 1


def _heard(client: openai.OpenAI, asked: bytes, secret: str) -> Any:
    head, _, body = asked.partition(b"\r\n\r\n")
    headers = dict(line.decode().split(": ", 1) for line in head.split(b"\r\n")[1:])
    return client.webhooks.unwrap(body, headers, secret=secret)
