"""The columns of a run's tables, for writers and readers."""

from collections.abc import Iterable

SPLITS = ("train", "val", "test")

#: Accuracy on the training images with a correct label, and on those with a wrong one against each of their labels.
CLEAN, GIVEN, TRUE = "clean_accuracy", "mislabelled_given_accuracy", "mislabelled_true_accuracy"

#: metrics.csv: these columns in every run, in this order, then all other figures, then LAST_COLUMN.
FIRST_COLUMNS = ("epoch", "lr", *(f"{split}_{figure}" for split in SPLITS for figure in ("loss", "accuracy")))
LAST_COLUMN = "seconds"

#: diagnostics.csv: all columns.
DIAGNOSTIC_COLUMNS = (
    "epoch",
    "layer",
    "largest_singular_value",
    "smallest_singular_value",
    "gradient_norm",
    "weight_norm",
)


def prefixed(split: str, figures: dict[str, float]) -> dict[str, float]:
    """Figures of a split with their column names: the loss of val is val_loss."""
    return {f"{split}_{name}": value for name, value in figures.items()}


def columns_of(figures: Iterable[str]) -> list[str]:
    """The columns of `figures`, split by split."""
    names = list(figures)
    return [f"{split}_{name}" for split in SPLITS for name in names]


def tag(column: str) -> str:
    """TensorBoard's tag for a column: train_loss -> train/loss, lr -> lr."""
    split, _, rest = column.partition("_")
    return f"{split}/{rest}" if rest else column
