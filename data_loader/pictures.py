"""Decodes strangers' images within limits."""

import contextlib
import io
import os
import struct
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import PurePosixPath

import numpy as np
from PIL import Image, ImageFile, ImageOps, PngImagePlugin, UnidentifiedImageError

from utils.errors import DataError
from utils.progress import Bar
from utils.text import visible

SIZE = 32  # height and width of decoded images, unless told otherwise
LARGEST_IMAGE = 256 << 20  # bytes of an encoded image
LARGEST_PIXELS = 64 << 20  # pixels of an image; Pillow takes 1 to 4 bytes for each
LARGEST_SIDE = 1 << 16  # pixels of a side; the resampling weights grow with it
LARGEST_IN_PYTHON = 1 << 20  # pixels for a decoder in Python, which takes a few seconds for them
_LARGEST_JPEG_2000 = 16 << 20  # pixels; larger ones are decoded at half the size or less
_MOST_WORK = 6 * LARGEST_PIXELS  # pixels decoded for one image, with padding and separate channels
_MOST_SCANS = 16 * LARGEST_PIXELS  # pixels of a JPEG times its scans
_MOST_STRIPS = 1 << 18  # strips or tiles of a TIFF

Image.init()
Image.MAX_IMAGE_PIXELS = LARGEST_PIXELS  # also for an image within an image, as in an icon

#: Formats that Pillow opens and we refuse. EPS runs Ghostscript, and WMF uses Windows to draw. Pillow only recognises
#: MPEG, BUFR, GRIB and HDF5. IPTC opens its contents as any format. FITS unfolds gzip without bound.
_NOT_OPENED = frozenset({"EPS", "WMF", "MPEG", "BUFR", "GRIB", "HDF5", "IPTC", "FITS"})
#: Suffix in lower case -> format, for all accepted formats. MPO is a JPEG with more pictures behind it.
SUFFIXES = {
    suffix: name
    for suffix, name in Image.registered_extensions().items()
    if (name in Image.OPEN or name == "MPO") and name not in _NOT_OPENED
}
#: Formats with a signature, which are accepted under any suffix; the other formats are hard to recognise.
_BY_CONTENT = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "PPM", "AVIF", "JPEG2000", "QOI")

_ORIENTATION = 0x0112  # EXIF's
_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


class UnreadableFileError(DataError):
    """The machine could not read a file, or has no memory for it. It may succeed later, so this is not cached.

    `reason` says why in a few words."""

    def __init__(self, message: str, reason: str | None) -> None:
        self.reason = visible(reason or "unreadable", 100)
        super().__init__(message)


class BrokenImageError(DataError):
    """A file is not a readable image; `reason` says why in a few words."""

    def __init__(self, where: str, reason: str) -> None:
        self.reason = visible(reason, 100)
        super().__init__(f"{where} is not an image that can be read ({self.reason}); remove or replace it")


@dataclass(frozen=True)
class Picture:
    """pixels: uint8 (3, H, W), usually 32x32. `dim`: it has more than 8 bits and uses at most the lowest sixteenth of
    its range."""

    pixels: np.ndarray
    dim: bool = False


#: From an image, grey or RGB, to one of the size that is wanted.
ToSize = Callable[[Image.Image], Image.Image]


def crop_to(height: int, width: int) -> ToSize:
    """Scale an image to cover height x width, and crop the rest at the centre. One of that size does not change."""
    return partial(ImageOps.fit, size=(width, height), method=Image.Resampling.BICUBIC)


crop_to_size = crop_to(SIZE, SIZE)


def scaled(images: np.ndarray, side: int) -> np.ndarray:
    """uint8 (N, 3, H, W) scaled and cropped as pictures are, to (N, 3, side, side)."""
    to_size, large = crop_to(side, side), np.empty((len(images), 3, side, side), np.uint8)
    for row, pixels in enumerate(Bar(images, desc=f"scaling to {side}x{side}", unit="image", leave=False)):
        image = to_size(Image.fromarray(np.ascontiguousarray(pixels.transpose(1, 2, 0))))
        large[row] = np.asarray(image).transpose(2, 0, 1)
    return large


def decode(data: bytes, where: str, to_size: ToSize = crop_to_size, upright: bool = True) -> Picture:
    """Decode an image, the first one in `data`. `where` ends with its name, whose suffix may tell the format.

    `to_size` scales it. With `upright` the image is first rotated by its EXIF.

    Raises:
        BrokenImageError: it cannot be decoded, or would take too much time or memory. The message begins with `where`.
        UnreadableFileError: there is not enough memory now.
    """
    with _broken(where, "unknown format" if data else "the file is empty"), _open(data, where) as opened:
        _check_cost(opened, data)
        with _silence() if opened.format == "TIFF" else contextlib.nullcontext():
            opened.load()
        return _picture(opened, to_size, upright)


