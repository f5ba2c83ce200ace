"""Whether a schema is spelled as its draft wants it: who reads it later finds each keyword with its kind of value."""

from functools import cache
from typing import Any

import jsonschema_rs

from common.constraints.document import Document, draft_of, escaped
from common.constraints.spec import RefusedConstraintError

_MASK = "what stands there"
_SAID = {4: "http://json-schema.org/draft-04/schema#", 6: "http://json-schema.org/draft-06/schema#"}
_SAID |= {7: "http://json-schema.org/draft-07/schema#", 2019: "https://json-schema.org/draft/2019-09/schema"}
_SAID |= {2020: "https://json-schema.org/draft/2020-12/schema"}
_DRAFTS: dict[int, Any] = {
    4: jsonschema_rs.Draft4Validator,
    6: jsonschema_rs.Draft6Validator,
    7: jsonschema_rs.Draft7Validator,
    2019: jsonschema_rs.Draft201909Validator,
    2020: jsonschema_rs.Draft202012Validator,
}


def validator(told: Any, **options: Any) -> Any:
    """Of the draft that it is; it fetches nothing. Raises ValueError where there can be none."""
    return _DRAFTS[draft_of(told)](told, retriever=_nothing, **options)


def refuse_misspelt(document: Document) -> None:
    """All of it, and what its references lead to. Raises RefusedConstraintError, which names the keyword."""
    _refuse(document.root, document.draft, "")
    for schema in document.reached:
        if schema is not document.root:
            _refuse_foreign(document, schema)
    for pointer, schema in document.outside:
        _refuse(schema, document.draft, pointer)


def _refuse(schema: Any, draft: int, pointer: str) -> None:
    wrong = next(_of_schemas(draft).iter_errors(schema), None)
    if wrong is None:
        return
    steps = [str(step) for step in wrong.instance_path]
    keyword = next((str(step) for step in reversed(wrong.instance_path) if isinstance(step, str)), "schema")
    is_plain = _MASK in wrong.message and "keyword" not in wrong.message  # else it speaks of the draft's own schema
    why = wrong.message if is_plain else f"{_MASK} is not what a schema may have there"
    raise RefusedConstraintError(
        f"{keyword}: {why}.", keyword, pointer + "".join(f"/{escaped(step)}" for step in steps)
    )


def _refuse_foreign(document: Document, schema: dict[str, Any]) -> None:
    """A part of an unknown dialect; or of another draft, if it is a document of its own."""
    if "$schema" not in schema:
        return
    pointer = f"{document.pointer(schema)}/$schema"
    try:
        draft = draft_of(schema)
    except RefusedConstraintError as refused:
        raise RefusedConstraintError(refused.message, "$schema", pointer) from None
    if draft != document.draft and document.is_resource(schema):
        raise RefusedConstraintError("$schema: a part cannot be of another draft than the whole.", "$schema", pointer)


@cache
def _of_schemas(draft: int) -> Any:
    """What the draft says of all its schemas; the values are not repeated in what it says."""
    return validator({"$schema": _SAID[draft], "$ref": _SAID[draft]}, mask=_MASK, validate_formats=False)


def _nothing(uri: str) -> Any:
    """A schema is a client's: whatever it names elsewhere is not asked for."""
    raise ValueError(f"{uri} is not fetched")
