"""Jobs through their own endpoints: listed, followed from anywhere, cancelled, run again, asked for twice."""

import json
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx2
import openai
import pytest

from common.errors import InternalError
from common.identity import Principal
from common.jobs import Delta, Done, Failed, Job, Usage
from common.ledger.ledger import Ledger
from common.settings import Limits
from tests.api.conftest import FrontEnd, Serve
from tests.api.hand import Hand
from tests.api.test_streaming import ASK, BODY, next_job, within
from tests.builders import a_job

KEY = {"Idempotency-Key": "order-7"}


@pytest.fixture
def hand(ledger: Ledger) -> Hand:
    hand = Hand(ledger)
    hand.beat()
    return hand


def call(front: FrontEnd, path: str, method: str = "GET", **more: Any) -> httpx2.Response:
    return httpx2.request(method, f"{front.base}/v1{path}", timeout=20, **more)


def ask(front: FrontEnd, hand: Hand, **fields: Any) -> Job:
    """A stream that is finished whoever goes, cut before it began."""
    body = BODY | {"on_disconnect": "finish"} | fields
    with httpx2.stream("POST", f"{front.base}/v1/chat/completions", json=body) as answer:
        assert answer.headers["x-job-id"].startswith("job_")
        return hand.claim()


def blocks(raw: str) -> list[str]:
    """Without the comments, which depend on the time."""
    parts = ["\n".join(line for line in block.split("\n") if not line.startswith(":")) for block in raw.split("\n\n")]
    return [part for part in parts if part]


def test_every_answer_names_its_job(front: FrontEnd, hand: Hand) -> None:
    job = ask(front, hand)
    hand.end(job)

    answers = [call(front, f"/jobs/job_{job.id}{path}", method) for path, method in (("", "GET"), ("/cancel", "POST"))]
    again = call(front, f"/jobs/job_{job.id}/replay", "POST")

    assert [answer.headers["x-job-id"] for answer in answers] == [f"job_{job.id}"] * 2
    assert again.headers["x-job-id"] == again.json()["id"] != f"job_{job.id}"


def test_a_stream_goes_on_behind_any_of_its_events(front: FrontEnd, hand: Hand) -> None:
    job = ask(front, hand)
    hand.end(job, "a", "b", "c")
    whole = blocks(call(front, f"/jobs/job_{job.id}/events").text)

    assert [block.split("\n")[0] for block in whole[1:5]] == ["id: 1", "id: 2", "id: 3", "id: 4"]
    assert '"role":"assistant"' in whole[0]
    assert whole[-1] == "data: [DONE]"
    for seen in range(1, 6):
        by_header = call(front, f"/jobs/chatcmpl-{job.id}/events", headers={"Last-Event-ID": str(seen)})
        by_query = call(front, f"/jobs/job_{job.id}/events?after={seen}")
        assert blocks(by_header.text) == blocks(by_query.text) == whole[min(seen, 4) + 1 :]
        assert by_header.headers["x-job-id"] == f"job_{job.id}"


def test_a_browser_that_takes_a_stream_up_again_is_heard_before_its_address(front: FrontEnd, hand: Hand) -> None:
    job = ask(front, hand)
    hand.end(job, "a", "b", "c")
    path = f"/jobs/job_{job.id}/events?after=1"

    first = call(front, path, headers={"Last-Event-ID": ""})
    again = call(front, path, headers={"Last-Event-ID": "3"})
    wrong = call(front, path, headers={"Last-Event-ID": "x"})

    assert [block.split("\n")[0] for block in blocks(first.text)[:2]] == ["id: 2", "id: 3"]
    assert blocks(again.text) == blocks(first.text)[2:]
    assert wrong.json()["error"]["param"] == "Last-Event-ID"


def test_a_stream_that_runs_is_followed_and_cut_and_followed_again(front: FrontEnd, hand: Hand) -> None:
    job = ask(front, hand)
    hand.text(job, "a", "b")
    seen: list[str] = []
    for more in ("c", "d"):
        with httpx2.stream("GET", f"{front.base}/v1/jobs/job_{job.id}/events?after={len(seen)}") as answer:
            lines = answer.iter_lines()
            while len(seen) < {"c": 2, "d": 3}[more]:
                line = next(lines)
                if line.startswith("id: "):
                    seen.append(line)
        hand.text(job, more)
    hand.end(job)

    rest = blocks(call(front, f"/jobs/job_{job.id}/events?after={len(seen)}").text)

    assert seen == ["id: 1", "id: 2", "id: 3"]
    assert '"content":"d"' in rest[0]
    assert rest[-1] == "data: [DONE]"


