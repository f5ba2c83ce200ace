"""Every error a caller can see; its class says the status.

ApiError
├── InvalidRequestError        400  a value or a field that cannot be honoured (param names it)
│   ├── ContextLengthError     400  context_length_exceeded
│   └── FetchError             400  a URL that could not be fetched (whoever fetched it names param and code)
├── AuthenticationError        401  invalid_api_key, invalid_credentials
├── PermissionDeniedError      403  a name under which this server does not answer
├── NotFoundError              404  no such path or object
│   └── ModelNotFoundError     404  model_not_found
├── MethodNotAllowedError      405  method_not_allowed
├── SlowBodyError              408  body_too_slow
├── CancelledError             409  cancelled
├── ConflictError              409  idempotency_key_conflict
├── ExpiredError               410  expired
├── BodyTooLargeError          413  body_too_large
├── UriTooLongError            414  uri_too_long
├── MediaTypeError             415  unsupported_media_type
├── ExpectationError           417  expectation_failed
├── RateLimitError             429  rate_limit_exceeded, queue_full, deadline_unreachable
├── HeadersTooLargeError       431  headers_too_large
├── InternalError              500  internal (a fixed sentence)
├── TransferCodingError        501  unsupported_transfer_coding
└── UnavailableError           503  overloaded
    ├── NoWorkerError          503  no_worker
    ├── StorageError           503  storage_unavailable
    └── DrainingError          503  server_draining
"""

from typing import Any, ClassVar


class ApiError(Exception):
    """What went wrong, in a sentence for the person who must act."""

    status: ClassVar[int] = 500
    type: ClassVar[str] = "api_error"
    code: ClassVar[str | None] = None

    def __init__(
        self, message: str, *, param: str | None = None, code: str | None = None, retry_after_s: int | None = None
    ) -> None:
        """``retry_after_s`` is held within 1 to 120, what the SDKs obey by themselves."""
        super().__init__(message)
        self.message = message
        self.param = param
        self.actual_code = code if code is not None else type(self).code
        self.retry_after_s = None if retry_after_s is None else min(120, max(1, retry_after_s))

    def body(self) -> dict[str, Any]:
        """OpenAI's shape of an error."""
        return {
            "error": {"message": self.message, "type": type(self).type, "param": self.param, "code": self.actual_code}
        }


class InvalidRequestError(ApiError):
    """The request cannot be honoured as it stands."""

    status = 400
    type = "invalid_request_error"


class ContextLengthError(InvalidRequestError):
    """Prompt and answer do not fit the model's context."""

    code = "context_length_exceeded"


class FetchError(InvalidRequestError):
    """A URL could not be fetched; why is not for the caller to know."""


class AuthenticationError(ApiError):
    """We do not know who you are."""

    status = 401
    type = "authentication_error"
    code = "invalid_api_key"


class PermissionDeniedError(ApiError):
    """We know you, and you may not."""

    status = 403
    type = "permission_error"


class NotFoundError(ApiError):
    """There is nothing here (or nothing of yours)."""

    status = 404
    type = "not_found_error"


class ModelNotFoundError(NotFoundError):
    """No configured model has this name."""

    code = "model_not_found"


class MethodNotAllowedError(InvalidRequestError):
    """The path exists, the verb does not."""

    status = 405
    code = "method_not_allowed"


class SlowBodyError(InvalidRequestError):
    """The body arrived too slowly."""

    status = 408
    code = "body_too_slow"


class CancelledError(InvalidRequestError):
    """The job was cancelled before its end."""

    status = 409
    code = "cancelled"


class ConflictError(InvalidRequestError):
    """It contradicts what was asked before."""

    status = 409
    code = "idempotency_key_conflict"


class ExpiredError(InvalidRequestError):
    """The job's time ran out, or its log is gone."""

    status = 410
    code = "expired"


class BodyTooLargeError(InvalidRequestError):
    """More bytes than we take."""

    status = 413
    code = "body_too_large"


class UriTooLongError(InvalidRequestError):
    """A path that no object of ours has."""

    status = 414
    code = "uri_too_long"


class MediaTypeError(InvalidRequestError):
    """A body that is not JSON."""

    status = 415
    code = "unsupported_media_type"


class ExpectationError(InvalidRequestError):
    """An ``Expect`` other than ``100-continue``."""

    status = 417
    code = "expectation_failed"


class RateLimitError(ApiError):
    """Come back later."""

    status = 429
    type = "rate_limit_error"
    code = "rate_limit_exceeded"


class HeadersTooLargeError(InvalidRequestError):
    """More or longer headers than we take."""

    status = 431
    code = "headers_too_large"


class InternalError(ApiError):
    """Our fault; the request id finds it in the log."""

    code = "internal"


class TransferCodingError(InvalidRequestError):
    """A body that is packed for the way as we cannot unpack it."""

    status = 501
    code = "unsupported_transfer_coding"


class UnavailableError(ApiError):
    """Not now."""

    status = 503
    type = "overloaded_error"
    code = "overloaded"


class NoWorkerError(UnavailableError):
    """No worker serves this model."""

    code = "no_worker"


class StorageError(UnavailableError):
    """Redis is away, full, or loading."""

    code = "storage_unavailable"


class DrainingError(UnavailableError):
    """This server is going down; another attempt reaches the next one."""

    code = "server_draining"
