"""The only place that turns an exception into an answer."""

from collections.abc import Mapping
from typing import Any

from flask import Flask, Response, g, request
from gunicorn.http.errors import NoMoreData, ParseException
from werkzeug.exceptions import HTTPException, InternalServerError, MethodNotAllowed
from werkzeug.routing.exceptions import RoutingException

from api import connection
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
)
from common.jobs import Failed
from common.render.frames import compact

_NOBODY_READS = 499
_UNREAD = {408, 413, 501}  # the rest of the body is not waited for
_TOLD = {
    401: ("WWW-Authenticate", "Bearer"),
    409: ("x-should-retry", "false"),  # asking again would not help
    415: ("Accept-Encoding", "identity"),
    500: ("x-should-retry", "false"),
    501: ("x-should-retry", "false"),
}
_BY_STATUS: Mapping[int | None, ApiError] = {
    404: NotFoundError("There is nothing at this path."),
    405: MethodNotAllowedError("This path does not take this method."),
    413: BodyTooLargeError("The body is larger than this server takes."),
    415: MediaTypeError("Send JSON."),
}
log = telemetry.logger("api")


def request_id() -> str:
    """Of the request that is being answered."""
    return connection.request_id(request.headers.get("x-request-id", ""))


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
    if end.status in _TOLD:
        name, told = _TOLD[end.status]
        response.headers[name] = told
    return response


def _of_ours(error: ApiError) -> Response:
    if type(error).status in _UNREAD:
        _end_connection()
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
    _end_connection()
    return _of_ours(InvalidRequestError("The body could not be read: its framing is broken."))


def _end_connection() -> None:
    if client := request.environ.get("gunicorn.socket"):
        client.last()


def _of_unexpected(error: BaseException) -> Response:
    log.error("request failed", request_id=g.get("request_id"), endpoint=request.endpoint, exc_info=error)
    return _of_ours(InternalError(f"Something went wrong here; the request is {g.get('request_id')}."))
