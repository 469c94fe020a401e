"""Means, spreads and seed-paired differences with their confidence intervals."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from reporting.measures import mean

CONFIDENCE = 0.95
ENOUGH_SEEDS = 3


@dataclass(frozen=True)
class Spread:
    """Mean and sample standard deviation (n - 1) over `n` seeds; no deviation of one."""

    mean: float
    std: float | None
    n: int


@dataclass(frozen=True)
class Interval:
    """A mean over `n` seeds with its 95 % confidence interval by Student's t; no interval of one."""

    mean: float
    low: float | None
    high: float | None
    n: int

    @property
    def enough(self) -> bool:
        """Whether there are seeds enough to decide anything by it."""
        return self.n >= ENOUGH_SEEDS

    def above(self, bound: float) -> bool:
        return self.enough and self.low is not None and self.low > bound

    def below(self, bound: float) -> bool:
        return self.enough and self.high is not None and self.high < bound


def spread(values: Sequence[float]) -> Spread:
    average = mean(values)
    if len(values) < 2:
        return Spread(average, None, len(values))
    squares = math.fsum((value - average) ** 2 for value in values)
    return Spread(average, math.sqrt(squares / (len(values) - 1)), len(values))


def interval(values: Sequence[float]) -> Interval:
    """Of the mean of `values`, one a seed."""
    found = spread(values)
    if found.std is None:
        return Interval(found.mean, None, None, found.n)
    from scipy.special import stdtrit  # scikit-learn, which the project needs, brings it

    quantile = float(stdtrit(found.n - 1, 0.5 + CONFIDENCE / 2))
    half = quantile * found.std / math.sqrt(found.n)
    return Interval(found.mean, found.mean - half, found.mean + half, found.n)


def paired(first: Mapping[int, float], second: Mapping[int, float]) -> Interval | None:
    """`first` less `second`, each by seed, over the seeds that both have; None if they share none."""
    seeds = sorted(first.keys() & second.keys())
    return interval([first[seed] - second[seed] for seed in seeds]) if seeds else None
