"""The measures of one run, in percent (accuracy) or points (changes of accuracy)."""

import math
from collections.abc import Callable

from reporting.runs.run import Diagnostics, Run
from reporting.statistics import paper
from reporting.statistics.intervals import mean
from utils import columns

LAST_EPOCHS = 10
MOST_STEPS = 8  # a rate that changes more often, or after more than half of the epochs, has no steps to speak of
CLEAN, GIVEN, TRUE = (f"train_{figure}" for figure in (columns.CLEAN, columns.GIVEN, columns.TRUE))
PARTS = ((CLEAN, "clean images"), (GIVEN, "mislabelled, as given"), (TRUE, "mislabelled, as true"))
_TEN = ("CIFAR10", "SVHN", "MNIST", "FashionMNIST", "STL10", "TinyCOCO", "Digits")
_CLASSES = dict.fromkeys(_TEN, 10) | {"CIFAR100": 100, "TinyExDark": 12}
LARGEST, SMALLEST, GRADIENT, WEIGHT = columns.DIAGNOSTIC_COLUMNS[2:]


def last_test(run: Run) -> float:
    """Test accuracy of the last epoch."""
    return 100.0 * run.column("test_accuracy")[-1]


def best_test(run: Run) -> float:
    """Test accuracy at the epoch with the best validation accuracy, the first of them on ties."""
    return 100.0 * run.column("test_accuracy")[best_epoch(run) - 1]


def best_validation(run: Run) -> float:
    return 100.0 * max(run.column("val_accuracy"))


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
    """The last epoch's test accuracy minus its validation accuracy, as the run calls them."""
    return last_test(run) - last_validation(run)


def rate_steps(run: Run) -> list[int]:
    """The first epochs of each new learning rate; none if the rate changes all the time."""
    rates = run.column("lr")
    steps = [epoch for epoch in range(2, len(rates) + 1) if not math.isclose(rates[epoch - 1], rates[epoch - 2])]
    return steps if len(steps) <= min(MOST_STEPS, len(rates) // 2) else []


def changes(run: Run) -> list[tuple[int, float]]:
    """(epoch, absolute change of test accuracy since the previous epoch), from epoch 2 on."""
    accuracy = run.column("test_accuracy")
    return [(e, 100.0 * abs(accuracy[e - 1] - accuracy[e - 2])) for e in range(2, len(accuracy) + 1)]


def restlessness(run: Run, second_half: bool = True) -> float | None:
    """The mean absolute change of test accuracy from epoch to epoch at an unchanged learning rate.

    It is over the second half of the epochs, or over all of them. None if there are no such changes.
    """
    first = run.epochs // 2 + 2 if second_half else 2  # both epochs of a change are to lie in the second half
    steps = set(rate_steps(run))
    values = [change for epoch, change in changes(run) if epoch >= first and epoch not in steps]
    return mean(values) if values else None


def share(column: str) -> Callable[[Run], float | None]:
    """A measure: the last epoch's value of a column in percent; None if the run has none."""

    def of_run(run: Run) -> float | None:
        value = run.last(column)
        return None if value is None else 100.0 * value

    return of_run


def learnt(run: Run) -> list[tuple[int, float]]:
    """(epoch, percent of the mislabelled training images that are answered with the wrong label they were given)."""
    return _percent_by_epoch(run, GIVEN)


def chances(run: Run) -> list[tuple[int, float]]:
    """(epoch, how often, in percent, a network that knows nothing of the wrong labels would answer with them).

    A wrong label is one of the other classes - 1. A network that answers with the true class in a share t of the cases,
    and with all wrong classes alike otherwise, hits it in (1 - t) / (classes - 1). Nothing if the number of classes is
    not known.
    """
    known = classes(run)
    return [(epoch, (100.0 - true) / (known - 1)) for epoch, true in _percent_by_epoch(run, TRUE)] if known else []


def chance(run: Run) -> float | None:
    """The last epoch's of `chances`."""
    return dict(chances(run)).get(run.epochs)


def _percent_by_epoch(run: Run, column: str) -> list[tuple[int, float]]:
    values = run.metrics.get(column, ())
    return [(epoch, 100.0 * value) for epoch, value in enumerate(values, 1) if value is not None]


def classes(run: Run) -> int | None:
    """The number of classes by data.json or the config, or by the dataset's type or name; None if they do not say."""
    if run.data and run.data.classes:
        return run.data.classes
    own = run.config["arch"]["args"].get("num_classes")
    by_name = 10 if paper.named_cifar10(run.dataset) else None
    return own or _CLASSES.get(run.config["data_loader"]["type"]) or by_name


def over_layers(found: Diagnostics, column: str, epoch: int) -> float | None:
    """One value for an epoch: the largest of the largest singular values, the smallest of the smallest, or the norm of
    all layers together (root of the sum of squares) of gradients or weights. None if there are no values."""
    cells = (found.values[column].get((epoch, layer)) for layer in found.layers)
    values = [value for value in cells if value is not None]
    if not values:
        return None
    if column in (LARGEST, SMALLEST):
        return max(values) if column == LARGEST else min(values)
    return math.sqrt(math.fsum(value * value for value in values))


def last_layers(column: str) -> Callable[[Run], float | None]:
    """A measure: `over_layers` at the last epoch; None if it has no diagnostics."""

    def of_run(run: Run) -> float | None:
        return over_layers(run.diagnostics, column, run.epochs) if run.diagnostics else None

    return of_run
