"""How far training has come, in one place for all who ask."""

import math
from dataclasses import dataclass


@dataclass
class Position:
    """How far training has come."""

    epoch: int = 0  # finished epochs
    batch: int = 0  # batches done of the epoch under way
    step: int = 0  # optimizer steps
    logged: int = 0  # the step at which values were last logged
    best: float | None = None  # the monitored value at its best
    watched: str | None = None  # which value that is, and whether its minimum or maximum is best

    def better(self, value: float, watched: str, mode: str) -> bool:
        """Take in a new value, and return whether it is the best of its kind so far."""
        if watched != self.watched:  # a different value's best says nothing
            self.watched, self.best = watched, self.best if self.watched is None else None
        best = self.best
        if not math.isfinite(value) or (best is not None and not (value < best if mode == "min" else value > best)):
            return False
        self.best = value
        return True