def picture_of(image: Image.Image, where: str, to_size: ToSize) -> Picture:
    """`decode` for an image that the caller has opened or made. It does not bound the cost. Raises as `decode` does."""
    with _broken(where, "unknown format"):
        return _picture(image, to_size, upright=True)


def _picture(image: Image.Image, to_size: ToSize, upright: bool) -> Picture:
    if 0 in image.size:
        raise ValueError("it has no pixels")
    grey_or_rgb, dim = to_8_bits(image)
    grey_or_rgb = grey_or_rgb.transpose(turn) if upright and (turn := _turn(image)) is not None else grey_or_rgb
    return Picture(np.asarray(to_size(grey_or_rgb).convert("RGB")).transpose(2, 0, 1), dim)


@contextlib.contextmanager
def _broken(where: str, unidentified: str) -> Iterator[None]:
    """Turn every Exception of a decoder into a BrokenImageError, or an UnreadableFileError if memory ran out."""
    try:
        with warnings.catch_warnings(action="ignore"):
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            yield
    except UnidentifiedImageError as error:
        raise BrokenImageError(where, unidentified) from error
    except Exception as error:  # a decoder may raise anything
        if isinstance(error, MemoryError) or "out of memory" in str(error).lower():
            raise out_of_memory(where) from error
        raise BrokenImageError(where, str(error) or type(error).__name__) from error


@contextlib.contextmanager
def _silence() -> Iterator[None]:
    """Suppress libtiff's own messages on stderr over a damaged file, since our error is one line."""
    try:
        kept = os.dup(2)
    except OSError:  # it is closed
        yield
        return
    try:
        with open(os.devnull, "wb") as nowhere:
            os.dup2(nowhere.fileno(), 2)
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)


def out_of_memory(where: str) -> UnreadableFileError:
    message = f"{where}: there is not enough memory to read it; free some, and start again"
    return UnreadableFileError(message, "there is not enough memory to read it")


def _open(data: bytes, where: str) -> ImageFile.ImageFile:
    if data.startswith(b"\x89PNG"):
        data = _without_text(data)
    elif data[:2] in (b"II", b"MM"):
        _check_strips(data)
    named = SUFFIXES.get(PurePosixPath(where).suffix.lower(), "JPEG")
    formats = _BY_CONTENT if named in (*_BY_CONTENT, "MPO") else (*_BY_CONTENT, named)
    return Image.open(io.BytesIO(data), formats=formats)


def _without_text(data: bytes) -> bytes:
    """A PNG without its colour profile and texts, which may unfold to any size; texts with the rotation stay."""
    kept, start, at, turning = [], 0, 8, {b"Raw profile type exif", b"XML:com.adobe.xmp"}
    while at + 8 <= len(data):
        length, kind = struct.unpack_from(">I4s", data, at)
        end = at + 12 + length
        if kind in (b"iCCP", b"tEXt", b"zTXt", b"iTXt"):
            key = data[at + 8 : at + 88].partition(b"\0")[0]
            if kind == b"iCCP" or key not in turning or length > PngImagePlugin.MAX_TEXT_CHUNK:
                kept.append(data[start:at])
                start = end
            turning.discard(key)
        at = end
    return b"".join((*kept, data[start:])) if kept else data


def _check_strips(data: bytes) -> None:
    """Raise ValueError if the first picture of a TIFF has more strips or tiles than any honest one."""
    order, large = ("<" if data[:2] == b"II" else ">"), data[2] == 43  # as Pillow has it
    first, number, entry, step = (8, "Q", "HHQ", 20) if large else (4, "I", "HHI", 12)
    try:
        at = struct.unpack_from(order + number, data, first)[0]
        count = struct.unpack_from(order + ("Q" if large else "H"), data, at)[0]
        at += 8 if large else 2
        for _ in range(min(count, 1 << 16)):
            tag, _, values = struct.unpack_from(order + entry, data, at)
            if tag in (273, 279, 324, 325) and values > _MOST_STRIPS:
                raise ValueError(f"it has {values:,} strips or tiles")
            at += step
    except struct.error:  # cut off, or no TIFF: Pillow will see
        return


