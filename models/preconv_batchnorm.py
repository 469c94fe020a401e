"""ConvNorm followed by BatchNorm, in less memory than one after the other."""

import torch
from torch import Tensor

from .normed import Normed
from .preconv import PreConv2d
from .preconv_kept import under_a_transform


class ConvNormBatchNorm(Normed):
    """A PreConv2d, then a BatchNorm2d: (N, C_in, H, W) -> (N, C_out, H', W').

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
            or under_a_transform()  # which refuses hooks on saved tensors
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
