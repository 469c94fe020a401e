"""The arms of the experiment: a convolution and its normalisation, built together.

An arm is one function in `NORMS`. It takes the geometry of a convolution and returns the module that stands in its
place, normalisation included: ConvNorm needs the kernel, so the seam between a network and its norm is the pair.
To add an arm, write such a function and give it a name in the dict.
"""

import math
from collections.abc import Callable

import torch
from torch import Tensor, nn

from models.pointwise import Conv2d
from models.preconv import PreConv2d
from models.preconv_published import PublishedPreConv2d

#: (in_channels, out_channels, kernel_size, stride, padding) -> module from (N, C_in, H, W) to (N, C_out, H', W')
ConvNorm = Callable[[int, int, int, int, int], nn.Module]


def batch_norm(in_channels: int, out_channels: int, kernel: int, stride: int, padding: int) -> nn.Module:
    """Ioffe & Szegedy 2015, https://arxiv.org/abs/1502.03167."""
    return nn.Sequential(_conv(in_channels, out_channels, kernel, stride, padding), nn.BatchNorm2d(out_channels))


def conv_norm(in_channels: int, out_channels: int, kernel: int, stride: int, padding: int) -> nn.Module:
    """Liu et al. 2021, https://arxiv.org/abs/2103.00673: ConvNorm alone, with no BatchNorm anywhere."""
    return PreConv2d(in_channels, out_channels, kernel, stride, padding)


def conv_norm_batch_norm(in_channels: int, out_channels: int, kernel: int, stride: int, padding: int) -> nn.Module:
    """ConvNorm, then one BatchNorm."""
    return ConvNormBatchNorm(
        PreConv2d(in_channels, out_channels, kernel, stride, padding), nn.BatchNorm2d(out_channels)
    )


class ConvNormBatchNorm(nn.Sequential):
    """PreConv2d, then BatchNorm2d, in less memory than one after the other.

    ConvNorm's affine part keeps its input for the backward pass, and BatchNorm keeps its own, which is that part's
    output. The second is made anew from the first when the backward pass asks for it: a depthwise convolution more, a
    third less memory.
    """

    def forward(self, x: Tensor) -> Tensor:
        conv, norm = self
        assert isinstance(conv, PreConv2d)
        y, finish = conv.split(x)
        z = finish(y)
        if (
            conv.kernel_size == 1
            or conv.affine is None
            or not torch.is_grad_enabled()
            or torch.compiler.is_compiling()  # the compiler decides itself what to make anew
            or torch._C._are_functorch_transforms_active()
        ):
            return norm(z)
        source, affine = y.detach(), list(conv.affine.parameters())
        versions = [parameter._version for parameter in affine]

        def pack(saved: Tensor) -> Tensor | None:
            return None if saved.dim() == z_dim else saved  # of all that BatchNorm saves, only its input is an image

        def unpack(packed: Tensor | None) -> Tensor:
            if packed is not None:
                return packed
            if versions != [parameter._version for parameter in affine]:
                raise RuntimeError("the affine part of a ConvNorm was changed between the forward and backward pass")
            with torch.no_grad():
                return finish(source)

        z_dim = z.dim()
        with torch.autograd.graph.saved_tensors_hooks(pack, unpack):
            return norm(z)


def conv_norm_published(in_channels: int, out_channels: int, kernel: int, stride: int, padding: int) -> nn.Module:
    """What the published experiments ran as "conv" (models/preconv_published.py): broken, with a BatchNorm behind."""
    return PublishedPreConv2d(in_channels, out_channels, kernel, stride, padding)


def conv_norm_batch_norm_published(
    in_channels: int, out_channels: int, kernel: int, stride: int, padding: int
) -> nn.Module:
    """What they ran as "bncn": the same with a second BatchNorm behind it."""
    return nn.Sequential(
        PublishedPreConv2d(in_channels, out_channels, kernel, stride, padding), nn.BatchNorm2d(out_channels)
    )


def group_norm(in_channels: int, out_channels: int, kernel: int, stride: int, padding: int) -> nn.Module:
    """Wu & He 2018, https://arxiv.org/abs/1803.08494, with 16 channels a group where the width divides so."""
    groups = out_channels // math.gcd(out_channels, 16)
    return nn.Sequential(_conv(in_channels, out_channels, kernel, stride, padding), nn.GroupNorm(groups, out_channels))


def layer_norm(in_channels: int, out_channels: int, kernel: int, stride: int, padding: int) -> nn.Module:
    """Ba et al. 2016, https://arxiv.org/abs/1607.06450, over (C, H, W): GroupNorm of a single group."""
    return nn.Sequential(_conv(in_channels, out_channels, kernel, stride, padding), nn.GroupNorm(1, out_channels))


def instance_norm(in_channels: int, out_channels: int, kernel: int, stride: int, padding: int) -> nn.Module:
    """Ulyanov et al. 2016, https://arxiv.org/abs/1607.08022, with a learned scale and shift."""
    return nn.Sequential(
        _conv(in_channels, out_channels, kernel, stride, padding), nn.InstanceNorm2d(out_channels, affine=True)
    )


def no_norm(in_channels: int, out_channels: int, kernel: int, stride: int, padding: int) -> nn.Module:
    """A convolution with bias and nothing else, He-initialised: the default would shrink the signal 6-fold a layer."""
    conv = Conv2d(in_channels, out_channels, kernel, stride, padding)
    nn.init.kaiming_normal_(conv.weight, nonlinearity="relu")
    assert conv.bias is not None
    nn.init.zeros_(conv.bias)
    return conv


def _conv(in_channels: int, out_channels: int, kernel: int, stride: int, padding: int) -> Conv2d:
    return Conv2d(in_channels, out_channels, kernel, stride, padding, bias=False)


NORMS: dict[str, ConvNorm] = {
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
