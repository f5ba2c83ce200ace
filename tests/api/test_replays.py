"""Jobs that are run again."""

from collections.abc import Iterator

import httpx2
import pytest

from api.app import close_app, create_app
from common.cards import ModelCard
from common.identity import Principal
from common.jobs import Sampling, new_id
from common.ledger.ledger import Ledger
from common.settings import Limits, Model, Settings
from tests.api.conftest import FrontEnd
from tests.api.hand import Hand
from tests.api.test_jobs import ask, call
from tests.builders import a_job

OWNER = Principal().owner


@pytest.fixture
def hand(ledger: Ledger) -> Hand:
    hand = Hand(ledger)
    hand.beat()
    return hand


@pytest.fixture
def house(settings: Settings, ledger: Ledger) -> Iterator[httpx2.Client]:
    """A front end in this process, with the real door; it has a model that is served and one that never was."""
    ledger.put_card(ModelCard("m", 100, 300, (1,), (1,), True, ("chat",), "row", "float32", None, 1, "0"), b"")
    models = (Model(name="m", path="x", aliases=("renamed",)), Model(name="alone", path="x"))
    app = create_app(settings.model_copy(update={"models": models, "children": 1}))
    with httpx2.Client(transport=httpx2.WSGITransport(app=app), base_url="http://127.0.0.1/v1") as client:
        yield client
    close_app(app)


def test_a_job_runs_again_as_another(front: FrontEnd, hand: Hand) -> None:
    old = ask(front, hand, seed=5)
    hand.end(old, "a")

    again = [call(front, f"/jobs/job_{old.id}/replay{query}", "POST") for query in ("", "?seed=5")]
    jobs = [hand.claim() for _ in again]

    assert [answer.status_code for answer in again] == [201, 201]
    assert [f"job_{job.id}" for job in jobs] == [answer.json()["id"] for answer in again]
    assert all(job.prompts == old.prompts and job.id != old.id for job in jobs)
    assert (jobs[0].seed != 5, jobs[1].seed) == (True, 5)


def test_a_row_of_a_batch_that_runs_again_is_none(front: FrontEnd, hand: Hand, ledger: Ledger) -> None:
    owner = Principal().owner
    row = a_job(owner=owner, share=owner, cls="batch", parent=new_id(), custom_id="1")
    ledger.submit(row, Limits())
    hand.end(hand.claim(), "a")

    call(front, f"/jobs/job_{row.id}/replay", "POST")
    job = hand.claim()

    assert (job.cls, job.parent, job.custom_id, job.prompts) == ("normal", "", "", row.prompts)


def test_what_was_for_its_first_reader_only_is_not_said_again(front: FrontEnd, hand: Hand, ledger: Ledger) -> None:
    impatient = a_job(owner=OWNER, share=OWNER, on_disconnect="cancel", max_wait_s=3.5, sampling=Sampling(7))
    ledger.submit(impatient, Limits())
    hand.end(hand.claim(), "a")

    answer = call(front, f"/jobs/job_{impatient.id}/replay", "POST")
    job = hand.claim()

    assert (answer.status_code, job.on_disconnect, job.max_wait_s) == (201, "finish", None)
    assert (job.sampling, job.prompts) == (impatient.sampling, impatient.prompts)


@pytest.mark.parametrize("seed", ["x", "", "1.5", str(2**63), str(-(2**63) - 1)])
def test_a_seed_that_is_none_makes_no_job(front: FrontEnd, hand: Hand, seed: str) -> None:
    old = ask(front, hand)
    hand.end(old)

    answer = call(front, f"/jobs/job_{old.id}/replay", "POST", params={"seed": seed})

    assert (answer.status_code, answer.json()["error"]["param"]) == (400, "seed")
    assert [one["id"] for one in call(front, "/jobs").json()["data"]] == [f"job_{old.id}"]


@pytest.mark.parametrize(
    ("model", "status", "code"),
    [("org/gone", 404, "model_not_found"), ("renamed", 404, "model_not_found"), ("alone", 503, "no_worker")],
)
def test_a_model_that_nobody_serves_any_more_is_told_before_anything_is_kept(
    house: httpx2.Client, ledger: Ledger, model: str, status: int, code: str
) -> None:
    old = a_job(owner=OWNER, share=OWNER, model=model)
    ledger.submit(old, Limits())
    ledger.cancel(OWNER, old.id)

    refused = house.post(f"/jobs/job_{old.id}/replay")

    assert (refused.status_code, refused.json()["error"]["code"]) == (status, code)
    assert model in refused.json()["error"]["message"]
    assert ("Retry-After" in refused.headers) == (status == 503)
    assert [one["id"] for one in house.get("/jobs").json()["data"]] == [f"job_{old.id}"]


def test_a_model_that_is_served_runs_its_old_job_again(house: httpx2.Client, hand: Hand, ledger: Ledger) -> None:
    old = a_job(owner=OWNER, share=OWNER)
    ledger.submit(old, Limits())
    hand.end(hand.claim(), "a")

    again = house.post(f"/jobs/job_{old.id}/replay")

    assert again.status_code == 201
    assert again.json()["id"] == f"job_{hand.claim().id}"
