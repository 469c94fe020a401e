"""`coco`: objects cut from COCO (Lin et al. 2014, https://arxiv.org/abs/1405.0312) by their bounding boxes."""

import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path, PurePosixPath
from typing import Any, NoReturn

from PIL import Image

from data_loader.picture_files import Files
from data_loader.pictures import SIZE, BrokenImageError, Picture, decode
from preparation.json_stream import elements
from preparation.plan import Candidate, Plan
from preparation.sources import VERSIONS, describe, open_files
from utils.errors import DataError
from utils.progress import Bar

#: TinyCOCO's classes in the order of their labels (data_loader.tiny_coco.FORMAT.classes), and what COCO calls them.
CATEGORIES = {
    **{name: name for name in ("cat", "dog", "car", "bus", "train", "boat")},
    "ball": "sports ball",
    **{name: name for name in ("pizza", "chair")},
    "table": "dining table",
}


@dataclass(frozen=True)
class _Picture:
    name: str
    width: int
    height: int


@contextmanager
def plan_coco(annotations: Path, images: Path, min_size: int) -> Iterator[Plan]:
    """The boxes of the ten classes that are no crowd and whose both sides have at least `min_size` pixels.

    Raises:
        DataError: no such files; the annotations are malformed or lack something.
    """
    with open_files(images, needed=lambda folders: False) as files:  # a picture that is missing is named
        known = _pictures_and_labels(annotations)
        candidates = list(_candidates(annotations, *known, min_size))
        sizes = {picture.name: (picture.width, picture.height) for picture in known[0].values()}
        lookup = _Lookup(files, images)

        def pixels(data: bytes, candidate: Candidate) -> Picture:
            def cut(image: Image.Image) -> Image.Image:
                return _cut(image, candidate, sizes[candidate.name])

            # A box counts the pixels as they are stored, whatever EXIF says about turning them.
            return decode(data, f"{images}: {candidate.name}", cut, upright=False)

        yield Plan(
            command="coco",
            options={"min_size": min_size},
            classes=tuple(CATEGORIES),
            candidates=sorted(candidates, key=lambda candidate: (candidate.label, candidate.name, candidate.number)),
            sources=[describe(annotations), describe(images)],
            versions=VERSIONS,
            place=str(images),
            read=lambda candidate: files.read(lookup.find(candidate.name)),
            decode=pixels,
            stamp=cache(lambda candidate: lookup.stamp(candidate.name) + f" {sizes[candidate.name]}"),
        )


class _Lookup:
    """Pictures by the name that the annotations give them, in whatever folder they lie."""

    def __init__(self, files: Files, source: Path) -> None:
        self._files, self._source = files, source
        self._names = set(files.names)
        self._by_last_part: dict[str, str | None] = {}
        for name in files.names:
            last = PurePosixPath(name).name
            self._by_last_part[last] = None if last in self._by_last_part else name  # None: more than one

    def find(self, name: str) -> str:
        # Only what is in the list is ever opened: a name such as ../../x in a stranger's annotations finds nothing.
        found = name if name in self._names else self._by_last_part.get(PurePosixPath(name).name)
        if found is None:
            raise BrokenImageError(f"{self._source}: {name}", f"there is no {name}, which the annotations name")
        return found

    def stamp(self, name: str) -> str:
        try:
            return self._files.stamp(self.find(name))
        except DataError:
            return "missing"


def square_around(box: tuple[float, float, float, float], width: int, height: int) -> tuple[int, int, int]:
    """(left, top, side) of the square that is cut for a box (left, top, right, bottom) within an image.

    Its side is the box's longer one. It lies as centred on the box as it can within the image; where the image is
    too small for it, it reaches out on both sides alike.
    """
    left, top, right, bottom = (math.floor(box[0]), math.floor(box[1]), math.ceil(box[2]), math.ceil(box[3]))
    side = max(right - left, bottom - top)
    return _start(left, right, side, width), _start(top, bottom, side, height), side


