"""The matrix products of preconv_matmul.py and preconv_filter.py as operators of torch, with shapes and gradients.

They are operators (torch.library) for FakeTensorMode, and because torch.compile would unroll thousands of products.
Gradients are two `torch.autograd.Function`s around the operators, since torch.func ignores an operator's own gradient.
The map is linear in x and in the kernels, so the same two Functions give the second-order gradients.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor

from . import preconv_fft, preconv_filter, preconv_matmul
from .preconv_constants import Geometry
from .preconv_kept import KeptFilter

LARGEST_GRAM = 11  # a kernel's side; the constants of V by Gram matrices grow with its sixth power, to 26 MB here
OPERATORS = (__package__ or "convnorm").replace(".", "_")  # a copy in another package registers operators of its own


def preconditioner(weight: Tensor, grid: tuple[int, int], dilation: int = 1) -> Tensor:
    """V as in `preconv_fft.preconditioner`, which computes it for float64 kernels and for devices without float64."""
    if weight.shape[-1] == 1 or weight.dtype == torch.float64 or weight.device.type == "mps":
        return preconv_fft.preconditioner(weight, grid, dilation)
    if weight.shape[-1] > LARGEST_GRAM:
        return preconv_fft.inverse_root(preconv_fft.power(weight.double(), grid, dilation), weight.dtype)
    return preconditioner_operator(weight.detach(), *grid, dilation)


def filtered_conv(
    x: Tensor, weight: Tensor, v: Tensor, stride: int, padding: int, dilation: int = 1, groups: int = 1
) -> Tensor:
    """Steps 1, 3 and 4 of the layer, as `preconv_fft.filtered_conv`; the output's strides are channels_last.

    The products run in x's dtype. Raises ValueError for more than one group.
    """
    return _FilteredConv.apply(x, _one_group(weight, dilation, groups), v, stride, padding)


def prepare(
    x: Tensor, weight: Tensor, v: Tensor, stride: int, padding: int, dilation: int = 1, groups: int = 1
) -> KeptFilter | None:
    """The same as `preconv_matmul.prepare`. Raises ValueError for more than one group."""
    run = preconv_matmul.prepare(x, _one_group(weight, dilation, groups), v, stride, padding)
    if run is None or dilation == 1:
        return run
    return lambda x, weight: run(x, preconv_fft.dilated(weight, dilation))


def _one_group(weight: Tensor, dilation: int, groups: int) -> Tensor:
    """The kernels with their dilation: its zeros cost only the products that transform the taps."""
    if groups != 1:
        raise ValueError(f'method "matmul" needs groups=1, got {groups}; use "fft", "filter" or "auto"')
    return preconv_fft.dilated(weight, dilation)


class _FilteredConv(torch.autograd.Function):
    """(x, weight, v, stride, padding) -> y; no gradient flows to v."""

    generate_vmap_rule = True

    @staticmethod
    def forward(x: Tensor, weight: Tensor, v: Tensor, stride: int, padding: int) -> Tensor:
        return forward_operator(x, weight, v, stride, padding)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
        *tensors, ctx.stride, ctx.padding = inputs
        ctx.save_for_backward(*tensors)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, weight, v = ctx.saved_tensors
        need_x = ctx.needs_input_grad[0]
        grad_x, grad_weight = _Gradients.apply(grad, x, weight, v, ctx.stride, ctx.padding, need_x)
        return grad_x if need_x else None, grad_weight, None, None, None


class _Gradients(torch.autograd.Function):
    """The gradients of `_FilteredConv`: linear in grad, and in x or in weight."""

    generate_vmap_rule = True

    @staticmethod
    def forward(
        grad: Tensor, x: Tensor, weight: Tensor, v: Tensor, stride: int, padding: int, need_x: bool
    ) -> tuple[Tensor, Tensor]:
        return backward_operator(grad, x, weight, v, stride, padding, need_x, 1)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
        *tensors, ctx.stride, ctx.padding, ctx.need_x = inputs
        ctx.save_for_backward(*tensors)

    @staticmethod
    def backward(ctx: Any, of_x: Tensor, of_weight: Tensor) -> tuple[Tensor | None, ...]:
        grad, x, weight, v = ctx.saved_tensors
        rest = (v, ctx.stride, ctx.padding)
        onto_grad = _FilteredConv.apply(x, of_weight, *rest)
        onto_x, _ = _Gradients.apply(grad, x, of_weight, *rest, True)
        onto_weight = None
        if ctx.need_x:
            onto_grad = onto_grad + _FilteredConv.apply(of_x, weight, *rest)
            _, onto_weight = _Gradients.apply(grad, of_x, weight, *rest, False)
        return onto_grad, onto_x, onto_weight, None, None, None, None


def conv_then_filter(
    x: Tensor, weight: Tensor, v: Tensor, stride: int, padding: int, dilation: int = 1, groups: int = 1
) -> Tensor:
    """The same function as `filtered_conv`, by torch's convolution and the filter of preconv_filter.py, any groups."""
    maps = preconv_fft.full_conv(x, weight.to(x.dtype), dilation, groups)
    crop = dilation * (weight.shape[-1] - 1) - padding
    y: Tensor = _SpectralFilter.apply(maps, v, *maps.shape[2:], crop, stride, False)
    return y


class _SpectralFilter(torch.autograd.Function):
    """`preconv_filter.spectral_filter`, whose gradient is its adjoint; no gradient flows to v."""

    generate_vmap_rule = True

    @staticmethod
    def forward(maps: Tensor, v: Tensor, p1: int, p2: int, crop: int, stride: int, adjoint: bool) -> Tensor:
        return filter_operator(maps, v, p1, p2, crop, stride, adjoint)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
        _, v, *ctx.geometry, ctx.adjoint = inputs
        ctx.save_for_backward(v)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        (v,) = ctx.saved_tensors
        return _SpectralFilter.apply(grad, v, *ctx.geometry, not ctx.adjoint), *[None] * 6


