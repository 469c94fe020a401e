"""Any images: a folder or .zip of train/<class>/ and optionally val/<class>/ and test/<class>/, or of <class>/ alone,
scaled to one size."""

import hashlib
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path, PurePosixPath

import numpy as np
import torch
from torch import Tensor

from data_loader import picture_cache
from data_loader.access import Access
from data_loader.dataset import ImageDataset
from data_loader.memory import Room
from data_loader.picture_cache import Decoded
from data_loader.picture_files import (
    SPLITS,
    Files,
    Labelled,
    broken_message,
    by_class,
    by_split,
    class_name,
    dim_message,
)
from data_loader.pictures import SIZE, BrokenImageError, crop_to, decode, out_of_memory
from utils.errors import DataError
from utils.progress import Bar
from utils.text import first_of

_ORDER = ("", "train", "val", "test")  # without splits, all pictures are divided
_EXPECTED = "expected train/<class>/* and optionally val/<class>/* and test/<class>/*, or <class>/*"


def load_image_folder(
    data_dir: Path,
    access: Access | None = None,
    skip_broken: bool = False,
    image_size: int = SIZE,
    room: Room | None = None,
) -> ImageDataset:
    """The images of a folder or .zip. Its val/ and test/ are the dataset's own; see `load_pictures`."""
    return load_pictures("ImageFolder", _find, data_dir, access, skip_broken, image_size, room)


#: From the files of a source to its pictures, training images first, then by class and name; and the names of classes.
Find = Callable[[Files, Path], tuple[list[Labelled], dict[str, str]]]


def load_pictures(
    kind: str,
    find: Find,
    source: Path,
    access: Access | None = None,
    skip_broken: bool = False,
    image_size: int = SIZE,
    room: Room | None = None,
) -> ImageDataset:
    """The images of a folder or .zip, decoded once and then read from a cache (data_loader/picture_cache.py).

    The short side is scaled to `image_size` and the long side cropped at the centre; images of that size do not change.
    The dataset's notes report files that were left out, and with `skip_broken` images that cannot be decoded. Without
    `access` the cache may be written. Without `room` all images are kept in memory.

    Raises:
        DataError: there is no such folder or zip, `find` finds no images in it, a class has no images, or images
            cannot be decoded.
        FileSystemError: the disk has no room for images that are not kept in memory.
    """
    if not source.exists():
        raise DataError(f"{kind}: there is no {source}; name a folder or .zip with data_loader.args.data_dir")
    access = access or Access()
    try:
        with Files(source) as files:
            found, names = find(files, source)
            notes = (*files.left_out.lines(), *files.notes)
            key = _key(files, found)
            in_memory = (room or Room()).holds(len(found), image_size, image_size)
            decoded = picture_cache.read(source, key, image_size, in_memory)

            def blank(count: int) -> np.ndarray:
                shape = (count, 3, image_size, image_size)
                return picture_cache.blank(source, shape, in_memory, access.keep and access.accepted)

            if decoded is None or (decoded.broken and not skip_broken):
                new = decoded = _decode(files, found, source, blank(len(found)))
                _check_broken(decoded, found, source, skip_broken)
                access.write(lambda: picture_cache.write(source, key, new))
    except MemoryError as error:
        raise out_of_memory(str(source)) from error
    pixels = decoded.pixels
    if decoded.broken:
        good = np.setdiff1d(np.arange(len(found)), list(decoded.broken))
        pixels = np.take(decoded.pixels, good, 0, blank(len(good)), "clip")  # another mode would copy all of them
    mapped = pixels if isinstance(pixels, np.memmap) else None
    return replace(_dataset(source, found, names, decoded, pixels, notes), in_memory=in_memory, mapped=mapped)


def _find(files: Files, source: Path) -> tuple[list[Labelled], dict[str, str]]:
    found = _find_plain(files, source) if files.base is None else by_split(files, source)
    classes = {picture.label for picture in found if picture.split in ("", "train")}
    if not classes:
        raise DataError(f"{source}: no train/<class>/ images; {_EXPECTED}")
    for split in ("val", "test"):
        unknown = sorted({picture.label for picture in found if picture.split == split} - classes)
        if unknown:
            raise DataError(f"{source}: {split}/ has classes that train/ lacks: {first_of(unknown)}; {_EXPECTED}")
    found.sort(key=lambda picture: (_ORDER.index(picture.split), picture.label, picture.name))
    return found, {name: name for name in sorted(classes)}


