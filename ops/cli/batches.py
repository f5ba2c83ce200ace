"""``penstock batch``: a file of prompts in, their answers out."""

import csv
import json
import sys
import tempfile
import time
from collections.abc import Callable, Iterable
from datetime import timedelta
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from ops.cli import preflight, prompts
from ops.cli.client import FAILED, Service

app = typer.Typer(help="Batches: submit, estimate, status, wait, fetch, cancel, ls.", no_args_is_help=True)
Id = Annotated[str, typer.Argument(help="As submit printed it.")]
Json = Annotated[bool, typer.Option("--json", help="JSON instead of a line.")]
Input = Annotated[Path, typer.Argument(help="JSONL of requests, CSV with a header, or a prompt on each line.")]
Template = Annotated[str | None, typer.Option(help="Of a CSV's columns: 'Translate: {text}'.")]
Named = Annotated[str | None, typer.Option(help="Not said: the service's first.")]
Most = Annotated[int | None, typer.Option(min=1)]
CancelToo = Annotated[bool, typer.Option("--cancel-on-interrupt", help="Ctrl-C cancels it.")]
Out = Annotated[Path | None, typer.Option(help="Where the answers go: .jsonl or .csv; not said: JSONL on stdout.")]
PARTLY, INTERRUPTED = 5, 130
_ENDED = {"failed", "completed", "expired", "cancelled"}
_LOOK_S, _LINE_S = 0.5, 10.0
_SHOWN = 10  # refused lines


@app.command()
def submit(  # noqa: PLR0913  the options of a command
    file: Input,
    *,
    prompt_template: Template = None,
    model: Named = None,
    max_tokens: Most = None,
    window: Annotated[str, typer.Option(help="When it must be done: 24h, 7d.")] = "24h",
    not_before: Annotated[str | None, typer.Option(help="When it may begin: 2030-01-31T22:00:00+01:00.")] = None,
    daily: Annotated[str | None, typer.Option(help="When it may run: '22:00-06:00 Europe/Berlin'.")] = None,
    out: Out = None,
    wait: Annotated[
        bool, typer.Option("--wait", help="Until it has ended; then fetch. Ctrl-C leaves it running.")
    ] = False,
    cancel_on_interrupt: CancelToo = False,
    as_json: Json = False,
) -> None:
    """A new batch, whose id is printed: penstock batch submit prompts.txt --wait --out answers.csv."""
    service = _service()
    when = {"not_before": not_before, "window": daily}
    asked = _uploaded(service, file, prompts.Shape(model, max_tokens, prompt_template))
    batch = service.send("/batches", asked | {"completion_window": window, "metadata": _said(when)})
    if not wait:
        print(json.dumps(batch) if as_json else batch["id"])
        return
    print(batch["id"], file=sys.stderr)
    _finish(service, batch["id"], out, cancels=cancel_on_interrupt)


@app.command()
def estimate(
    file: Input,
    prompt_template: Template = None,
    model: Named = None,
    max_tokens: Most = None,
    *,
    as_json: Json = False,
) -> None:
    """What it would take, and which lines would be refused; nothing is submitted. 5 if some would be."""
    service = _service()
    asked = _uploaded(service, file, prompts.Shape(model, max_tokens, prompt_template))
    batch = service.send("/batches", asked | {"completion_window": "24h", "metadata": {"dry_run": "true"}})
    try:
        batch = _watched(service, batch["id"])
        refused = [json.loads(line) for line in _content(service, batch["error_file_id"])]
    finally:
        for name in ("input_file_id", "output_file_id", "error_file_id"):
            if batch[name]:
                service.delete(f"/files/{batch[name]}")
    if as_json:
        print(json.dumps(batch["x_estimate"] | {"lines": batch["request_counts"]["total"], "refused": refused}))
    elif batch["status"] == "completed":
        _tell(batch, refused)
    _complain(batch)
    raise typer.Exit(_exit(batch))


@app.command()
def status(batch: Id, *, as_json: Json = False) -> None:
    """Where it stands; 1 if it ended badly, 5 if some lines did."""
    told = _service().get(f"/batches/{batch}")
    print(json.dumps(told) if as_json else _line(told))
    if told["status"] in _ENDED:
        raise typer.Exit(_exit(told))


@app.command()
def wait(batch: Id, out: Out = None, *, cancel_on_interrupt: CancelToo = False) -> None:
    """Until it has ended, then its answers; Ctrl-C leaves it running."""
    _finish(_service(), batch, out, cancels=cancel_on_interrupt)


@app.command()
def fetch(batch: Id, out: Out = None) -> None:
    """The answers that are there, also of one that runs."""
    service = _service()
    _fetch(service, service.get(f"/batches/{batch}"), out)


@app.command()
def cancel(batch: Id, *, as_json: Json = False) -> None:
    """Nothing more of it is begun; what is answered stays."""
    told = _service().post(f"/batches/{batch}/cancel")
    print(json.dumps(told) if as_json else told["status"])


@app.command()
def ls(limit: Annotated[int, typer.Option(min=1, max=100)] = 20, *, as_json: Json = False) -> None:
    """The newest batches of this key."""
    told = _service().get("/batches", limit=limit)
    if as_json:
        print(json.dumps(told))
        return
    for batch in told["data"]:
        print(_line(batch))


def _service() -> Service:
    return Service(preflight.settings())


