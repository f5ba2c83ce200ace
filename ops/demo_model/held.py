"""Answers of the check under the constraints that the server holds them to."""

import json
from typing import Any

from transformers import LogitsProcessor

from common.constraints.build import from_schema
from common.constraints.spec import Constraint
from common.door.tools import planned
from common.toolformat import ToolFormat
from ops.demo_model.lessons import Lesson
from ops.demo_model.objects import HINT, SHAPE
from worker.constraints.matcher import Compiler, Row
from worker.constraints.tokenizer import engine_tokenizer
from worker.engine.masks import Masks
from worker.models.pieces import Pieces
from worker.models.toolformat import found


class Grammars:
    """One model's."""

    def __init__(self, tokenizer: Any, ends: list[int]) -> None:
        backend = tokenizer.backend_tokenizer
        self._compiler = Compiler(engine_tokenizer(backend, Pieces(backend), len(tokenizer), ends))
        self._format = found(tokenizer, ends)

    def held(self, lessons: list[Lesson]) -> "Held":
        """A processor for answers to these."""
        constraints = [_constraint(lesson, self._format) for lesson in lessons]
        return Held([None if one is None else self._compiler.row(one) for one in constraints])


class Held(LogitsProcessor):  # type: ignore[misc]
    """Holds each row of a batch to its own constraint, from where its prompt ends."""

    def __init__(self, rows: list[Row | None]) -> None:
        self._rows = rows
        self._is_begun = False

    def __call__(self, input_ids: Any, scores: Any) -> Any:
        """``input_ids`` [B, T] and ``scores`` [B, V]; what may not come becomes minus infinity."""
        if self._is_begun:
            for row, token in zip(self._rows, input_ids[:, -1].tolist(), strict=True):
                if row is not None and not row.is_done:
                    row.advance(token)
        self._is_begun = True
        Masks(scores.shape[1], self._rows).apply(scores)
        return scores


def _constraint(lesson: Lesson, form: ToolFormat) -> Constraint | None:
    """What a request like this lesson would be held to."""
    if lesson.tools:
        return planned({"tools": lesson.tools, "choice": "auto", "parallel": True}, form, None)[0]
    hints = [turn["content"] for turn in lesson.messages if turn["role"] == "system"]
    hint = hints[0] if hints else ""
    if SHAPE in hint:
        return from_schema(json.loads(hint.partition(SHAPE)[2]))
    return from_schema({"type": "object"}) if HINT in hint else None
