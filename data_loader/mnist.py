"""MNIST (LeCun et al. 1998) and FashionMNIST (Xiao et al. 2017, https://arxiv.org/abs/1708.07747): 28x28, grey."""

import gzip
import struct
from pathlib import Path
from typing import Any

import numpy as np

from data_loader.access import Access
from data_loader.archives import Archive, Contents, Part, Published, load_published
from data_loader.dataset import ImageDataset

# torchvision's own addresses come second, or are not served over HTTPS at all.
_MNIST = "https://ossci-datasets.s3.amazonaws.com/mnist/"
_FASHION_MNIST = "https://github.com/zalandoresearch/fashion-mnist/raw/master/data/fashion/"


def load_mnist(data_dir: Path, access: Access | None = None) -> ImageDataset:
    """The 60,000 training and 10,000 test images of handwritten digits; see `load_published`."""
    from torchvision.datasets import MNIST

    return _load(MNIST, _MNIST, data_dir, access)


def load_fashion_mnist(data_dir: Path, access: Access | None = None) -> ImageDataset:
    """As many images of clothes."""
    from torchvision.datasets import FashionMNIST

    return _load(FashionMNIST, _FASHION_MNIST, data_dir, access)


def _load(kind: Any, mirror: str, data_dir: Path, access: Access | None) -> ImageDataset:
    """torchvision's files. It has no sums of the unpacked files, so the packed ones are read."""
    files = [(name, md5) for name, md5 in kind.resources]

    def read(folder: Path) -> Contents:
        images, labels, test_images, test_labels = (_numbers(folder / name) for name, _ in files)
        return Part(images, labels), Part(test_images, test_labels), kind.classes

    archives = [Archive(mirror + name, md5) for name, md5 in files]
    published = Published(kind.__name__, archives, f"{kind.__name__}/raw", files, read, packed=False)
    return load_published(published, data_dir, access)


def _numbers(path: Path) -> np.ndarray:
    """The uint8 array in an idx file, packed by gzip: its type, the number of its axes, their lengths, its numbers."""
    data = gzip.decompress(path.read_bytes())
    if data[:3] != b"\0\0\x08":
        raise ValueError(f"{path.name} is no idx file of bytes")
    axes = data[3]
    shape = struct.unpack_from(f">{axes}I", data, 4)
    return np.frombuffer(data, np.uint8, offset=4 + 4 * axes).reshape(shape)
