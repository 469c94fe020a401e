"""The command `coco`: the objects in the boxes of COCO (Lin et al. 2014, https://arxiv.org/abs/1405.0312)."""

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import Any

from PIL import Image

from data_loader.class_names import TINY_COCO
from data_loader.pictures import SIZE, BrokenImageError, Picture, decode
from preparation.annotations import EXPECTED, Box, Category, CocoImage, entries, place_of
from preparation.plan import Candidate, Plan
from preparation.sources import VERSIONS, describe, open_files
from utils.errors import DataError
from utils.progress import Bar

#: TinyCOCO's classes in the order of their labels -> their names in COCO.
CATEGORIES = {name: name for name in TINY_COCO} | {"ball": "sports ball", "table": "dining table"}


@contextmanager
def plan_coco(annotations: Path, images: Path, min_size: int, image_size: int = SIZE) -> Iterator[Plan]:
    """The boxes of the ten classes that are not a crowd, and whose sides both have at least `min_size` pixels.

    Raises:
        DataError: a file is missing, or the annotations are malformed or incomplete.
    """
    with open_files(images, needed=lambda folders: False) as files:  # the error on a missing picture names it
        pictures, labels, boxes = _read(annotations, min_size)
        candidates = _candidates(annotations, pictures, labels, boxes, min_size)
        sizes = {picture.file_name: (picture.width, picture.height) for picture in pictures.values()}
        find = _finder(files.names, images)

        def pixels(data: bytes, candidate: Candidate) -> Picture:
            def cut(image: Image.Image) -> Image.Image:
                return _cut(image, candidate, sizes[candidate.name], image_size)

            # Boxes are in pixels as they are stored, before any rotation by EXIF.
            return decode(data, f"{images}: {candidate.name}", cut, upright=False)

        yield Plan(
            command="coco",
            options={"min_size": min_size},
            classes=tuple(CATEGORIES),
            candidates=sorted(candidates),
            sources=[describe(annotations), describe(images)],
            versions=VERSIONS,
            place=str(images),
            read=lambda candidate: files.read(find(candidate.name)),
            decode=pixels,
        )


def _finder(names: Sequence[str], source: Path) -> Callable[[str], str]:
    """A function from a picture's name in the annotations to its name in `names`, in whatever folder it lies."""
    known = set(names)
    by_last_part: dict[str, list[str]] = {}
    for name in names:
        by_last_part.setdefault(PurePosixPath(name).name, []).append(name)

    def find(name: str) -> str:
        # It opens listed files only: a name such as ../../x in a stranger's annotations finds nothing.
        found = [name] if name in known else by_last_part.get(PurePosixPath(name).name, [])
        if len(found) != 1:
            raise BrokenImageError(f"{source}: {name}", f"there is no {name}, which the annotations name")
        return found[0]

    return find


def square_around(box: tuple[float, float, float, float], width: int, height: int) -> tuple[int, int, int]:
    """(left, top, side) of the square that is cut for a box (left, top, right, bottom) within an image.

    Its side is the longer side of the box. It is centred on the box, and moved to lie within the image. If the image is
    smaller than the square, the square extends beyond it equally on both sides. All values are in pixels.
    """
    left, top, right, bottom = (math.floor(box[0]), math.floor(box[1]), math.ceil(box[2]), math.ceil(box[3]))
    side = max(right - left, bottom - top)
    return _start(left, right, side, width), _start(top, bottom, side, height), side


def _start(low: int, high: int, side: int, size: int) -> int:
    if side > size:
        return (size - side) // 2
    return min(max((low + high - side) // 2, 0), size - side)


def _cut(image: Image.Image, candidate: Candidate, size: tuple[int, int], side: int) -> Image.Image:
    if image.size != size:
        raise ValueError(f"it has {image.width}x{image.height} pixels, and the annotations say {size[0]}x{size[1]}")
    assert candidate.box is not None
    left, top, width, height = candidate.box
    square = image.crop((left, top, left + width, top + height))  # black where it reaches beyond the image
    return square.resize((side, side), Image.Resampling.BICUBIC)


def _read(path: Path, min_size: int) -> tuple[dict[int, CocoImage], dict[int, int], list[tuple[int, Box]]]:
    """The pictures by id, the labels by category id, and the large boxes that are not a crowd, each with its index."""
    pictures: dict[int, CocoImage] = {}
    labels: dict[int, int] = {}
    boxes: list[tuple[int, Box]] = []
    order = {category: label for label, category in enumerate(CATEGORIES.values())}
    for index, entry in Bar(entries(path), desc=f"reading {path.name}", unit="entry", leave=False):
        if isinstance(entry, Box):
            if not entry.iscrowd and min(entry.bbox[2:]) > min_size - 1:  # rounding may add a little
                boxes.append((index, entry))
        elif isinstance(entry, Category):
            if entry.name in order:
                _put(labels, entry.id, order[entry.name], place_of(path, "categories", index))
        else:
            _put(pictures, entry.id, entry, place_of(path, "images", index))
    missing = [category for category, label in order.items() if label not in labels.values()]
    if missing:
        raise DataError(f"{path}: no category {', '.join(missing)}; {EXPECTED}")
    return pictures, labels, boxes


def _put(known: dict[int, Any], number: int, value: Any, place: str) -> None:
    if number in known:
        raise DataError(f"{place}: the id {number} is there twice; {EXPECTED}")
    known[number] = value


def _candidates(
    path: Path, pictures: dict[int, CocoImage], labels: dict[int, int], boxes: list[tuple[int, Box]], min_size: int
) -> Iterator[Candidate]:
    seen: dict[int, Box] = {}
    for index, box in boxes:
        place = place_of(path, "annotations", index)
        if box.image_id not in pictures:
            raise DataError(f"{place}: no entry of images has its image_id {box.image_id}; {EXPECTED}")
        if box.category_id not in labels:
            continue
        _put(seen, box.id, box, place)
        picture = pictures[box.image_id]
        left, top, width, height = box.bbox
        within = (max(left, 0.0), max(top, 0.0), min(left + width, picture.width), min(top + height, picture.height))
        if min(within[2] - within[0], within[3] - within[1]) >= min_size:
            x, y, side = square_around(within, picture.width, picture.height)
            yield Candidate(labels[box.category_id], picture.file_name, box.id, (x, y, side, side))
