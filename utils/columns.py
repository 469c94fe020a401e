"""The columns of a run's tables: known to those who write them and to those who only read."""

from collections.abc import Iterable

SPLITS = ("train", "val", "test")

#: How the training images are classified, apart for those with a right and those with a wrong label.
CLEAN, GIVEN, TRUE = "clean_accuracy", "mislabelled_given_accuracy", "mislabelled_true_accuracy"

#: metrics.csv: what every run has, in this order, then whatever else it measures, then LAST_COLUMN.
FIRST_COLUMNS = ("epoch", "lr", *(f"{split}_{figure}" for split in SPLITS for figure in ("loss", "accuracy")))
LAST_COLUMN = "seconds"

#: diagnostics.csv, all of it.
DIAGNOSTIC_COLUMNS = (
    "epoch",
    "layer",
    "largest_singular_value",
    "smallest_singular_value",
    "gradient_norm",
    "weight_norm",
)


def prefixed(split: str, figures: dict[str, float]) -> dict[str, float]:
    """Figures of a split by their columns: loss of val is val_loss."""
    return {f"{split}_{name}": value for name, value in figures.items()}


def columns_of(figures: Iterable[str]) -> list[str]:
    """The columns of these figures, split by split."""
    names = list(figures)
    return [f"{split}_{name}" for split in SPLITS for name in names]


def tag(column: str) -> str:
    """TensorBoard's tag of a column: train_loss is train/loss, lr stays lr."""
    split, _, rest = column.partition("_")
    return f"{split}/{rest}" if rest else column
