"""The classes of TinyCOCO and TinyExDark in the order of their labels, for programs that do not import torch."""

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
