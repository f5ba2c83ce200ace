"""The application: views, who may call them, errors, limits."""

from http import HTTPStatus

from flask import Flask, Response, current_app, g, request
from werkzeug.datastructures import Headers

from api import body, errors, openapi
from api.auth import Gate, is_loopback
from api.hangup import Sweeper
from api.hub import Hub
from api.state import Door, Pulse, State, state
from api.views import batches, chat, files, health, jobs, models, webhooks
from common import telemetry
from common.broker import Tickets
from common.door import admission
from common.door.fetch import Fetcher
from common.errors import InvalidRequestError, PermissionDeniedError
from common.files import Files
from common.ledger.batches import Batches
from common.ledger.ledger import Ledger
from common.ledger.webhooks import Webhooks
from common.settings import Settings

_READABLE = "x-request-id, x-job-id, x-ignored-params, x-should-retry, retry-after, idempotent-replayed"


def create_app(settings: Settings, door: Door | None = None, fetcher: Fetcher | None = None) -> Flask:
    """One front-end process, its threads running; ``close_app`` ends it."""
    gate = Gate(settings)
    ledger = Ledger(settings.ledgers)
    hub = Hub(ledger)
    parts = State(
        settings=settings,
        ledger=ledger,
        hub=hub,
        sweeper=Sweeper(ledger, hub),
        pulse=Pulse(hub, ledger, [model.name for model in settings.models]),
        gate=gate,
        door=door or admission.Door(settings, ledger),
        tickets=Tickets(settings),
        files=Files(settings, ledger.partitions[0]),
        batches=Batches(ledger),
        webhooks=Webhooks(ledger),
        fetcher=fetcher or Fetcher.of(settings),
    )
    app = Flask("penstock", static_folder=None)
    app.url_map.strict_slashes = app.url_map.merge_slashes = False
    app.config["MAX_CONTENT_LENGTH"] = settings.limits.body_bytes
    app.extensions["penstock"] = parts
    app.before_request(_admit)
    app.after_request(_finish)
    errors.register(app)
    for blueprint in (health.bp, models.bp, chat.bp, jobs.bp, files.bp, batches.bp, webhooks.bp):
        app.register_blueprint(blueprint)
    app.extensions["openapi"] = openapi.document(app, health.version_here(), strict=settings.strict_params)
    parts.start()
    return app


def close_app(app: Flask) -> None:
    """End its threads, children and connections."""
    parts: State = app.extensions["penstock"]
    parts.close()


def _admit() -> None:
    """Before every view: nobody unknown passes, unless the view is marked public."""
    g.request_id = errors.request_id()
    if "HTTP_HOST" not in request.environ and request.environ["SERVER_PROTOCOL"] == "HTTP/1.1":
        raise InvalidRequestError("A request of HTTP/1.1 needs a Host header.")
    view = current_app.view_functions.get(request.endpoint or "")
    if view is None or request.method == "OPTIONS" or getattr(view, "is_public", False):
        return
    parts = state()
    _refuse_strange_host(parts)
    g.who = parts.gate.check(request.headers, _body)


def _refuse_strange_host(parts: State) -> None:
    """Without keys, a web page elsewhere must not reach us under a name of its own that leads here."""
    if not parts.gate.is_open or not is_loopback(parts.settings.host):
        return
    host = request.headers.get("Host", "")
    name = host.rsplit(":", 1)[0] if not host.endswith("]") else host
    if not is_loopback(name):
        raise PermissionDeniedError("Without API keys this server answers to names of this machine only.")


def _body() -> bytes:
    """Where a key or a user may stand in it: a form has none, and its file is not for memory."""
    is_form = request.mimetype == "multipart/form-data"
    return body.read(state().settings.limits.body_s) if request.method == "POST" and not is_form else b""


def _finish(response: Response) -> Response:
    """What every answer carries."""
    telemetry.REQUESTS.labels(request.endpoint or "none", response.status_code).inc()
    headers = response.headers
    headers["x-request-id"] = g.request_id
    if "job_id" in g:
        headers["x-job-id"] = f"job_{g.job_id}"
    headers["X-Content-Type-Options"] = "nosniff"
    headers.setdefault("Cache-Control", "no-store")
    if request.method == "OPTIONS" and response.status_code == HTTPStatus.OK:
        response.status_code = HTTPStatus.NO_CONTENT
        del headers["Content-Type"]
    if state().settings.cors_origins:
        _tell_pages(headers)
    return response


def _tell_pages(headers: Headers) -> None:
    """What pages of the listed origins may do."""
    headers.add("Vary", "Origin")  # also where it is not one of them: a cache must not mix the two
    origin = request.headers.get("Origin")
    if origin not in state().settings.cors_origins:
        return
    headers["Access-Control-Allow-Origin"] = origin
    headers["Access-Control-Expose-Headers"] = _READABLE
    if request.method == "OPTIONS":
        headers["Access-Control-Allow-Headers"] = "authorization, *"  # SDKs send many; the star leaves that one out
        headers["Access-Control-Allow-Methods"] = "GET, POST, DELETE"
        headers["Access-Control-Max-Age"] = "600"
