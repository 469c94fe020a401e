"""Encoded images from strangers: found in a folder or .zip, and decoded within limits."""

import errno
import io
import os
import stat
import struct
import warnings
import zipfile
from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from data_loader.npz import ZIP_ERRORS
from utils.errors import DataError

SIZE = 32  # what every image becomes, in height and width
# Pillow knows dozens of formats, and has had holes in the rarer ones; these are what photographs come in.
FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "PPM")
SUFFIXES = frozenset(suffix for suffix, name in Image.registered_extensions().items() if name in FORMATS)
LARGEST_IMAGE = 256 << 20  # bytes of an encoded image
#: What reading a damaged or hostile image can raise.
DECODING_ERRORS = (
    *(*ZIP_ERRORS, Image.DecompressionBombError, Image.DecompressionBombWarning),
    *(struct.error, IndexError),
)


class UnreadableFileError(DataError):
    """The machine did not give a file out: no permission, a disk that is away. Another time it may."""


def crop_to_size(image: Image.Image) -> Image.Image:
    """32x32: the short side scaled to 32, the long side cropped at the centre."""
    return ImageOps.fit(image, (SIZE, SIZE), Image.Resampling.BICUBIC)


def decode(
    data: bytes, where: str, to_size: Callable[[Image.Image], Image.Image] = crop_to_size, upright: bool = True
) -> np.ndarray:
    """uint8 (3, 32, 32) of one encoded image.

    `to_size` brings an RGB image to 32x32. With `upright` it comes turned as its EXIF says, and only if it is not
    32x32 already. Raises DataError, which begins with `where`.
    """
    try:
        with warnings.catch_warnings(action="ignore"):
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            with Image.open(io.BytesIO(data), formats=FORMATS) as opened:
                image = to_rgb(ImageOps.exif_transpose(opened) if upright else opened)
                if not upright or image.size != (SIZE, SIZE):
                    image = to_size(image)
                return np.asarray(image).transpose(2, 0, 1)
    except UnidentifiedImageError as error:
        raise DataError(f"{where} is not an image that can be read (unknown format); remove or replace it") from error
    except DECODING_ERRORS as error:
        raise DataError(f"{where} is not an image that can be read ({error}); remove or replace it") from error


def to_rgb(image: Image.Image) -> Image.Image:
    """An image of any mode in 8-bit RGB; what is transparent keeps its colour."""
    if image.mode.startswith(("I", "F")):  # more than 8 bits: convert() would clip instead of scale
        image = Image.fromarray(_to_bytes(np.asarray(image, dtype=np.float64), image.mode))
    return image.convert("RGBA").convert("RGB") if "transparency" in image.info else image.convert("RGB")


def _to_bytes(values: np.ndarray, mode: str) -> np.ndarray:
    """Grey values of more than 8 bits as uint8, by the range that their mode and largest value speak of."""
    if not np.isfinite(values).all():
        raise ValueError("NaN or infinite pixels")
    high = values.max()
    if mode.startswith("I;16") or high > 255.0:
        scale = 255.0 / 65535.0
    else:
        scale = 255.0 if mode == "F" and high <= 1.0 else 1.0
    return np.rint(values * scale).clip(0, 255).astype(np.uint8)


def walk(folder: Path) -> list[str]:
    """The names of all files below `folder`, relative with forward slashes, in order.

    Links to folders are followed, but not round in circles; links that lead nowhere are listed like files.

    Raises:
        UnreadableFileError: a folder cannot be looked into.
    """

    def refuse(error: OSError) -> None:
        raise UnreadableFileError(f"cannot look into {error.filename} ({error.strerror}); make it readable") from error

    found: list[Path] = []
    chains: dict[Path, tuple[Path, ...]] = {folder: (folder.resolve(),)}  # of a folder, what it and those above it are
    for place, below, files in os.walk(folder, onerror=refuse, followlinks=True):
        here = Path(place)
        chain = chains.pop(here)
        for name in list(below):
            real = (here / name).resolve()
            if real in chain:
                below.remove(name)
            else:
                chains[here / name] = (*chain, real)
        found += [here / name for name in files if _is_file(here / name, refuse)]
    return sorted(path.relative_to(folder).as_posix() for path in found)


def _is_file(path: Path, refuse: Callable[[OSError], None]) -> bool:
    try:
        return stat.S_ISREG(path.stat().st_mode)
    except PermissionError as error:  # of the folder, which lists its files but gives none out
        refuse(error)
    except OSError:  # a link to nothing: reading it will say so
        pass
    return True


def check_classes(names: Iterable[str], source: Path) -> None:
    """Raise DataError where a folder's name is no text, and so none that a class can have."""
    for name in names:
        try:
            name.encode()
        except UnicodeEncodeError as error:
            raise DataError(f"{source}: the name of the class folder {name!r} is not UTF-8; rename it") from error


class Files:
    """The files below a folder or inside a zip, by their relative POSIX names."""

    def __init__(self, source: Path) -> None:
        self._source = source
        self._zip: zipfile.ZipFile | None = None
        if source.is_dir():
            self.names = walk(source)
            return
        try:
            self._zip = zipfile.ZipFile(source)
        except (zipfile.BadZipFile, OSError) as error:
            raise DataError(f"{source} is neither a folder nor a readable .zip ({error})") from error
        # A zip may hold one name twice; the last one is read. Some that Windows made have its slashes.
        self._entries = {info.filename.replace("\\", "/"): info for info in self._zip.infolist()}
        self.names = [name for name in self._entries if not name.endswith("/")]

    def stamp(self, name: str) -> str:
        """What changes when the file does: size and time of a file in a folder, size and checksum in a zip."""
        if self._zip:
            info = self._entries[name]
            return f"{info.file_size} {info.CRC}"
        try:
            status = (self._source / name).stat()
        except OSError:
            return "missing"
        return f"{status.st_size} {status.st_mtime_ns}"

    def read(self, name: str) -> bytes:
        """The bytes of one of `names`.

        Raises:
            UnreadableFileError: the machine does not give them out.
            DataError: they are damaged, or too many for an image.
        """
        try:
            size = self._entries[name].file_size if self._zip else (self._source / name).stat().st_size
            if size > LARGEST_IMAGE:
                raise ValueError(f"{size:,} bytes are no image")
            return self._zip.read(self._entries[name]) if self._zip else (self._source / name).read_bytes()
        except ZIP_ERRORS as error:
            # A damaged zip sends its reader to places that there are not, which is an invalid argument.
            if isinstance(error, OSError | MemoryError) and getattr(error, "errno", None) != errno.EINVAL:
                reason = getattr(error, "strerror", None) or str(error) or "out of memory"
                raise UnreadableFileError(f"{self._source}: cannot read {name} ({reason})") from error
            raise DataError(f"{self._source}: cannot read {name} ({error})") from error

    def __enter__(self) -> "Files":
        return self

    def __exit__(self, *_: object) -> None:
        if self._zip:
            self._zip.close()
