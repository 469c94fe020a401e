"""The paper's statements, each held against the runs by a rule that is fixed beforehand.

A statement is about every noise level of a dataset, be its runs finished or still missing. At one level it is decided
by the 95 % confidence interval of a difference, paired over seeds: wholly on the statement's side of 0, it holds there;
wholly on the other, it does not; otherwise, or with fewer than three seeds, it is not decided. For a dataset it holds
if it holds at every level, and does not if it does not hold at some level.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from reporting import paper
from reporting.measures import last_test, last_validation, restlessness, test_above_validation
from reporting.results import Results, cell_order, percent
from reporting.robustness import drop_less_than
from reporting.runs import Run
from reporting.statistics import Interval, interval, paired
from reporting.text import with_interval

HOLDS, FAILS, OPEN = "holds", "does not hold", "not decided"
SAME_MARGIN = 3.0  # points within which two arms do the same; the paper's BatchNorm is 20 and more away from both
NEAR = 5.0  # points from the authors' logged range within which a validation accuracy is near it
MOST_NOISE = 0.2  # the paper's
FAR = 10.0  # points by which "test" is far above validation
Decision = Callable[[Interval], str]
Level = tuple[str, Interval | None]


@dataclass(frozen=True)
class Finding:
    """A statement on one dataset: the verdict at each noise level (and arm), and the numbers behind it."""

    statement: str
    measured: str
    dataset: str
    verdicts: tuple[str, ...]
    numbers: tuple[str, ...]
    intervals: int = 0  # those among the numbers that could decide

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
        return (
            f"{self.verdict} ({self.verdicts.count(HOLDS)}\N{NO-BREAK SPACE}of\N{NO-BREAK SPACE}{len(self.verdicts)})"
        )


@dataclass(frozen=True)
class Statement:
    """`levels` gives (what is compared at one level, its interval or None) for a dataset, none where the statement does
    not apply; `decide` the verdict of each."""

    text: str
    measured: str
    levels: Callable[[Results, str], Iterator[Level]]
    decide: Decision
    signed: bool = True
    lacking: str = "no seed has both runs"

    def findings(self, results: Results) -> list[Finding]:
        """One for each dataset that it applies to."""
        found = []
        for dataset in results.datasets:
            levels = list(self.levels(results, dataset))
            if levels:
                verdicts = tuple(self.decide(value) if value else OPEN for _, value in levels)
                numbers = tuple(
                    f"{name}: {with_interval(value, self.signed) if value else self.lacking}, {verdict}"
                    for (name, value), verdict in zip(levels, verdicts, strict=True)
                )
                intervals = sum(value is not None and value.enough for _, value in levels)
                found.append(Finding(self.text, self.measured, dataset, verdicts, numbers, intervals))
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


def more_accurate(first: str, second: str) -> Callable[[Results, str], Iterator[Level]]:
    """Test accuracy of the last epoch, `first` less `second`, at each noise level."""

    def levels(results: Results, dataset: str) -> Iterator[Level]:
        for noise in _asked_noises(results, dataset, first, second):
            yield percent(noise), paired(*(results.by_seed(dataset, noise, arm, last_test) for arm in (first, second)))

    return levels


def more_robust(first: str, second: str) -> Callable[[Results, str], Iterator[Level]]:
    """How much less `first` loses than `second` from clean to the paper's 20 % noise, or to the most there is below."""

    def levels(results: Results, dataset: str) -> Iterator[Level]:
        noises = [noise for noise in _asked_noises(results, dataset, first, second) if noise <= MOST_NOISE]
        if noises and noises[0] == 0.0 < noises[-1]:
            yield f"0 to {percent(noises[-1])}", drop_less_than(results, dataset, noises[-1], first, second)

    return levels


def steadier(first: str, second: str) -> Callable[[Results, str], Iterator[Level]]:
    """How much less `first` changes from epoch to epoch than `second`, at each noise level."""

    def levels(results: Results, dataset: str) -> Iterator[Level]:
        for noise in _asked_noises(results, dataset, first, second):
            found = (results.by_seed(dataset, noise, arm, restlessness) for arm in (second, first))
            yield percent(noise), paired(*found)

    return levels


def _asked_noises(results: Results, dataset: str, *arms: str) -> list[float]:
    """All levels of a dataset if it has the arms; those without finished runs decide nothing, but are asked after."""
    asked = [key for key in results.asked if key.dataset == dataset]
    return sorted({key.noise for key in asked}) if {key.arm for key in asked}.issuperset(arms) else []


def of_published_coco(measure: Callable[[Run], float]) -> Callable[[Results, str], Iterator[Level]]:
    """A measure of every arm and noise level of a TinyCOCO trained as published."""

    def levels(results: Results, dataset: str) -> Iterator[Level]:
        if not all(run.as_published and paper.dataset_of(run) == paper.COCO for run in results.of(dataset)):
            return
        for key in sorted((key for key in results.asked if key.dataset == dataset), key=cell_order):
            values = list(results.by_seed(*key, measure).values())
            yield f"{percent(key.noise)}, {key.arm}", interval(values) if values else None

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
        lacking="no finished run",
    ),
    Statement(
        'TinyCOCO as published: "test" accuracy, mostly of training images, is far higher',
        "test less validation accuracy",
        of_published_coco(test_above_validation),
        far_above,
        lacking="no finished run",
    ),
)


def examine(results: Results) -> list[Finding]:
    """Every statement on every dataset that has the runs for it, in the order of the statements."""
    return [finding for statement in STATEMENTS for finding in statement.findings(results)]
