"""Batches from images in memory: drawn, cropped, mirrored and normalised on the training device, a batch at a time.

Written by hand: a torch DataLoader, which handles images one by one in Python, is many times slower at this size.
"""

from collections.abc import Iterator
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from base.base_data_loader import BaseDataLoader, Batch
from parse_config import Augment
from utils.seeding import generator


class PixelStats(NamedTuple):
    """Mean and standard deviation of each channel, for pixels in [0, 1]: two float64 (3,)."""

    mean: Tensor
    std: Tensor


def pixel_stats(images: Tensor) -> PixelStats:
    """Of uint8 (N, 3, H, W): over all pixels of all images, exact, from the histogram of each channel."""
    levels = torch.arange(256, dtype=torch.float64) / 255.0
    histogram = torch.stack([torch.bincount(images[:, c].flatten(), minlength=256) for c in range(3)]).double()
    share = histogram / histogram.sum(1, keepdim=True)
    mean = share @ levels
    variance = (share * (levels - mean.unsqueeze(1)).square()).sum(1)
    return PixelStats(mean, variance.sqrt())


class ImageBatches(BaseDataLoader):
    """A split's images on a device, served in order, or shuffled and augmented when `augment` is given.

    Args:
        images: uint8 (N, 3, H, W); given, true: int64 (N,).
        stats: the training split's channel statistics.
        augment: shuffle each epoch and change images so; None serves them in order and as they are.
        seed: of the run; order, crops and flips of an epoch each derive a generator from it.
    """

    def __init__(
        self,
        images: Tensor,
        given: Tensor,
        true: Tensor,
        stats: PixelStats,
        batch_size: int,
        device: torch.device,
        *,
        augment: Augment | None = None,
        seed: int = 0,
        channels_last: bool = False,
    ) -> None:
        self._size = images.shape[-2:]
        self._padding = 0 if augment is None else augment.crop_padding
        self._images = F.pad(images.to(device), (self._padding,) * 4)
        self._given, self._true = given.to(device), true.to(device)
        # A constant channel has no spread to divide by; one level of 255 keeps it finite.
        scale = 1.0 / (255.0 * stats.std.clamp(min=1.0 / 255.0))
        self._scale = scale.float().view(3, 1, 1).to(device)
        self._shift = (-stats.mean * 255.0 * scale).float().view(3, 1, 1).to(device)
        self._augment, self._seed = augment, seed
        self._format = torch.channels_last if channels_last else torch.contiguous_format
        self._bounds = _batch_bounds(len(images), batch_size, merge_single=augment is not None)

    def __len__(self) -> int:
        return len(self._bounds)

    @property
    def sample_count(self) -> int:
        return len(self._given)

    def batches(self, epoch: int = 0, first: int = 0) -> Iterator[Batch]:
        if self._augment is None:
            for start, stop in self._bounds[first:]:
                images = self._normalise(self._images[start:stop])
                yield Batch(images, self._given[start:stop], self._true[start:stop])
            return
        order, top, left, flip = self._draw_epoch(self._augment, epoch)
        height, width = self._size
        # (N, 3, 2p+1, 2p+1, H, W), a view: every crop of every image
        crops = self._images.unfold(2, height, 1).unfold(3, width, 1)
        for start, stop in self._bounds[first:]:
            rows = order[start:stop]
            images = crops[rows, :, top[start:stop], left[start:stop]]  # (B, 3, H, W)
            images = torch.where(flip[start:stop], images.flip(3), images)
            yield Batch(self._normalise(images), self._given[rows], self._true[rows])

    def _draw_epoch(self, augment: Augment, epoch: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """An epoch's order (N,), crop offsets (N,) twice and flips (N, 1, 1, 1), drawn on the CPU, then moved."""
        count, device = self.sample_count, self._images.device
        order = torch.randperm(count, generator=generator(self._seed, "order", epoch))
        stream = generator(self._seed, "augmentation", epoch)
        top, left = torch.randint(0, 2 * augment.crop_padding + 1, (2, count), generator=stream)
        flip = torch.rand(count, generator=stream) < (0.5 if augment.horizontal_flip else 0.0)
        return order.to(device), top.to(device), left.to(device), flip.view(-1, 1, 1, 1).to(device)

    def _normalise(self, images: Tensor) -> Tensor:
        return torch.addcmul(self._shift, images.float(), self._scale).contiguous(memory_format=self._format)


def _batch_bounds(count: int, batch_size: int, merge_single: bool) -> list[tuple[int, int]]:
    """(start, stop) of each batch. A last one of one image joins the one before: BatchNorm of 1x1 maps needs two."""
    starts = list(range(0, count, batch_size))
    if merge_single and len(starts) > 1 and count - starts[-1] == 1:
        starts.pop()
    return list(zip(starts, [*starts[1:], count], strict=True))
