"""A form with a file in it, read piece by piece: nothing but its small fields is ever in memory."""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager

from flask import request
from werkzeug.exceptions import RequestEntityTooLarge
from werkzeug.sansio import multipart
from werkzeug.sansio.multipart import MultipartDecoder

from api import body
from api.turns import in_turns
from common.errors import InvalidRequestError, MediaTypeError

_FIELD_BYTES, _PARTS = 4096, 16
_FORM = 64 * 2**10  # what stands around the file
Write = Callable[[bytes], None]


class Form:
    """Its fields, and what its file was called; the file's bytes go where ``write`` puts them."""

    def __init__(self, file: str, write: Write) -> None:
        """``file``: the field that holds it."""
        self.fields: dict[str, str] = {}
        self.name: str | None = None  # of the file
        self._file, self._write = file, write
        self._part = ""  # under way
        self._held = b""

    def read(self, most: int, patience_s: float) -> None:
        """All of it; every piece has so long to arrive. Raises ApiError."""
        request.max_content_length = most + _FORM
        decoder = MultipartDecoder(_boundary(), max_parts=_PARTS)
        for piece in _pieces(patience_s):
            self._take(decoder, piece)
        self._take(decoder, None)

    def _take(self, decoder: MultipartDecoder, piece: bytes | None) -> None:
        """Whatever has come of it with this piece; None is the end."""
        for event in _events(decoder, piece):
            match event:
                case multipart.File(name=name, filename=filename):
                    if name != self._file or self.name is not None:
                        raise InvalidRequestError(f"{name}: no file is expected here.", param=name)
                    self._part, self.name = name, filename
                case multipart.Field(name=name):
                    if name == self._file:
                        raise InvalidRequestError(f"{name}: this is a text and no file.", param=name)
                    self._part = name
                case multipart.Data(data=data, more_data=more):
                    self._data(data, more=more)

    def _data(self, data: bytes, *, more: bool) -> None:
        if self._part == self._file:
            self._write(data)
            return
        self._held += data
        if len(self._held) > _FIELD_BYTES:
            raise InvalidRequestError(f"{self._part}: at most {_FIELD_BYTES} bytes.", param=self._part)
        if not more:
            self.fields[self._part] = self._held.decode(errors="replace")
            self._held = b""


def _events(decoder: MultipartDecoder, piece: bytes | None) -> Iterator[multipart.Event]:
    """Raises InvalidRequestError."""
    try:
        decoder.receive_data(piece)
        while not isinstance(event := decoder.next_event(), multipart.NeedData | multipart.Epilogue):
            yield event
    except (ValueError, RequestEntityTooLarge) as error:
        raise InvalidRequestError("The form is broken, or has too many parts.") from error


def _boundary() -> bytes:
    boundary = request.mimetype_params.get("boundary", "")
    if request.mimetype != "multipart/form-data" or not boundary:
        raise MediaTypeError("Send the file as a form: multipart/form-data with a boundary.")
    return boundary.encode()


def _pieces(patience_s: float) -> Iterator[bytes]:
    def read(size: int) -> bytes:
        waiting: AbstractContextManager[object] = body.deadline(patience_s)
        with waiting:
            return request.stream.read(size)

    yield from in_turns(read)
