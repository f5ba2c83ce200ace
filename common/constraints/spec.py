"""A constraint as plain data: it travels in the job, and whoever holds it can compile it."""

import json
import textwrap
from dataclasses import asdict, dataclass
from hashlib import blake2b
from typing import Any, Literal, get_args

Kind = Literal["json", "regex", "choice", "grammar", "tools"]
Mode = Literal["native", "exact", "wide"]

_MOST = 500  # characters of what a library says
KINDS, MODES = get_args(Kind), get_args(Mode)


class RefusedConstraintError(Exception):
    """A constraint that cannot be honoured, and which keyword at which place is the reason."""

    def __init__(self, message: str, keyword: str = "", pointer: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.keyword = keyword
        self.pointer = pointer


@dataclass(frozen=True, slots=True)
class Wanted:
    """What a request says that its answer must be, and where it says so."""

    kind: str  # of the Constraint that it becomes
    source: Any  # a schema, a pattern, texts to choose from, a grammar
    field: str
    is_strict: bool = False  # a schema that cannot be enforced in full is refused
    spaces: str | None = None  # between the tokens of JSON, as a pattern


@dataclass(frozen=True, slots=True, order=True)
class Note:
    """What was done with a keyword: rewritten with the same meaning, or left to the check at the end."""

    keyword: str
    pointer: str
    kind: Literal["exact", "wide"]


@dataclass(frozen=True, slots=True)
class Constraint:
    """What an output may be: native and exact are enforced in full, wide has to be checked at the end."""

    kind: Kind
    grammar: str  # as the engine takes it
    mode: Mode = "native"
    notes: tuple[Note, ...] = ()
    schema: str | None = None  # the client's, as JSON
    digest: str = ""  # of the grammar

    def __post_init__(self) -> None:
        object.__setattr__(self, "digest", blake2b(self.grammar.encode(), digest_size=16).hexdigest())

    def encode(self) -> str:
        """As JSON."""
        return json.dumps(asdict(self), ensure_ascii=False, separators=(",", ":"))

    @classmethod
    def decode(cls, raw: str | bytes) -> "Constraint":
        """From JSON."""
        fields = json.loads(raw)
        return cls(**(fields | {"notes": tuple(Note(**note) for note in fields["notes"])}))


def mode_of(notes: tuple[Note, ...]) -> Mode:
    """The widest of them decides."""
    kinds = {note.kind for note in notes}
    return "wide" if "wide" in kinds else "exact" if kinds else "native"


def ended(told: str) -> str:
    """What a library says, as the end of a sentence of ours."""
    return f"{textwrap.shorten(told, _MOST, placeholder=' ...').rstrip('.')}."
