"""The paper's statements, each held against the runs by a rule that is fixed beforehand.

A statement is about every noise level of a dataset. At one level it is decided by the 95 % confidence interval of a
difference, paired over seeds: wholly on the statement's side of 0, it holds there; wholly on the other, it does not;
otherwise, or with fewer than three seeds, it is not decided. For a dataset it holds if it holds at every level, and
does not if it does not hold at some level.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from reporting import paper
from reporting.measures import last_test, last_validation, restlessness, test_above_validation
from reporting.results import Results, percent
from reporting.robustness import drop_less_than
from reporting.statistics import Interval, interval, paired
from reporting.text import with_interval

HOLDS, FAILS, OPEN = "holds", "does not hold", "not decided"
SAME_MARGIN = 3.0  # points within which two arms do the same; the paper's BatchNorm is 20 and more away from both
NEAR = 5.0  # points from the authors' logged range within which a validation accuracy is near it
FAR = 10.0  # points by which "test" is far above validation
Decision = Callable[[Interval], str]


@dataclass(frozen=True)
class Finding:
    """A statement on one dataset: the verdict at each noise level (and arm), and the numbers behind it."""

    statement: str
    measured: str
    dataset: str
    verdicts: tuple[str, ...]
    numbers: tuple[str, ...]

    @property
    def verdict(self) -> str:
        """Of all levels together."""
        if FAILS in self.verdicts:
            return FAILS
        return HOLDS if set(self.verdicts) == {HOLDS} else OPEN

    @property
    def in_short(self) -> str:
        """The verdict, and at how many of the levels the statement holds."""
        if len(self.verdicts) == 1:
            return self.verdict
        return f"{self.verdict} ({self.verdicts.count(HOLDS)}\N{NO-BREAK SPACE}of\N{NO-BREAK SPACE}{len(self.verdicts)})"


@dataclass(frozen=True)
class Statement:
    """`levels` gives (what is compared at one level, its interval) for a dataset; `decide` the verdict of each."""

    text: str
    measured: str
    levels: Callable[[Results, str], Iterator[tuple[str, Interval]]]
    decide: Decision
    signed: bool = True

    def findings(self, results: Results) -> list[Finding]:
        """One for each dataset that has the runs for it."""
        found = []
        for dataset in results.datasets:
            levels = list(self.levels(results, dataset))
            if levels:
                verdicts = tuple(self.decide(value) for _, value in levels)
                numbers = tuple(
                    f"{name}: {with_interval(value, self.signed)}, {verdict}"
                    for (name, value), verdict in zip(levels, verdicts, strict=True)
                )
                found.append(Finding(self.text, self.measured, dataset, verdicts, numbers))
        return found


def positive(value: Interval) -> str:
    return HOLDS if value.above(0.0) else FAILS if value.below(0.0) else OPEN


def the_same(value: Interval) -> str:
    """Holds if the interval has 0 in it and lies within SAME_MARGIN of it; does not if 0 is outside."""
    if value.above(0.0) or value.below(0.0):
        return FAILS
    return HOLDS if value.above(-SAME_MARGIN) and value.below(SAME_MARGIN) else OPEN


def near_the_authors(value: Interval) -> str:
    low, high = paper.logged_validation(paper.COCO)
    if value.above(high + NEAR) or value.below(low - NEAR):
        return FAILS
    return HOLDS if value.above(low - NEAR) and value.below(high + NEAR) else OPEN


def far_above(value: Interval) -> str:
    return HOLDS if value.above(FAR) else FAILS if value.below(FAR) else OPEN


def more_accurate(first: str, second: str) -> Callable[[Results, str], Iterator[tuple[str, Interval]]]:
    """Test accuracy of the last epoch, `first` less `second`, at each noise level."""

    def levels(results: Results, dataset: str) -> Iterator[tuple[str, Interval]]:
        for noise in results.noises(dataset):
            found = paired(*(results.by_seed(dataset, noise, arm, last_test) for arm in (first, second)))
            if found:
                yield percent(noise), found

    return levels


def more_robust(first: str, second: str) -> Callable[[Results, str], Iterator[tuple[str, Interval]]]:
    """How much less `first` loses than `second` from clean to the paper's 20 % noise, or to the most there is below."""

    def levels(results: Results, dataset: str) -> Iterator[tuple[str, Interval]]:
        noises = [noise for noise in results.noises(dataset) if 0.0 < noise <= 0.2]
        found = drop_less_than(results, dataset, noises[-1], first, second) if noises else None
        if found:
            yield f"0 to {percent(noises[-1])}", found

    return levels


