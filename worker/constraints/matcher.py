"""What may come next under a constraint: one matcher for each sequence, copied from one that was compiled once."""

import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Collection
from typing import Any

import numpy as np
from llguidance import LLMatcher, LLTokenizer
from tokenizers import Tokenizer

from common import telemetry
from common.constraints.check import limits
from common.constraints.spec import Constraint
from worker.constraints.tokenizer import engine_tokenizer, spells
from worker.engine.sequence import BrokenConstraintError
from worker.models.pieces import Pieces

_KEPT = 256  # compiled constraints
_WORD = 32  # tokens in one number of a mask
_SLOW_S = 0.02  # of processor time for one step: all who run beside it wait
_SLOW = 5  # times so long may be used in all
log = telemetry.logger("constraints")


class Row:
    """One sequence's place in its constraint; one that holds up the others again and again is given up."""

    def __init__(self, matcher: LLMatcher, clock: Callable[[], float] = time.thread_time) -> None:
        """``clock`` counts what this thread computes."""
        self._matcher, self._clock = matcher, clock
        self._slow = 0

    def clone(self) -> "Row":
        """Another sequence at the same place."""
        return Row(self._matcher.deep_copy(), self._clock)

    @property
    def is_done(self) -> bool:
        """Nothing but an end may come."""
        return bool(self._matcher.is_stopped())

    def fill(self, mask: Any) -> None:
        """Bits of the tokens that may come, into an array [ceil(V / 32)] of int32. Raises BrokenConstraintError."""
        began = self._clock()
        self._matcher.unsafe_compute_mask_ptr(mask.ctypes.data, mask.nbytes)
        self._count(began)
        self.check()

    def advance(self, token: int) -> None:
        """It came. Raises BrokenConstraintError."""
        began = self._clock()
        self._matcher.consume_token(token)
        self._count(began)
        self.check()

    def forced(self) -> list[int]:
        """What must come next, spelled as the tokenizer would; often nothing."""
        began = self._clock()
        tokens = list(self._matcher.compute_ff_tokens())
        self._count(began)
        return tokens

    def check(self) -> None:
        """Raises BrokenConstraintError where the engine gave up, or where we do; that stays so."""
        if error := self._matcher.get_error():
            raise BrokenConstraintError(error)
        if self._slow > _SLOW:
            raise BrokenConstraintError("its masks take too long")

    def _count(self, began: float) -> None:
        self._slow += int((self._clock() - began) / _SLOW_S)


def compiler(tokenizer: Tokenizer, pieces: Pieces, config: Any, end_ids: Collection[int]) -> "Compiler | None":
    """A model's; None for a tokenizer whose tokens are not the bytes of a text, or without an end."""
    if not end_ids or not spells(tokenizer, pieces):
        log.warning("answers of this model cannot be constrained: its tokens do not spell text byte by byte")
        return None
    return Compiler(engine_tokenizer(tokenizer, pieces, config.get_text_config(decoder=True).vocab_size, end_ids))


class Compiler:
    """Constraints to matchers, for one model; whoever asks for the same meanwhile waits for the same."""

    def __init__(self, tokenizer: LLTokenizer) -> None:
        self._tokenizer = tokenizer
        self._known: OrderedDict[str, Row] = OrderedDict()
        self._lock = threading.Lock()

    def row(self, constraint: Constraint) -> Row:
        """A sequence's own, at its beginning. Raises BrokenConstraintError."""
        with self._lock:
            known = self._known.get(constraint.digest)
            if known is None:
                known = self._known[constraint.digest] = self._compiled(constraint)
                if len(self._known) > _KEPT:
                    self._known.popitem(last=False)
            self._known.move_to_end(constraint.digest)
            return known.clone()

    def _compiled(self, constraint: Constraint) -> Row:
        """With its first mask, which finds what compiling does not."""
        row = Row(LLMatcher(self._tokenizer, constraint.grammar, limits=limits(), log_level=0))
        row.clone().fill(np.zeros(-(-self._tokenizer.vocab_size // _WORD), np.int32))
        return row
