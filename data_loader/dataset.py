"""The one form of every dataset."""

import hashlib
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from data_loader.class_names import problem_of
from utils.errors import DataError
from utils.text import first_of, visible

#: Of an image of any dataset, as 2048x2048: a config allows 256x256, and images from Python keep their size. A network
#: takes hundreds of bytes for each pixel, so a received checkpoint may ask for no more either.
MOST_PIXELS = 1 << 22


@dataclass(frozen=True)
class ImageDataset:
    """Every image of a dataset, with its true label.

    images: uint8 (N, 3, H, W); labels: int64 (N,), from 0 to len(classes) - 1. `source` describes their origin.
    `own_test` (int64 (M,)) holds the positions of the dataset's own test images, if it has any, and `own_val` those of
    its own validation images. `notes` are lines for the user, such as what was left out. `in_memory`: whether the
    images are to be kept in memory; if not, they are a map of a file, `mapped`. None leaves it open. `digest_classes`
    take the place of `classes` in the digest, so that a file that comes to name its classes stays the same data.
    `names` are those of the images' files in their source, if each has one. `from_python`: it is not the one that the
    config names.

    Raises:
        DataError: there are no images, they are of more than MOST_PIXELS, a label is out of range, or a class has a
            name that no run could save.
    """

    images: Tensor
    labels: Tensor
    classes: tuple[str, ...]
    source: str
    own_test: Tensor | None = None
    own_val: Tensor | None = None
    notes: tuple[str, ...] = ()
    in_memory: bool | None = None
    mapped: np.memmap | None = None
    digest_classes: tuple[str, ...] | None = None
    names: tuple[str, ...] | None = None
    from_python: bool = False

    def __post_init__(self) -> None:
        images, labels = self.images, self.labels
        assert images.dtype == torch.uint8, images.dtype
        assert images.shape[1:2] == (3,), images.shape
        assert labels.dtype == torch.int64, labels.dtype
        assert labels.shape == images.shape[:1], (labels.shape, images.shape)
        assert self.names is None or len(self.names) == len(labels)
        if len(labels) == 0:
            raise DataError(f"{self.source}: it holds no images")
        height, width = images.shape[2:]
        if height * width > MOST_PIXELS:
            raise DataError(
                f"{self.source}: images of {height}x{width} are larger than {MOST_PIXELS:,} pixels; scale them"
            )
        problem = problem_of(self.classes, printable=False)
        if problem is not None:
            raise DataError(f"{self.source}: {problem}; rename the classes, or take fewer")
        outside = ((labels < 0) | (labels >= len(self.classes))).nonzero().flatten()
        if len(outside):
            at = int(outside[0])
            raise DataError(
                f"{self.source}: label {int(labels[at])} at index {at} is outside 0 to {len(self.classes) - 1}, "
                f"the {len(self.classes)} classes {first_of(self.classes)}"
            )

    def __len__(self) -> int:
        return len(self.labels)

    def name_of(self, position: int) -> str:
        """What a message calls an image: its file, cut short, or its position."""
        return str(position) if self.names is None else visible(self.names[position], 80)

    def check_file(self) -> None:
        """Raise DataError if the file that the images are a map of has been cut short: whoever reads what is gone gets
        SIGBUS."""
        mapped = self.mapped
        if mapped is None:
            return
        file: Any = mapped.base  # a mmap.mmap
        if file.size() < mapped.offset + mapped.nbytes:
            raise DataError(
                f"{self.source}: the file of decoded images, {mapped.filename}, was cut short while it was read; go on "
                "with -r auto, which decodes them again"
            )

    def sha256(self) -> str:
        """Hex digest of the contents: class names, shape, labels, test and validation positions, pixels."""
        classes = self.classes if self.digest_classes is None else self.digest_classes
        digest = hashlib.sha256(repr((classes, tuple(self.images.shape))).encode())
        own_test = torch.empty(0, dtype=torch.int64) if self.own_test is None else self.own_test
        if self.own_val is not None:
            digest.update(b"validation" + self.own_val.contiguous().numpy().tobytes())
        for part in (self.labels, own_test, self.images):
            digest.update(part.contiguous().numpy().data if part.numel() else b"none")
        return digest.hexdigest()
