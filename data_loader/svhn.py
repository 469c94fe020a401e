"""SVHN: Netzer et al. 2011, http://ufldl.stanford.edu/housenumbers, as torchvision reads it."""

from pathlib import Path

from data_loader.access import Access
from data_loader.archives import Archive, Contents, Part, Published, https, load_published, trusting
from data_loader.dataset import ImageDataset


def load_svhn(data_dir: Path, access: Access | None = None) -> ImageDataset:
    """The 73,257 training and 26,032 test images, 32x32, without the extra ones; see `load_published`."""
    from torchvision.datasets import SVHN

    def read(folder: Path) -> Contents:
        own = [trusting(SVHN)(str(folder), split=split) for split in ("train", "test")]
        train, test = (Part(part.data, part.labels) for part in own)
        return train, test, [str(digit) for digit in range(10)]

    archives = [Archive(https(url), md5) for url, _, md5 in (SVHN.split_list["train"], SVHN.split_list["test"])]
    files = [(archive.name, archive.md5) for archive in archives]
    return load_published(Published("SVHN", archives, "", files, read, packed=False), data_dir, access)
