"""ConvNorm followed by BatchNorm, in less memory than a Sequential of the two."""

import torch
from torch import Tensor

from .normed import Normed
from .preconv import PreConv2d
from .preconv_kept import has_hooks, under_a_transform, under_saved_tensor_hooks


class ConvNormBatchNorm(Normed):
    """A PreConv2d, then a BatchNorm2d or another norm: (N, C_in, H, W) -> (N, C_out, H', W').

    For the backward pass the affine part keeps its input, and BatchNorm keeps its input, the affine part's output. Here
    the backward pass recomputes the output from the input instead: one depthwise convolution more, a third less memory.
    """

    def forward(self, x: Tensor) -> Tensor:
        conv, norm = self
        assert isinstance(conv, PreConv2d)
        if has_hooks(conv):
            return norm(conv(x))
        y, affine = conv.split(x)
        z = affine(y)
        if (
            not affine.parameters
            or not torch.is_grad_enabled()
            or torch.compiler.is_compiling()  # the compiler decides itself what to recompute
            or torch.jit.is_tracing()  # type: ignore[attr-defined, no-untyped-call]
            or under_a_transform()  # torch.func refuses hooks on saved tensors
            or under_saved_tensor_hooks()
        ):
            return norm(z)
        source, made = y.detach(), _identity(z)
        versions = [parameter._version for parameter in affine.parameters]

        def pack(saved: Tensor) -> Tensor | None:
            return None if _identity(saved) == made else saved  # a norm may save other images than its input

        def unpack(packed: Tensor | None) -> Tensor:
            if packed is not None:
                return packed
            if versions != [parameter._version for parameter in affine.parameters]:
                raise RuntimeError("the affine part of a ConvNorm was changed between the forward and backward pass")
            with torch.no_grad():
                return affine(source)

        with torch.autograd.graph.saved_tensors_hooks(pack, unpack):
            return norm(z)


def _identity(tensor: Tensor) -> tuple[object, ...]:
    """What tells one tensor in memory, unchanged, from all others that are there."""
    place = tensor.untyped_storage()._cdata, tensor.storage_offset(), tensor.shape, tensor.stride(), tensor.dtype
    return *place, tensor._version
