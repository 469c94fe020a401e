"""The classes of TinyCOCO and TinyExDark in the order of their labels, and the check of the names of any dataset, for
programs that do not import torch."""

from collections import Counter
from collections.abc import Sequence

from utils.text import visible

MOST_CLASSES = 10_000
MOST_IN_MATRIX = 1000  # of them; with more, no file has a matrix over the classes
_LONGEST = 1000  # characters of a name
_LONGEST_TOGETHER = 1 << 20  # characters of all names, which a checkpoint and a data.json hold

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


def problem_of(names: Sequence[str], printable: bool = True) -> str | None:
    """What keeps `names` from being the classes of a dataset; None if nothing does. Those of a dataset file must be
    `printable`; those of folders are as people have them."""
    if len(names) > MOST_CLASSES:
        return f"{len(names):,} names of classes, and at most {MOST_CLASSES:,} are read"
    if (together := sum(map(len, names))) > _LONGEST_TOGETHER:
        return f"names of classes of {together:,} characters, and at most {_LONGEST_TOGETHER:,} are read"
    if len(set(names)) < len(names):
        twice = next(name for name, count in Counter(names).items() if count > 1)
        return f"two classes are named {visible(twice, 60)!r}"
    for name in names:
        if not 1 <= len(name) <= _LONGEST or (printable and not name.isprintable()):
            kind = "printable text" if printable else "text"
            return f"{visible(name, 60)!r} is no name of a class: {kind} of 1 to {_LONGEST:,} characters"
    return None
