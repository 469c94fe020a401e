"""Brings any picture into the form in which a run evaluates its images."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from data_loader.batches import Normaliser, PixelStats, packed
from data_loader.dataset import MOST_PIXELS
from data_loader.picture_files import read_picture
from data_loader.pictures import LARGEST_SIDE, crop_to, decode, picture_of

_KEYS = {"mean", "std", "image_size"}


@dataclass(frozen=True)
class Preprocess:
    """mean, std: of each channel of the training images, for pixels in [0, 1]. image_size: height and width.

    Called with a picture, a path or a PIL image of any mode and size, it returns the network's input for it: float32
    (3, H, W). The picture is decoded, scaled and cropped as those of an ImageFolder are.
    """

    mean: tuple[float, ...]
    std: tuple[float, ...]
    image_size: tuple[int, int]

    @classmethod
    def of(cls, stats: PixelStats, image_size: tuple[int, int]) -> "Preprocess":
        """For a run with these statistics and images of this size."""
        return cls(tuple(stats.mean.tolist()), tuple(stats.std.tolist()), image_size)

    @classmethod
    def from_record(cls, record: Any) -> "Preprocess":
        """From what `record` returned, or from anything else. Raises ValueError if it is not of that form."""
        if not isinstance(record, dict) or record.keys() != _KEYS or not all(type(v) is list for v in record.values()):
            raise ValueError(f"expected lists {', '.join(sorted(_KEYS))}")
        mean, std, size = record["mean"], record["std"], record["image_size"]
        if not all(len(part) == 3 and all(type(v) is float and 0.0 <= v <= 1.0 for v in part) for part in (mean, std)):
            raise ValueError("mean and std must be three numbers between 0 and 1 each")
        if len(size) != 2 or not all(type(side) is int and 1 <= side <= LARGEST_SIDE for side in size):
            raise ValueError(f"image_size must be two whole numbers from 1 to {LARGEST_SIDE:,}")
        if size[0] * size[1] > MOST_PIXELS:
            raise ValueError(f"image_size must be of {MOST_PIXELS:,} pixels at most")
        return cls(tuple(mean), tuple(std), (size[0], size[1]))

    def record(self) -> dict[str, Any]:
        """Plain values for a file."""
        return {"mean": list(self.mean), "std": list(self.std), "image_size": list(self.image_size)}

    def __call__(self, picture: str | Path | Image.Image) -> Tensor:
        """Raises DataError if the picture cannot be read."""
        if isinstance(picture, Image.Image):
            pixels = picture_of(picture, "the image", crop_to(*self.image_size)).pixels
        else:
            pixels = self.decode(read_picture(Path(picture)), str(picture))
        return self.batch([pixels], torch.device("cpu"))[0]

    def decode(self, data: bytes, where: str) -> np.ndarray:
        """uint8 (3, H, W) of an encoded picture. Raises as `pictures.decode` does."""
        return decode(data, where, crop_to(*self.image_size)).pixels

    def batch(self, pixels: Sequence[np.ndarray], device: torch.device, channels_last: bool = False) -> Tensor:
        """float32 (B, 3, H, W), as a loader serves these images."""
        stats = PixelStats(*(torch.tensor(values, dtype=torch.float64) for values in (self.mean, self.std)))
        images = torch.from_numpy(np.stack(pixels))
        return Normaliser(stats, device, channels_last)(packed(images.to(device)))
