"""CIFAR10: Krizhevsky 2009, https://www.cs.toronto.edu/~kriz/cifar.html, read by torchvision with its MD5 checks."""

from pathlib import Path

import numpy as np
import torch

from data_loader.dataset import ImageDataset
from utils.errors import DataError


def load_cifar10(data_dir: Path) -> ImageDataset:
    """The 50,000 training and 10,000 test images under `data_dir`, downloaded if they are not there.

    Raises:
        DataError: no intact copy is there and none can be downloaded; says which file to put where.
    """
    from torchvision.datasets import CIFAR10

    try:
        parts = [CIFAR10(str(data_dir), train=train, download=True) for train in (True, False)]
    except (OSError, RuntimeError, EOFError) as error:
        archive = data_dir / CIFAR10.filename
        raise DataError(
            f"CIFAR10 is not in {data_dir} and could not be downloaded ({error}); put {CIFAR10.filename} "
            f"(MD5 {CIFAR10.tgz_md5}) from {CIFAR10.url} at {archive}, or name its folder with "
            "data_loader.args.data_dir"
        ) from error
    pixels = np.concatenate([part.data for part in parts])  # (60000, 32, 32, 3) uint8
    labels = torch.tensor([label for part in parts for label in part.targets])
    return ImageDataset(
        images=torch.from_numpy(pixels).permute(0, 3, 1, 2).contiguous(),
        labels=labels,
        classes=tuple(parts[0].classes),
        source=f"CIFAR10 in {data_dir}",
        own_test=torch.arange(len(parts[0].targets), len(labels)),
    )
