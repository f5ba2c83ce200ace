"""``penstock jobs``: what waits, runs and has ended; read along, cancelled, run again."""

import json
import sys
from datetime import UTC, datetime
from typing import Annotated, Any

import typer

from ops.cli import preflight
from ops.cli.client import FAILED, Service

app = typer.Typer(help="Jobs: list, show, read along, cancel, run again.", no_args_is_help=True)
Id = Annotated[str, typer.Argument(help="As x-job-id told it; the answer's id will do.")]
Json = Annotated[bool, typer.Option("--json", help="JSON instead of a table.")]
_GOOD = {"queued", "running", "done"}


@app.command()
def ls(
    status: Annotated[str | None, typer.Option(help="queued, running, done, failed, cancelled or expired.")] = None,
    model: Annotated[str | None, typer.Option(help="Of this model only.")] = None,
    user: Annotated[str | None, typer.Option(help="Of this user label only.")] = None,
    limit: Annotated[int, typer.Option(min=1, max=100)] = 20,
    after: Annotated[str | None, typer.Option(help="Behind this job: the next page.")] = None,
    *,
    as_json: Json = False,
) -> None:
    """The newest jobs of this key: penstock jobs ls --status queued."""
    told = _service().get("/jobs", status=status, model=model, user=user, limit=limit, after=after)
    if as_json:
        print(json.dumps(told))
        return
    for job in told["data"]:
        print("  ".join(_row(job)))


@app.command()
def show(job: Id, *, as_json: Json = False) -> None:
    """Where a job stands; 1 if it ended badly."""
    _tell(_service().get(f"/jobs/{job}"), as_json=as_json)


@app.command()
def tail(
    job: Id,
    after: Annotated[int, typer.Option(min=0, help="Behind this event.")] = 0,
    *,
    as_json: Annotated[bool, typer.Option("--json", help="Each frame of its stream, a line each.")] = False,
) -> None:
    """Its text as it comes, from the beginning; 1 if it ends badly. Ctrl-C leaves it running."""
    for _, frame in _service().events(f"/jobs/{job}/events", after):
        if as_json:
            print(json.dumps(frame), flush=True)
        if "error" in frame:
            print(f"\n{frame['error']['message']}", file=sys.stderr)
            raise typer.Exit(FAILED)
        if not as_json:
            print("".join(map(_text, frame["choices"])), end="", flush=True)
    if not as_json:
        print()


@app.command()
def cancel(job: Id, *, as_json: Json = False) -> None:
    """A waiting job ends at once, a running one with its next step."""
    told = _service().post(f"/jobs/{job}/cancel")
    print(json.dumps(told) if as_json else told["status"])


@app.command()
def replay(
    job: Id,
    seed: Annotated[int | None, typer.Option(help="Not said: another one is drawn.")] = None,
    *,
    as_json: Json = False,
) -> None:
    """The same input as a new job, whose id is printed: penstock jobs tail $(penstock jobs replay ID)."""
    told = _service().post(f"/jobs/{job}/replay", seed=seed)
    print(json.dumps(told) if as_json else told["id"])


def _service() -> Service:
    return Service(preflight.settings())


def _tell(job: dict[str, Any], *, as_json: bool) -> None:
    if as_json:
        print(json.dumps(job))
    else:
        for name, value in job.items():
            if value not in (None, {}):
                print(f"{name:12} {json.dumps(value) if isinstance(value, dict) else _time(name, value)}")
    if job["status"] not in _GOOD:
        raise typer.Exit(FAILED)


def _row(job: dict[str, Any]) -> tuple[str, ...]:
    tokens = f"{job['usage']['prompt_tokens']}+{job['usage']['completion_tokens']}"
    where = f"place {job['queue']['position']}" if job["queue"] else ""
    return job["id"], f"{job['status']:9}", _time("created_at", job["created_at"]), f"{tokens:>11}", job["model"], where


def _time(name: str, value: Any) -> str:
    """Times as this machine's clock shows them."""
    return (
        f"{datetime.fromtimestamp(value, UTC).astimezone():%Y-%m-%d %H:%M:%S}" if name.endswith("_at") else str(value)
    )


def _text(choice: dict[str, Any]) -> str:
    """What a frame of either endpoint says."""
    if "text" in choice:
        return str(choice["text"])
    delta = choice["delta"]
    functions = [call["function"] for call in delta.get("tool_calls", ())]
    return (delta.get("content") or "") + "".join(one.get("name", "") + one["arguments"] for one in functions)
