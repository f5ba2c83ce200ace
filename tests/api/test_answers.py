"""What every answer carries, and what bad input gets."""

import json
import socket
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx2
import openai
import pytest
from argon2 import PasswordHasher
from flask import Flask

from api import errors
from common.cards import ModelCard
from common.errors import InvalidRequestError
from common.ledger.ledger import Ledger
from tests.api.conftest import FrontEnd, Serve
from tests.api.hand import Hand

CHAT = {"model": "m", "messages": [{"role": "user", "content": "Hi"}]}


def card(name: str) -> ModelCard:
    return ModelCard(name, 64, 300, (1,), (1,), True, ("chat",), "row", "float32", None, 1_700_000_000, "0" * 64)


def ask(front: FrontEnd, path: str, method: str = "GET", **more: Any) -> httpx2.Response:
    return httpx2.request(method, front.base + path, timeout=20, **more)


def error(response: httpx2.Response) -> Any:
    assert response.headers["content-type"] == "application/json"
    assert response.headers["x-request-id"]
    body = response.json()["error"]
    assert set(body) == {"message", "type", "param", "code"}
    return body


def raw(front: FrontEnd, sent: bytes) -> bytes:
    with socket.create_connection(("127.0.0.1", front.port), timeout=10) as connection:
        connection.sendall(sent)
        got = b""
        while piece := connection.recv(65536):
            got += piece
        return got


@pytest.mark.parametrize("path", ["/", "/v1", "/v1/nothing", "/v2/models", "/v1//models"])
def test_an_unknown_path_is_404_in_openais_shape(front: FrontEnd, path: str) -> None:
    response = ask(front, path)

    assert (response.status_code, error(response)["type"]) == (404, "not_found_error")


def test_a_wrong_method_is_405_and_says_which_are_right(front: FrontEnd) -> None:
    response = ask(front, "/v1/chat/completions", "PUT")

    assert (response.status_code, error(response)["code"]) == (405, "method_not_allowed")
    assert "POST" in response.headers["allow"]


@pytest.mark.parametrize("kind", ["application/x-www-form-urlencoded", "text/plain", ""])
def test_a_body_that_is_not_called_json_is_415(front: FrontEnd, kind: str) -> None:
    response = ask(front, "/v1/chat/completions", "POST", content=json.dumps(CHAT), headers={"content-type": kind})

    assert (response.status_code, error(response)["code"]) == (415, "unsupported_media_type")


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"\xff", b'{"messages": []}', b"[" * 100_000])
def test_a_bad_body_is_400_and_the_next_request_works(front: FrontEnd, content: bytes) -> None:
    kind = {"content-type": "application/json"}
    with httpx2.Client(base_url=front.base) as client:
        response = client.post("/v1/chat/completions", content=content, headers=kind)
        after = client.get("/v1/models")

    assert (response.status_code, error(response)["type"]) == (400, "invalid_request_error")
    assert after.status_code == 200


def test_a_wrong_value_names_its_field(front: FrontEnd) -> None:
    with front.client() as client, pytest.raises(openai.BadRequestError) as refused:
        client.chat.completions.create(model="m", messages=[{"role": "user", "content": "Hi"}], temperature=7)

    assert refused.value.param == "temperature"


@pytest.mark.parametrize("length", [b"20971521", b"99999999999"])
def test_a_body_that_is_too_large_is_413_before_it_is_read(front: FrontEnd, length: bytes) -> None:
    head = (
        b"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: "
    )

    with socket.create_connection(("127.0.0.1", front.port), timeout=10) as connection:
        connection.sendall(head + length + b"\r\n\r\n{")
        got = connection.recv(65536)
        while b"error" not in got:
            got += connection.recv(65536)

    assert got.startswith(b"HTTP/1.1 413 ")
    assert b"body_too_large" in got


def test_a_body_in_broken_pieces_is_400(front: FrontEnd) -> None:
    got = raw(
        front,
        b"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
        b"Connection: close\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n{}\r\n0\r\n\r\n",
    )

    assert got.startswith(b"HTTP/1.1 400 ")
    assert b"invalid_request_error" in got


