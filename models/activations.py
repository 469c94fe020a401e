"""Activations by name; each is built for a number of channels."""

from collections.abc import Callable

import torch
from torch import Tensor, nn

#: A number of channels -> module from (N, C, H, W) to the same
Activation = Callable[[int], nn.Module]


class SReLU(nn.Module):
    """Shifted ReLU max(x, b) with a learned threshold b per channel, starting at -1: (N, C, H, W) -> the same.

    The paper's codebase uses it. `no_weight_decay` exempts `b` from weight decay, which would pull it towards 0,
    that is towards ReLU.
    """

    no_weight_decay = ("threshold",)

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.threshold = nn.Parameter(torch.full((1, channels, 1, 1), -1.0))

    def forward(self, x: Tensor) -> Tensor:
        return torch.maximum(x, self.threshold.to(x.dtype))


def relu(channels: int) -> nn.Module:
    return nn.ReLU(inplace=True)


ACTIVATIONS: dict[str, Activation] = {"relu": relu, "srelu": SReLU}
