"""`folder`: any images, sorted into a folder for each class."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from data_loader.picture_files import Files, Labelled, by_class, by_split, class_name, first_of
from preparation.plan import Candidate, Plan
from preparation.sources import Square, open_files, plan_of_pictures
from utils.errors import DataError


@contextmanager
def plan_folder(source: Path, classes: Sequence[str] | None, split: str, square: Square) -> Iterator[Plan]:
    """The images of train/<class>/, val/<class>/, test/<class>/ or all of them, or of <class>/ where there are no such
    folders; those in folders below are taken as well.

    `classes` are the labels from 0 on; without it they are the names of the folders in sorted order.

    Raises:
        DataError: no such source, no images in such folders, one of `classes` has none, or a class folder that is
            wanted has no image.
    """
    chosen = None if classes is None else [class_name(name) for name in classes]
    with open_files(source, splits=True) as files:
        found = _find(files, source, split, chosen)
        names = sorted({picture.label for picture in found})
        missing = [name for name in chosen or () if name not in names]
        if missing:
            raise DataError(f"{source}: no images of class {', '.join(missing)}; it has {first_of(names)}")
        order = {name: label for label, name in enumerate(chosen or names)}
        candidates = [Candidate(picture.name, order[picture.label]) for picture in found if picture.label in order]
        options = {"classes": list(order), "split": split, "square": square}
        yield plan_of_pictures("folder", source, files, candidates, list(order), options)


def _find(files: Files, source: Path, split: str, chosen: Sequence[str] | None) -> list[Labelled]:
    def wanted(part: str, label: str) -> bool:
        return (not part or split in (part, "all")) and (chosen is None or label in chosen)

    if files.base is not None:
        found = [picture for picture in by_split(files, source, wanted) if split in (picture.split, "all")]
        if not found:
            raise DataError(f"{source}: no images in {split}/<class>/; give another --split")
        return found
    plain = by_class(files, source, wanted)
    if not plain or split in ("val", "test"):
        problem = f"no {split}/<class>/ images" if plain else "no images in class folders"
        raise DataError(
            f"{source}: {problem}; expected train/<class>/* and optionally val/<class>/* and test/<class>/*, or "
            "<class>/*"
        )
    return plain
