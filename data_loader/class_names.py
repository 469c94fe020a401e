"""The classes of TinyCOCO and TinyExDark in the order of their labels, and the check of names that a file brings, for
programs that do not import torch."""

from collections import Counter
from collections.abc import Sequence

from utils.text import visible

MOST_CLASSES = 10_000
_LONGEST = 1000  # characters of a name

TINY_COCO = ("cat", "dog", "car", "bus", "train", "boat", "ball", "pizza", "chair", "table")
TINY_EXDARK = (
    "Bicycle",
    "Boat",
    "Bottle",
    "Bus",
    "Car",
    "Cat",
    "Chair",
    "Cup",
    "Dog",
    "Motorbike",
    "People",
    "Table",
)


def problem_of(names: Sequence[str]) -> str | None:
    """What keeps `names` from being the classes of a dataset file; None if nothing does."""
    if len(names) > MOST_CLASSES:
        return f"{len(names):,} names of classes, and at most {MOST_CLASSES:,} are read"
    if len(set(names)) < len(names):
        twice = next(name for name, count in Counter(names).items() if count > 1)
        return f"two classes are named {visible(twice, 60)!r}"
    for name in names:
        if not name or len(name) > _LONGEST or not name.isprintable():
            return f"{visible(name, 60)!r} is no name of a class: printable text of 1 to {_LONGEST:,} characters"
    return None
