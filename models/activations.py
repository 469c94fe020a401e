"""Activations, by name: each is built from the number of channels it acts on."""

from collections.abc import Callable

import torch
from torch import Tensor, nn


class SReLU(nn.Module):
    """Shifted ReLU max(x, b) with a learned threshold b per channel, starting at -1: (N, C, H, W) -> the same.

    The activation of the paper's codebase. `b` takes no weight decay (it has a pull of its own, towards -infinity
    or not at all, and decay would drag it to plain ReLU); `no_weight_decay` tells the optimizer so.
    """

    no_weight_decay = ("threshold",)

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.threshold = nn.Parameter(torch.full((1, channels, 1, 1), -1.0))

    def forward(self, x: Tensor) -> Tensor:
        return torch.maximum(x, self.threshold.to(x.dtype))


def relu(channels: int) -> nn.Module:
    return nn.ReLU(inplace=True)


ACTIVATIONS: dict[str, Callable[[int], nn.Module]] = {"relu": relu, "srelu": SReLU}
