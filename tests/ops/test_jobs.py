"""``penstock jobs`` against a running house."""

import json
import subprocess
import sys
from collections.abc import Callable, Iterator

import httpx2
import pytest

from common.settings import bare_environment
from ops.bench.stack import Stack

COUNTING = '[[models]]\nname = "counting"\npath = "counting:?step_ms=1&answer=5"\n'
Penstock = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture(scope="module")
def counting(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    running = Stack(tmp_path_factory.mktemp("jobs"), COUNTING)
    try:
        yield running.wait_ready()
    finally:
        running.stop()


@pytest.fixture
def penstock(counting: Stack) -> Penstock:
    """The command line, told where the house is."""

    def penstock(*words: str, url: str = counting.url) -> "subprocess.CompletedProcess[str]":
        environment = bare_environment() | {"OPENAI_BASE_URL": url, "TZ": "UTC"}
        command = [sys.executable, "-m", "ops.cli.main", "jobs", *words]
        return subprocess.run(command, env=environment, capture_output=True, text=True, check=False)

    return penstock


def a_job(counting: Stack, user: str = "somebody") -> tuple[str, str]:
    """One that has ended: its id and its text."""
    ask = counting.client().completions.with_raw_response.create
    answer = ask(model="counting", prompt="1 2 3", max_tokens=5, user=user)
    return answer.headers["x-job-id"], answer.parse().choices[0].text


def test_jobs_are_listed_and_shown(counting: Stack, penstock: Penstock) -> None:
    job, _ = a_job(counting)

    rows = penstock("ls", "--limit", "1").stdout.split()
    shown = penstock("show", job)
    as_json = json.loads(penstock("show", job, "--json").stdout)

    assert rows[:2] == [job, "done"]
    assert (shown.returncode, "/v1/completions" in shown.stdout) == (0, True)
    assert (as_json["id"], as_json["status"]) == (job, "done")
    assert json.loads(penstock("ls", "--json").stdout)["data"][0]["id"] == job


def listed(penstock: Penstock, *words: str) -> list[str]:
    return [row.split()[0] for row in penstock("ls", *words).stdout.splitlines()]


def test_jobs_are_listed_by_what_they_are_and_page_by_page(counting: Stack, penstock: Penstock) -> None:
    ann = [a_job(counting, user="ann")[0] for _ in range(3)]
    bob = a_job(counting, user="bob")[0]

    assert listed(penstock, "--user", "ann", "--limit", "2") == ann[:0:-1]
    assert listed(penstock, "--user", "ann", "--after", ann[1]) == ann[:1]
    assert listed(penstock, "--limit", "4", "--model", "counting", "--status", "done") == [bob, *ann[::-1]]
    assert listed(penstock, "--model", "none-such") == []
    assert penstock("ls", "--after", "x").returncode == 2


def test_a_job_is_read_behind_an_event_and_frame_by_frame(counting: Stack, penstock: Penstock) -> None:
    job, text = a_job(counting)

    frames = [json.loads(line) for line in penstock("tail", job, "--json").stdout.splitlines()]
    said = [frame["choices"][0]["text"] for frame in frames]

    assert "".join(said) == text
    assert penstock("tail", job, "--after", "1").stdout == "".join(said[1:]) + "\n" != f"{text}\n"
    assert penstock("tail", job, "--after", "999").returncode == 2


def test_a_job_is_read_along_and_run_again(counting: Stack, penstock: Penstock) -> None:
    job, text = a_job(counting)

    seed = json.loads(penstock("show", job, "--json").stdout)["seed"]
    again = penstock("replay", job, "--seed", str(seed)).stdout.strip()

    assert penstock("tail", job).stdout == text + "\n"
    assert again != job
    assert penstock("tail", again).stdout == text + "\n"


def test_a_job_is_cancelled_and_that_is_no_success(counting: Stack, penstock: Penstock) -> None:
    body = {"model": "counting", "prompt": "1", "max_tokens": 900, "stream": True, "on_disconnect": "finish"}
    with httpx2.stream("POST", f"{counting.url}/completions", json=body) as answer:
        job = answer.headers["x-job-id"]
        assert penstock("cancel", job).stdout.strip() in {"running", "cancelled", "done"}
        answer.read()
    status = json.loads(penstock("show", job, "--json").stdout)["status"]
    again = json.loads(penstock("cancel", job, "--json").stdout)
    tail = penstock("tail", job)

    assert penstock("show", job).returncode == tail.returncode == (0 if status == "done" else 1)
    assert (status == "done") != ("cancelled" in tail.stderr)
    assert (again["id"], again["status"]) == (job, status)


def test_what_cannot_be_asked_is_one_line_and_a_status(penstock: Penstock) -> None:
    missing, nobody = penstock("show", "job_none"), penstock("ls", url="http://127.0.0.1:9/v1")

    assert (missing.returncode, missing.stderr) == (2, "penstock: No job has this id.\n")
    assert (nobody.returncode, nobody.stderr.count("\n")) == (3, 1)
