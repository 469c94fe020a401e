"""Batches: shuffled, cropped, mirrored and normalised on the training device, batch by batch.

A torch DataLoader handles images one by one in Python, and is many times slower at this size.
"""

from collections.abc import Callable, Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from base.base_data_loader import BaseDataLoader, Batch
from config_schema import Augment
from utils.errors import ConfigError
from utils.seeding import generator
from utils.world import World

_PART = 1024  # images that are read at a time where there may be more than fit into memory


class PixelStats(NamedTuple):
    """Mean and standard deviation of each channel, for pixels in [0, 1]: two float64 (3,)."""

    mean: Tensor
    std: Tensor


def pixel_stats(images: Tensor, rows: Tensor | None = None) -> PixelStats:
    """The exact statistics of uint8 images (N, 3, H, W), or of these `rows` of them, from each channel's histogram."""
    levels = torch.arange(256, dtype=torch.float64) / 255.0
    counts = torch.zeros(3, 256, dtype=torch.int64)
    parts = images.split(_PART) if rows is None else (images[part] for part in rows.split(_PART))
    for part in parts:
        counts += torch.stack([torch.bincount(part[:, c].flatten(), minlength=256) for c in range(3)])
    histogram = counts.double()
    share = histogram / histogram.sum(1, keepdim=True)
    mean = share @ levels
    variance = (share * (levels - mean.unsqueeze(1)).square()).sum(1)
    return PixelStats(mean, variance.sqrt())


class Normaliser:
    """The pixels of images as the input of a network: each channel less its mean, divided by its standard deviation."""

    def __init__(self, stats: PixelStats, device: torch.device, channels_last: bool = False) -> None:
        # A constant channel has no spread to divide by; one level of 255 keeps it finite.
        scale = 1.0 / (255.0 * stats.std.clamp(min=1.0 / 255.0))
        self._scale = scale.float().to(device)
        self._shift = (-stats.mean * 255.0 * scale).float().to(device)
        self._format = torch.channels_last if channels_last else torch.contiguous_format

    def __call__(self, pixels: Tensor) -> Tensor:
        """int32 (B, H, W) of `packed` -> float (B, 3, H, W)"""
        channels = pixels.view(torch.uint8).unflatten(2, (-1, 4)).float()[..., :3]  # (B, H, W, 3)
        images = torch.addcmul(self._shift, channels, self._scale).permute(0, 3, 1, 2)
        return images.contiguous(memory_format=self._format)


