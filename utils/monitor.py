"""What a run is best by, and when it has had enough."""

import math
from collections.abc import Iterable


class Monitor:
    """Follows the figure that `rule` names, "max val_accuracy" or "min test_loss"; "off" names none.

    It is fed a score an epoch, in order. NaN is never best. None, of an epoch in which the figure was not measured,
    counts for nothing.
    """

    def __init__(self, rule: str, patience: int | None = None) -> None:
        mode, _, column = rule.partition(" ")
        self.column = column or None
        self.patience = patience
        self.best: float | None = None
        self.epochs_since_best = 0
        self._sign = -1.0 if mode == "min" else 1.0

    def add(self, score: float | None) -> bool:
        """Take an epoch's score; whether it is the best so far."""
        if self.column is None or score is None:
            return False
        if not math.isnan(score) and (self.best is None or self._sign * score > self._sign * self.best):
            self.best, self.epochs_since_best = score, 0
            return True
        self.epochs_since_best += 1
        return False

    def add_all(self, scores: Iterable[float | None]) -> "Monitor":
        for score in scores:
            self.add(score)
        return self

    @property
    def has_had_enough(self) -> bool:
        """Whether `patience` epochs have gone by without a better one."""
        return self.patience is not None and self.epochs_since_best >= self.patience
