"""ResNets for 32x32 images: 3x3 stem, no max-pool, four stages of width 1, 2, 4 and 8 times `width`.

He et al., "Deep Residual Learning for Image Recognition", https://arxiv.org/abs/1512.03385, in the form of the CIFAR
codebases, which the paper re-examined here also uses. The network receives `normed_conv` and `activation` as callables
and does not know their names.
"""

import torch
from torch import Tensor, nn

from base.base_model import BaseModel
from models.activations import Activation
from models.norms import NormedConv
from models.parts import parts


class BasicBlock(nn.Module):
    """Two 3x3 convolutions and a shortcut: (N, C_in, H, W) -> (N, channels, H / stride, W / stride)."""

    expansion = 1

    def __init__(
        self, in_channels: int, channels: int, stride: int, normed_conv: NormedConv, activation: Activation
    ) -> None:
        super().__init__()
        self.branch = nn.Sequential(
            normed_conv(in_channels, channels, 3, stride, 1),
            activation(channels),
            normed_conv(channels, channels, 3, 1, 1),
        )
        self.shortcut = _shortcut(in_channels, channels, stride, normed_conv)
        self.activation = activation(channels)

    def forward(self, x: Tensor) -> Tensor:
        return self.activation(self.branch(x) + self.shortcut(x))


class Bottleneck(nn.Module):
    """1x1, 3x3 and 1x1 convolutions and a shortcut: (N, C_in, H, W) -> (N, 4 * channels, H / stride, W / stride)."""

    expansion = 4

    def __init__(
        self, in_channels: int, channels: int, stride: int, normed_conv: NormedConv, activation: Activation
    ) -> None:
        super().__init__()
        out_channels = channels * self.expansion
        self.branch = nn.Sequential(
            normed_conv(in_channels, channels, 1, 1, 0),
            activation(channels),
            normed_conv(channels, channels, 3, stride, 1),
            activation(channels),
            normed_conv(channels, out_channels, 1, 1, 0),
        )
        self.shortcut = _shortcut(in_channels, out_channels, stride, normed_conv)
        self.activation = activation(out_channels)

    def forward(self, x: Tensor) -> Tensor:
        return self.activation(self.branch(x) + self.shortcut(x))


def _shortcut(in_channels: int, out_channels: int, stride: int, normed_conv: NormedConv) -> nn.Module:
    if stride == 1 and in_channels == out_channels:
        return nn.Identity()
    return normed_conv(in_channels, out_channels, 1, stride, 0)


class ResNet(BaseModel):
    """(N, 3, H, W) images, H and W at least 8 -> (N, num_classes) logits."""

    def __init__(
        self,
        block: type[BasicBlock] | type[Bottleneck],
        depths: tuple[int, int, int, int],
        normed_conv: NormedConv,
        activation: Activation,
        num_classes: int,
        width: int,
    ) -> None:
        super().__init__()
        self.stem = nn.Sequential(normed_conv(3, width, 3, 1, 1), activation(width))
        stages: list[nn.Module] = []
        in_channels = width
        for stage, depth in enumerate(depths):
            blocks: list[nn.Module] = []
            for index in range(depth):
                stride = 2 if stage > 0 and index == 0 else 1
                blocks.append(block(in_channels, width << stage, stride, normed_conv, activation))
                in_channels = (width << stage) * block.expansion
            stages.append(nn.Sequential(*blocks))
        self.stages = nn.Sequential(*stages)
        self.head = nn.Linear(in_channels, num_classes)

    def forward(self, images: Tensor) -> Tensor:
        x = self.stages(self.stem(images))  # (N, 8 * width * expansion, H / 8, W / 8)
        return self.head(torch.flatten(nn.functional.adaptive_avg_pool2d(x, 1), 1))


def resnet18(norm: str = "bn", num_classes: int = 10, width: int = 64, activation: str = "relu") -> ResNet:
    """ResNet18 with a `norm` of NORMS and an `activation` of ACTIVATIONS. Raises ValueError for an unknown name."""
    return ResNet(BasicBlock, (2, 2, 2, 2), *parts(norm, activation), num_classes, width)


def resnet34(norm: str = "bn", num_classes: int = 10, width: int = 64, activation: str = "relu") -> ResNet:
    """ResNet34; see `resnet18`."""
    return ResNet(BasicBlock, (3, 4, 6, 3), *parts(norm, activation), num_classes, width)


def resnet50(norm: str = "bn", num_classes: int = 10, width: int = 64, activation: str = "relu") -> ResNet:
    """ResNet50, with bottleneck blocks; see `resnet18`."""
    return ResNet(Bottleneck, (3, 4, 6, 3), *parts(norm, activation), num_classes, width)
