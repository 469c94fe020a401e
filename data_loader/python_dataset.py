"""A dataset given from Python, in the one form that the project trains on."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from data_loader.dataset import ImageDataset
from utils.errors import DataError, UserError
from utils.progress import Bar
from utils.text import visible

WANTED = "an ImageDataset, or a dataset with len(d) and d[i] -> (image, label)"
SOURCE = "the dataset given from Python"


def as_image_dataset(dataset: Any) -> ImageDataset:
    """An ImageDataset as it is, or one with the images of a dataset as torch's: `len(d)`, and `d[i]` is (image, label).

    `d.classes`, if there are any, are the names of the classes.

    An image is a PIL image of any mode, or a tensor (H, W), (1, H, W) or (3, H, W): uint8, or floats from 0 to 1. All
    have one size. A label is an integer. Each image is read once, so what `d[i]` draws at random would stay as it is.

    Raises:
        DataError: it is anything else, or `d[i]` raises an Exception.
    """
    if isinstance(dataset, ImageDataset):
        return replace(dataset, from_python=True)
    if isinstance(dataset, torch.utils.data.DataLoader):
        raise DataError("dataset=: this is a DataLoader; give the dataset itself, its .dataset")
    try:
        count = len(dataset)
    except Exception as error:
        raise DataError(f"dataset=: it takes {WANTED}; {_kind(dataset)} has no length") from error
    if not hasattr(dataset, "__getitem__") or isinstance(dataset, str | bytes | dict):
        raise DataError(f"dataset=: it takes {WANTED}, not {_kind(dataset)}")
    if count == 0:
        raise DataError(f"{SOURCE} holds no images")
    images, labels = _read(dataset, count)
    source = f"{SOURCE} ({type(dataset).__name__})"
    return ImageDataset(images, labels, _classes(dataset, labels), source, from_python=True)


def _read(dataset: Any, count: int) -> tuple[Tensor, Tensor]:
    """Images uint8 (N, 3, H, W) and labels int64 (N,)."""
    images, labels = torch.empty(0), torch.empty(count, dtype=torch.int64)
    for i in Bar(range(count), desc="reading the dataset", leave=False):
        try:
            item = dataset[i]
        except UserError:
            raise
        except Exception as error:
            raise DataError(f"dataset[{i}] raised {type(error).__name__}: {visible(str(error), 200)}") from error
        if not isinstance(item, tuple | list) or len(item) != 2:
            raise DataError(f"dataset[{i}] is {_kind(item)}, not a pair (image, label)")
        image, labels[i] = _pixels(item[0], f"dataset[{i}][0]"), _label(item[1], f"dataset[{i}][1]")
        if i == 0:
            images = torch.empty(count, *image.shape, dtype=torch.uint8)
        if image.shape != images.shape[1:]:
            sizes = [f"{height} x {width}" for _, height, width in (image.shape, images.shape[1:])]
            raise DataError(
                f"dataset[{i}][0] is {sizes[0]} and dataset[0][0] {sizes[1]} pixels; resize all to one size"
            )
        images[i] = image
    return images, labels


def _pixels(image: Any, where: str) -> Tensor:
    """One image as uint8 (3, H, W)."""
    if isinstance(image, Image.Image):
        from data_loader.pictures import picture_of

        return torch.tensor(picture_of(image, where, lambda image: image).pixels)
    if not isinstance(image, Tensor):
        raise DataError(f"{where} is {_kind(image)}, not a PIL image or a tensor")
    image = image.detach().cpu()
    if image.dim() == 2:
        image = image.unsqueeze(0)
    if image.dim() != 3 or image.shape[0] not in (1, 3) or image.numel() == 0:
        shape = tuple(image.shape)
        raise DataError(f"{where} has the shape {shape}, not (H, W), (1, H, W) or (3, H, W)")
    if image.is_floating_point():
        low, high = float(image.min()), float(image.max())
        if not (low >= 0.0 and high <= 1.0):  # also NaN
            raise DataError(
                f"{where} has floats from {low:g} to {high:g}; give them from 0 to 1, or uint8: a run normalises itself"
            )
        image = (image.float() * 255.0).round().to(torch.uint8)
    if image.dtype != torch.uint8:
        raise DataError(f"{where} is a tensor of {image.dtype}; give uint8, or floats from 0 to 1")
    three: Tensor = image.expand(3, -1, -1)
    return three


def _label(label: Any, where: str) -> int:
    plain = label.item() if getattr(label, "ndim", None) == 0 else label  # a tensor's or numpy's scalar
    if isinstance(plain, bool) or not isinstance(plain, int):
        raise DataError(f"{where} is {_kind(label)}, not a label: an integer from 0")
    if not 0 <= plain < 2**62:
        raise DataError(f"{where} is {plain}; labels count from 0")
    return plain


def _classes(dataset: Any, labels: Tensor) -> tuple[str, ...]:
    while isinstance(dataset, torch.utils.data.Subset) and not hasattr(dataset, "classes"):
        dataset = dataset.dataset
    names = getattr(dataset, "classes", None)
    if names is None:
        largest = int(labels.max())
        if largest >= len(labels):
            raise DataError(f"{SOURCE}: label {largest} among {len(labels)} images; labels count from 0, one a class")
        return tuple(map(str, range(largest + 1)))
    if isinstance(names, str) or not isinstance(names, Sequence) or not all(isinstance(name, str) for name in names):
        raise DataError(f"{SOURCE}: its .classes are {_kind(names)}, not a list of names")
    return tuple(names)


def _kind(value: Any) -> str:
    shape = getattr(value, "shape", None)
    length = f" of {len(value)}" if isinstance(value, tuple | list) else ""
    return f"a {type(value).__name__}{length}" + ("" if shape is None else f" of shape {tuple(shape)}")