def _uploaded(service: Service, file: Path, shape: prompts.Shape) -> dict[str, Any]:
    """The file's requests, there; what a batch of them is to be told."""
    with tempfile.TemporaryFile() as lines:
        for line in prompts.lines(file, shape):
            lines.write(f"{line}\n".encode())
        lines.seek(0)
        sent = service.upload("/files", lines, file.name, purpose="batch")
    return {"input_file_id": sent["id"], "endpoint": prompts.endpoint(file)}


def _said(options: dict[str, str | None]) -> dict[str, str]:
    return {name: value for name, value in options.items() if value is not None}


def _tell(batch: dict[str, Any], refused: list[dict[str, Any]]) -> None:
    """An estimate, as people read it."""
    told, lines = batch["x_estimate"], batch["request_counts"]["total"]
    expected = "not known yet" if told["completion_tokens"] is None else f"about {told['completion_tokens']:.0f}"
    print(f"lines       {lines}, {len(refused)} would be refused")
    print(f"prompts     {told['prompt_tokens']} tokens")
    print(f"answers     {expected}, at most {told['max_completion_tokens']} tokens")
    print(f"time        {_time(told['seconds'])}, at most {_time(told['max_seconds'])}")
    print(f"waits for   {_time(told['ahead_seconds'])} of other work")
    for line in refused[:_SHOWN]:
        print(f"{line['custom_id']}: {line['response']['body']['error']['message']}", file=sys.stderr)
    if len(refused) > _SHOWN:
        print(f"and {len(refused) - _SHOWN} more; --json tells all", file=sys.stderr)


def _time(seconds: float | None) -> str:
    """None: no model was busy enough so far to tell."""
    return "not known yet" if seconds is None else str(timedelta(seconds=round(seconds)))


def _complain(batch: dict[str, Any]) -> None:
    """What is wrong with the file itself."""
    for error in (batch["errors"] or {"data": []})["data"]:
        where = f"line {error['line']}: " if error["line"] else ""
        print(f"{where}{error['message']}", file=sys.stderr)


def _finish(service: Service, batch_id: str, out: Path | None, *, cancels: bool) -> None:
    try:
        batch = _watched(service, batch_id)
    except KeyboardInterrupt:
        if cancels:
            service.post(f"/batches/{batch_id}/cancel")
        else:
            print(f"\nIt goes on: penstock batch wait {batch_id}", file=sys.stderr)
        raise typer.Exit(INTERRUPTED) from None
    _complain(batch)
    _fetch(service, batch, out)
    raise typer.Exit(_exit(batch))


def _watched(service: Service, batch_id: str) -> dict[str, Any]:
    """Until its end; a bar where somebody looks, a line now and then where not."""
    console = Console(stderr=True)
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
    )
    said, speed = -_LINE_S, Speed()
    batch: dict[str, Any] = service.get(f"/batches/{batch_id}")
    with Progress(*columns, console=console, disable=not console.is_terminal) as progress:
        task = progress.add_task("validating", total=None)
        while True:
            counts = batch["request_counts"]
            done, left = counts["completed"] + counts["failed"], speed.told(counts)
            failed = f"{counts['failed']} failed" if counts["failed"] else ""
            told = ", ".join(filter(None, (batch["status"], failed, left)))
            progress.update(task, description=told, total=counts["total"] or None, completed=done)
            has_ended = batch["status"] in _ENDED
            if not console.is_terminal and (has_ended or time.monotonic() - said >= _LINE_S):
                said = time.monotonic()
                print(", ".join(filter(None, (_line(batch), left))), file=sys.stderr)
            if has_ended:
                return batch
            time.sleep(_LOOK_S)  # a batch tells nobody of its steps
            batch = service.awaited(f"/batches/{batch_id}")


class Speed:
    """Lines a second since we look, and how long the others will take at that."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._first: tuple[int, float] | None = None

    def told(self, counts: dict[str, int]) -> str:
        """Nothing before the second look that finds more."""
        done, now = counts["completed"] + counts["failed"], self._clock()
        if self._first is None:
            self._first = done, now
        rate = (done - self._first[0]) / max(now - self._first[1], _LOOK_S)
        if not rate:
            return ""
        left = timedelta(seconds=round((counts["total"] - done) / rate))
        return f"{rate:.1f}/s" + (f", {left} left" if left else "")


def _fetch(service: Service, batch: dict[str, Any], out: Path | None) -> None:
    files = (batch["output_file_id"], batch["error_file_id"])
    lines = (line for file in files for line in _content(service, file))
    if out is None:
        sys.stdout.writelines(f"{line}\n" for line in lines)
    elif out.suffix == ".csv":
        _write_table(out, lines)
    else:
        with out.open("w", encoding="utf-8") as file:
            file.writelines(f"{line}\n" for line in lines)


def _content(service: Service, file_id: str | None) -> Iterable[str]:
    """A file's lines, if there is one."""
    return service.lines(f"/files/{file_id}/content") if file_id else ()


def _write_table(out: Path, lines: Iterable[str]) -> None:
    with out.open("w", newline="", encoding="utf-8") as file:
        table = csv.DictWriter(file, ("custom_id", "answer", "error"))
        table.writeheader()
        table.writerows(prompts.answer(json.loads(line)) for line in lines)


def _exit(batch: dict[str, Any]) -> int:
    if batch["status"] != "completed":
        return FAILED
    return PARTLY if batch["request_counts"]["failed"] else 0


def _line(batch: dict[str, Any]) -> str:
    counts = batch["request_counts"]
    told = f"{counts['completed']} of {counts['total']} answered, {counts['failed']} failed"
    return f"{batch['id']}  {batch['status']:11}  {told}"
