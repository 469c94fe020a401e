"""Metrics by name: (N, C) logits and int64 (N,) targets -> the sum over the images of a figure, a scalar on the device.

The usual library would take three seconds to import for these few lines.
"""

from collections.abc import Callable

from torch import Tensor


def accuracy(logits: Tensor, targets: Tensor) -> Tensor:
    """Top-1: the largest logit belongs to the target."""
    return (logits.argmax(1) == targets).sum()


def top5_accuracy(logits: Tensor, targets: Tensor) -> Tensor:
    """The target is among the five largest logits (all, if there are fewer)."""
    best = logits.topk(min(5, logits.shape[1]), dim=1).indices
    return (best == targets.unsqueeze(1)).any(1).sum()


METRICS: dict[str, Callable[[Tensor, Tensor], Tensor]] = {"accuracy": accuracy, "top5_accuracy": top5_accuracy}
