"""The paper's statements, and the verdict of the runs on each, by rules that were fixed beforehand (docs/rules.md).

A statement is about the noise levels of a dataset with the most seeds planned, whether their runs have finished or not.
At one level the confidence interval of a difference, paired over seeds, decides: if it lies wholly on the statement's
side of 0, the statement holds there; if it lies wholly on the other side, it does not; otherwise, or with fewer than
three seeds, it is not decided. Holm's correction over all intervals of the dataset sets the width of the interval. The
statement holds for a dataset if it holds at every level that counts, and does not hold if it does not hold at one.
"""

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import NamedTuple

from reporting.runs.run import Key, Run
from reporting.runs.words import listed, percent
from reporting.statistics import paper
from reporting.statistics.intervals import ENOUGH_SEEDS, Interval, holm, interval, paired, smallest_error
from reporting.statistics.measures import last_test, last_validation, restlessness, test_above_validation
from reporting.statistics.numbers import with_interval
from reporting.statistics.results import Results
from reporting.statistics.robustness import drop_less_than

HOLDS, FAILS, OPEN = "holds", "does not hold", "not decided"
SAME_MARGIN = 3.0  # points within which two arms do the same; the paper's BatchNorm is 20 and more away from both
NEAR = 5.0  # points from the authors' logged range within which a validation accuracy is near it
MOST_NOISE = 0.2  # the paper's
FAR = 10.0  # points by which "test" is far above validation
Decision = Callable[[Interval], str]
POINTS, STEPS, HELD_OUT = "accuracy, points", "change an epoch, points", "TinyCOCO as published, % or points"


class Level(NamedTuple):
    """A noise level of a dataset, the name of the comparison, its 95 % interval, and the paper's own value if any."""

    noise: float
    name: str
    interval: Interval | None
    theirs: float | None = None


Levels = Callable[[Results, str], Iterator[Level]]


@dataclass(frozen=True)
class Measured:
    """The result at one noise level (and arm), and the verdict after Holm's correction.

    A level that does not `count` is shown but decides nothing.
    """

    level: Level
    verdict: str
    counts: bool

    @property
    def could_decide(self) -> bool:
        return self.counts and self.level.interval is not None and self.level.interval.enough


@dataclass(frozen=True)
class Finding:
    """A statement on one dataset: the result at each noise level (and arm), and their common verdict.

    It is not `final` as long as runs of the dataset are to come. `seeds` is how many were asked for.
    """

    statement: "Statement"
    dataset: str
    measured: tuple[Measured, ...]
    final: bool = True
    seeds: int = ENOUGH_SEEDS

    @property
    def numbers(self) -> tuple[str, ...]:
        """A line for each level: difference, interval and verdict."""
        return tuple(
            f"{at.level.name}: "
            + (with_interval(at.level.interval, self.statement.signed) if at.level.interval else self.statement.lacking)
            + f", {at.verdict if at.counts else 'shown beside'}"
            for at in self.measured
        )

    @property
    def verdicts(self) -> tuple[str, ...]:
        return tuple(at.verdict for at in self.measured if at.counts)

    @property
    def verdict(self) -> str:
        """The common verdict of all levels."""
        if FAILS in self.verdicts:
            return FAILS
        return HOLDS if set(self.verdicts) == {HOLDS} else OPEN

    @property
    def decidable(self) -> bool:
        """Whether enough seeds were asked for to decide anything."""
        return self.seeds >= ENOUGH_SEEDS

    @property
    def told(self) -> str:
        """The verdict in words that say if it is not final, or the reason why there can be none."""
        if not self.decidable:
            return f"{self.seeds} seed{'' if self.seeds == 1 else 's'} only"
        return self.verdict if self.final else f"{self.verdict} {'yet' if self.verdict == OPEN else 'so far'}"

    @property
    def in_short(self) -> str:
        """The verdict, and the number of levels at which the statement holds."""
        if len(self.verdicts) == 1 or not self.decidable:
            return self.told
        return f"{self.told} ({self.verdicts.count(HOLDS)}\N{NO-BREAK SPACE}of\N{NO-BREAK SPACE}{len(self.verdicts)})"