def test_a_cancel_on_hang_up_stays_undone_while_somebody_else_reads(
    front: FrontEnd, hand: Hand, ledger: Ledger
) -> None:
    with httpx2.stream("POST", f"{front.base}/v1/chat/completions", json=BODY):
        job = hand.claim()
        follower = httpx2.stream("GET", f"{front.base}/v1/jobs/job_{job.id}/events")
        answer = follower.__enter__()
        lines = answer.iter_lines()
        assert next(lines)
    other = Hand(ledger, "w2")  # more than the grace goes by while another job is asked for and cancelled
    with httpx2.stream("POST", f"{front.base}/v1/chat/completions", json=BODY):
        gone = other.claim()
    within(5, lambda: other.text(gone, "x").cancelled)

    assert not hand.text(job, "still here").cancelled
    del lines
    follower.__exit__(None, None, None)
    within(5, lambda: hand.text(job, ".").cancelled)


def test_a_stream_asked_for_behind_what_becomes_its_end_ends(front: FrontEnd, hand: Hand) -> None:
    job = ask(front, hand)
    hand.text(job, "a")
    with httpx2.stream("GET", f"{front.base}/v1/jobs/job_{job.id}/events?after=3", timeout=20) as answer:
        lines = answer.iter_lines()
        assert next(lines).startswith(":")
        hand.end(job)

        rest = [line for line in lines if line and not line.startswith(":")]

    assert rest[-1] == "data: [DONE]"


def test_what_failed_says_so_again(front: FrontEnd, hand: Hand) -> None:
    job = ask(front, hand)
    hand.say(job, Delta("a", (1,)), Failed.of(InternalError("It broke.", code="broken")))

    told = call(front, f"/jobs/job_{job.id}").json()

    assert (told["status"], told["error"]["message"], told["error"]["code"]) == ("failed", "It broke.", "broken")
    assert "It broke." in blocks(call(front, f"/jobs/job_{job.id}/events?after=1").text)[0]


def submit(front: FrontEnd, **fields: Any) -> str:
    """A stream's job that nobody has claimed yet."""
    body = BODY | {"on_disconnect": "finish"} | fields
    with httpx2.stream("POST", f"{front.base}/v1/chat/completions", json=body) as answer:
        return str(answer.headers["x-job-id"])


def test_a_job_tells_where_it_stands(front: FrontEnd, hand: Hand) -> None:
    first, second = submit(front), submit(front)
    waiting = [call(front, f"/jobs/{job}").json() for job in (first, second)]
    job = hand.claim()
    hand.text(job, "a")
    running = call(front, f"/jobs/{first}").json()
    hand.end(job, "b")
    done = call(front, f"/jobs/{first}").json()

    assert [one["status"] for one in waiting] == ["queued", "queued"]
    assert [one["queue"]["position"] for one in waiting] == [1, 2]
    assert (running["status"], running["queue"], running["attempts"]) == ("running", None, 0)
    assert done["created_at"] <= done["started_at"] <= done["ended_at"]
    assert {name: done[name] for name in ("id", "object", "status", "model", "endpoint", "answer_id")} == {
        "id": first,
        "object": "job",
        "status": "done",
        "model": "m",
        "endpoint": "/v1/chat/completions",
        "answer_id": first.replace("job_", "chatcmpl-"),
    }
    assert done["usage"]["completion_tokens"] == 4  # as the hand counts: items
    assert done["error"] is None


