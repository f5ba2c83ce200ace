"""``penstock up``: everything on one machine, as one tree of processes.

The embedded server (unless the settings name a Redis), the workers, the chores, the front end, the metrics. They end in
the opposite order: first the front end, so that open answers finish while the workers still work; the server last.
"""

from collections.abc import Iterator

from common.processes import UNUSABLE
from common.settings import Settings, child_environment
from ops.cli import preflight
from ops.cli.probe import Probe
from ops.cli.programs import EmbeddedServer, Module, Program
from ops.cli.supervisor import Supervisor, say
from ops.embedded import Embedded, free_port

_FRONT, _BACK = 1, 2  # the order of the end
_SLACK_S = 10.0  # between a front end's last word and its end


def run(settings: Settings) -> int:
    """Until Ctrl-C or SIGTERM; the exit status. Raises Refusal before anything is started."""
    settings = _with_ports(settings)
    embedded = Embedded(settings)
    preflight.door(settings)
    for model in settings.models:
        preflight.model(model)
    external = preflight.storage(settings)
    preflight.folder(embedded)
    try:
        preflight.ports(settings)
        for server in external:
            say(f"redis: {server.label}")
        return _live(settings, embedded)
    finally:
        embedded.unlock()


def _live(settings: Settings, embedded: Embedded) -> int:
    with Supervisor(is_hopeless=lambda status: status == UNUSABLE and not probe.is_ready) as supervisor:
        programs: list[Program] = []
        if not (settings.ledgers and settings.broker):
            server = preflight.started(embedded)
            say(f"redis: {server.label}")
            settings = settings.model_copy(update={"redis_url": server.url})
            programs.append(EmbeddedServer(embedded, server.pid))
        probe = Probe(settings)
        probe.start()
        try:
            return supervisor.run([*programs, *_workers(settings), *front(settings)])
        finally:
            probe.stop()


def serve(settings: Settings) -> int:
    """The front end and its metrics alone; the exit status. Raises Refusal before anything is started."""
    settings = _with_ports(settings)
    preflight.door(settings)
    for server in preflight.named_storage(settings):
        say(f"redis: {server.label}")
    preflight.ports(settings)
    with Supervisor(is_hopeless=lambda status: status == UNUSABLE) as supervisor:
        return supervisor.run(front(settings))


def front(settings: Settings) -> Iterator[Module]:
    """What clients and those who watch us talk to."""
    told = {"HOST": settings.host, "PORT": str(settings.port), "METRICS_PORT": str(settings.metrics_port)}
    environment = child_environment(settings, **{f"PENSTOCK_{name}": value for name, value in told.items()})
    patience_s = settings.drain_s + _SLACK_S
    yield Module("front end", ("api.server",), environment, _FRONT, patience_s)
    if settings.metrics_port:
        yield Module("metrics", ("api.metrics",), environment, _BACK)


def _workers(settings: Settings) -> Iterator[Module]:
    # When we end, the front end has had its drain already; what is then unfinished waits in the ledger for our next
    # start.
    environment = child_environment(settings, PENSTOCK_DRAIN_S="0")
    for model in settings.models:
        for at in range(settings.workers):
            name = f"worker of {model.name}" + (f" ({at + 1})" if settings.workers > 1 else "")
            yield Module(name, ("worker.main", "--model", model.name), environment, _BACK, patience_s=20.0)
    yield Module("chores", ("worker.main", "--chores"), environment, _BACK)


def _with_ports(settings: Settings) -> Settings:
    """Port 0 means any."""
    return settings if settings.port else settings.model_copy(update={"port": free_port()})