@dataclass(frozen=True)
class Statement:
    """A statement of the paper. `levels` gives the levels of a dataset, and nothing if the statement does not apply;
    `decide` turns an interval into a verdict; `unit` says what is measured in."""

    text: str
    measured: str
    levels: Levels
    decide: Decision
    unit: str = POINTS
    signed: bool = True
    lacking: str = "no seed has both runs"

    @property
    def arms(self) -> list[str]:
        """The arms that it compares; none if it is about each of them."""
        return re.findall(r"`(\w+)`", self.measured)

    @property
    def in_brief(self) -> str:
        return f"{self.text} ({' less '.join(self.arms)})" if len(self.arms) == 2 else self.text

    def decided(self, value: Interval) -> bool:
        return self.decide(value) != OPEN


def _above(bound: float) -> Decision:
    return lambda value: HOLDS if value.above(bound) else FAILS if value.below(bound) else OPEN


def _within(low: float, high: float) -> Decision:
    """Holds if the interval lies within the range; does not hold if it lies wholly outside."""

    def decide(value: Interval) -> str:
        if value.above(high) or value.below(low):
            return FAILS
        return HOLDS if value.above(low) and value.below(high) else OPEN

    return decide


positive = _above(0.0)
far_above = _above(FAR)
within_margin = _within(-SAME_MARGIN, SAME_MARGIN)


def near_the_authors(value: Interval) -> str:
    """Holds if the interval lies within NEAR of the validation accuracies in the authors' logs; does not if it is
    beyond."""
    low, high = paper.logged_validation(paper.COCO)
    return _within(low - NEAR, high + NEAR)(value)


def difference(first: str, second: str, measure: Callable[[Run], float | None]) -> Levels:
    """A measure at each noise level, `first` minus `second`; of test accuracy also the paper's own difference."""

    def levels(results: Results, dataset: str) -> Iterator[Level]:
        for noise in _asked_noises(results, dataset, first, second):
            found = (results.by_seed(dataset, noise, arm, measure) for arm in (first, second))
            theirs = _stated_difference(results, dataset, noise, first, second) if measure is last_test else None
            name = percent(noise) + _lost(results, dataset, (noise,), first, second)
            yield Level(noise, name, paired(*found), theirs)

    return levels


def more_robust(first: str, second: str) -> Levels:
    """By how much less `first` loses than `second` from clean labels to 20 % noise or the highest level below."""

    def levels(results: Results, dataset: str) -> Iterator[Level]:
        noises = [noise for noise in _asked_noises(results, dataset, first, second) if noise <= MOST_NOISE]
        if noises and noises[0] == 0.0 < noises[-1]:
            most = noises[-1]
            clean, noisy = (_stated_difference(results, dataset, noise, first, second) for noise in (0.0, most))
            theirs = None if clean is None or noisy is None else noisy - clean
            found = drop_less_than(results, dataset, most, first, second)
            name = f"0 to {percent(most)}" + _lost(results, dataset, (0.0, most), first, second)
            yield Level(most, name, found, theirs)

    return levels


def _asked_noises(results: Results, dataset: str, *arms: str) -> list[float]:
    """The noise levels of a dataset that have or plan runs of all the arms."""
    asked = [{key.noise for key in results.asked_of(dataset) if key.arm == arm} for arm in arms]
    return sorted(set.intersection(*asked))


def _lost(results: Results, dataset: str, noises: tuple[float, ...], *arms: str) -> str:
    """How many runs of each arm diverged, which the interval cannot show."""
    runs = {arm: [r for n in noises for r in results.unfinished.get(Key(dataset, n, arm), {}).values()] for arm in arms}
    counts = {arm: sum(run.diverged is not None for run in found) for arm, found in runs.items()}
    words = [f"{count} of `{arm}`" for arm, count in counts.items() if count]
    return f" ({listed(words)} diverged)" if words else ""


def _stated_difference(results: Results, dataset: str, noise: float, first: str, second: str) -> float | None:
    """The test accuracy that the paper states, `first` minus `second`."""
    original = paper.dataset_of(results.of(dataset)[0])
    ours, others = (paper.stated(original, arm, noise) if original else None for arm in (first, second))
    return None if ours is None or others is None else ours - others


