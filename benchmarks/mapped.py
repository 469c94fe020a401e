"""Batches from a mapped file beside those from memory: python -m benchmarks.mapped [--threads N] [--device D]

An epoch of augmented batches each, in turns: from memory, from a mapped file that the system holds in memory, and from
one that it must read from the disk again, as of a file larger than the memory. docs/performance.md has the figures.
"""

import argparse
import json
import mmap
import os
import resource
import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

from benchmarks.harness import interleaved, machine, medians, set_up
from config_schema import Augment
from data_loader.batches import ImageBatches, PixelStats

BATCH = 128
STATS = PixelStats(torch.full((3,), 0.5, dtype=torch.float64), torch.full((3,), 0.25, dtype=torch.float64))


def forget(images: np.memmap, path: Path) -> None:
    """Let the system drop the file's pages from its memory."""
    images._mmap.madvise(mmap.MADV_DONTNEED)
    descriptor = os.open(path, os.O_RDONLY)
    os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
    os.close(descriptor)


def measure(side: int, count: int, rounds: int, device: torch.device, folder: Path) -> dict[str, object]:
    """Images per second of each way, for so many images of this size."""
    path = folder / f"{side}.pixels"
    pixels = np.random.default_rng(0).integers(0, 256, (count, 3, side, side), dtype=np.uint8)
    with open(path, "wb") as file:
        pixels.tofile(file)
        os.fsync(file.fileno())
    mapped = np.memmap(path, np.uint8, "c", shape=pixels.shape)
    labels, rows = torch.zeros(count, dtype=torch.int64), torch.arange(count)
    augment = Augment(crop_padding=side // 8)

    def loader(images: np.ndarray, rows: torch.Tensor | None) -> ImageBatches:
        return ImageBatches(
            torch.from_numpy(images),
            labels,
            labels,
            STATS,
            BATCH,
            device,
            augment=augment,
            channels_last=True,
            rows=rows,
        )

    def epoch(batches: ImageBatches) -> None:
        for _ in batches.batches(1):
            pass

    within, outside = loader(pixels, None), loader(mapped, rows)
    same = zip(within.batches(1), outside.batches(1), strict=True)
    assert all(torch.equal(here.images, there.images) for here, there in same)

    def cold() -> None:
        forget(mapped, path)
        epoch(outside)

    ways: dict[str, Callable[[], object]] = {
        "memory": lambda: epoch(within),
        "mapped": lambda: epoch(outside),
        "mapped, from the disk": cold,
    }
    seconds = medians(interleaved(ways, rounds))
    return {"size": side, "images": count, "images_per_second": {way: round(count / seconds[way]) for way in ways}}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--device", type=torch.device, default=torch.device("cpu"))
    args = parser.parse_args()
    set_up(args.threads)
    with tempfile.TemporaryDirectory() as folder:
        for side, count in ((32, 10_000), (64, 3_000), (224, 400)):
            print(json.dumps(measure(side, count, args.rounds, args.device, Path(folder))))
    print(json.dumps({"peak_mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss >> 10, **machine()}))


if __name__ == "__main__":
    main()
