"""``penstock batch`` against a running house."""

import csv
import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from common.settings import bare_environment
from ops.bench.stack import Stack
from ops.cli.batches import Speed

COUNTING = '[[models]]\nname = "counting"\npath = "counting:?step_ms=1&answer=100000"\n'
Penstock = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture(scope="module")
def penstock(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Penstock]:
    """The command line, told where the house is."""
    running = Stack(tmp_path_factory.mktemp("batches"), COUNTING)

    def penstock(*words: str) -> "subprocess.CompletedProcess[str]":
        environment = bare_environment() | {"OPENAI_BASE_URL": running.url}
        command = [sys.executable, "-m", "ops.cli.main", "batch", *words]
        return subprocess.run(command, env=environment, capture_output=True, text=True, check=False)

    try:
        running.wait_ready()
        first = tmp_path_factory.mktemp("first") / "one.txt"
        first.write_text("1 2 ")
        penstock("submit", str(first), "--wait")  # what reads the rows starts with the first
        yield penstock
    finally:
        running.stop()


def test_a_file_of_prompts_becomes_a_table_of_answers(penstock: Penstock, tmp_path: Path) -> None:
    (tmp_path / "in.txt").write_text("count on: 7 \n\ncount on: 20 \n")
    out = tmp_path / "out.csv"

    told = penstock("submit", str(tmp_path / "in.txt"), "--max-tokens", "5", "--wait", "--out", str(out))
    with out.open() as file:
        rows = {row["custom_id"]: row for row in csv.DictReader(file)}

    assert (told.returncode, told.stdout) == (0, "")
    assert "2 of 2 answered" in told.stderr
    assert {name: row["error"] for name, row in rows.items()} == {"1": "", "2": ""}
    assert all(len(row["answer"]) == 5 for row in rows.values())


def test_a_table_is_read_by_its_columns_and_bad_rows_are_told(penstock: Penstock, tmp_path: Path) -> None:
    (tmp_path / "in.csv").write_text(f'custom_id,from,note\na,3,x\nb,4,"{"long " * 3000}"\n')

    told = penstock(
        "submit",
        str(tmp_path / "in.csv"),
        "--prompt-template",
        "count on: {from} {note}",
        "--max-tokens",
        "3",
        "--wait",
    )
    lines = [json.loads(line) for line in told.stdout.splitlines()]

    assert told.returncode == 5
    assert {line["custom_id"]: line["response"]["status_code"] for line in lines} == {"a": 200, "b": 400}


def test_a_batch_is_shown_fetched_listed_and_cancelled(penstock: Penstock, tmp_path: Path) -> None:
    (tmp_path / "in.txt").write_text("count on: 7 \n" * 300)
    batch = penstock("submit", str(tmp_path / "in.txt"), "--max-tokens", "3000").stdout.strip()

    shown = penstock("status", batch)
    listed = penstock("ls", "--limit", "1")
    cancelled = penstock("cancel", batch)
    waited = penstock("wait", batch, "--out", str(tmp_path / "out.jsonl"))
    fetched = penstock("fetch", batch)
    again = json.loads(penstock("status", batch, "--json").stdout)

    assert (shown.returncode, shown.stdout.split()[0], listed.stdout.split()[0]) == (0, batch, batch)
    assert cancelled.stdout.strip() in {"cancelling", "cancelled"}
    assert waited.returncode == 1
    assert fetched.stdout == (tmp_path / "out.jsonl").read_text()
    assert again["status"] == "cancelled"


def test_a_malformed_file_says_its_line(penstock: Penstock, tmp_path: Path) -> None:
    line = {"custom_id": "1", "method": "POST", "url": "/v1/completions", "body": {"prompt": "x"}}
    (tmp_path / "in.jsonl").write_text(f"{json.dumps(line)}\n{{\n")

    told = penstock("submit", str(tmp_path / "in.jsonl"), "--wait")

    assert told.returncode == 1
    assert "line 2: " in told.stderr


@pytest.mark.parametrize(
    ("words", "status"), [(("status", "batch_x"), 2), (("submit", "/nowhere.txt"), 2), (("fetch", "batch_x"), 2)]
)
def test_what_cannot_be_is_one_line(penstock: Penstock, words: tuple[str, ...], status: int) -> None:
    told = penstock(*words)

    assert (told.returncode, told.stderr.count("\n")) == (status, 1)


def test_a_column_that_is_not_there_is_named(penstock: Penstock, tmp_path: Path) -> None:
    (tmp_path / "in.csv").write_text("a,b\n1,2\n")

    told = penstock("submit", str(tmp_path / "in.csv"), "--prompt-template", "{c}")

    assert (told.returncode, "a, b" in told.stderr) == (2, True)


def test_options_that_a_file_of_requests_cannot_obey_are_refused(penstock: Penstock, tmp_path: Path) -> None:
    (tmp_path / "in.jsonl").write_text("{}\n")

    told = penstock("submit", str(tmp_path / "in.jsonl"), "--max-tokens", "5")

    assert (told.returncode, "whole requests" in told.stderr) == (2, True)


def test_what_a_batch_would_take_is_told_and_nothing_is_submitted(penstock: Penstock, tmp_path: Path) -> None:
    (tmp_path / "in.csv").write_text(f'from,note\n3,x\n4,"{"long " * 3000}"\n5,y\n')
    asked = (str(tmp_path / "in.csv"), "--prompt-template", "{from} {note}", "--max-tokens", "7")
    newest = json.loads(penstock("ls", "--json").stdout)["data"][0]["id"]

    shown = penstock("estimate", *asked)
    told = json.loads(penstock("estimate", *asked, "--json").stdout)
    dry = json.loads(penstock("ls", "--json").stdout)["data"][0]
    fetched = penstock("fetch", dry["id"])

    assert shown.returncode == 5
    assert "3, 1 would be refused" in shown.stdout
    assert "at most 14 tokens" in shown.stdout
    assert (told["lines"], told["prompt_tokens"], told["max_completion_tokens"]) == (3, 8, 14)
    assert [line["custom_id"] for line in told["refused"]] == ["2"]
    assert dry["id"] != newest
    assert (dry["metadata"], dry["usage"]["output_tokens"]) == ({"dry_run": "true"}, 0)
    assert fetched.returncode == 2  # nothing is left of it


def test_a_batch_waits_for_its_time(penstock: Penstock, tmp_path: Path) -> None:
    (tmp_path / "in.txt").write_text("count on: 7 \n")
    batch = penstock("submit", str(tmp_path / "in.txt"), "--not-before", "2090-01-01T00:00:00Z")
    never = penstock("submit", str(tmp_path / "in.txt"), "--daily", "22:00-06:00 Europe/Nowhere")

    assert (batch.returncode, never.returncode) == (2, 2)
    assert "30 days ahead" in batch.stderr
    assert "Europe/Nowhere is no time zone" in never.stderr


def test_speed_is_told_from_the_first_look_on() -> None:
    now = [50.0]
    speed = Speed(lambda: now[0])
    counts = {"total": 1000, "completed": 190, "failed": 10}
    told = [speed.told(counts)]
    for seconds, done in ((10, 190), (20, 290), (40, 990)):
        now[0] = 50.0 + seconds
        told.append(speed.told(counts | {"completed": done}))

    assert told == ["", "", "5.0/s, 0:02:20 left", "20.0/s"]
