"""Any images: a folder or .zip of train/<class>/ and optionally val/<class>/ and test/<class>/, scaled to 32x32."""

import hashlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from data_loader import picture_cache
from data_loader.access import Access
from data_loader.dataset import ImageDataset
from data_loader.picture_cache import Decoded
from data_loader.picture_files import Files, Labelled, broken_message, by_split, dim_message, first_of
from data_loader.pictures import SIZE, BrokenImageError, decode, out_of_memory
from utils.errors import DataError
from utils.progress import Bar

_ORDER = ("train", "val", "test")


def load_image_folder(data_dir: Path, access: Access | None = None, skip_broken: bool = False) -> ImageDataset:
    """The images of a folder or .zip, decoded once and then read from a cache (data_loader/picture_cache.py).

    The short side is scaled to 32 and the long side cropped at the centre; images of 32x32 do not change. The dataset's
    notes report files that were left out, and with `skip_broken` images that cannot be decoded. Without `access` the
    cache may be written.

    Raises:
        DataError: there is no such folder or zip, it has no train/<class>/ images, a class has no images, or images
            cannot be decoded.
    """
    source = data_dir
    if not source.exists():
        raise DataError(f"ImageFolder: there is no {source}; name a folder or .zip with data_loader.args.data_dir")
    try:
        with Files(source) as files:
            found = _find(files, source)
            notes = (*files.left_out.lines(), *files.notes)
            key = _key(files, found)
            decoded = picture_cache.read(source, key)
            if decoded is None or (decoded.broken and not skip_broken):
                new = decoded = _decode(files, found, source)
                _check_broken(decoded, found, source, skip_broken)
                (access or Access()).write(lambda: picture_cache.write(source, key, new))
    except MemoryError as error:
        raise out_of_memory(str(source)) from error
    return _dataset(source, found, decoded, notes)


def _find(files: Files, source: Path) -> list[Labelled]:
    """The images of all splits: training images first, then by class and name."""
    found = [] if files.base is None else by_split(files, source)
    classes = {picture.label for picture in found if picture.split == "train"}
    expected = "expected train/<class>/* and optionally val/<class>/* and test/<class>/*"
    if not classes:
        raise DataError(f"{source}: no train/<class>/ images; {expected}")
    for split in _ORDER[1:]:
        unknown = sorted({picture.label for picture in found if picture.split == split} - classes)
        if unknown:
            raise DataError(f"{source}: {split}/ has classes that train/ lacks: {first_of(unknown)}; {expected}")
    return sorted(found, key=lambda picture: (_ORDER.index(picture.split), picture.label, picture.name))


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


def _decode(files: Files, found: Sequence[Labelled], source: Path) -> Decoded:
    pixels = np.zeros((len(found), 3, SIZE, SIZE), dtype=np.uint8)
    decoded = Decoded(pixels, {}, [])
    for row, picture in enumerate(Bar(found, desc=f"decoding {source.name}", unit="image")):
        try:
            result = decode(files.read(picture.name), f"{source}: {picture.name}")
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


def _dataset(source: Path, found: Sequence[Labelled], decoded: Decoded, notes: tuple[str, ...]) -> ImageDataset:
    rows = [row for row in range(len(found)) if row not in decoded.broken]
    kept = [found[row] for row in rows]
    classes = tuple(dict.fromkeys(picture.label for picture in found))  # training images come first
    folders, whole = ({f"{picture.split}/{picture.label}" for picture in pictures} for pictures in (found, kept))
    lost = sorted(folders - whole)
    if lost:
        raise DataError(f"{source}: no image of these class folders can be read: {first_of(lost)}; replace them")
    places = {split: [at for at, picture in enumerate(kept) if picture.split == split] for split in _ORDER}
    own = {split: torch.tensor(at) if at else None for split, at in places.items()}
    notes = (*notes, *_notes(found, decoded, own["val"]))
    pixels = decoded.pixels if len(rows) == len(found) else decoded.pixels[rows]
    labels = {name: label for label, name in enumerate(classes)}
    return ImageDataset(
        images=torch.from_numpy(pixels),
        labels=torch.tensor([labels[picture.label] for picture in kept]),
        classes=classes,
        source=f"images in {source}",
        own_test=own["test"],
        own_val=own["val"],
        notes=notes,
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
