"""`exdark`: ExDark (Loh & Chan 2019, https://arxiv.org/abs/1805.11227), photographs in low light by class folders."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path, PurePosixPath

from data_loader.picture_files import NO_CLASS, NO_FORMAT, is_picture
from preparation.plan import Candidate, Plan
from preparation.sources import Square, open_files, plan_of_pictures
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
    labels = {name.lower(): label for label, name in enumerate(CLASSES)}

    def label_of(folders: Sequence[str]) -> int | None:
        """By the innermost folder that has the name of a class."""
        return next((labels[part.lower()] for part in reversed(folders) if part.lower() in labels), None)

    with open_files(source, needed=lambda folders: label_of(folders) is not None) as files:
        candidates = []
        for name in files.names:
            label = label_of(PurePosixPath(name).parts[:-1])
            if label is None or not is_picture(name):
                files.left_out.add(NO_CLASS if label is None else NO_FORMAT, name)
            elif CLASSES[label].lower() in wanted:
                candidates.append(Candidate(name, label))
        found = {candidate.label for candidate in candidates}
        taken = [label for name, label in labels.items() if name in wanted]
        missing = [CLASSES[label] for label in taken if label not in found]
        if missing:
            raise DataError(
                f"{source}: no images in a folder {', '.join(missing)}; expected ExDark's class folders, or name "
                "those that there are with --classes"
            )
        options = {"classes": [CLASSES[label] for label in taken], "square": square}
        yield plan_of_pictures("exdark", source, files, candidates, CLASSES, options)
