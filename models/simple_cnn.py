"""A small plain network: four 3x3 convolutions, three poolings, one linear layer."""

import torch
from torch import Tensor, nn

from base.base_model import BaseModel
from models.activations import Activation
from models.norms import NormedConv
from models.parts import parts


class SimpleCNN(BaseModel):
    """(N, 3, H, W) images, H and W at least 8 -> (N, num_classes) logits.

    The convolutions have 1, 2, 4 and 8 times `width` channels. A max-pooling between two of them halves H and W.
    """

    def __init__(self, normed_conv: NormedConv, activation: Activation, num_classes: int, width: int) -> None:
        super().__init__()
        layers: list[nn.Module] = [normed_conv(3, width, 3, 1, 1), activation(width)]
        for channels in (2 * width, 4 * width, 8 * width):
            layers += [nn.MaxPool2d(2), normed_conv(channels // 2, channels, 3, 1, 1), activation(channels)]
        self.layers = nn.Sequential(*layers)
        self.head = nn.Linear(8 * width, num_classes)

    def forward(self, images: Tensor) -> Tensor:
        x = self.layers(images)  # (N, 8 * width, H / 8, W / 8)
        return self.head(torch.flatten(nn.functional.adaptive_avg_pool2d(x, 1), 1))


def simple_cnn(norm: str = "bn", num_classes: int = 10, width: int = 64, activation: str = "relu") -> SimpleCNN:
    """The network with a `norm` of NORMS and an `activation` of ACTIVATIONS. Raises ValueError for an unknown name."""
    return SimpleCNN(*parts(norm, activation), num_classes, width)
