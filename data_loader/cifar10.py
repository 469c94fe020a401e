"""CIFAR10 and CIFAR100: Krizhevsky 2009, https://www.cs.toronto.edu/~kriz/cifar.html, as torchvision reads them."""

from pathlib import Path
from typing import Any

import numpy as np

from data_loader.access import Access
from data_loader.archives import Archive, Contents, Part, Published, load_published, trusting
from data_loader.dataset import ImageDataset


def load_cifar10(data_dir: Path, access: Access | None = None) -> ImageDataset:
    """The 50,000 training and 10,000 test images, 32x32, of 10 classes; see `load_published`."""
    from torchvision.datasets import CIFAR10

    return _load(CIFAR10, data_dir, access)


def load_cifar100(data_dir: Path, access: Access | None = None) -> ImageDataset:
    """As many images of 100 classes."""
    from torchvision.datasets import CIFAR100

    return _load(CIFAR100, data_dir, access)


def _load(kind: Any, data_dir: Path, access: Access | None) -> ImageDataset:
    def read(folder: Path) -> Contents:
        own = [trusting(kind)(str(folder.parent), train=train) for train in (True, False)]
        train, test = (Part(part.data.transpose(0, 3, 1, 2), np.array(part.targets)) for part in own)
        return train, test, own[0].classes

    meta = (kind.meta["filename"], kind.meta["md5"])
    files = [(name, md5) for name, md5 in (*kind.train_list, *kind.test_list, meta)]
    published = Published(kind.__name__, [Archive(kind.url, kind.tgz_md5)], kind.base_folder, files, read)
    return load_published(published, data_dir, access)
