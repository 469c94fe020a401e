"""`folder`: any images, sorted into a folder for each class."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from data_loader.pictures import Files, check_classes
from preparation.plan import Candidate, Plan
from preparation.sources import Square, open_files, pictures, plan_of_pictures
from utils.errors import DataError

SPLITS = ("train", "test")


@contextmanager
def plan_folder(source: Path, classes: Sequence[str] | None, split: str, square: Square) -> Iterator[Plan]:
    """The images of train/<class>/*, test/<class>/* or both, or of <class>/* where there are no such folders.

    `classes` are the labels from 0 on; without it they are the names of the folders in sorted order.

    Raises:
        DataError: no such source, no images in such folders, or one of `classes` has none.
    """
    with open_files(source) as files:
        found, ignored = _labelled(files, source, split)
        names = sorted({name for name, _ in found})
        check_classes(names, source)
        missing = [name for name in classes or () if name not in names]
        if missing:
            raise DataError(f"{source}: no images of class {', '.join(missing)}; it has {', '.join(names[:20])}")
        order = {name: label for label, name in enumerate(classes or names)}
        candidates = [Candidate(file, order[name]) for name, file in found if name in order]
        options = {"classes": list(order), "split": split, "square": square}
        yield plan_of_pictures("folder", source, files, candidates, list(order), options, ignored)


def _labelled(files: Files, source: Path, split: str) -> tuple[list[tuple[str, str]], tuple[str, ...]]:
    """(class, file name) of each image, and the images that lie in no class folder; one folder around all of it is
    looked through."""
    found = list(pictures(files))
    splits = [(parts[-3], parts[-2], name) for name, parts in found if len(parts) in (3, 4) and parts[-3] in SPLITS]
    if splits:
        chosen = [(label, name) for part, label, name in splits if split in (part, "all")]
        if not chosen:
            raise DataError(f"{source}: no images in {split}/<class>/; give another --split")
        return chosen, _others(found, [name for *_, name in splits])
    around = {parts[0] for _, parts in found if len(parts) > 1}
    depth = 3 if len(around) == 1 and any(len(parts) == 3 for _, parts in found) else 2
    plain = [(parts[-2], name) for name, parts in found if len(parts) == depth]
    if not plain or split == "test":
        problem = "no test/<class>/ images" if plain else "no images in class folders"
        raise DataError(f"{source}: {problem}; expected train/<class>/* and optionally test/<class>/*, or <class>/*")
    return plain, _others(found, [name for _, name in plain])


def _others(found: list[tuple[str, tuple[str, ...]]], labelled: list[str]) -> tuple[str, ...]:
    known = set(labelled)
    return tuple(sorted(name for name, _ in found if name not in known))
