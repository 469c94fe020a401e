"""The commands `folder`, `exdark` and `demo`: a plan of whole pictures from each kind of source."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path, PurePosixPath
from typing import Any, Literal

import numpy as np
import PIL
from PIL import Image, ImageOps

from data_loader import picture_files
from data_loader.class_names import TINY_EXDARK
from data_loader.picture_files import Files, Labelled, Parts, everything
from data_loader.pictures import SIZE, Picture, crop_to, decode, scaled
from preparation.plan import Candidate, Plan
from utils.errors import ConfigError, DataError
from utils.files import sha256_of_file
from utils.progress import Bar
from utils.text import first_of

#: How an image that is not square becomes one. `crop` is what ImageFolder does.
Square = Literal["crop", "pad"]

VERSIONS = {"numpy": np.__version__, "Pillow": PIL.__version__}


@contextmanager
def plan_folder(
    source: Path, classes: Sequence[str] | None, split: str, square: Square, image_size: int = SIZE
) -> Iterator[Plan]:
    """The images of <split>/<class>/ at any depth, or of <class>/ if the source has no folders of splits.

    `split` is "train", "val", "test" or "all". `classes` are the names of the labels from 0 on; None takes the names of
    all class folders in sorted order.

    Raises:
        DataError: there is no such source, it has no images in such folders, or a wanted class has none.
    """
    chosen = None if classes is None else [picture_files.class_name(name) for name in classes]
    with open_files(source, splits=True) as files:
        found = _find(files, source, split, chosen)
        names = sorted({picture.label for picture in found})
        missing = [name for name in chosen or () if name not in names]
        if missing:
            raise DataError(f"{source}: no images of class {', '.join(missing)}; it has {first_of(names)}")
        order = {name: label for label, name in enumerate(chosen or names)}
        candidates = [Candidate(order[picture.label], picture.name) for picture in found if picture.label in order]
        options = {"classes": list(order), "split": split, "square": square}
        yield _plan_of_pictures("folder", source, files, candidates, list(order), options, image_size)


def _find(files: Files, source: Path, split: str, chosen: Sequence[str] | None) -> list[Labelled]:
    def wanted(part: str, label: str) -> bool:
        return (not part or split in (part, "all")) and (chosen is None or label in chosen)

    if files.base is not None:
        found = [
            picture for picture in picture_files.by_split(files, source, wanted) if split in (picture.split, "all")
        ]
        if not found:
            raise DataError(f"{source}: no images in {split}/<class>/; give another --split")
        return found
    plain = picture_files.by_class(files, source, wanted, ", or name the others with --classes")
    if not plain or split in ("val", "test"):
        problem = f"no {split}/<class>/ images" if plain else "no images in class folders"
        raise DataError(
            f"{source}: {problem}; expected train/<class>/* and optionally val/<class>/* and test/<class>/*, or "
            "<class>/*"
        )
    return plain


@contextmanager
def plan_exdark(source: Path, classes: Sequence[str] | None, square: Square, image_size: int = SIZE) -> Iterator[Plan]:
    """The whole images of ExDark (Loh & Chan 2019, https://arxiv.org/abs/1805.11227): <class>/* at any depth.

    A label keeps its number if `classes` leaves others out; None takes all twelve.

    Raises:
        ConfigError: one of `classes` is not a class of ExDark.
        DataError: there is no such source, or a wanted class has no images in it.
    """
    labels = {name.lower(): label for label, name in enumerate(TINY_EXDARK)}
    wanted = {name.lower() for name in classes or TINY_EXDARK}
    unknown = sorted(wanted - labels.keys())
    if unknown:
        raise ConfigError(f"--classes: {', '.join(unknown)} is none of ExDark's classes {', '.join(TINY_EXDARK)}")

    def label_of(folders: Sequence[str]) -> int | None:
        """The label of the innermost folder that has the name of a class."""
        return next((labels[part.lower()] for part in reversed(folders) if part.lower() in labels), None)

    with open_files(source, needed=lambda folders: label_of(folders) is not None) as files:
        candidates = []
        for name in files.names:
            label = label_of(PurePosixPath(name).parts[:-1])
            if label is None or not picture_files.is_picture(name):
                files.left_out.add(picture_files.NO_CLASS if label is None else picture_files.NO_FORMAT, name)
            elif TINY_EXDARK[label].lower() in wanted:
                candidates.append(Candidate(label, name))
        found = {candidate.label for candidate in candidates}
        taken = [label for name, label in labels.items() if name in wanted]
        missing = [TINY_EXDARK[label] for label in taken if label not in found]
        if missing:
            raise DataError(
                f"{source}: no images in a folder {', '.join(missing)}; expected ExDark's class folders, or name "
                "those that there are with --classes"
            )
        options = {"classes": [TINY_EXDARK[label] for label in taken], "square": square}
        yield _plan_of_pictures("exdark", source, files, candidates, TINY_EXDARK, options, image_size)


@contextmanager
def plan_demo(image_size: int = SIZE) -> Iterator[Plan]:
    """The images of data_loader.type=Digits: scikit-learn's handwritten digits, which need no download."""
    import sklearn

    from data_loader.digits import load_digits

    dataset = load_digits(Path())
    images = dataset.images.numpy()
    images = images if image_size == SIZE else scaled(images, image_size)
    rows = {f"digit {row:04}": row for row in range(len(images))}
    candidates = [Candidate(int(dataset.labels[row]), name) for name, row in rows.items()]
    yield Plan(
        command="demo",
        options={},
        classes=dataset.classes,
        candidates=sorted(candidates),
        sources=[{"name": "scikit-learn's handwritten digits", "kind": "package"}],
        versions={**VERSIONS, "scikit-learn": sklearn.__version__},
        place="scikit-learn",
        read=lambda candidate: images[rows[candidate.name]].tobytes(),
        decode=lambda data, candidate: Picture(np.frombuffer(data, np.uint8).reshape(images.shape[1:])),
    )


def open_files(source: Path, splits: bool = False, needed: Parts = everything) -> Files:
    """The files of a folder or .zip; see `Files`. Raises DataError if there is no `source`."""
    if not source.exists():
        raise DataError(f"there is no {source}; name a folder or .zip")
    return Files(source, splits, needed, "name one as SOURCE")


def describe(source: Path) -> dict[str, Any]:
    """The manifest's entry for a source: its name and, of a single file, its SHA-256."""
    if source.is_dir():
        return {"name": source.resolve().name, "kind": "folder"}
    size, name = source.stat().st_size, source.name
    with Bar(total=size, desc=f"checksum of {name}", unit="B", unit_scale=True, leave=False) as bar:
        return {"name": name, "kind": "file", "sha256": sha256_of_file(source, bar.update)}


def _plan_of_pictures(
    command: str,
    source: Path,
    files: Files,
    candidates: list[Candidate],
    classes: Sequence[str],
    options: dict[str, Any],
    side: int,
) -> Plan:
    """A plan in which each candidate is a whole picture, which becomes square as `options["square"]` says."""
    pad_to_size = partial(ImageOps.pad, size=(side, side), method=Image.Resampling.BICUBIC)  # black beside it
    to_size = crop_to(side, side) if options["square"] == "crop" else pad_to_size
    labels = {candidate.label for candidate in candidates}
    return Plan(
        command=command,
        options=options,
        classes=tuple(classes),
        candidates=sorted(candidates),
        sources=[describe(source)],
        versions=VERSIONS,
        place=str(source),
        read=lambda candidate: files.read(candidate.name),
        decode=lambda data, candidate: decode(data, f"{source}: {candidate.name}", to_size),
        left_out=frozenset(range(len(classes))) - labels,
        notes=(*files.left_out.lines(), *files.notes),
    )
