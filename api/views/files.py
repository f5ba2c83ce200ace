"""Files: uploaded, listed, read back, deleted."""

import re
from typing import Any

from flask import Blueprint, Response, g, request

from api.errors import json_response
from api.multipart import Form
from api.openapi import takes, uploads
from api.state import state
from api.views.asked import KEY, key_of, replayed
from api.views.pages import number, page
from common.errors import InvalidRequestError, NotFoundError
from common.files import File

bp = Blueprint("files", __name__, url_prefix="/v1/files")
_PURPOSES = ("batch", "assistants", "user_data")
_FIELDS = {"purpose", "expires_after[anchor]", "expires_after[seconds]"}
_MOST, _NAME = 10_000, 255
_HOUR_S, _DAYS_S = 3600, 30 * 24 * 3600
_ID = re.compile(r"file-[0-9a-f]{34}")
_UNSAFE = re.compile(r"[^ -~]")


@bp.post("")
@uploads(
    "file",
    purpose={"type": "string", "enum": list(_PURPOSES)},
    **{
        "expires_after[anchor]": {"type": "string", "enum": ["created_at"], "optional": True},
        "expires_after[seconds]": {"type": "integer", "minimum": _HOUR_S, "maximum": _DAYS_S, "optional": True},
    },
)
@takes(headers=(KEY,))
def create() -> Response:
    """A form with ``file`` and ``purpose``; it is there when the answer says so."""
    parts, key = state(), key_of("file")
    with parts.files.draft() as draft:
        form = Form("file", draft.write)
        form.read(parts.settings.limits.file_bytes, parts.settings.limits.body_s)
        purpose, keep_s = _asked(form)
        file = draft.keep(g.who.owner, (form.name or "file")[:_NAME], purpose, keep_s, key)
    answer = json_response(_told(file))
    return answer if file.id == draft.id else replayed(answer)


@bp.get("")
@takes("purpose", "limit", "order", "after")
def every() -> Response:
    """The owner's files, the newest first: ``purpose``, ``limit``, ``order`` (``asc`` or ``desc``), ``after``."""
    purpose, order = request.args.get("purpose"), request.args.get("order", "desc")
    if order not in {"asc", "desc"}:
        raise InvalidRequestError("order: asc or desc.", param="order")
    found = state().files.every(g.who.owner, request.args.get("after"), oldest_first=order == "asc")
    wanted = (file for file in found if purpose in {None, file.purpose})
    return page(wanted, _told, number("limit", _MOST, 1, _MOST))


@bp.get("/<file_id>")
def one(file_id: str) -> Response:
    """What is known of it."""
    return json_response(_told(_file(file_id)))


@bp.get("/<file_id>/content")
def content(file_id: str) -> Response:
    """Its bytes."""
    file = _file(file_id)
    name = _UNSAFE.sub("_", file.name).replace('"', "_").replace("\\", "_")
    headers = {"Content-Length": str(file.size), "Content-Disposition": f'attachment; filename="{name}"'}
    return Response(state().files.read(file), headers=headers, mimetype="application/octet-stream")


@bp.delete("/<file_id>")
def delete(file_id: str) -> Response:
    """It is gone, and so are its bytes."""
    if not _ID.fullmatch(file_id) or not state().files.delete(g.who.owner, file_id):
        raise _missing()
    return json_response({"id": file_id, "object": "file", "deleted": True})


def _asked(form: Form) -> tuple[str, int | None]:
    """For what, and for how long."""
    purpose, strange = form.fields.get("purpose"), sorted(form.fields.keys() - _FIELDS)
    if form.name is None:
        raise InvalidRequestError("file: it is missing.", param="file")
    if purpose not in _PURPOSES:
        raise InvalidRequestError(f"purpose: one of {', '.join(_PURPOSES)}.", param="purpose")
    if strange:
        raise InvalidRequestError(f"{strange[0][:64]}: no such field.", param=strange[0][:64])
    anchor, seconds = (form.fields.get(f"expires_after[{name}]") for name in ("anchor", "seconds"))
    if anchor is None and seconds is None:
        return purpose, None
    is_number = seconds is not None and seconds.isascii() and seconds.isdecimal()
    if anchor != "created_at" or not is_number or not _HOUR_S <= int(seconds or 0) <= _DAYS_S:
        message = f"expires_after: anchor created_at, and seconds from {_HOUR_S} to {_DAYS_S}."
        raise InvalidRequestError(message, param="expires_after")
    return purpose, int(seconds or 0)


def _file(file_id: str) -> File:
    file = state().files.get(g.who.owner, file_id) if _ID.fullmatch(file_id) else None
    if file is None:
        raise _missing()
    return file


def _missing() -> NotFoundError:
    return NotFoundError("No file of yours has this id.")


def _told(file: File) -> dict[str, Any]:
    told = {
        "id": file.id,
        "object": "file",
        "bytes": file.size,
        "created_at": file.created,
        "filename": file.name,
        "purpose": file.purpose,
        "status": "processed",
    }
    return told | ({} if file.expires is None else {"expires_at": file.expires})
