"""What is measured on one run, in percent (of accuracy) or points (of its changes)."""

import math
from collections.abc import Sequence

from reporting.runs.run import Run

LAST_EPOCHS = 10
MOST_STEPS = 8  # a rate that changes more often, or after more than half of the epochs, has no steps to speak of


def last_test(run: Run) -> float:
    """Test accuracy of the last epoch."""
    return 100.0 * run.column("test_accuracy")[-1]


def best_test(run: Run) -> float:
    """Test accuracy of the epoch with the best validation accuracy, the first of them on ties."""
    return 100.0 * run.column("test_accuracy")[best_epoch(run) - 1]


def best_epoch(run: Run) -> int:
    validation = run.column("val_accuracy")
    return validation.index(max(validation)) + 1


def last_ten_test(run: Run) -> float:
    """Mean test accuracy of the last ten epochs, or of all if there are fewer."""
    return 100.0 * mean(run.column("test_accuracy")[-LAST_EPOCHS:])


def last_validation(run: Run) -> float:
    return 100.0 * run.column("val_accuracy")[-1]


def last_training(run: Run) -> float:
    return 100.0 * run.column("train_accuracy")[-1]


def test_above_validation(run: Run) -> float:
    """How far the accuracy called test is above that called val after the last epoch."""
    return last_test(run) - last_validation(run)


def rate_steps(run: Run) -> list[int]:
    """The epochs that are the first of a new learning rate; none where the rate changes all the time."""
    rates = run.column("lr")
    steps = [epoch for epoch in range(2, len(rates) + 1) if not math.isclose(rates[epoch - 1], rates[epoch - 2])]
    return steps if len(steps) <= min(MOST_STEPS, len(rates) // 2) else []


def changes(run: Run) -> list[tuple[int, float]]:
    """(epoch, absolute change of test accuracy since the epoch before), from epoch 2 on."""
    accuracy = run.column("test_accuracy")
    return [(e, 100.0 * abs(accuracy[e - 1] - accuracy[e - 2])) for e in range(2, len(accuracy) + 1)]


def restlessness(run: Run, second_half: bool = True) -> float | None:
    """Mean absolute change of test accuracy from epoch to epoch, where the rate stays the same.

    Over the changes within the second half of the epochs, or within all. None if there are none.
    """
    first = run.epochs // 2 + 2 if second_half else 2  # both epochs of a change are to lie in the second half
    steps = set(rate_steps(run))
    values = [change for epoch, change in changes(run) if epoch >= first and epoch not in steps]
    return mean(values) if values else None


def mean(values: Sequence[float]) -> float:
    return math.fsum(values) / len(values)
