"""The constraints as outlines knows them: a backend, and a processor for ``outlines.Generator`` or ``generate``.

For use without the service. outlines' own backends keep one grammar for a whole batch and lose what our masks hold
(docs/decisions/0015); the engine goes to the matchers directly.
"""

import json
from typing import Any

import torch
from outlines.backends.base import BaseBackend
from outlines.processors.base_logits_processor import OutlinesLogitsProcessor

from common.constraints.build import from_grammar, from_regex, from_schema
from common.constraints.spec import Constraint
from worker.constraints.matcher import Compiler, Row
from worker.engine.masks import Masks


class Backend(BaseBackend):
    """One model's; raises RefusedConstraintError for what cannot be held."""

    def __init__(self, compiler: Compiler) -> None:
        self._compiler = compiler

    def get_json_schema_logits_processor(self, json_schema: str, whitespace_pattern: str | None = None) -> "Processor":
        """JSON of this schema."""
        return self._processor(from_schema(json.loads(json_schema), strict=True, whitespace=whitespace_pattern))

    def get_regex_logits_processor(self, regex: str) -> "Processor":
        """A text that this matches as a whole."""
        return self._processor(from_regex(regex))

    def get_cfg_logits_processor(self, grammar: str) -> "Processor":
        """A text of this grammar, in Lark."""
        return self._processor(from_grammar(grammar))

    def _processor(self, constraint: Constraint) -> "Processor":
        return Processor(self._compiler.row(constraint))


class Processor(OutlinesLogitsProcessor):
    """Holds each row of a batch to the same constraint, from where its prompt ends."""

    def __init__(self, row: Row) -> None:
        before = torch._dynamo.config.suppress_errors  # noqa: SLF001  outlines changes it for everybody
        super().__init__("torch")
        torch._dynamo.config.suppress_errors = before  # noqa: SLF001
        self._row = row
        self._rows: list[Row] = []

    def reset(self) -> None:
        """Another answer begins."""
        self._rows = []

    def process_logits(self, input_ids: Any, logits: Any) -> Any:
        """``input_ids`` [B, T] and ``logits`` [B, V]; what may not come becomes minus infinity."""
        if self._rows:
            for row, token in zip(self._rows, input_ids[:, -1].tolist(), strict=True):
                if not row.is_done:
                    row.advance(token)
        else:
            self._rows = [self._row.clone() for _ in range(len(input_ids))]
        Masks(logits.shape[1], self._rows).apply(logits)
        return logits
