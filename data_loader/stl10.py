"""STL10: Coates et al. 2011, https://cs.stanford.edu/~acoates/stl10, 96x96; its images without labels are left out."""

from pathlib import Path

import numpy as np

from data_loader.access import Access
from data_loader.archives import Archive, Contents, Part, Published, https, load_published
from data_loader.dataset import ImageDataset

#: In the order of the labels. The archive's own list of them has no checksum.
CLASSES = ("airplane", "bird", "car", "cat", "deer", "dog", "horse", "monkey", "ship", "truck")
_LARGEST = 3 << 30  # bytes; it has 2.6 billion


def load_stl10(data_dir: Path, access: Access | None = None) -> ImageDataset:
    """The 5,000 training and 8,000 test images; see `load_published`."""
    from torchvision.datasets import STL10

    files = [(name, md5) for name, md5 in (*STL10.train_list[:2], *STL10.test_list)]

    def read(folder: Path) -> Contents:
        images, labels, test_images, test_labels = (np.fromfile(folder / name, np.uint8) for name, _ in files)
        return _part(images, labels), _part(test_images, test_labels), CLASSES

    archive = Archive(https(STL10.url), STL10.tgz_md5)
    published = Published("STL10", [archive], STL10.base_folder, files, read, largest=_LARGEST)
    return load_published(published, data_dir, access)


def _part(images: np.ndarray, labels: np.ndarray) -> Part:
    """The bytes go through each channel by columns. Labels count from 1."""
    return Part(images.reshape(-1, 3, 96, 96).transpose(0, 1, 3, 2), labels.astype(np.int64) - 1)