def of_published_coco(measure: Callable[[Run], float], theirs: Callable[[paper.Logged], float]) -> Levels:
    """A measure of every arm and noise level of a TinyCOCO with the data as published, and the authors' own."""

    def levels(results: Results, dataset: str) -> Iterator[Level]:
        for key in results.asked_of(dataset) if all(map(paper.is_published_coco, results.of(dataset))) else ():
            values, log = results.values(*key, measure), paper.logged(paper.COCO, key.arm, key.noise)
            found = interval(values) if values else None
            yield Level(key.noise, f"{percent(key.noise)}, {key.arm}", found, theirs(log) if log else None)

    return levels


def _accuracy(text: str, first: str, second: str, decide: Decision = positive) -> Statement:
    return Statement(text, f"test accuracy, `{first}` less `{second}`", difference(first, second, last_test), decide)


def _robust(first: str, second: str) -> Statement:
    text, by = "ConvNorm is more robust to label noise than BatchNorm", f"points lost, `{second}` less `{first}`"
    return Statement(text, by, more_robust(first, second), positive)


def _steady(first: str, second: str) -> Statement:
    text, by = (
        "ConvNorm is steadier from epoch to epoch than BatchNorm",
        f"mean change an epoch, `{second}` less `{first}`",
    )
    return Statement(text, by, difference(second, first, restlessness), positive, STEPS)


CONTROL = Statement(
    "Control: clipping gradients as `conv` does leaves BatchNorm where it is",
    "test accuracy, `bn_clipped` less `bn`",
    difference("bn_clipped", "bn", last_test),
    within_margin,
)
STATEMENTS = (
    *(_accuracy("BatchNorm outperforms ConvNorm", "bn", arm) for arm in ("conv", "conv_published")),
    *(_accuracy("Adding ConvNorm brings BatchNorm down", "bn", arm) for arm in ("bncn", "bncn_published")),
    *(_robust(arm, "bn") for arm in ("conv", "bncn", "conv_published")),
    _accuracy("As published, conv and bncn do the same", "conv_published", "bncn_published", within_margin),
    CONTROL,
    *(_steady(arm, "bn") for arm in ("conv", "conv_published")),
    Statement(
        "TinyCOCO as published: held-out accuracy is near that of the authors' logs",
        "validation accuracy, %",
        of_published_coco(last_validation, lambda log: log.val),
        near_the_authors,
        HELD_OUT,
        signed=False,
        lacking="no finished run",
    ),
    Statement(
        'TinyCOCO as published: "test" accuracy, mostly of training images, is far higher',
        "test less validation accuracy",
        of_published_coco(test_above_validation, lambda log: log.test - log.val),
        far_above,
        HELD_OUT,
        lacking="no finished run",
    ),
)


def examine(results: Results) -> list[Finding]:
    """Every statement on every dataset of the paper that has runs for it, in the order of the statements. A search is
    held against none: its runs are there to choose by validation accuracy."""
    found = [finding for dataset in results.datasets for finding in _examine(results, dataset)]
    return sorted(found, key=lambda finding: STATEMENTS.index(finding.statement))


def _examine(results: Results, dataset: str) -> list[Finding]:
    """All statements on one dataset. Their intervals share one error of 5 %."""
    counting, run = results.fullest_levels(dataset), results.of(dataset)[0]
    if paper.dataset_of(run) is None or run.sweep:
        return []
    asked = [
        (statement, Measured(level, OPEN, level.noise in counting))
        for statement in STATEMENTS
        for level in statement.levels(results, dataset)
    ]
    able = [(of, at.level.interval) for of, at in asked if at.could_decide and at.level.interval is not None]
    allowed = iter(holm([smallest_error(value, statement.decided) for statement, value in able]))
    by_statement: dict[Statement, list[Measured]] = {}
    for statement, at in asked:
        error = next(allowed) if at.could_decide else None
        if error is not None and at.level.interval is not None:
            at = replace(at, verdict=statement.decide(at.level.interval.at(1.0 - error)))
        by_statement.setdefault(statement, []).append(at)
    final, seeds = results.is_final(dataset), results.most_seeds(dataset)
    return [Finding(statement, dataset, tuple(levels), final, seeds) for statement, levels in by_statement.items()]
