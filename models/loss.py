"""Training losses by name: (N, C) logits and int64 (N,) targets -> the mean over the batch, a scalar."""

from collections.abc import Callable

import torch.nn.functional as F
from torch import Tensor

SMOOTHING = 0.1


def cross_entropy(logits: Tensor, targets: Tensor) -> Tensor:
    return F.cross_entropy(logits, targets)


def smoothed_cross_entropy(logits: Tensor, targets: Tensor) -> Tensor:
    """Label smoothing (Szegedy et al. 2016, https://arxiv.org/abs/1512.00567), a common answer to label noise."""
    return F.cross_entropy(logits, targets, label_smoothing=SMOOTHING)


LOSSES: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "cross_entropy": cross_entropy,
    "smoothed_cross_entropy": smoothed_cross_entropy,
}
