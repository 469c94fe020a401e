"""Accuracy on the clean and the mislabelled part of the training images, after the last epoch."""

from collections.abc import Callable

from reporting.runs.run import Run
from utils import columns

CLEAN, GIVEN, TRUE = (f"train_{figure}" for figure in (columns.CLEAN, columns.GIVEN, columns.TRUE))
PARTS = ((CLEAN, "clean images"), (GIVEN, "mislabelled, as given"), (TRUE, "mislabelled, as true"))
_CLASSES = {"CIFAR10": 10, "TinyCOCO": 10, "TinyExDark": 12, "Digits": 10}


def share(column: str) -> Callable[[Run], float | None]:
    """The measure of a run that is the last epoch's figure in a column, in percent; None if it has none."""

    def of_run(run: Run) -> float | None:
        value = run.last(column)
        return None if value is None else 100.0 * value

    return of_run


def chance(run: Run) -> float | None:
    """How often, in percent, the given label of a mislabelled image would be hit by one who knows nothing of it.

    The given label is one of the classes - 1 wrong ones. Who answers with the true class in a share t of the cases and
    with any wrong one alike in the others hits it in (1 - t) / (classes - 1). None if the classes are not known.
    """
    known = classes(run)
    true = run.last(TRUE)
    return None if known is None or true is None else 100.0 * (1.0 - true) / (known - 1)


def classes(run: Run) -> int | None:
    """Of the config, or of the dataset by its type or its name; None if neither says."""
    own = run.config["arch"]["args"].get("num_classes")
    by_name = 10 if "cifar10" in run.dataset.lower() else None
    return own or _CLASSES.get(run.config["data_loader"]["type"]) or by_name
