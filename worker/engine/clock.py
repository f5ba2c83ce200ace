"""How long a job may generate."""

import math
from dataclasses import dataclass


@dataclass(slots=True)
class Clock:
    """One for all choices of a job: it runs from the first one's beginning, also while none of them has a slot."""

    left_s: float = math.inf  # after what workers before us took
    began: float | None = None

    def start(self, now: float) -> None:
        """A choice begins."""
        if self.began is None:
            self.began = now

    def is_up(self, now: float) -> bool:
        """Nothing more is generated."""
        return (0.0 if self.began is None else now - self.began) >= self.left_s
