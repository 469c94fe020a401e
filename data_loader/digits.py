"""The demo's data: scikit-learn's 1,797 handwritten digits (UCI, Alpaydin & Kaynak 1998), without a download."""

import importlib.util
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F

from data_loader.access import Access
from data_loader.dataset import ImageDataset


def load_digits(data_dir: Path, access: Access | None = None) -> ImageDataset:
    """The 8x8 scans of 17 grey levels, scaled to 3x32x32. It ignores `data_dir` and `access`."""
    scans, labels = _table()
    grey = torch.tensor(scans, dtype=torch.float32).unsqueeze(1) * (255.0 / 16.0)  # (N, 1, 8, 8)
    large = F.interpolate(grey, size=(32, 32), mode="bilinear", align_corners=False).round().to(torch.uint8)
    return ImageDataset(
        images=large.expand(-1, 3, -1, -1).contiguous(),
        labels=torch.tensor(labels, dtype=torch.int64),
        classes=tuple(str(digit) for digit in range(10)),
        source="scikit-learn's handwritten digits",
    )


def _table() -> tuple[np.ndarray, np.ndarray]:
    """The scans (N, 8, 8), 0 to 16, and the digits (N,). scikit-learn's file is read without importing scikit-learn,
    which would be a third of the time to a run's first step."""
    spec = importlib.util.find_spec("sklearn")
    file = Path(spec.origin or "").parent / "datasets" / "data" / "digits.csv.gz" if spec is not None else None
    if file is None or not file.is_file():  # a release that keeps it elsewhere, or none at all
        from sklearn.datasets import load_digits as load

        bunch = load()
        return bunch.images, bunch.target
    table = np.loadtxt(file, delimiter=",", dtype=np.int64)  # (N, 65): the pixels, then the digit
    return table[:, :-1].reshape(-1, 8, 8), table[:, -1]