# --- the operators, and their rules for shapes and for torch.func.vmap ------------------------------------------------


def _forward(x: Tensor, weight: Tensor, v: Tensor, stride: int, padding: int) -> Tensor:
    return preconv_matmul.forward(x, weight, v, stride, padding)


def _operator(name: str, kernel: Callable[..., Any]) -> torch._ops.OpOverload:
    """Register `kernel`, without gradients, and return the operator.

    Unlike those of `torch.library.custom_op`, its kernels do not import torch._dynamo at their first call, which takes
    more than a second; and there can be one of a name in a process.
    """
    qualified = f"{OPERATORS}::{name}"
    schema = torch.library.infer_schema(kernel, mutates_args=())
    torch.library.define(qualified, schema, tags=(torch.Tag.pt2_compliant_tag,))
    torch.library.impl(qualified, "default", kernel)
    operator: torch._ops.OpOverload = getattr(getattr(torch.ops, OPERATORS), name).default
    return operator


preconditioner_operator = _operator("preconditioner", preconv_matmul.inverse_root_of_gram)
forward_operator = _operator("filtered_conv", _forward)
backward_operator = _operator("filtered_conv_backward", preconv_matmul.backward)
filter_operator = _operator("spectral_filter", preconv_filter.spectral_filter)


@torch.library.register_fake(preconditioner_operator)
def _(weight: Tensor, p1: int, p2: int, dilation: int = 1) -> Tensor:
    return weight.new_empty(weight.shape[0], p1, p2 // 2 + 1)


@torch.library.register_fake(forward_operator)
def _(x: Tensor, weight: Tensor, v: Tensor, stride: int, padding: int) -> Tensor:
    height, width = Geometry(x.shape[2], x.shape[3], weight.shape[-1], stride, padding).out
    return x.new_empty(x.shape[0], height, width, weight.shape[0]).permute(0, 3, 1, 2)


@torch.library.register_fake(backward_operator)
def _(
    grad: Tensor, x: Tensor, weight: Tensor, v: Tensor, stride: int, padding: int, need_x: bool, samples: int
) -> tuple[Tensor, Tensor]:
    n, channels, height, width = x.shape
    grad_x = x.new_empty(n, height, width, channels).permute(0, 3, 1, 2) if need_x else x.new_empty(0)
    return grad_x, weight.new_empty(samples * weight.shape[0], *weight.shape[1:])


@torch.library.register_fake(filter_operator)
def _(maps: Tensor, v: Tensor, p1: int, p2: int, crop: int, stride: int, adjoint: bool) -> Tensor:
    height, width = (p1, p2) if adjoint else (len(range(crop, p - crop, stride)) for p in (p1, p2))
    return maps.new_empty(maps.shape[0], height, width, maps.shape[1]).permute(0, 3, 1, 2)


def _one_by_one(operator: Callable[..., Any], info: Any, in_dims: tuple[int | None, ...], *args: Any) -> Any:
    """The rule of torch.func.vmap where each sample has its own kernels: one call of the operator for each sample."""
    each = [
        operator(*(a if dim is None else a.select(dim, i) for a, dim in zip(args, in_dims, strict=True)))
        for i in range(info.batch_size)
    ]
    if isinstance(each[0], Tensor):
        return torch.stack(each), 0
    return tuple(torch.stack(outputs) for outputs in zip(*each, strict=True)), (0,) * len(each[0])


def _images_by_sample(
    operator: Callable[..., Tensor], info: Any, in_dims: tuple[int | None, ...], images: Tensor, *others: Any
) -> Any:
    """The same for an operator from images to images; samples that share the other arguments are one batch."""
    if any(dim is not None for dim in in_dims[1:]):
        return _one_by_one(operator, info, in_dims, images, *others)
    return operator(_one_batch(info, images, in_dims[0]), *others).unflatten(0, (info.batch_size, -1)), 0


def _backward_by_sample(info: Any, in_dims: tuple[int | None, ...], *args: Any) -> Any:
    """The same for the backward operator; each sample has its own gradient to the kernels."""
    grad, x, *others, need_x, samples = args
    if any(dim is not None for dim in in_dims[2:]):
        return _one_by_one(backward_operator, info, in_dims, *args)
    images = (_one_batch(info, tensor, dim) for tensor, dim in zip((grad, x), in_dims, strict=False))
    grad_x, grad_weight = backward_operator(*images, *others, need_x, info.batch_size * samples)
    grad_x = grad_x.unflatten(0, (info.batch_size, -1)) if need_x else grad_x.expand(info.batch_size, 0)
    return (grad_x, grad_weight.unflatten(0, (info.batch_size, -1))), (0, 0)


def _one_batch(info: Any, images: Tensor, dim: int | None) -> Tensor:
    """(N, C, H, W) of every sample -> (samples * N, C, H, W)."""
    return (images.expand(info.batch_size, *images.shape) if dim is None else images.movedim(dim, 0)).flatten(0, 1)


torch.library.register_vmap(preconditioner_operator, partial(_one_by_one, preconditioner_operator))
torch.library.register_vmap(forward_operator, partial(_images_by_sample, forward_operator))
torch.library.register_vmap(filter_operator, partial(_images_by_sample, filter_operator))
torch.library.register_vmap(backward_operator, _backward_by_sample)
