"""``penstock batch``: a file of prompts in, their answers out."""

import csv
import json
import sys
import tempfile
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from ops.cli import preflight, prompts
from ops.cli.client import FAILED, Service

app = typer.Typer(help="Batches: submit, status, wait, fetch, cancel, ls.", no_args_is_help=True)
Id = Annotated[str, typer.Argument(help="As submit printed it.")]
Json = Annotated[bool, typer.Option("--json", help="JSON instead of a line.")]
Out = Annotated[Path | None, typer.Option(help="Where the answers go: .jsonl or .csv; not said: JSONL on stdout.")]
PARTLY, INTERRUPTED = 5, 130
_ENDED = {"failed", "completed", "expired", "cancelled"}
_LOOK_S, _LINE_S = 0.5, 10.0


@app.command()
def submit(  # noqa: PLR0913  the options of a command
    file: Annotated[Path, typer.Argument(help="JSONL of requests, CSV with a header, or a prompt on each line.")],
    prompt_template: Annotated[str | None, typer.Option(help="Of a CSV's columns: 'Translate: {text}'.")] = None,
    model: Annotated[str | None, typer.Option(help="Not said: the service's first.")] = None,
    max_tokens: Annotated[int | None, typer.Option(min=1)] = None,
    window: Annotated[str, typer.Option(help="When it must be done: 24h, 7d.")] = "24h",
    out: Out = None,
    *,
    wait: Annotated[
        bool, typer.Option("--wait", help="Until it has ended; then fetch. Ctrl-C leaves it running.")
    ] = False,
    as_json: Json = False,
) -> None:
    """A new batch, whose id is printed: penstock batch submit prompts.txt --wait --out answers.csv."""
    service = _service()
    shape = prompts.Shape(model, max_tokens, prompt_template)
    with tempfile.TemporaryFile() as lines:
        for line in prompts.lines(file, shape):
            lines.write(f"{line}\n".encode())
        lines.seek(0)
        sent = service.upload("/files", lines, file.name, purpose="batch")
    asked = {"input_file_id": sent["id"], "endpoint": prompts.endpoint(file), "completion_window": window}
    batch = service.send("/batches", asked)
    if not wait:
        print(json.dumps(batch) if as_json else batch["id"])
        return
    print(batch["id"], file=sys.stderr)
    _finish(service, batch["id"], out)


@app.command()
def status(batch: Id, *, as_json: Json = False) -> None:
    """Where it stands; 1 if it ended badly, 5 if some lines did."""
    told = _service().get(f"/batches/{batch}")
    print(json.dumps(told) if as_json else _line(told))
    if told["status"] in _ENDED:
        raise typer.Exit(_exit(told))


@app.command()
def wait(batch: Id, out: Out = None) -> None:
    """Until it has ended, then its answers; Ctrl-C leaves it running."""
    _finish(_service(), batch, out)


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


def _finish(service: Service, batch_id: str, out: Path | None) -> None:
    try:
        batch = _watched(service, batch_id)
    except KeyboardInterrupt:
        print(f"\nIt goes on: penstock batch wait {batch_id}", file=sys.stderr)
        raise typer.Exit(INTERRUPTED) from None
    for error in (batch["errors"] or {"data": []})["data"]:
        where = f"line {error['line']}: " if error["line"] else ""
        print(f"{where}{error['message']}", file=sys.stderr)
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
        TimeRemainingColumn(),
    )
    said = -_LINE_S
    with Progress(*columns, console=console, disable=not console.is_terminal) as progress:
        task = progress.add_task("validating", total=None)
        while True:
            batch: dict[str, Any] = service.get(f"/batches/{batch_id}")
            counts = batch["request_counts"]
            failed = f", {counts['failed']} failed" if counts["failed"] else ""
            done = counts["completed"] + counts["failed"]
            progress.update(
                task, description=f"{batch['status']}{failed}", total=counts["total"] or None, completed=done
            )
            has_ended = batch["status"] in _ENDED
            if not console.is_terminal and (has_ended or time.monotonic() - said >= _LINE_S):
                said = time.monotonic()
                print(_line(batch), file=sys.stderr)
            if has_ended:
                return batch
            time.sleep(_LOOK_S)  # a batch tells nobody of its steps


def _fetch(service: Service, batch: dict[str, Any], out: Path | None) -> None:
    files = [batch[name] for name in ("output_file_id", "error_file_id") if batch[name]]
    lines = (line for file in files for line in service.lines(f"/files/{file}/content"))
    if out is None:
        sys.stdout.writelines(f"{line}\n" for line in lines)
    elif out.suffix == ".csv":
        _write_table(out, lines)
    else:
        with out.open("w", encoding="utf-8") as file:
            file.writelines(f"{line}\n" for line in lines)


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
