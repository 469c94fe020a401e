"""The demo's data: scikit-learn's 1,797 handwritten digits (UCI, Alpaydin & Kaynak 1998), without a download."""

from pathlib import Path

import torch
import torch.nn.functional as F

from data_loader.access import Access
from data_loader.dataset import ImageDataset


def load_digits(data_dir: Path, access: Access | None = None) -> ImageDataset:
    """The 8x8 scans of 17 grey levels, scaled to 3x32x32. It ignores `data_dir` and `access`."""
    from sklearn.datasets import load_digits as load

    bunch = load()
    grey = torch.tensor(bunch.images, dtype=torch.float32).unsqueeze(1) * (255.0 / 16.0)  # (N, 1, 8, 8)
    large = F.interpolate(grey, size=(32, 32), mode="bilinear", align_corners=False).round().to(torch.uint8)
    return ImageDataset(
        images=large.expand(-1, 3, -1, -1).contiguous(),
        labels=torch.tensor(bunch.target, dtype=torch.int64),
        classes=tuple(str(digit) for digit in range(10)),
        source="scikit-learn's handwritten digits",
    )