def test_what_is_no_http_is_400_in_our_shape(front: FrontEnd) -> None:
    got = raw(front, b"HELO there\r\n\r\n")

    assert got.startswith(b"HTTP/1.1 400 ")
    assert json.loads(got.partition(b"\r\n\r\n")[2])["error"]["type"] == "invalid_request_error"


def test_a_body_that_arrives_too_slowly_is_408_and_the_connection_ends(serve: Serve) -> None:
    with serve(limits__body_s="0.5") as front:
        began = time.monotonic()
        got = raw(
            front,
            b"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
            b"Content-Length: 100\r\n\r\n{",
        )

    assert got.startswith(b"HTTP/1.1 408 ")
    assert time.monotonic() - began < 5


@pytest.mark.parametrize("told", ["0", "-5", "abc", "nan", "inf", "1e999", ""])
def test_a_deadline_that_is_none_is_refused_by_its_headers_name(front: FrontEnd, told: str) -> None:
    response = ask(front, "/v1/chat/completions", "POST", json=CHAT, headers={"x-deadline-ms": told})

    assert (response.status_code, error(response)["param"]) == (400, "x-deadline-ms")


def test_our_own_failure_is_a_fixed_sentence_with_the_request_id(front: FrontEnd) -> None:
    response = ask(front, "/v1/chat/completions", "POST", json=CHAT | {"user": "explode"})

    told = error(response)
    assert (response.status_code, told["code"]) == (500, "internal")
    assert response.headers["x-request-id"] in told["message"]
    assert "Zero" not in response.text
    assert response.headers["x-should-retry"] == "false"


def test_a_failure_to_tell_an_error_is_ours_and_not_the_clients() -> None:
    app = Flask("test")
    errors.register(app)

    @app.get("/")
    def _untellable() -> str:
        raise InvalidRequestError("x", param="\ud83d")

    response = app.test_client().get("/")

    assert (response.status_code, response.get_json()["error"]["code"]) == (500, "internal")


@pytest.mark.parametrize(("told", "kept"), [("mine-1.2_3", True), ("a b", False), ("x" * 65, False), ("é", False)])
def test_a_clients_request_id_is_kept_when_it_is_harmless(front: FrontEnd, told: str, kept: bool) -> None:  # noqa: FBT001
    response = ask(front, "/health", headers={"x-request-id": told.encode()})

    assert (response.headers["x-request-id"] == told) == kept


def test_every_answer_is_guarded_against_sniffing_and_storing(front: FrontEnd) -> None:
    headers = ask(front, "/health").headers

    assert (headers["x-content-type-options"], headers["cache-control"]) == ("nosniff", "no-store")


@pytest.mark.parametrize("host", ["evil.example", "127.0.0.1.evil.example:5000", "0.0.0.0"])
def test_without_keys_a_strange_host_name_is_refused(front: FrontEnd, host: str) -> None:
    response = ask(front, "/v1/models", headers={"host": host})

    assert (response.status_code, error(response)["type"]) == (403, "permission_error")


@pytest.mark.parametrize("host", ["localhost", "localhost:5000", "127.0.0.1:1", "[::1]:5000", "[::1]"])
def test_names_of_this_machine_are_answered(front: FrontEnd, host: str) -> None:
    assert ask(front, "/v1/models", headers={"host": host}).status_code == 200


def test_ignored_parameters_are_named(front: FrontEnd, ledger: Ledger) -> None:
    hand = Hand(ledger)
    with ThreadPoolExecutor(1) as aside:
        waiting = aside.submit(ask, front, "/v1/chat/completions", "POST", json=CHAT | {"we ird\n": 1, "stream": True})
        for _ in range(500):
            if ledger.waiting("m")["interactive"]:
                hand.end(hand.claim())
                break
            time.sleep(0.01)
        response = waiting.result(10)

    assert response.headers["x-ignored-params"] == "we?ird?"


def test_models_are_those_that_are_configured_and_have_a_card(front: FrontEnd, ledger: Ledger) -> None:
    for name in ("org/other", "stranger"):
        ledger.put_card(card(name), b"")

    with front.client() as client:
        assert [model.id for model in client.models.list()] == ["org/other"]
        more = {"context": 64, "capabilities": ["chat"], "tool_format": None}
        assert client.models.retrieve("org/other").model_extra == {"base_model": "org/other"} | more
        assert client.models.retrieve("alias").id == "org/other"
        with pytest.raises(openai.NotFoundError) as missing:
            client.models.retrieve("m")
    assert missing.value.code == "model_not_found"


