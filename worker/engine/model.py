"""What the engine knows of a model: what it is fed, and what it gives."""

import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

from common.constraints.spec import Constraint
from worker.engine import memory
from worker.engine.blocks import Blocks
from worker.engine.likely import Asked, Score
from worker.engine.sequence import Bounds, BrokenConstraintError, Draw, Row
from worker.engine.text import Speech


@dataclass(frozen=True, slots=True)
class Feed:
    """What the model is to read for one sequence: its tokens from a place on, as many as the step has room for."""

    slot: int
    tokens: Sequence[int]
    position: int  # of the first of them
    draw: Draw
    asked: Asked | None = None  # None: nothing is scored
    draws: int = 1  # places at the end after which a token is drawn; 0: the prompt goes on in a later step
    blocks: Sequence[int] = ()  # where its keys and values lie; a model without blocks finds them by the slot
    past: Sequence[int] = ()  # all before them, where the model has not read them for this sequence but wants to know
    enters: bool = False  # a prompt is read, or a part of it
    follows: int | None = None  # the next token where nothing is drawn: it may have to be scored
    row: Row | None = None  # its place in its constraint


class Drawn(NamedTuple):
    """A sequence's next token; None where the logits are not finite."""

    token: int | None = None
    scores: tuple[Score, ...] = ()  # of the tokens that the feed asks for, then of this one
    more: tuple[int, ...] = ()  # what is drawn after each guessed token, as if it had come


class GaveWayError(Exception):
    """A step was broken off for somebody who must not wait; what it read is read again."""


class Compiler(Protocol):
    """Makes constraints ready to be followed, for one tokenizer."""

    def row(self, constraint: Constraint) -> Row:
        """At its beginning; on any thread. Raises BrokenConstraintError."""


class Network:
    """What models with a tokenizer and weights have alike."""

    compiler: Compiler | None = None  # None: its tokenizer cannot be constrained
    way: threading.Event
    _device: Any

    def row(self, constraint: Constraint) -> Row:
        """A constraint at its beginning."""
        if self.compiler is None:
            raise BrokenConstraintError("this model's tokenizer cannot be constrained")
        return self.compiler.row(constraint)

    def relieve(self) -> None:
        """What torch keeps for later tensors."""
        memory.give_back(self._device)


class Model(Speech, Protocol):
    """What the engine knows of a model."""

    slots: int
    bounds: Bounds
    way: threading.Event  # set: a step that can be broken off gives way

    @property
    def blocks(self) -> Blocks | None:
        """Where keys and values lie; None: it finds them by the slot, and reads each prompt whole."""

    def step(self, feeds: Sequence[Feed]) -> Mapping[int, Drawn]:
        """The next token of each slot. May be repeated after an exception. Raises GaveWayError."""

    def free(self, slot: int) -> None:
        """Forget what was read in this slot; a slot that was never used is free already."""

    def row(self, constraint: Constraint) -> Row:
        """A constraint at its beginning; on any thread. Raises BrokenConstraintError."""

    def relieve(self) -> None:
        """A step found too little memory: give back what is only kept for the next one."""
