"""Means, spreads and seed-paired differences with their confidence intervals."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

CONFIDENCE = 0.95
ENOUGH_SEEDS = 3
HALVINGS = 50  # of the range from 0 to 1 in which an error probability is looked for


@dataclass(frozen=True)
class Spread:
    """The mean and the sample standard deviation (n - 1) over `n` seeds; one seed has no deviation."""

    mean: float
    std: float | None
    n: int


@dataclass(frozen=True)
class Interval:
    """A mean over `n` seeds with its confidence interval by Student's t, by default of 95 %; one seed has no interval.

    `error` is the standard error of the mean.
    """

    mean: float
    low: float | None
    high: float | None
    n: int
    error: float = 0.0

    def at(self, confidence: float) -> "Interval":
        """The interval of the same mean at another confidence."""
        if self.n < 2:
            return self
        from scipy.special import stdtrit  # scikit-learn, which the project needs, brings it

        half = float(stdtrit(self.n - 1, 0.5 + confidence / 2)) * self.error
        return replace(self, low=self.mean - half, high=self.mean + half)

    @property
    def enough(self) -> bool:
        """Whether there are enough seeds to decide anything."""
        return self.n >= ENOUGH_SEEDS

    def above(self, bound: float) -> bool:
        return self.enough and self.low is not None and self.low > bound

    def below(self, bound: float) -> bool:
        return self.enough and self.high is not None and self.high < bound


def mean(values: Sequence[float]) -> float:
    return math.fsum(values) / len(values)


def spread(values: Sequence[float]) -> Spread:
    average = mean(values)
    if len(values) < 2:
        return Spread(average, None, len(values))
    squares = math.fsum((value - average) ** 2 for value in values)
    return Spread(average, math.sqrt(squares / (len(values) - 1)), len(values))


def interval(values: Sequence[float]) -> Interval:
    """The interval of the mean of `values`, one for each seed."""
    found = spread(values)
    if found.std is None:
        return Interval(found.mean, None, None, found.n)
    return Interval(found.mean, None, None, found.n, found.std / math.sqrt(found.n)).at(CONFIDENCE)


def paired(first: Mapping[int, float], second: Mapping[int, float]) -> Interval | None:
    """The interval of `first` minus `second`, each by seed, over their common seeds; None if they have none."""
    seeds = sorted(first.keys() & second.keys())
    return interval([first[seed] - second[seed] for seed in seeds]) if seeds else None


def smallest_error(value: Interval, decides: Callable[[Interval], bool]) -> float:
    """The p-value of an interval: the smallest error at which it decides, by bisection; 1 if it never decides.

    An interval that decides also decides at every larger error, where it is narrower.
    """
    if not decides(value.at(0.0)):
        return 1.0
    low, high = 0.0, 1.0
    for _ in range(HALVINGS):
        middle = (low + high) / 2
        low, high = (low, middle) if decides(value.at(1.0 - middle)) else (middle, high)
    return high


def holm(errors: Sequence[float]) -> list[float | None]:
    """The level at which each of m errors may decide, None if it may not: Holm 1979, Scand. J. Stat. 6, 65-70.

    The smallest error may decide at 5 % / m, the next at 5 % / (m - 1) and so on, up to the first error above its
    level.
    """
    allowed: list[float | None] = [None] * len(errors)
    for rank, index in enumerate(sorted(range(len(errors)), key=lambda index: errors[index])):
        share = (1.0 - CONFIDENCE) / (len(errors) - rank)
        if errors[index] > share:
            break
        allowed[index] = share
    return allowed
