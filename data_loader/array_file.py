"""Reads TinyCOCO and TinyExDark: one file of `{"images", "labels"}`, a pickle or an .npz, without its own test set.

The file may name its `classes` as well; they then take the place of the format's.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch

from config_schema import LEAST_SIDE, MOST_SIDE
from data_loader.class_names import problem_of
from data_loader.dataset import ImageDataset
from data_loader.npz import load_npz, read_bytes
from data_loader.pictures import SIZE
from data_loader.restricted_pickle import as_array, load_arrays
from utils.errors import DataError
from utils.plain_pickle import malformed
from utils.reading import errors_as
from utils.tensor_file import fits_its_storage, is_tensor_file, read_tensors
from utils.text import quoted

OLD_TORCH = 0x1950A86A20F9469CFC6C  # the first number in a file of torch.save from before it wrote zips
TOLERANCE = 1e-3  # tolerance for resizing in floating point, which overshoots [0, 1]


@dataclass(frozen=True)
class ArrayFormat:
    """The format of a dataset's file."""

    name: str
    stem: str  # the file's name without suffix, if a folder is given
    layout: Literal["NHWC", "NCHW"]
    classes: tuple[str, ...]

    def shape(self, side: int = SIZE) -> tuple[int, int, int]:
        return (side, side, 3) if self.layout == "NHWC" else (3, side, side)


#: From the checked array of a file, in its own layout and range, to uint8 (N, 3, side, side).
Reading = Callable[[np.ndarray, ArrayFormat, Path], np.ndarray]


def load_array_file(path: Path, form: ArrayFormat, reading: Reading | None = None) -> ImageDataset:
    """The images in `path`, a file, or a folder with `<stem>.pkl`, `.pickle` or `.npz`.

    `reading` turns the array into pixels; `_pixels` by default.

    Raises:
        DataError: the file is missing, malformed or hostile, or does not have the format `form`.
    """
    file = _find(path, form)
    data = read_bytes(file)
    if not data:
        raise DataError(f"{file}: the file is empty; get or build it again")
    values = _values(data, file)
    images = (reading or _pixels)(_array(values["images"], "images", file, len(data)), form, file)
    labels = _labels(_array(values["labels"], "labels", file, len(data)), len(images), file)
    classes = _classes(values["classes"], labels, file) if "classes" in values else form.classes
    return ImageDataset(
        images=torch.from_numpy(images),
        labels=torch.from_numpy(labels),
        classes=classes,
        source=f"{form.name} in {file}",
        digest_classes=form.classes,
    )


def _find(path: Path, form: ArrayFormat) -> Path:
    names = [form.stem + suffix for suffix in (".pkl", ".pickle", ".npz")]
    is_file = path.is_file() or (path.suffix and not path.is_dir())
    candidates = [path] if is_file else [path / name for name in names]
    for candidate in candidates:
        if candidate.is_file():
            return candidate
    others = [file for file in path.glob("*") if file.suffix in (".pkl", ".pickle", ".npz")] if path.is_dir() else []
    if len(others) == 1:
        return others[0]
    raise DataError(
        f"{form.name} was not found: there is no {' or '.join(map(str, candidates))}; put the file there, a pickle or "
        f".npz of {{'images': (N, {', '.join(map(str, form.shape()))}), 'labels': (N,)}}, or name it with "
        "data_loader.args.data_dir"
    )


def _values(data: bytes, file: Path) -> dict[Any, Any]:
    """The dict in a pickle, an .npz or a file of torch.save, with at least the keys 'images' and 'labels'."""
    if is_tensor_file(data):
        with errors_as(DataError, str(file), "no file of plain tensors", "; save a dict of two, or use np.savez"):
            values = read_tensors(data)
            if isinstance(values, dict):
                values = {
                    key: of_tensor(item) if isinstance(item, torch.Tensor) else item for key, item in values.items()
                }
    elif data[:4] == b"PK\x03\x04":
        return dict(load_npz(data, ("images", "labels"), str(file), optional=("classes",)))
    else:
        values = load_arrays(data, str(file))
    if not isinstance(values, dict) or not {"images", "labels"} <= values.keys():
        found = f"keys [{quoted(values)}]" if isinstance(values, dict) else type(values).__name__
        if type(values) is int and values == OLD_TORCH:
            found = "an old form of torch.save; save it again with a torch of this decade"
        raise DataError(f"{file}: expected a dict with 'images' and 'labels', found {found}")
    return values


def of_tensor(tensor: torch.Tensor) -> np.ndarray:
    """Raises MalformedError for a view that repeats a few numbers."""
    if not fits_its_storage(tensor):
        malformed("a tensor that repeats its numbers")
    return tensor.numpy()


def _array(value: Any, what: str, file: Path, size: int) -> np.ndarray:
    """`value` as an array of numbers; it may be lists of plain numbers, from a file of `size` bytes."""
    value = as_array(value, size)
    if not isinstance(value, np.ndarray) or value.dtype.kind not in "uif":
        found = value.dtype if isinstance(value, np.ndarray) else type(value).__name__
        raise DataError(f"{file}: {what} must be an array of numbers, found {found}")
    return value.astype(value.dtype.newbyteorder("="), copy=False)


