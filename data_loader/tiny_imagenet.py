"""Tiny-ImageNet (Stanford's course CS231n): 200 classes of ImageNet, 64x64, in the folders of its zip."""

from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path, PurePosixPath

from data_loader.access import Access
from data_loader.dataset import ImageDataset
from data_loader.image_folder import load_pictures
from data_loader.memory import Room
from data_loader.picture_files import NO_FORMAT, OUTSIDE, Files, Labelled, is_picture
from data_loader.pictures import SIZE
from utils.errors import DataError
from utils.text import first_of

NO_LABEL = "without a label"
ELSEWHERE = "in a folder that is not read"
_EXPECTED = (
    "expected wnids.txt, words.txt, train/<wnid>/images/*, and val/images/* with val/val_annotations.txt or "
    "val/<wnid>/images/*"
)


def load_tiny_imagenet(
    data_dir: Path,
    access: Access | None = None,
    skip_broken: bool = False,
    image_size: int = SIZE,
    room: Room | None = None,
) -> ImageDataset:
    """The folder `tiny-imagenet-200`, or its zip. val/ is the test set, for its own test/ has no labels; see
    `load_pictures`. Its pictures lie in images/, with their labels in val_annotations.txt, or sorted by class as those
    of train/. Classes are in the order of wnids.txt, with the first of their names in words.txt."""
    return load_pictures("TinyImageNet", _find, data_dir, access, skip_broken, image_size, room)


def _find(files: Files, source: Path) -> tuple[list[Labelled], dict[str, str]]:
    place = next((name for name in files.names if PurePosixPath(name).name == "wnids.txt"), None)
    if place is None:
        raise DataError(f"{source}: there is no wnids.txt; {_EXPECTED}")
    above = place.removesuffix("wnids.txt")  # the folder around it all, if there is one
    order = {line.strip(): label for label, line in enumerate(filter(str.strip, _lines(files, place)))}
    annotated = _pairs(files, f"{above}val/val_annotations.txt")
    found: list[Labelled] = []
    tables = {f"{above}{table}" for table in ("wnids.txt", "words.txt", "val/val_annotations.txt")}
    for name in files.names:
        if name in tables:
            continue
        match PurePosixPath(name.removeprefix(above)).parts:
            case ("train", label, "images", _) if is_picture(name):
                found.append(Labelled("train", label, name))
            case ("val", "images", picture) if is_picture(name):
                if picture not in annotated:
                    raise DataError(f"{source}: val_annotations.txt does not name {picture}; {_EXPECTED}")
                found.append(Labelled("test", annotated[picture], name))
            case ("val", label, "images", _) | ("val", label, _) if is_picture(name):
                found.append(Labelled("test", label, name))
            case ("test", *_):
                files.left_out.add(NO_LABEL, name)
            case ("train" | "val", *_):
                files.left_out.add(ELSEWHERE if is_picture(name) else NO_FORMAT, name)
            case _:
                files.left_out.add(OUTSIDE, name)
    unknown = sorted({picture.label for picture in found} - order.keys())
    empty = [label for label in order if label not in {picture.label for picture in found if picture.split == "train"}]
    if unknown or empty or not order:
        what = f"classes that wnids.txt lacks: {first_of(unknown)}" if unknown else f"no images of {first_of(empty)}"
        raise DataError(f"{source}: {what if unknown or empty else 'wnids.txt names no class'}; {_EXPECTED}")
    if all(picture.split == "train" for picture in found):
        raise DataError(f"{source}: no labelled images in val/, which are the test set; {_EXPECTED}")
    found.sort(key=lambda picture: (picture.split == "test", order[picture.label], picture.name))
    return found, _names(order, _pairs(files, f"{above}words.txt"))


def _names(order: Iterable[str], words: Mapping[str, str]) -> dict[str, str]:
    """The first name of each class. Where two classes share it, as the two cranes do, its number is added."""
    names = {label: words.get(label, label).split(",")[0].strip() for label in order}
    shared = Counter(names.values())
    return {label: name if shared[name] == 1 else f"{name} ({label})" for label, name in names.items()}


def _pairs(files: Files, name: str) -> dict[str, str]:
    """The first two columns of a table; empty if there is no such file."""
    rows = (line.split("\t") for line in (_lines(files, name) if name in files.names else ()))
    return {row[0]: row[1] for row in rows if len(row) > 1}


def _lines(files: Files, name: str) -> list[str]:
    return files.read(name).decode(errors="replace").splitlines()
