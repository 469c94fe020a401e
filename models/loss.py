"""Training losses: (N, C) logits and int64 (N,) targets -> the mean over the batch, a scalar."""

from collections.abc import Callable
from functools import partial

import torch.nn.functional as F
from torch import Tensor

from config_schema import CrossEntropy, Loss, SmoothedCrossEntropy

Criterion = Callable[[Tensor, Tensor], Tensor]


def cross_entropy(logits: Tensor, targets: Tensor) -> Tensor:
    return F.cross_entropy(logits, targets)


def smoothed_cross_entropy(logits: Tensor, targets: Tensor, smoothing: float) -> Tensor:
    """Label smoothing (Szegedy et al. 2016, https://arxiv.org/abs/1512.00567), a common answer to label noise."""
    return F.cross_entropy(logits, targets, label_smoothing=smoothing)


def build_loss(loss: Loss) -> Criterion:
    match loss:
        case CrossEntropy():
            return cross_entropy
        case SmoothedCrossEntropy():
            return partial(smoothed_cross_entropy, smoothing=loss.args.smoothing)
