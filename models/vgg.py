"""VGG16 for images of any size: thirteen 3x3 convolutions and one linear layer.

Simonyan & Zisserman 2015, https://arxiv.org/abs/1409.1556, in the form of the CIFAR codebases, with global average
pooling and one linear layer in place of the three.
"""

import torch
from torch import Tensor, nn

from base.base_model import BaseModel
from models.activations import Activation
from models.norms import NormedConv
from models.parts import parts

STAGES = ((1, 1), (2, 2), (4, 4, 4), (8, 8, 8), (8, 8, 8))  # channels of each convolution in units of `width`


class VGG(BaseModel):
    """(N, 3, H, W) images, H and W at least 1 -> (N, num_classes) logits.

    After each stage a max-pooling halves H and W, rounding up: a side of one pixel stays as it is, so that all five
    poolings fit images of any size.
    """

    def __init__(self, normed_conv: NormedConv, activation: Activation, num_classes: int, width: int) -> None:
        super().__init__()
        stages: list[nn.Module] = []
        in_channels = 3
        for stage in STAGES:
            layers: list[nn.Module] = []
            for channels in (width * factor for factor in stage):
                layers += [normed_conv(in_channels, channels, 3, 1, 1), activation(channels)]
                in_channels = channels
            stages.append(nn.Sequential(*layers, nn.MaxPool2d(2, ceil_mode=True)))
        self.stages = nn.Sequential(*stages)
        self.head = nn.Linear(in_channels, num_classes)

    def forward(self, images: Tensor) -> Tensor:
        x = self.stages(images)  # (N, 8 * width, H / 32, W / 32)
        return self.head(torch.flatten(nn.functional.adaptive_avg_pool2d(x, 1), 1))


def vgg16(norm: str = "bn", num_classes: int = 10, width: int = 64, activation: str = "relu") -> VGG:
    """VGG16 with a `norm` of NORMS and an `activation` of ACTIVATIONS. Raises ValueError for an unknown name."""
    return VGG(*parts(norm, activation), num_classes, width)
