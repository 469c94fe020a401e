"""The monitor of a run: best epoch and early stop."""

import math
from collections.abc import Iterable


class Monitor:
    """Follows the figure that `rule` names, such as "max val_accuracy" or "min test_loss"; "off" follows none.

    `add` takes one score for each epoch, in order. NaN is never best. None, the score without the figure, is ignored.
    """

    def __init__(self, rule: str, patience: int | None = None) -> None:
        mode, _, column = rule.partition(" ")
        self.column = column or None
        self.patience = patience
        self.best: float | None = None
        self.epochs_since_best = 0
        self._sign = -1.0 if mode == "min" else 1.0

    def add(self, score: float | None) -> bool:
        """Add an epoch's score. Returns whether it is the best so far."""
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
        """Whether `patience` epochs have passed without a better score."""
        return 0 < (self.patience or 0) <= self.epochs_since_best
