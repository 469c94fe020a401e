"""`exdark`: ExDark (Loh & Chan 2019, https://arxiv.org/abs/1805.11227), photographs in low light by class folders."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from preparation.plan import Candidate, Plan
from preparation.sources import Square, open_files, pictures, plan_of_pictures
from utils.errors import ConfigError, DataError

#: In the order of the labels: data_loader.tiny_exdark.FORMAT.classes, which takes torch to import.
CLASSES = (
    *("Bicycle", "Boat", "Bottle", "Bus", "Car", "Cat"),
    *("Chair", "Cup", "Dog", "Motorbike", "People", "Table"),
)


@contextmanager
def plan_exdark(source: Path, classes: Sequence[str] | None, square: Square) -> Iterator[Plan]:
    """The whole images of the folders <class>/*, at any depth; a label keeps its number if others are left out.

    Raises:
        ConfigError: one of `classes` is none of ExDark's.
        DataError: no such source, or one of `classes`, by default all twelve, has no images in it.
    """
    wanted = {name.lower() for name in classes or CLASSES}
    unknown = sorted(wanted - {name.lower() for name in CLASSES})
    if unknown:
        raise ConfigError(f"--classes: {', '.join(unknown)} is none of ExDark's classes {', '.join(CLASSES)}")
    with open_files(source) as files:
        labels = {name.lower(): label for label, name in enumerate(CLASSES) if name.lower() in wanted}
        candidates = [
            Candidate(name, labels[parts[-2].lower()])
            for name, parts in pictures(files)
            if len(parts) >= 2 and parts[-2].lower() in labels
        ]
        found = {candidate.label for candidate in candidates}
        missing = [CLASSES[label] for label in labels.values() if label not in found]
        if missing:
            raise DataError(
                f"{source}: no images in a folder {', '.join(missing)}; expected ExDark's class folders, or name "
                "those that there are with --classes"
            )
        options = {"classes": [CLASSES[label] for label in labels.values()], "square": square}
        yield plan_of_pictures("exdark", source, files, candidates, CLASSES, options)