def _pixels(array: np.ndarray, form: ArrayFormat, file: Path) -> np.ndarray:
    """uint8 (N, 3, side, side) from an array in the file's own layout and range, [0, 1] or [0, 255]."""
    side = array.shape[2] if array.ndim == 4 else 0
    if array.shape[1:] != form.shape(side) or not LEAST_SIDE <= side <= MOST_SIDE:
        wanted = ", ".join(map(str, form.shape()))
        sides = f"both sides may be others from {LEAST_SIDE} to {MOST_SIDE}"
        raise DataError(f"{file}: images must be (N, {wanted}), found {array.shape}; {sides}")
    if len(array) == 0:
        raise DataError(f"{file}: it holds no images")
    if array.dtype.kind == "f":
        finite = np.isfinite(array).all(axis=(1, 2, 3))
        if not finite.all():
            raise DataError(f"{file}: image {int(np.argmin(finite))} has NaN or infinite pixels")
    low, high = float(array.min()), float(array.max())
    unit = array.dtype.kind == "f" and high <= 1.0 + TOLERANCE
    slack = TOLERANCE if unit else 0.0
    if low < -slack or high > 255.0:
        where = int(np.argmax(((array < -slack) | (array > 255)).any(axis=(1, 2, 3))))
        raise DataError(
            f"{file}: pixels must lie in [0, 1] or [0, 255], found {low:g} to {high:g}, first in image {where}"
        )
    if array.dtype.kind == "f":
        if not unit and np.quantile(array, 0.95) <= 1.0 + TOLERANCE:
            where = int(np.argmax((array > 1.0 + TOLERANCE).any(axis=(1, 2, 3))))
            raise DataError(
                f"{file}: nearly all pixels lie in [0, 1], but image {where} and perhaps others reach beyond, up to "
                f"{high:g}; bring all into [0, 1] or [0, 255]"
            )
        # Rounded, not truncated: x / 255 stored in float32 comes back as the same byte.
        array = np.rint(array.clip(0.0, 1.0) * 255.0 if unit else array)
    array = array.astype(np.uint8)
    return np.ascontiguousarray(array.transpose(0, 3, 1, 2) if form.layout == "NHWC" else array)


def float_bytes(array: np.ndarray, form: ArrayFormat, file: Path) -> np.ndarray:
    """The images of the published experiments: each byte of the floats is read as a pixel's channel.

    Their code made a picture of x * 255 with Pillow's `fromarray(..., mode="RGB")`. That does not convert numbers, but
    takes the first 32 * 32 * 3 bytes of the buffer for pixels: the first eight rows of a float32 image, or the first
    four of a float64 one. Returns uint8 (N, 3, 32, 32), or as large as the images of the file.

    Raises:
        DataError: as `load_array_file`; also if the array is not float32 or float64, since integers are not misread.
    """
    _pixels(array, form, file)  # only for its checks
    if array.dtype not in (np.float32, np.float64):
        raise DataError(
            f"{file}: its images are {array.dtype}, and only the bytes of float32 or float64 can be misread as pixels; "
            "set data_loader.args.float_bytes_as_pixels=false"
        )
    height, width, channels = form.shape(array.shape[2])
    little_endian = (array * array.dtype.type(255)).astype(array.dtype.newbyteorder("<"), order="C")
    buffers = little_endian.reshape(len(array), -1).view(np.uint8)[:, : height * width * channels]
    return np.ascontiguousarray(buffers.reshape(-1, height, width, channels).transpose(0, 3, 1, 2))


def _labels(array: np.ndarray, count: int, file: Path) -> np.ndarray:
    if array.shape != (count,):
        raise DataError(f"{file}: labels must be ({count},), one for each image, found {array.shape}")
    whole = array.astype(np.float64)
    wrong = ~np.isfinite(whole) | (whole != np.rint(whole)) | (np.abs(whole) > 2**31)
    if wrong.any():
        at = int(np.argmax(wrong))
        raise DataError(f"{file}: label {array[at]} at index {at} is not a whole number")
    return array.astype(np.int64)


def _classes(value: Any, labels: np.ndarray, file: Path) -> tuple[str, ...]:
    """The names of the classes in a file: a list of texts or, as an .npz has them, an array."""
    with errors_as(DataError, str(file), "malformed classes", "; get or build it again"):  # numbers beyond Unicode
        names = value.tolist() if isinstance(value, np.ndarray) and value.dtype.kind == "U" else value
    if not isinstance(names, list | tuple) or not all(isinstance(name, str) for name in names):
        raise DataError(f"{file}: classes must be a list of names, or a one-dimensional array of text in an .npz")
    problem = problem_of(names)
    if problem is None and len(labels) and labels.max() >= len(names):
        problem = (
            f"it names {len(names):,} classes, and label {labels.max()} at index {labels.argmax()} is none of them"
        )
    if problem is not None:
        raise DataError(f"{file}: classes: {problem}; build the file again, or leave the classes out")
    return tuple(map(str, names))
