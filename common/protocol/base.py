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
                raise InvalidRequestError(f"{name!r} is not supported here.", param=name, code="unsupported_parameter")
            ignored.append(name)
        kept = {name: value for name, value in given.items() if name in known}
        try:
            return cls.model_validate(kept | {"ignored": tuple(sorted(ignored))})
        except ValidationError as error:
            raise _named(error) from None


def parse(body: bytes, kind: type[R], *, limits: Limits, strict: bool) -> R:
    """Bytes to a Request. Raises InvalidRequestError."""
    _refuse_depth(body, limits.json_depth)
    try:
        raw = json.loads(body, parse_constant=_no_constant, object_pairs_hook=_unique)
    except InvalidRequestError:
        raise
    except (ValueError, RecursionError):
        raise InvalidRequestError("The body is not valid JSON.") from None
    if not isinstance(raw, dict):
        raise InvalidRequestError("The body must be a JSON object.")
    _refuse_surrogates(raw)
    return kind.of(raw, strict=strict)


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Two readers of a repeated name may believe different things."""
    found = dict(pairs)
    if len(found) != len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise InvalidRequestError("A field is given twice.", param=twice[:64])
    return found


def _no_constant(name: str) -> Any:
    raise InvalidRequestError(f"{name} is not JSON.")


def _refuse_depth(body: bytes, most: int) -> None:
    """Before anything recurses: count open brackets outside of strings."""
    depth = 0
    parts = body.replace(b"\\\\", b"").replace(b'\\"', b"").split(b'"')
    for piece in parts[::2]:  # every other piece stands outside of a string
        for byte in piece:
            if byte in b"{[":
                depth += 1
                if depth > most:
                    raise InvalidRequestError(f"The body is nested deeper than {most} levels.")
            elif byte in b"}]":
                depth -= 1


def _refuse_surrogates(value: Any, path: str = "") -> None:
    """Half characters cannot be stored, tokenised or sent back."""
    if isinstance(value, str):
        try:
            value.encode()
        except UnicodeEncodeError:
            raise InvalidRequestError("The text holds half a character.", param=path or None) from None
    elif isinstance(value, dict):
        for name, inner in value.items():
            _refuse_surrogates(name, path)
            _refuse_surrogates(inner, f"{path}.{name}" if path else name)
    elif isinstance(value, list):
        for at, inner in enumerate(value):
            _refuse_surrogates(inner, f"{path}[{at}]")


def _named(error: ValidationError) -> InvalidRequestError:
    """Pydantic's first error as OpenAI would say it."""
    first = error.errors(include_url=False, include_input=False, include_context=False)[0]
    path = _path(first["loc"])
    message = first["msg"].removeprefix("Value error, ").replace("tuple", "list").partition(" after validation")[0]
    return InvalidRequestError(f"{path}: {message[:1].lower()}{message[1:]}." if path else f"{message}.", param=path)


def _path(loc: tuple[int | str, ...]) -> str | None:
    """``messages[0].content[1].type``; union tags and keys of the client's own are no part of it."""
    path = ""
    for part in loc:
        if isinstance(part, int):
            path += f"[{part}]"
        elif _NAME.fullmatch(part):
            path += f".{part}" if path else part
    return path or None