def steadier(first: str, second: str) -> Callable[[Results, str], Iterator[tuple[str, Interval]]]:
    """How much less `first` changes from epoch to epoch than `second`, at each noise level."""

    def levels(results: Results, dataset: str) -> Iterator[tuple[str, Interval]]:
        for noise in results.noises(dataset):
            found = paired(*(results.by_seed(dataset, noise, arm, restlessness) for arm in (second, first)))
            if found:
                yield percent(noise), found

    return levels


def of_published_coco(measure: Callable) -> Callable[[Results, str], Iterator[tuple[str, Interval]]]:
    """A measure of every arm and noise level of a TinyCOCO trained as published."""

    def levels(results: Results, dataset: str) -> Iterator[tuple[str, Interval]]:
        runs = results.of(dataset)
        if not all(run.as_published and paper.dataset_of(run) == paper.COCO for run in runs):
            return
        for noise in results.noises(dataset):
            for arm in results.arms(dataset, noise):
                values = results.by_seed(dataset, noise, arm, measure)
                yield f"{percent(noise)}, {arm}", interval(list(values.values()))

    return levels


def _difference(first: str, second: str) -> str:
    return f"test accuracy, `{first}` less `{second}`"


def _less_lost(first: str, second: str) -> str:
    return f"points lost, `{second}` less `{first}`"


def _less_change(first: str, second: str) -> str:
    return f"mean change an epoch, `{second}` less `{first}`"


_BN_WINS = "BatchNorm outperforms ConvNorm"
_BN_SUFFERS = "Adding ConvNorm brings BatchNorm down"
_ROBUST = "ConvNorm is more robust to label noise than BatchNorm"
_STEADY = "ConvNorm is steadier from epoch to epoch than BatchNorm"
STATEMENTS = (
    *(
        Statement(_BN_WINS, _difference("bn", arm), more_accurate("bn", arm), positive)
        for arm in ("conv", "conv_published")
    ),
    *(
        Statement(_BN_SUFFERS, _difference("bn", arm), more_accurate("bn", arm), positive)
        for arm in ("bncn", "bncn_published")
    ),
    *(
        Statement(_ROBUST, _less_lost(arm, "bn"), more_robust(arm, "bn"), positive)
        for arm in ("conv", "conv_published")
    ),
    Statement(
        "As published, conv and bncn do the same",
        _difference("conv_published", "bncn_published"),
        more_accurate("conv_published", "bncn_published"),
        the_same,
    ),
    *(Statement(_STEADY, _less_change(arm, "bn"), steadier(arm, "bn"), positive) for arm in ("conv", "conv_published")),
    Statement(
        "TinyCOCO as published: held-out accuracy is near that of the authors' logs",
        "validation accuracy, %",
        of_published_coco(last_validation),
        near_the_authors,
        signed=False,
    ),
    Statement(
        'TinyCOCO as published: "test" accuracy, mostly of training images, is far higher',
        "test less validation accuracy",
        of_published_coco(test_above_validation),
        far_above,
    ),
)


def examine(results: Results) -> list[Finding]:
    """Every statement on every dataset that has the runs for it, in the order of the statements."""
    return [finding for statement in STATEMENTS for finding in statement.findings(results)]
