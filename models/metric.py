"""Metrics by name: what is added up over the images, and the figure that the sums make.

The usual library would take three seconds to import for these few lines.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

BINS = 15  # of `ece`


@dataclass(frozen=True)
class Metric:
    """A figure of many images that is computed from sums over them.

    update: logits (N, C) and int64 targets (N,) -> the images' state (S,) on the device. States of batches and of
        processes are added. The last number of a state is a count of images.
    compute: the sum of the states, float64 (S,) on the CPU -> the figure; NaN if no image counted.
    size: C -> S.
    """

    update: Callable[[Tensor, Tensor], Tensor]
    compute: Callable[[Tensor], float]
    size: Callable[[int], int] = lambda classes: 2


def mean(state: Tensor) -> float:
    """The figure of a state (2,): a sum and its number of images."""
    return (state[0] / state[1]).item()


def mean_of(each: Callable[[Tensor, Tensor], Tensor]) -> Metric:
    """The mean of `each`, a function of logits (N, C) and targets (N,) to a figure of each image (N,)."""

    def update(logits: Tensor, targets: Tensor) -> Tensor:
        figures = each(logits, targets)
        return torch.stack([figures, torch.ones_like(figures)]).sum(1)

    return Metric(update, mean)


def accuracy(logits: Tensor, targets: Tensor) -> Tensor:
    """Top-1: the largest logit belongs to the target."""
    return logits.argmax(1) == targets


def top5_accuracy(logits: Tensor, targets: Tensor) -> Tensor:
    """The target is among the five largest logits (all, if there are fewer)."""
    best = logits.topk(min(5, logits.shape[1]), dim=1).indices
    return (best == targets.unsqueeze(1)).any(1)


def confidence_bins(logits: Tensor, targets: Tensor) -> Tensor:
    """The state (3 * BINS,) of `ece`: of each bin the sum of confidences, the right answers and the images."""
    shares = logits.softmax(1, dtype=torch.promote_types(logits.dtype, torch.float32))
    confidence, predicted = shares.max(1)
    edges = torch.linspace(0.0, 1.0, BINS + 1, dtype=confidence.dtype, device=confidence.device)
    within = torch.bucketize(confidence, edges[1:-1]).unsqueeze(1) == torch.arange(BINS, device=confidence.device)
    right = (predicted == targets).unsqueeze(1)
    # A sum of products, since adding at indices has no fixed order on CUDA.
    return torch.stack([(within * confidence.unsqueeze(1)).sum(0), (within & right).sum(0), within.sum(0)]).flatten()


def ece(state: Tensor) -> float:
    """Expected calibration error (Guo et al. 2017, https://arxiv.org/abs/1706.04599): the distance between accuracy and
    mean confidence, averaged over 15 bins of equal width, closed above, by their images."""
    confidence, right, images = state.view(3, BINS)
    return ((right - confidence).abs().sum() / images.sum()).item()


def hits_by_class(logits: Tensor, targets: Tensor) -> Tensor:
    """The state (2 * C,) of `balanced_accuracy`: of each class the right answers, then of each class the images."""
    members = targets.unsqueeze(1) == torch.arange(logits.shape[1], device=targets.device)
    return torch.cat([(members & accuracy(logits, targets).unsqueeze(1)).sum(0), members.sum(0)])


def balanced_accuracy(state: Tensor) -> float:
    """The mean over the classes that have images of the accuracy on each class's images."""
    right, images = state.view(2, -1)
    return (right / images)[images > 0].mean().item()


METRICS: dict[str, Metric] = {
    "accuracy": mean_of(accuracy),
    "top5_accuracy": mean_of(top5_accuracy),
    "ece": Metric(confidence_bins, ece, lambda classes: 3 * BINS),
    "balanced_accuracy": Metric(hits_by_class, balanced_accuracy, lambda classes: 2 * classes),
}
