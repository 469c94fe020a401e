"""TinyExDark: the twelve classes of ExDark (Loh & Chan 2019, https://arxiv.org/abs/1805.11227), in low light, 32x32."""

from pathlib import Path

from data_loader.access import Access
from data_loader.array_file import ArrayFormat, load_array_file
from data_loader.class_names import TINY_EXDARK
from data_loader.dataset import ImageDataset

FORMAT = ArrayFormat(
    name="TinyExDark",
    stem="tinyexdark",
    layout="NCHW",
    classes=TINY_EXDARK,
)


def load_tiny_exdark(data_dir: Path, access: Access | None = None) -> ImageDataset:
    """`tinyexdark.pkl` or `.npz` with images (N, 3, 32, 32) or of another size; see `load_array_file`.

    Some copies have only ten of the classes. Labels keep their meaning, and the missing classes have no images.
    """
    return load_array_file(data_dir, FORMAT)
