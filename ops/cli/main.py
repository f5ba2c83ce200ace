"""The command line."""

import os
import sys
from pathlib import Path
from typing import Annotated, NoReturn

import typer

from common.settings import Settings, child_environment
from ops.cli import batches, jobs, preflight
from ops.cli import doctor as checkup
from ops.cli import up as whole
from ops.cli.preflight import Refusal

app = typer.Typer(
    name="penstock",
    help="A queue-backed, OpenAI-compatible inference service.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
)
app.add_typer(jobs.app, name="jobs")
app.add_typer(batches.app, name="batch")
Host = Annotated[str | None, typer.Option(help="Where the front end listens [PENSTOCK_HOST].")]
Port = Annotated[int | None, typer.Option(min=0, max=65535, help="Its port; 0: any [PENSTOCK_PORT].")]
Workers = Annotated[int | None, typer.Option(min=1, max=64, help="Workers per model [PENSTOCK_WORKERS].")]
DataDir = Annotated[Path | None, typer.Option(help="What is kept on disk [PENSTOCK_DATA_DIR].")]
Model = Annotated[str | None, typer.Option(help="Which model of penstock.toml; the first when not said.")]


@app.command()
def up(host: Host = None, port: Port = None, workers: Workers = None, data_dir: DataDir = None) -> None:
    """Everything on this machine: server, workers, chores, front end. One Ctrl-C ends it."""
    settings = preflight.settings(host=host, port=port, workers=workers, data_dir=data_dir)
    raise typer.Exit(whole.run(settings))


@app.command()
def serve(host: Host = None, port: Port = None) -> None:
    """The front end and its metrics alone; needs PENSTOCK_REDIS_URL."""
    raise typer.Exit(whole.serve(preflight.settings(host=host, port=port)))


@app.command()
def worker(model: Model = None) -> None:
    """One worker of one model alone; needs PENSTOCK_REDIS_URL."""
    settings = preflight.settings()
    preflight.named_storage(settings)
    chosen = settings.model(model) if model else settings.models[0]
    if chosen is None:
        known = ", ".join(one.name for one in settings.models)
        raise Refusal(f"No model is called {model}; configured are {known}.")
    preflight.model(chosen)
    _become(settings, "worker.main", "--model", chosen.name)


@app.command()
def chores() -> None:
    """The periodic work alone; needs PENSTOCK_REDIS_URL."""
    settings = preflight.settings()
    preflight.named_storage(settings)
    _become(settings, "worker.main", "--chores")


@app.command()
def doctor() -> None:
    """What is here and what is missing; starts nothing."""
    raise typer.Exit(checkup.run(preflight.settings()))


@app.command()
def version() -> None:
    """Which penstock this is."""
    print(checkup.release())


def main() -> None:
    """What the command `penstock` runs: a refusal is one line."""
    try:
        app(prog_name="penstock")
    except Refusal as refusal:
        sys.stderr.write(f"penstock: {refusal}\n")
        sys.exit(refusal.status)


def _become(settings: Settings, module: str, *arguments: str) -> NoReturn:
    os.execve(sys.executable, [sys.executable, "-m", module, *arguments], child_environment(settings))  # noqa: S606


if __name__ == "__main__":
    main()