def _find_plain(files: Files, source: Path) -> list[Labelled]:
    """The pictures of <class>/; none if there is a folder of a split, which then has no class folders.

    Raises:
        DataError: the folders may be datasets as well as classes, or the source is the folder of a split.
    """
    if source.is_dir() and source.resolve().name.casefold() in SPLITS:
        raise DataError(f"{source} is the folder of one split; name the one around it with data_loader.args.data_dir")
    folders = [PurePosixPath(name).parts for name in files.folders]
    upper = [parts[-1] for parts in folders if len(parts) == 1]
    inner = [parts[-1] for parts in folders if len(parts) == 2 and len(upper) == 1]
    found = [] if any(name.casefold() in SPLITS for name in upper + inner) else by_class(files, source)
    if any(picture.label.casefold() in SPLITS for picture in found):
        return []
    if found and not any(class_name(PurePosixPath(picture.name).parent.name) == picture.label for picture in found):
        classes = sorted({picture.label for picture in found})
        raise DataError(
            f"{source}: {first_of(classes)} may be classes or datasets, since no picture lies in them but only in "
            "folders below; name one dataset with data_loader.args.data_dir, or put the classes into train/"
        )
    if found:
        files.notes.append("the source has no train/: all its pictures are divided into train, val and test")
    return found


def _key(files: Files, found: Sequence[Labelled]) -> str:
    """Hex SHA-256 of all that the decoded images depend on: their bytes, names, classes and splits."""
    digest = hashlib.sha256()
    for picture in found:
        try:
            contents = hashlib.sha256(files.read(picture.name)).hexdigest()
        except BrokenImageError as error:
            contents = f"broken: {error.reason}"
        line = f"{picture.split}\0{picture.label}\0{picture.name}\0{contents}\n"
        digest.update(line.encode(errors="surrogatepass"))
    return digest.hexdigest()


def _decode(files: Files, found: Sequence[Labelled], source: Path, pixels: np.ndarray) -> Decoded:
    """Decode the pictures into `pixels`: zeros (N, 3, side, side)."""
    to_size = crop_to(*pixels.shape[2:])
    decoded = Decoded(pixels, {}, [])
    for row, picture in enumerate(Bar(found, desc=f"decoding {source.name}", unit="image")):
        try:
            result = decode(files.read(picture.name), f"{source}: {picture.name}", to_size)
        except BrokenImageError as error:
            decoded.broken[row] = error.reason
            continue
        pixels[row] = result.pixels
        if result.dim:
            decoded.dim.append(row)
    return decoded


def _check_broken(decoded: Decoded, found: Sequence[Labelled], source: Path, skip_broken: bool) -> None:
    if decoded.broken and not skip_broken:
        raise DataError(
            f"{source}: {broken_message(_broken(decoded, found))}; remove or replace "
            f"{'it' if len(decoded.broken) == 1 else 'them'}, or set data_loader.args.skip_broken=true"
        )


def _broken(decoded: Decoded, found: Sequence[Labelled]) -> list[tuple[str, str]]:
    return [(found[row].name, reason) for row, reason in decoded.broken.items()]


def _dataset(
    source: Path,
    found: Sequence[Labelled],
    names: Mapping[str, str],
    decoded: Decoded,
    pixels: np.ndarray,
    notes: tuple[str, ...],
) -> ImageDataset:
    """`pixels` are those of the pictures that are not broken."""
    kept = [picture for row, picture in enumerate(found) if row not in decoded.broken]
    folders, whole = (
        {f"{picture.split}/{picture.label}".removeprefix("/") for picture in pictures} for pictures in (found, kept)
    )
    lost = sorted(folders - whole)
    if lost:
        raise DataError(f"{source}: no image of these class folders can be read: {first_of(lost)}; replace them")
    places = {split: [at for at, picture in enumerate(kept) if picture.split == split] for split in _ORDER}
    own = {split: torch.tensor(at) if at else None for split, at in places.items()}
    notes = (*notes, *_notes(found, decoded, own["val"]))
    labels = {name: label for label, name in enumerate(names)}
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "The given NumPy array is not writable")  # a map; no code writes to images
        images = torch.from_numpy(pixels)
    return ImageDataset(
        images=images,
        labels=torch.tensor([labels[picture.label] for picture in kept]),
        classes=tuple(names.values()),
        source=f"images in {source}",
        own_test=own["test"],
        own_val=own["val"],
        notes=notes,
        names=tuple(picture.name for picture in kept),
    )


def _notes(found: Sequence[Labelled], decoded: Decoded, own_val: Tensor | None) -> list[str]:
    notes = []
    if decoded.broken:
        notes.append(f"left out, as data_loader.args.skip_broken says: {broken_message(_broken(decoded, found))}")
    if decoded.dim:
        notes.append(dim_message([found[row].name for row in decoded.dim]))
    if own_val is not None:
        notes.append(
            f"validation is on the {len(own_val):,} images of the source's own val/; "
            "data_loader.args.validation_split is not used"
        )
    return notes