class ImageBatches(BaseDataLoader):
    """A split's images on a device, served in order, or shuffled and augmented when `augment` is given.

    Args:
        images: uint8 (N, 3, H, W); given, true: int64 (N,). With `rows`, int64 (N,), the images are these rows of
            `images`, and each batch is read from there when it is due, after a call of `check`, which may raise.
            Otherwise all are copied to the device.
        stats: the training split's channel statistics.
        augment: shuffle each epoch and augment the images so; None serves them in order and unchanged.
        seed: the run's seed; order, crops and flips of an epoch each derive a generator from it.
        world: each process gets its share of every batch, so a batch has the same images with any number of processes.
            A share of the last batch may be empty, but not in training.

    Raises:
        ConfigError: a training batch is smaller than the number of processes.
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
        world: World | None = None,
        rows: Tensor | None = None,
        check: Callable[[], object] = lambda: None,
    ) -> None:
        self._size, self._padding = images.shape[-2:], 0 if augment is None else augment.crop_padding
        self._images, self._rows, self._check, self._device = images, rows, check, device
        self._pixels = packed(images.to(device), self._padding) if rows is None else None
        self._given, self._true = given.to(device), true.to(device)
        self._normalise = Normaliser(stats, device, channels_last)
        self._augment, self._seed = augment, seed
        self._world = world or World()
        if augment is not None and batch_size < self._world.size:
            raise ConfigError(
                f"data_loader.args.batch_size: a batch of {batch_size} cannot be shared by {self._world.size} processes"
            )
        self._bounds = batch_bounds(len(given), batch_size, self._world.size if augment is not None else None)

    def __len__(self) -> int:
        return len(self._bounds)

    @property
    def sample_count(self) -> int:
        return len(self._given)

    def batches(self, epoch: int = 0, first: int = 0) -> Iterator[Batch]:
        if self._augment is None:
            for whole in self._bounds[first:]:
                start, stop = self._world.share(*whole)
                held = self._read(torch.arange(start, stop)) if self._pixels is None else self._pixels[start:stop]
                labels = self._given[start:stop], self._true[start:stop], self._given[slice(*whole)]
                yield Batch(self._normalise(held), *labels)
            return
        order, top, left, flip = self._draw_epoch(self._augment, epoch)
        padded_height, padded_width = (side + 2 * self._padding for side in self._size)
        down, across = (torch.arange(n, device=order.device) for n in self._size)
        for whole in self._bounds[first:]:
            start, stop = self._world.share(*whole)
            chosen = order[start:stop]
            if self._pixels is not None:
                held, at = self._pixels, chosen
            else:
                held, at = self._read(chosen), torch.arange(stop - start, device=chosen.device)
            rows = (at * padded_height + top[start:stop]).unsqueeze(1) + down  # (B, H)
            columns = torch.where(flip[start:stop], across.flip(0), across) + left[start:stop].unsqueeze(1)  # (B, W)
            places = (rows * padded_width).unsqueeze(2) + columns.unsqueeze(1)  # (B, H, W)
            labels = self._given[chosen], self._true[chosen], self._given[order[slice(*whole)]]
            yield Batch(self._normalise(torch.take(held, places)), *labels)

    def _read(self, chosen: Tensor) -> Tensor:
        """The images at these places of the split, packed."""
        assert self._rows is not None
        self._check()
        return packed(self._images[self._rows[chosen.cpu()]].to(self._device), self._padding)

    def weight(self, batch: int) -> float:
        whole = self._bounds[batch]
        start, stop = self._world.share(*whole)
        return (stop - start) * self._world.size / (whole[1] - whole[0])

    def _draw_epoch(self, augment: Augment, epoch: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """An epoch's order (N,), crop offsets (N,) twice and flips (N, 1), drawn on the CPU, then moved."""
        count, device = self.sample_count, self._device
        order = torch.randperm(count, generator=generator(self._seed, "order", epoch))
        stream = generator(self._seed, "augmentation", epoch)
        top, left = torch.randint(0, 2 * augment.crop_padding + 1, (2, count), generator=stream)
        flip = torch.rand(count, generator=stream) < (0.5 if augment.horizontal_flip else 0.0)
        return order.to(device), top.to(device), left.to(device), flip.unsqueeze(1).to(device)


def packed(images: Tensor, padding: int = 0) -> Tensor:
    """uint8 (N, 3, H, W) -> int32 (N, H + 2p, W + 2p), padded with black, a pixel's channels in one number.

    A crop then moves one number for each pixel. The fourth byte is unused.
    """
    n, _, height, width = images.shape
    pixels = images.new_zeros(n, height + 2 * padding, width + 2 * padding, 4)
    pixels[:, padding : padding + height, padding : padding + width, :3] = images.permute(0, 2, 3, 1)
    return pixels.view(torch.int32).squeeze(3)


def batch_bounds(count: int, batch_size: int, processes: int | None) -> list[tuple[int, int]]:
    """(start, stop) of each batch. In training `processes` is given, and a last batch of fewer than two images for each
    process joins the one before: BatchNorm on 1x1 maps needs two images in every process."""
    fewest = 1 if processes is None else 2 * processes
    starts = list(range(0, count, batch_size))
    if len(starts) > 1 and count - starts[-1] < fewest:
        starts.pop()
    return list(zip(starts, [*starts[1:], count], strict=True))
