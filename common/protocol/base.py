"""The check that every request passes: bytes to JSON, JSON to a frozen model, each field with one of three fates.

Honoured (a field of the model, or a default value), refused by name (``fields.py``), or ignored and named (the rest).
"""

import json
import re
from collections.abc import Mapping
from typing import Annotated, Any, Self, TypeVar

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError

from common.errors import InvalidRequestError
from common.protocol.fields import is_default
from common.settings import Limits

R = TypeVar("R", bound="Request")
_NAME = re.compile(r"[a-z][a-z0-9_]*")
_MOST_MARKS = 2**18  # outside of strings: bounds how long one body holds up all others of its process
_MOST_INNER = 64  # levels of JSON that stands in a text
_NO_MARKS = bytes(set(range(256)) - set(b"{}[],:"))
_HALVES = (b"\\ud", b"\\uD", b"\xed")  # without these there is no half character
_UNSUPPORTED = "unsupported_parameter"
_MOST_NAMED = 64  # characters of a client's own name that an error repeats


def _integral(value: Any) -> Any:
    """The reference says "number": 5.0 is 5, but "5" and true are not."""
    return int(value) if isinstance(value, float) and value.is_integer() else value


Int = Annotated[int, BeforeValidator(_integral)]
Label = Annotated[str, Field(max_length=512)]


class Request(BaseModel):
    """A checked request; what it ignored stands in ``ignored``."""

    model_config = ConfigDict(frozen=True, strict=True, extra="forbid", hide_input_in_errors=True)

    ignored: tuple[str, ...] = ()

    @classmethod
    def of(cls, raw: Mapping[str, Any], *, strict: bool) -> Self:
        """Sort the fields by fate, check the rest. Raises InvalidRequestError."""
        given = {name: value for name, value in raw.items() if value is not None}  # a top-level null means the default
        known = set(cls.model_fields) - {"ignored"}
        ignored = []
        for name in given.keys() - known:
            if is_default(name, given[name]):
                continue
            if strict:
                told = name[:_MOST_NAMED]
                raise InvalidRequestError(f"{told!r} is not supported here.", param=told, code=_UNSUPPORTED)
            ignored.append(name)
        kept = {name: value for name, value in given.items() if name in known}
        try:
            request = cls.model_validate(kept | {"ignored": tuple(sorted(ignored))})
        except ValidationError as error:
            raise _named(error) from None
        request.check()
        deeper = request.left_out()
        if deeper and strict:
            raise InvalidRequestError(f"{deeper[0]} is not supported here.", param=deeper[0], code=_UNSUPPORTED)
        return request.model_copy(update={"ignored": (*request.ignored, *deeper)}) if deeper else request

    def check(self) -> None:
        """What no field can tell by itself. Raises InvalidRequestError."""

    def left_out(self) -> tuple[str, ...]:
        """Names that mean nothing beside the others, also inside of fields; each once."""
        return ()


def parse(body: bytes, kind: type[R], *, limits: Limits, strict: bool) -> R:
    """Bytes to a Request. Raises InvalidRequestError."""
    return kind.of(read_object(body, limits), strict=strict)


def read_object(body: bytes, limits: Limits) -> dict[str, Any]:
    """Bytes to a JSON object, in a time that its sender cannot stretch. Raises InvalidRequestError."""
    if not body:
        raise InvalidRequestError("The body is empty.")
    _refuse_shape(body, limits.json_depth)
    try:
        raw = json.loads(
            body.decode("utf-8-sig", "surrogatepass"), parse_constant=_no_constant, object_pairs_hook=_unique
        )
    except InvalidRequestError:
        raise
    except (ValueError, RecursionError):
        raise InvalidRequestError("The body is not valid JSON.") from None
    if not isinstance(raw, dict):
        raise InvalidRequestError("The body must be a JSON object.")
    if any(half in body for half in _HALVES):
        _refuse_surrogates(raw)
    return raw


def read_inner(text: str) -> Any:
    """JSON that stands in a text of a body. Raises ValueError for what is none, or could not stand in a body itself."""
    try:
        _refuse_shape(text.encode("utf-8", "surrogatepass"), _MOST_INNER)
        value = json.loads(text, parse_constant=_no_constant)
        _refuse_surrogates(value)
    except InvalidRequestError as error:
        raise ValueError(error.message) from None
    return value


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Two readers of a repeated name may believe different things."""
    found = dict(pairs)
    if len(found) != len(pairs):
        left = dict.fromkeys(found)
        twice = next(name for name, _ in pairs if left.pop(name, name) is not None)
        param = twice[:_MOST_NAMED].encode(errors="replace").decode()  # not looked at for half characters yet
        raise InvalidRequestError("A field is given twice.", param=param)
    return found


def _no_constant(name: str) -> Any:
    raise InvalidRequestError(f"{name} is not JSON.")


def _refuse_shape(body: bytes, most: int) -> None:
    """Before anything is built or recurses: count what stands outside of strings."""
    bare = body.replace(b"\\\\", b"").replace(b'\\"', b"")
    if bare.count(b'"') > 2 * _MOST_MARKS:
        raise InvalidRequestError("The body holds too many values.")
    marks = b"".join(bare.split(b'"')[::2]).translate(None, _NO_MARKS)  # every other piece is outside of a string
    if len(marks) > _MOST_MARKS:
        raise InvalidRequestError("The body holds too many values.")
    depth = 0
    for mark in marks:
        if mark in b"{[":
            depth += 1
            if depth > most:
                raise InvalidRequestError(f"The body is nested deeper than {most} levels.")
        elif mark in b"}]":
            depth -= 1


def _refuse_surrogates(value: Any, path: str = "") -> None:
    """Half characters cannot be stored, tokenised or sent back."""
    if isinstance(value, str):
        try:
            value.encode()
        except UnicodeEncodeError:
            raise InvalidRequestError("The text holds half a character.", param=path[:_MOST_NAMED] or None) from None
    elif isinstance(value, dict):
        for name, inner in value.items():
            _refuse_surrogates(name, path or name.encode(errors="replace").decode())
            _refuse_surrogates(inner, f"{path}.{name}" if path else name)
    elif isinstance(value, list):
        for at, inner in enumerate(value):
            _refuse_surrogates(inner, f"{path}[{at}]")


def _named(error: ValidationError) -> InvalidRequestError:
    """Pydantic's first error as OpenAI would say it."""
    first = error.errors(include_url=False, include_input=False, include_context=False)[0]
    path = _path(first["loc"])
    told = first["msg"].removeprefix("Value error, ").partition(" after validation")[0]
    message = (told[:1].lower() + told[1:]).replace("tuple", "list")
    return InvalidRequestError(f"{path}: {message}." if path else f"{message[:1].upper()}{message[1:]}.", param=path)


def _path(loc: tuple[int | str, ...]) -> str | None:
    """``messages[0].content[1].type``; union tags and keys of the client's own are no part of it."""
    path = ""
    for part in loc:
        if isinstance(part, int):
            path += f"[{part}]"
        elif _NAME.fullmatch(part):
            path += f".{part}" if path else part
    return path or None