def _check_cost(image: ImageFile.ImageFile, data: bytes) -> None:
    """Raise ValueError if decoding would take too much time or memory, by the opened image's own declarations."""
    width, height = image.size
    pixels = width * height
    size = f"{width:,}x{height:,} pixels"
    if max(width, height) > LARGEST_SIDE or pixels > LARGEST_PIXELS:
        raise ValueError(f"{size}, more than are decoded")
    if pixels > LARGEST_IN_PYTHON and any(tile[0] in Image.DECODERS for tile in image.tile):
        raise ValueError(f"{size}, more than are decoded of such a {image.format}")
    work = sum(max(0, x1 - x0) * max(0, y1 - y0) for x0, y0, x1, y1 in (tile[1] for tile in image.tile if tile[1]))
    if image.format == "TIFF":
        work = max(work, _padded(image))
    if work > _MOST_WORK or (image.format in ("JPEG", "MPO") and data.count(b"\xff\xda") * pixels > _MOST_SCANS):
        raise ValueError(f"{size}, decoded many times over")
    if image.format == "JPEG2000" and pixels > _LARGEST_JPEG_2000:
        image.reduce = 1  # type: ignore[method-assign, assignment]  # Pillow then decodes at half the size


def _padded(image: Image.Image) -> int:
    """The number of pixels in the tiles of a TIFF, which may extend beyond the image."""
    tags = image.tag_v2  # type: ignore[attr-defined]
    width, height = (int(tags.get(tag, 0)) for tag in (322, 323))
    if width <= 0 or height <= 0:
        return 0
    return width * -(-image.width // width) * height * -(-image.height // height)


def _turn(image: Image.Image) -> Image.Transpose | None:
    """How to turn an image by its EXIF orientation. Other EXIF data do not matter, and unreadable EXIF is ignored."""
    try:
        orientation = image.getexif().get(_ORIENTATION)
    except MemoryError:
        raise
    except Exception:
        return None
    return _TURNS.get(orientation) if isinstance(orientation, int) else None


def to_8_bits(image: Image.Image) -> tuple[Image.Image, bool]:
    """An image of any mode in 8-bit grey or RGB, and whether it is `dim`. Transparent pixels keep their colour."""
    if image.mode.startswith(("I", "F")):  # more than 8 bits: convert() would clip instead of scale
        return _scaled(image)
    if image.mode in ("1", "L"):
        return image.convert("L"), False
    if image.mode == "La":
        image = image.convert("LA")
    return (image.convert("RGBA") if "transparency" in image.info else image).convert("RGB"), False


def _scaled(image: Image.Image) -> tuple[Image.Image, bool]:
    """A grey image of more than 8 bits in 8 bits. White is the largest value of its format, and 1 for floats.

    It works on bands of rows, since float64 takes eight times the memory.
    """
    white, inverted = _white(image)
    grey = Image.new("L", image.size)
    high = 0.0
    rows = max(1, (1 << 20) // max(1, image.width))
    for top in range(0, image.height, rows):
        values = np.asarray(image.crop((0, top, image.width, min(top + rows, image.height))))
        if white == 2**32 - 1:
            values = values.view(np.uint32)  # Pillow has no uint32 mode, and keeps the bits in an int32
        low, most = float(values.min()), float(values.max())
        if not (low >= 0.0 and most <= white):  # also NaN
            raise ValueError(f"values of {image.mode} must lie between 0 and {white}, found {low:g} to {most:g}")
        high = max(high, white - low if inverted else most)
        scaled = np.rint((white - values if inverted else values) * (255.0 / white)).astype(np.uint8)
        grey.paste(Image.fromarray(scaled), (0, top))
    return grey, white > 1 and 0 < high * 16 <= white


def _white(image: Image.Image) -> tuple[int, bool]:
    """The largest value by the format's own depth, and whether 0 is white instead."""
    if image.mode == "F":
        return 1, image.format == "TIFF" and image.tag_v2.get(262) == 0  # type: ignore[attr-defined]
    if image.format == "TIFF":
        tags = image.tag_v2  # type: ignore[attr-defined]
        signed = tags.get(339, (1,))[0] == 2
        return 2 ** (tags[258][0] - signed) - 1, tags.get(262) == 0
    if image.mode == "I" and image.format is None:
        raise ValueError("how many bits mode I has is said by a file alone; convert the image to L or I;16")
    # Pillow scales PPM's values to 16 bits and keeps them in 32.
    return (2**31 - 1 if image.mode == "I" and image.format != "PPM" else 65535), False