def test_ready_means_that_every_model_has_a_living_worker_and_a_card(front: FrontEnd, ledger: Ledger) -> None:
    before = ask(front, "/ready")
    Hand(ledger, "w1", "m").beat()
    ledger.put_card(card("org/other"), b"")
    without_card = ask(front, "/ready")
    ledger.put_card(card("m"), b"")
    Hand(ledger, "w2", "org/other").beat("draining")
    half = ask(front, "/ready")
    Hand(ledger, "w3", "org/other").beat()
    after = ask(front, "/ready")

    assert (before.status_code, before.json()["reasons"]) == (503, ["no worker serves m", "no worker serves org/other"])
    assert without_card.json()["reasons"] == ["no worker serves m", "no worker serves org/other"]
    assert (half.status_code, half.json()["reasons"]) == (503, ["no worker serves org/other"])
    assert after.status_code == 200


def test_health_and_version_need_nothing(front: FrontEnd) -> None:
    assert ask(front, "/health").json() == {"status": "alive"}
    assert ask(front, "/version").json()["version"]


def test_with_keys_every_v1_path_asks_for_one_and_health_does_not(serve: Serve) -> None:
    with serve(api_keys="secret") as front:
        refused = ask(front, "/v1/models")
        posted = ask(front, "/v1/chat/completions", "POST", json=CHAT)
        passed = ask(front, "/v1/models", headers={"authorization": "Bearer secret"})
        in_body = ask(front, "/v1/chat/completions", "POST", json=CHAT | {"h2ogpt_key": "secret", "temperature": 9})
        alive = ask(front, "/health")

    assert (refused.status_code, error(refused)["code"]) == (401, "invalid_api_key")
    assert refused.headers["www-authenticate"] == "Bearer"
    assert (posted.status_code, passed.status_code, in_body.status_code, alive.status_code) == (401, 200, 400, 200)


def test_closed_access_asks_for_a_password(serve: Serve, tmp_path: Path) -> None:
    users = tmp_path / "users"
    users.write_text(f"alice:{PasswordHasher(time_cost=1, memory_cost=8, parallelism=1).hash('pass')}\n")

    with serve(users_file=str(users), auth_access="closed") as front:
        nobody = ask(front, "/v1/models")
        wrong = ask(front, "/v1/chat/completions", "POST", json=CHAT | {"user": "alice:wrong"})
        right = ask(front, "/v1/models", headers={"x-user": "alice:pass"})

    assert (nobody.status_code, wrong.status_code, right.status_code) == (401, 401, 200)
    assert (error(wrong)["param"], error(wrong)["code"]) == ("user", "invalid_credentials")


def test_listed_origins_may_read_answers_and_others_may_not(serve: Serve) -> None:
    with serve(cors_origins="https://page.example") as front:
        ours = ask(front, "/v1/models", headers={"origin": "https://page.example"})
        other = ask(front, "/v1/models", headers={"origin": "https://other.example"})
        asked_first = ask(front, "/v1/chat/completions", "OPTIONS", headers={"origin": "https://page.example"})

    assert ours.headers["access-control-allow-origin"] == "https://page.example"
    assert "access-control-allow-origin" not in other.headers
    assert asked_first.status_code == 204
    assert asked_first.headers["access-control-allow-headers"] == "authorization, *"


def test_more_streams_than_allowed_are_503_with_retry_after(serve: Serve, ledger: Ledger) -> None:
    hand = Hand(ledger)
    with serve(limits__streams="1") as front, front.client() as client:
        for _ in range(2):  # one after the other is not too many
            before = client.completions.create(model="m", prompt="x", stream=True)
            hand.end(hand.claim())
            list(before)
        stream = client.completions.create(model="m", prompt="x", stream=True)
        with pytest.raises(openai.InternalServerError) as refused:
            client.completions.create(model="m", prompt="x", stream=True)
        stream.close()

    assert refused.value.status_code == 503
    assert int(refused.value.response.headers["retry-after"]) >= 1


