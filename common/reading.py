"""JSON to plain values and to our nouns; of what it says nothing is kept.

Left alone, pydantic keeps a copy of every short text that any JSON in this process held, up to 16,384 of them in 1.5
MB: what clients say fills that up over hours. Only the names of fields are worth it.
"""

from collections.abc import Callable
from typing import Any, Final, TypeVar

from pydantic import TypeAdapter
from pydantic_core import CoreConfig, SchemaValidator, from_json  # noqa: TID251  here it is told to forget

_KEPT: Final = "keys"
T = TypeVar("T")


def plain(raw: str | bytes) -> Any:
    """Plain values. Raises ValueError."""
    return from_json(raw, cache_strings=_KEPT)


def reader(adapter: TypeAdapter[T]) -> Callable[[str | bytes], T]:
    """What reads this type. Of a dataclass, pydantic lets nobody set this by its own means."""
    return SchemaValidator(adapter.core_schema, CoreConfig(cache_strings=_KEPT)).validate_json
