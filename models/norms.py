"""The arms of the experiment: a convolution and its normalisation, built together.

An arm is one function in `NORMS`. It takes the geometry of a convolution and returns a module that replaces the
convolution and its norm: ConvNorm needs the kernel, so a network cannot build the two apart. A convolution with a norm
behind it is returned as `Normed`, so that diagnostics measure the two as one layer. To add an arm, write such a
function and give it a name in the dict.
"""

import math
from collections.abc import Callable

from torch import nn

from models.normed import Normed
from models.pointwise import Conv2d
from models.preconv import PreConv2d
from models.preconv_batchnorm import ConvNormBatchNorm
from models.preconv_published import PublishedPreConv2d

#: (in_channels, out_channels, kernel_size, stride, padding) -> module from (N, C_in, H, W) to (N, C_out, H', W')
NormedConv = Callable[[int, int, int, int, int], nn.Module]


def batch_norm(in_channels: int, out_channels: int, kernel: int, stride: int, padding: int) -> nn.Module:
    """Ioffe & Szegedy 2015, https://arxiv.org/abs/1502.03167."""
    return Normed(_conv(in_channels, out_channels, kernel, stride, padding), nn.BatchNorm2d(out_channels))


def conv_norm(in_channels: int, out_channels: int, kernel: int, stride: int, padding: int) -> nn.Module:
    """Liu et al. 2021, https://arxiv.org/abs/2103.00673: ConvNorm alone, with no BatchNorm anywhere."""
    return PreConv2d(in_channels, out_channels, kernel, stride, padding)


def conv_norm_batch_norm(in_channels: int, out_channels: int, kernel: int, stride: int, padding: int) -> nn.Module:
    """ConvNorm, then one BatchNorm."""
    return ConvNormBatchNorm(
        PreConv2d(in_channels, out_channels, kernel, stride, padding), nn.BatchNorm2d(out_channels)
    )


def conv_norm_published(in_channels: int, out_channels: int, kernel: int, stride: int, padding: int) -> nn.Module:
    """The broken layer that the published experiments ran as "conv" (models/preconv_published.py), with a BatchNorm."""
    return PublishedPreConv2d(in_channels, out_channels, kernel, stride, padding)


def conv_norm_batch_norm_published(
    in_channels: int, out_channels: int, kernel: int, stride: int, padding: int
) -> nn.Module:
    """The layer that they ran as "bncn": the same with a second BatchNorm behind it."""
    return Normed(PublishedPreConv2d(in_channels, out_channels, kernel, stride, padding), nn.BatchNorm2d(out_channels))


def group_norm(in_channels: int, out_channels: int, kernel: int, stride: int, padding: int) -> nn.Module:
    """Wu & He 2018, https://arxiv.org/abs/1803.08494, with 16 channels in each group if the width allows it."""
    groups = out_channels // math.gcd(out_channels, 16)
    return Normed(_conv(in_channels, out_channels, kernel, stride, padding), nn.GroupNorm(groups, out_channels))


def layer_norm(in_channels: int, out_channels: int, kernel: int, stride: int, padding: int) -> nn.Module:
    """Ba et al. 2016, https://arxiv.org/abs/1607.06450, over (C, H, W): GroupNorm with a single group."""
    return Normed(_conv(in_channels, out_channels, kernel, stride, padding), nn.GroupNorm(1, out_channels))


def instance_norm(in_channels: int, out_channels: int, kernel: int, stride: int, padding: int) -> nn.Module:
    """Ulyanov et al. 2016, https://arxiv.org/abs/1607.08022, with a learned scale and shift."""
    return Normed(
        _conv(in_channels, out_channels, kernel, stride, padding), nn.InstanceNorm2d(out_channels, affine=True)
    )


def no_norm(in_channels: int, out_channels: int, kernel: int, stride: int, padding: int) -> nn.Module:
    """A convolution with bias, He-initialised: the default would shrink the signal 6-fold in each layer."""
    conv = Conv2d(in_channels, out_channels, kernel, stride, padding)
    nn.init.kaiming_normal_(conv.weight, nonlinearity="relu")
    assert conv.bias is not None
    nn.init.zeros_(conv.bias)
    return conv


def _conv(in_channels: int, out_channels: int, kernel: int, stride: int, padding: int) -> Conv2d:
    return Conv2d(in_channels, out_channels, kernel, stride, padding, bias=False)


NORMS: dict[str, NormedConv] = {
    "bn": batch_norm,
    "conv": conv_norm,
    "bncn": conv_norm_batch_norm,
    "conv_published": conv_norm_published,
    "bncn_published": conv_norm_batch_norm_published,
    "gn": group_norm,
    "ln": layer_norm,
    "in": instance_norm,
    "none": no_norm,
}