def _start(low: int, high: int, side: int, size: int) -> int:
    if side > size:
        return (size - side) // 2
    return min(max((low + high - side) // 2, 0), size - side)


def _cut(image: Image.Image, candidate: Candidate, size: tuple[int, int]) -> Image.Image:
    if image.size != size:
        raise ValueError(f"it has {image.width}x{image.height} pixels, and the annotations say {size[0]}x{size[1]}")
    assert candidate.box is not None
    left, top, width, height = candidate.box
    square = image.crop((left, top, left + width, top + height))  # black where it reaches beyond the image
    return square.resize((SIZE, SIZE), Image.Resampling.BICUBIC)


def _pictures_and_labels(path: Path) -> tuple[dict[int, _Picture], dict[int, int]]:
    """The pictures by their id, and the labels by the id of their category."""
    pictures: dict[int, _Picture] = {}
    labels: dict[int, int] = {}
    order = {category: label for label, category in enumerate(CATEGORIES.values())}
    for key, index, value in elements(path, ("images", "categories", "annotations")):
        if key == "annotations":
            continue
        entry = _Entry(path, key, index, value)
        number = entry.whole("id")
        if number in (pictures if key == "images" else labels):
            entry.fail(f"the id {number} is there twice")
        if key == "images":
            pictures[number] = _Picture(entry.text("file_name"), entry.whole("width", 1), entry.whole("height", 1))
        elif (name := entry.text("name")) in order:
            labels[number] = order[name]
    missing = [category for category, label in order.items() if label not in labels.values()]
    if missing:
        raise DataError(f"{path}: no category {', '.join(missing)}; expected COCO's instances_*.json")
    return pictures, labels


def _candidates(
    path: Path, pictures: dict[int, _Picture], labels: dict[int, int], min_size: int
) -> Iterator[Candidate]:
    seen: set[int] = set()
    found = elements(path, ("annotations",))
    for key, index, value in Bar(found, desc=f"reading {path.name}", unit="box", leave=False):
        entry = _Entry(path, key, index, value)
        category, number, image = entry.whole("category_id"), entry.whole("id"), entry.whole("image_id")
        if image not in pictures:
            entry.fail(f"no entry of images has its image_id {image}")
        left, top, width, height = entry.box("bbox")
        if category not in labels or value.get("iscrowd"):
            continue
        if number in seen:
            entry.fail(f"the id {number} is there twice")
        seen.add(number)
        picture = pictures[image]
        box = (max(left, 0.0), max(top, 0.0), min(left + width, picture.width), min(top + height, picture.height))
        if min(box[2] - box[0], box[3] - box[1]) < min_size:
            continue
        x, y, side = square_around(box, picture.width, picture.height)
        yield Candidate(picture.name, labels[category], number, (x, y, side, side))


class _Entry:
    """One object of a list in the annotations, whose values are checked as they are asked for."""

    def __init__(self, path: Path, key: str, index: int, value: Any) -> None:
        self._where = f"{path}: {key}[{index}]"
        self._value = value
        if not isinstance(value, dict):
            self.fail("it is no object")

    def whole(self, key: str, least: int = 0) -> int:
        value = self._get(key)
        if type(value) is not int or not least <= value < 2**63:
            self.fail(f"{key!r} is no whole number from {least} on")
        return value

    def text(self, key: str) -> str:
        value = self._get(key)
        if not isinstance(value, str) or not value or len(value) > 1000:
            self.fail(f"{key!r} is no name")
        return value

    def box(self, key: str) -> list[float]:
        value: list[float] = self._get(key)
        numbers = isinstance(value, list) and len(value) == 4 and all(type(side) in (int, float) for side in value)
        if not numbers or not all(abs(side) < 1e9 for side in value):
            self.fail(f"{key!r} is no [left, top, width, height]")
        return value

    def fail(self, problem: str) -> NoReturn:
        raise DataError(f"{self._where}: {problem}; expected COCO's instances_*.json")

    def _get(self, key: str) -> Any:
        if key not in self._value:
            self.fail(f"it has no {key!r}")
        return self._value[key]
