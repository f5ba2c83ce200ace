"""The only place that turns an exception into an answer."""

import re
import secrets
import socket
from collections.abc import Mapping
from typing import Any

from flask import Flask, Response, g, request
from gunicorn.http.errors import NoMoreData, ParseException
from werkzeug.exceptions import HTTPException, InternalServerError, MethodNotAllowed
from werkzeug.routing.exceptions import RoutingException

from api.feed import HangUp
from api.stream import JobFailedError
from common import telemetry
from common.errors import (
    ApiError,
    BodyTooLargeError,
    InternalError,
    InvalidRequestError,
    MediaTypeError,
    MethodNotAllowedError,
    NotFoundError,
    SlowBodyError,
)
from common.jobs import Failed
from common.render.frames import compact

_REQUEST_ID = re.compile(r"[A-Za-z0-9._-]{1,64}")
_NOBODY_READS = 499
_BY_STATUS: Mapping[int | None, ApiError] = {
    404: NotFoundError("There is nothing at this path."),
    405: MethodNotAllowedError("This path does not take this method."),
    413: BodyTooLargeError("The body is larger than this server takes."),
    415: MediaTypeError("Send JSON."),
}
log = telemetry.logger("api")


def request_id() -> str:
    """The client's own, when it is harmless; else a new one."""
    told = request.headers.get("x-request-id", "")
    return told if _REQUEST_ID.fullmatch(told) else f"req_{secrets.token_hex(16)}"


def json_response(body: Any, status: int = 200, headers: Mapping[str, str] | None = None) -> Response:
    """JSON, as every answer that is no stream."""
    return Response(compact(body) + b"\n", status, dict(headers or {}), mimetype="application/json")


def register(app: Flask) -> None:
    """Teach ``app`` every error there is."""
    app.register_error_handler(ApiError, _of_ours)
    app.register_error_handler(JobFailedError, _of_job)
    app.register_error_handler(HangUp, _of_hang_up)
    app.register_error_handler(HTTPException, _of_http)
    app.register_error_handler(ParseException, _of_body)
    app.register_error_handler(NoMoreData, _of_body)
    app.register_error_handler(Exception, _of_unexpected)


def _response(end: Failed, retry_after_s: int | None = None) -> Response:
    response = json_response(end.body(), end.status)
    if end.status in {429, 503}:
        response.headers["Retry-After"] = str(retry_after_s or 1)
    if end.status in {409, 500}:  # asking again would not help
        response.headers["x-should-retry"] = "false"
    if end.status == 401:  # noqa: PLR2004  a name would say no more
        response.headers["WWW-Authenticate"] = "Bearer"
    return response


def _of_ours(error: ApiError) -> Response:
    if isinstance(error, SlowBodyError) and (connection := request.environ.get("gunicorn.socket")):
        connection.shutdown(socket.SHUT_RD)  # the rest of the body is not waited for, so the connection ends
    return _response(Failed.of(error), error.retry_after_s)


def _of_job(error: JobFailedError) -> Response:
    return _response(error.end)


def _of_hang_up(_error: HangUp) -> Response:
    return Response(status=_NOBODY_READS)


def _of_http(error: HTTPException) -> Response | HTTPException:
    if isinstance(error, RoutingException):
        return error
    if isinstance(error, InternalServerError):  # what went wrong while an error was told
        return _of_unexpected(error.original_exception or error)
    ours = _BY_STATUS.get(error.code) or InvalidRequestError("The request could not be read.")
    response = _of_ours(ours)
    if isinstance(error, MethodNotAllowed):
        response.headers["Allow"] = ", ".join(sorted(error.valid_methods or ()))
    return response


def _of_body(_error: Exception) -> Response:
    return _of_ours(InvalidRequestError("The body could not be read: its framing is broken."))


def _of_unexpected(error: BaseException) -> Response:
    log.error("request failed", request_id=g.get("request_id"), endpoint=request.endpoint, exc_info=error)
    return _of_ours(InternalError(f"Something went wrong here; the request is {g.get('request_id')}."))
