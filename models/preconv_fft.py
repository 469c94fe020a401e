"""ConvNorm's filtered convolution by torch.fft: the direct form, and the reference for faster ones.

Its cost is O(n^2 log n) for n x n images, so it is also the better choice for large images.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor


def preconditioner(weight: Tensor, grid: tuple[int, int], dilation: int = 1) -> Tensor:
    """V_o(f) = (sum_j |A_oj(f)|^2)^(-1/2) for the kernels `weight` (C_out, C_in, k, k) on a `grid` (P1, P2).

    The sum is over the inputs that channel o sees: all of them, or those of its group.

    Returns a real tensor without a gradient: (C_out, P1, P2 // 2 + 1), the half spectrum that rfft2 keeps, or
    (C_out, 1, 1) for k = 1, where V does not depend on the frequency.
    """
    return inverse_root(power(weight, grid, dilation), weight.dtype)


@torch.no_grad()
def power(weight: Tensor, grid: tuple[int, int], dilation: int = 1) -> Tensor:
    """sum_j |A_oj(f)|^2 (C_out, P1, P2 // 2 + 1), or (C_out, 1, 1) for k = 1."""
    if weight.shape[-1] == 1:
        return weight.square().sum(1)
    spectrum = torch.fft.rfft2(dilated(weight, dilation), s=grid)  # (C_out, C_in, P1, P2 // 2 + 1)
    return (spectrum.real.square() + spectrum.imag.square()).sum(1)


def inverse_root(power: Tensor, dtype: torch.dtype) -> Tensor:
    """power^(-1/2) in `dtype`, bounded where a channel's spectrum vanishes; `power` is (C_out, P1, P2 // 2 + 1).

    Where a spectrum vanishes only rounding is left, and V would amplify it without bound. So a magnitude counts as at
    least the dtype's epsilon times the channel's largest, which keeps the output at such a frequency below the
    rounding of a unit gain. An all-zero kernel gives a large, finite V and an output of exactly 0.
    """
    limits = torch.finfo(dtype)
    floor = power.amax((-2, -1), keepdim=True) * limits.eps**2
    return torch.maximum(power, floor.clamp_min(limits.tiny)).rsqrt().to(dtype)


def dilated(weight: Tensor, dilation: int) -> Tensor:
    """Kernels (..., k, k) with dilation - 1 zeros between taps: (..., k', k') with k' = dilation (k - 1) + 1."""
    k, zeros = weight.shape[-1], dilation - 1
    if zeros == 0 or k == 1:
        return weight
    spread = F.pad(weight[..., :, None, :, None], (0, zeros, 0, 0, 0, zeros))  # (..., k, dilation, k, dilation)
    size = dilation * (k - 1) + 1
    return spread.flatten(-4, -3).flatten(-2, -1)[..., :size, :size]


def full_conv(x: Tensor, weight: Tensor, dilation: int, groups: int) -> Tensor:
    """Step 1 of the layer: the full cross-correlation (N, C_out, P1, P2)."""
    reach = dilation * (weight.shape[-1] - 1)
    return F.conv2d(x, weight, padding=reach, dilation=dilation, groups=groups)


def filtered_conv(
    x: Tensor, weight: Tensor, v: Tensor, stride: int, padding: int, dilation: int = 1, groups: int = 1
) -> Tensor:
    """Steps 1, 3 and 4 of the layer: (N, C_in, H, W) -> (N, C_out, H', W').

    `v` is the preconditioner (C_out, P1, P2 // 2 + 1), a constant: no gradient flows to it.
    """
    c = full_conv(x, weight, dilation, groups)
    if torch.jit.is_tracing():  # type: ignore[attr-defined, no-untyped-call]
        y = _SpectralScale.forward(c, v)  # a traced program with a Function in it cannot be saved
    else:
        y = c if c.numel() == 0 else _SpectralScale.apply(c, v)  # FFTs refuse an empty batch
    crop = dilation * (weight.shape[-1] - 1) - padding
    return y[..., crop : c.shape[-2] - crop : stride, crop : c.shape[-1] - crop : stride]


class _SpectralScale(torch.autograd.Function):
    """IDFT(DFT(c) * V): (N, C, P1, P2) -> the same, for a real, constant V (C, P1, P2 // 2 + 1).

    A real V makes this map self-adjoint, so the gradient with respect to c is the same map of the incoming gradient.
    That needs no saved spectra, and avoids autograd's backward of rfft2, which transforms the full plane.
    """

    generate_vmap_rule = True

    @staticmethod
    def forward(c: Tensor, v: Tensor) -> Tensor:
        return torch.fft.irfft2(torch.fft.rfft2(c) * v, s=c.shape[-2:])

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, Tensor], output: Tensor) -> None:
        ctx.save_for_backward(inputs[1])

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        (v,) = ctx.saved_tensors
        return _SpectralScale.apply(grad, v), None