def test_jobs_are_listed_page_by_page_and_by_what_they_are(front: FrontEnd, hand: Hand) -> None:
    ids = [submit(front, user=user) for user in ("ann", "bob", "ann", "bob", "ann")]
    hand.end(hand.claim())
    first = call(front, "/jobs?limit=2").json()
    second = call(front, f"/jobs?limit=9&after={first['last_id']}").json()

    assert [one["id"] for one in first["data"] + second["data"]] == ids[::-1]
    assert (first["has_more"], second["has_more"]) == (True, False)
    assert (first["first_id"], first["last_id"]) == (ids[4], ids[3])
    assert {one["id"] for one in call(front, "/jobs?status=done").json()["data"]} == {ids[0]}
    assert len(call(front, "/jobs?status=queued&user=ann").json()["data"]) == 2
    assert call(front, "/jobs?model=org/other").json()["data"] == []
    assert call(front, "/jobs?model=0").json() == call(front, "/jobs?model=m").json()  # by another name
    for wrong in ("limit=0", "limit=x", "status=lost"):
        assert call(front, f"/jobs?{wrong}").json()["error"]["param"] == wrong.split("=")[0]


def test_the_longest_page_says_whether_there_are_more(front: FrontEnd, ledger: Ledger) -> None:
    owner = Principal().owner
    ledger.submit_each([a_job(owner=owner, share=owner) for _ in range(100)], Limits())
    all_ = call(front, "/jobs?limit=100&model=m").json()
    ledger.submit_each([a_job(owner=owner, share=owner)], Limits())
    most = call(front, "/jobs?limit=100&model=m").json()
    rest = call(front, f"/jobs?limit=100&model=m&after={most['last_id']}").json()

    assert (all_["has_more"], most["has_more"], rest["has_more"]) == (False, True, False)
    assert len({one["id"] for one in most["data"] + rest["data"]}) == 101


def test_a_job_is_cancelled_waiting_or_running_and_stays_as_it_ended(front: FrontEnd, hand: Hand) -> None:
    waiting = submit(front)
    assert call(front, f"/jobs/{waiting}/cancel", "POST").json()["status"] == "cancelled"
    running = submit(front)
    job = hand.claim()
    assert call(front, f"/jobs/{running}/cancel", "POST").json()["status"] == "running"
    assert hand.text(job, "a").cancelled == (job.id,)
    done = ask(front, hand)
    hand.end(done)
    assert call(front, f"/jobs/job_{done.id}/cancel", "POST").json()["status"] == "done"


@pytest.mark.parametrize("path", ["", "/events", "/cancel", "/replay"])
def test_what_is_not_there_and_what_is_anothers_look_alike(serve: Serve, hand: Hand, path: str) -> None:
    method = "POST" if path in {"/cancel", "/replay"} else "GET"
    with serve(api_keys="one,two") as front:
        headers = {"Authorization": "Bearer one"}
        with httpx2.stream("POST", f"{front.base}/v1/chat/completions", json=BODY, headers=headers) as answer:
            job = answer.headers["x-job-id"]
            hand.claim()
            answers = [
                call(front, f"/jobs/{one}{path}", method, headers={"Authorization": "Bearer two"})
                for one in (job, "job_" + "0" * 34, "nonsense")
            ]
        assert call(front, "/jobs", headers={"Authorization": "Bearer two"}).json()["data"] == []

    assert {(answer.status_code, answer.text) for answer in answers} == {(404, answers[0].text)}


@pytest.mark.parametrize(
    ("path", "method"), [("/events", "GET"), ("", "GET"), ("/cancel", "POST"), ("/replay", "POST")]
)
def test_a_job_that_is_kept_no_more_is_gone(
    front: FrontEnd, hand: Hand, ledger: Ledger, path: str, method: str
) -> None:
    job = ask(front, hand)
    hand.end(job)
    part = ledger.partitions[0]
    part.redis.delete(f"{part.tag}:j:{job.id}", f"{part.tag}:t:{job.id}")

    answer = call(front, f"/jobs/job_{job.id}{path}", method)

    assert (answer.status_code, answer.json()["error"]["code"]) == (410, "expired")
    assert call(front, "/jobs").json()["data"] == []


