"""TinyCOCO: ten classes of objects cut from COCO (Lin et al. 2014, https://arxiv.org/abs/1405.0312), 32x32."""

from pathlib import Path

from data_loader.access import Access
from data_loader.array_file import ArrayFormat, float_bytes, load_array_file
from data_loader.class_names import TINY_COCO
from data_loader.dataset import ImageDataset

FORMAT = ArrayFormat(
    name="TinyCOCO",
    stem="tinycoco",
    layout="NHWC",
    classes=TINY_COCO,
)


def load_tiny_coco(data_dir: Path, access: Access | None = None) -> ImageDataset:
    """`tinycoco.pkl` or `.npz` with images (N, 32, 32, 3) or of another size; see `load_array_file`."""
    return load_array_file(data_dir, FORMAT)


def load_tiny_coco_as_published(data_dir: Path, access: Access | None = None) -> ImageDataset:
    """The same labels with the misread images of the published experiments; see `float_bytes`."""
    return load_array_file(data_dir, FORMAT, float_bytes)
