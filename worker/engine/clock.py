"""How long a job may generate."""

import math
from dataclasses import dataclass


@dataclass(slots=True)
class Clock:
    """One for all choices of a job: it runs while at least one of them has a slot."""

    most_s: float = math.inf
    before_s: float = 0.0  # until it stood still, workers before us included
    began: float | None = None  # since then; None while it stands still

    def start(self, now: float) -> None:
        """A choice has a slot."""
        if self.began is None:
            self.began = now

    def stop(self, now: float) -> None:
        """None has one any more."""
        self.before_s, self.began = self.spent_s(now), None

    def spent_s(self, now: float) -> float:
        """The time that counts."""
        return self.before_s + (0.0 if self.began is None else now - self.began)

    def is_up(self, now: float) -> bool:
        """Nothing more is generated."""
        return self.spent_s(now) >= self.most_s