@pytest.mark.parametrize("after", ["-1", "x", "9" * 13, "99"])
def test_a_place_that_cannot_be_is_refused(front: FrontEnd, hand: Hand, after: str) -> None:
    job = ask(front, hand)
    hand.end(job)

    by_query = call(front, f"/jobs/job_{job.id}/events?after={after}")
    by_header = call(front, f"/jobs/job_{job.id}/events", headers={"Last-Event-ID": after})

    assert [answer.status_code for answer in (by_query, by_header)] == [400, 400]
    assert [answer.json()["error"]["param"] for answer in (by_query, by_header)] == ["after", "Last-Event-ID"]


@pytest.mark.parametrize("stream", [False, True])
def test_equal_requests_with_one_key_are_one_job(front: FrontEnd, hand: Hand, *, stream: bool) -> None:
    body = BODY | {"stream": stream}

    def post() -> httpx2.Response:
        return call(front, "/chat/completions", "POST", json=body, headers=KEY)

    with ThreadPoolExecutor(20) as pool:
        asked = [pool.submit(post) for _ in range(20)]
        job = next_job(hand)
        hand.end(job, "once")
        answers = [one.result() for one in asked]
    late = post()

    assert {answer.headers["x-job-id"] for answer in (*answers, late)} == {f"job_{job.id}"}
    assert len({tuple(blocks(answer.text)) for answer in (*answers, late)}) == 1
    assert sum("idempotent-replayed" not in answer.headers for answer in answers) == 1
    assert late.headers["idempotent-replayed"] == "true"
    with pytest.raises(AssertionError):
        hand.claim()


def test_a_key_stands_for_one_request_only(front: FrontEnd, hand: Hand) -> None:
    job = ask(front, hand)
    with httpx2.stream("POST", f"{front.base}/v1/chat/completions", json=BODY, headers=KEY):
        with front.client() as client, pytest.raises(openai.ConflictError) as refused:
            client.with_options(max_retries=3).chat.completions.create(
                model="m", messages=ASK, max_tokens=5, extra_headers=KEY
            )
        strange = call(front, "/chat/completions", "POST", json=BODY, headers={"Idempotency-Key": "x" * 256})

    assert refused.value.code == "idempotency_key_conflict"
    assert refused.value.response.headers["x-should-retry"] == "false"
    assert (strange.status_code, strange.json()["error"]["param"]) == (400, "Idempotency-Key")
    hand.end(job)


def test_a_key_whose_job_ended_badly_is_free(front: FrontEnd, hand: Hand) -> None:
    with ThreadPoolExecutor(1) as pool:
        for ending in (Failed.of(InternalError("It broke.")), Done(Usage(1, 1))):
            asked = pool.submit(call, front, "/chat/completions", "POST", json=BODY | {"stream": False}, headers=KEY)
            hand.say(next_job(hand), Delta("", (1,), finish="stop"), ending)
            answer = asked.result()
            assert answer.status_code == (500 if isinstance(ending, Failed) else 200)
            assert "idempotent-replayed" not in answer.headers
            assert answer.headers["x-job-id"].startswith("job_")


def test_an_sdk_that_asks_again_takes_over_what_it_left_behind_and_only_that(front: FrontEnd, hand: Hand) -> None:
    body = json.dumps(BODY | {"stream": False})
    headers = {"content-type": "application/json", "x-stainless-retry-count": "0"}

    def post(count: int) -> httpx2.Response:
        told = headers | {"x-stainless-retry-count": str(count)}
        return httpx2.post(f"{front.base}/v1/chat/completions", content=body, headers=told, timeout=20)

    with pytest.raises(httpx2.ReadTimeout):
        httpx2.post(f"{front.base}/v1/chat/completions", content=body, headers=headers, timeout=1)
    job = hand.claim()
    part = hand.ledger.partitions[0]
    within(5, lambda: part.redis.keys(f"{part.tag}:orphan:*"))
    with ThreadPoolExecutor(1) as pool:
        again = pool.submit(post, 1)
        within(5, lambda: hand.ledger.record(job.owner, job.id))
        hand.end(job, "kept")
        answer = again.result()
        third = pool.submit(post, 2)
        other = next_job(hand)
        hand.end(other)

    assert answer.json()["choices"][0]["message"]["content"] == "kept"
    assert (answer.headers["x-job-id"], answer.headers["idempotent-replayed"]) == (f"job_{job.id}", "true")
    assert third.result().headers["x-job-id"] == f"job_{other.id}"