def test_streams_of_one_job_are_as_many_as_of_several(serve: Serve, ledger: Ledger) -> None:
    hand, key = Hand(ledger), {"Idempotency-Key": "order-7"}
    with serve(limits__streams="2") as front, front.client() as client:
        first = client.completions.create(model="m", prompt="x", stream=True, extra_headers=key)
        follower = httpx2.stream("GET", f"{front.base}/v1/jobs/{first.response.headers['x-job-id']}/events")
        with follower, pytest.raises(openai.InternalServerError) as refused:
            client.completions.create(model="m", prompt="x", stream=True, extra_headers=key)
        hand.end(hand.claim(), "a")

        assert refused.value.status_code == 503
        assert "".join(piece.choices[0].text for piece in first) == "a"


def test_there_are_never_more_streams_than_descriptors(serve: Serve, ledger: Ledger) -> None:
    hand = Hand(ledger)
    with serve(first="ulimit -n 240") as front, front.client() as client:
        streams = [client.completions.create(model="m", prompt="x", stream=True) for _ in range(12)]
        with pytest.raises(openai.InternalServerError) as refused:
            client.completions.create(model="m", prompt="x", stream=True)
        for _ in streams:
            hand.end(hand.claim(), "all ", "of it")
        told = ["".join(part.choices[0].text for part in stream) for stream in streams]
        client.completions.create(model="m", prompt="x", stream=True).close()

    assert refused.value.status_code == 503
    assert told == ["all of it"] * 12


def test_while_too_many_wait_nobody_reads_what_comes(serve: Serve) -> None:
    unreadable = CHAT | {"model": "m", "user": "explode"}  # at this door
    with serve(limits__waiting_class="1") as front, front.client() as client:
        readable = ask(front, "/v1/chat/completions", "POST", json=unreadable)
        ahead = client.completions.create(model="m", prompt="x", stream=True)
        with pytest.raises(openai.RateLimitError):
            client.completions.create(model="m", prompt="x")
        refused = ask(front, "/v1/chat/completions", "POST", json=unreadable)
        flexible = ask(front, "/v1/chat/completions", "POST", json=unreadable | {"service_tier": "flex"})
        again = ask(front, "/v1/chat/completions", "POST", json=unreadable, headers={"Idempotency-Key": "k"})
        ahead.close()

    assert (readable.status_code, flexible.status_code, again.status_code) == (500, 500, 500)
    assert (refused.status_code, error(refused)["code"]) == (429, "queue_full")
    assert int(refused.headers["retry-after"]) >= 1


def test_who_is_at_the_door_has_the_place_that_is_left(serve: Serve) -> None:
    unreadable = CHAT | {"model": "m", "user": "explode"}  # at this door
    with serve(limits__waiting_class="1") as front, front.client() as client, ThreadPoolExecutor(1) as aside:
        reading = aside.submit(  # a second at this door
            lambda: client.completions.create(model="m", prompt="x", user="slow", stream=True)
        )
        statuses = [500]
        while statuses[-1] == 500:
            statuses.append(ask(front, "/v1/chat/completions", "POST", json=unreadable).status_code)
        again = [ask(front, "/v1/chat/completions", "POST", json=unreadable).status_code for _ in range(3)]
        was_read = reading.done()
        reading.result().close()

    assert ([statuses[-1], *again], was_read) == ([429] * 4, False)


def test_a_full_queue_is_429_and_the_sdk_comes_again(serve: Serve, ledger: Ledger) -> None:
    hand = Hand(ledger)
    with serve(limits__waiting_share="1") as front, front.client() as client:
        ahead = client.completions.create(model="m", prompt="x", stream=True)
        with pytest.raises(openai.RateLimitError) as refused:
            client.completions.create(model="m", prompt="x")
        with ThreadPoolExecutor(1) as aside:
            again = aside.submit(client.with_options(max_retries=2).completions.create, model="m", prompt="x")
            hand.end(hand.claim())
            for _ in range(1000):
                if ledger.waiting("m")["interactive"]:
                    hand.end(hand.claim(), "later")
                    break
                time.sleep(0.01)
            assert again.result(15).choices[0].text == "later"
        list(ahead)

    assert refused.value.code == "queue_full"
    assert 1 <= int(refused.value.response.headers["retry-after"]) <= 120
