"""Encoded images from strangers: found in a folder or .zip, and decoded within limits."""

import io
import struct
import warnings
import zipfile
from collections.abc import Callable
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
    except UnidentifiedImageError:
        raise DataError(f"{where} is not an image that can be read (unknown format); remove or replace it") from None
    except DECODING_ERRORS as error:
        raise DataError(f"{where} is not an image that can be read ({error}); remove or replace it") from None


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


class Files:
    """The files below a folder or inside a zip, by their relative POSIX names."""

    def __init__(self, source: Path) -> None:
        self._source = source
        self._zip: zipfile.ZipFile | None = None
        if source.is_dir():
            self.names = [path.relative_to(source).as_posix() for path in source.rglob("*") if path.is_file()]
            return
        try:
            self._zip = zipfile.ZipFile(source)
        except (zipfile.BadZipFile, OSError) as error:
            raise DataError(f"{source} is neither a folder nor a readable .zip ({error})") from None
        self.names = list(dict.fromkeys(self._zip.namelist()))  # a zip may hold one name twice; the last one is read

    def stamp(self, name: str) -> str:
        """What changes when the file does: size and time of a file in a folder, size and checksum in a zip."""
        if self._zip:
            info = self._zip.getinfo(name)
            return f"{info.file_size} {info.CRC}"
        status = (self._source / name).stat()
        return f"{status.st_size} {status.st_mtime_ns}"

    def read(self, name: str) -> bytes:
        """The bytes of one of `names`. Raises DataError where they cannot be read or are too many for an image."""
        try:
            size = self._zip.getinfo(name).file_size if self._zip else (self._source / name).stat().st_size
            if size > LARGEST_IMAGE:
                raise ValueError(f"{size:,} bytes are no image")
            return self._zip.read(name) if self._zip else (self._source / name).read_bytes()
        except ZIP_ERRORS as error:
            raise DataError(f"{self._source}: cannot read {name} ({error})") from None

    def __enter__(self) -> "Files":
        return self

    def __exit__(self, *_: object) -> None:
        if self._zip:
            self._zip.close()
