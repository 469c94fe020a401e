"""The layer that the published experiments ran under the name of ConvNorm, kept so that they can be repeated.

Batra and Chatterjee's code carried ConvNorm (models/preconv.py) from torch.rfft, which returned a real tensor with a
trailing axis (re, im), to torch.fft.rfft2, which returns a complex tensor without one, and left the functions that read
that axis as they were. They now read the last axis there is, that of the horizontal frequencies:

- |A|^2, "the squares summed over (re, im)", became the *complex* squares summed over the horizontal frequencies, so
  that V_o(f1) = (sum_j sum_f2 A_oj(f1, f2)^2)^(-1/2) is complex and does not depend on f2 at all: (C_out, P1);
- the product with V takes columns 0 and 1 for re and im, so it keeps the two lowest horizontal frequencies and drops
  all others, and irfft2 pads what is left with zeros.

So behind every such layer an image varies along its width as a constant and one cosine do, whatever came in. The layer
also ends in a BatchNorm of its own, so that the arm "conv" is this layer with one BatchNorm and "bncn" with two. For
k = 1 the code was right: V is the real (sum_j a_oj^2)^(-1/2).

Since both columns pass through a linear map, the convolution is computed at their 2 * P1 frequencies only: a small part
of the work of the published code, for the same numbers (tests/test_preconv_published.py).
"""

import math
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.preconv import cosine_momentum

COLUMNS = 2  # horizontal frequencies that survive


class PublishedPreConv2d(nn.Module):
    """The published layer: (N, C_in, H, W) -> (N, C_out, H', W'), of the size that Conv2d gives.

    Args:
        kernel_size, stride, padding: one number each, as for PreConv2d; padding is at most kernel_size - 1.
        affine: then a depthwise kernel_size x kernel_size convolution with bias, at Conv2d's own random start.
        batch_norm: end with a BatchNorm, as the published layer does unless told otherwise.
        momentum: share of the newest preconditioner in the running estimate; None for `cosine_momentum`.

    State: `weight`, `affine.weight`, `affine.bias`, `batch_norm.*`, and the buffers `running_preconditioner`, complex
    (C_out, P1) or for k = 1 real (C_out, 1, 1), empty until the first training batch, and `num_batches_tracked`.
    Evaluation at a height other than the estimate's uses the preconditioner of the weights.

    Raises:
        ValueError: an argument out of range, or an input that is not (N, C_in, H, W) or smaller than the kernel.
    """

    running_preconditioner: Tensor
    num_batches_tracked: Tensor

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int,
        stride: int = 1,
        padding: int = 0,
        *,
        affine: bool = True,
        batch_norm: bool = True,
        momentum: float | None = None,
    ) -> None:
        super().__init__()
        if min(in_channels, out_channels, kernel_size, stride) < 1:
            raise ValueError("in_channels, out_channels, kernel_size and stride must be at least 1")
        if not 0 <= padding < kernel_size:
            raise ValueError(f"padding must be from 0 to kernel_size - 1 = {kernel_size - 1}, got {padding}")
        if affine and kernel_size % 2 == 0:
            raise ValueError(f"an affine part needs an odd kernel_size, got {kernel_size}; pass affine=False")
        if momentum is not None and not 0.0 < momentum <= 1.0:
            raise ValueError(f"momentum must be None or in (0, 1], got {momentum!r}")
        self.in_channels, self.out_channels, self.kernel_size = in_channels, out_channels, kernel_size
        self.stride, self.padding, self.momentum = stride, padding, momentum
        self.weight = nn.Parameter(torch.empty(out_channels, in_channels, kernel_size, kernel_size))
        nn.init.kaiming_uniform_(self.weight, a=math.sqrt(5))
        self.affine: nn.Conv2d | None = None
        if affine:
            self.affine = nn.Conv2d(
                out_channels, out_channels, kernel_size, padding=(kernel_size - 1) // 2, groups=out_channels
            )
        self.batch_norm = nn.BatchNorm2d(out_channels) if batch_norm else None
        empty = (
            torch.zeros(out_channels, 0, 0) if kernel_size == 1 else torch.zeros(out_channels, 0, dtype=torch.cfloat)
        )
        self.register_buffer("running_preconditioner", empty)
        self.register_buffer("num_batches_tracked", torch.zeros((), dtype=torch.long))

    def forward(self, x: Tensor) -> Tensor:
        k = self.kernel_size
        if x.dim() != 4 or x.shape[1] != self.in_channels or min(x.shape[2:]) + 2 * self.padding < k:
            raise ValueError(f"expected (N, {self.in_channels}, H, W) no smaller than the kernel, got {tuple(x.shape)}")
        dtype = torch.promote_types(self.weight.dtype, torch.float32)  # half precision has no FFT
        with torch.autocast(x.device.type, enabled=False):
            y = self._filter(x.to(dtype), self.weight.to(dtype))
            y = y.contiguous(memory_format=_format_of(x))
            if self.affine is not None:
                bias = None if self.affine.bias is None else self.affine.bias.to(dtype)
                y = F.conv2d(y, self.affine.weight.to(dtype), bias, padding=k // 2, groups=self.out_channels)
        if not torch.is_autocast_enabled(x.device.type):
            y = y.to(self.weight.dtype)
        return y if self.batch_norm is None else self.batch_norm(y)

    def _filter(self, x: Tensor, weight: Tensor) -> Tensor:
        k = self.kernel_size
        grid = (x.shape[2] + k - 1, x.shape[3] + k - 1)
        v = self._current_preconditioner(weight, grid)
        if k == 1:
            x = x[:, :, :: self.stride, :: self.stride]  # cheaper than a stride, and safe: models/pointwise.py
            return F.conv2d(x, weight * v.unsqueeze(1))
        return two_columns(x, weight, v, self.stride, self.padding)

    def _current_preconditioner(self, weight: Tensor, grid: tuple[int, int]) -> Tensor:
        running = self.running_preconditioner
        known = running.shape[1] == (1 if self.kernel_size == 1 else grid[0])
        if not self.training and known:
            return running.to(weight.device, torch.promote_types(running.dtype, weight.dtype))
        v = published_preconditioner(weight, grid)
        if self.training:
            self._update_running(v, known)
        return v

    @torch.no_grad()
    def evaluation_gain(self, grid: tuple[int, int]) -> Tensor:
        """|V| (C_out, P1, P2 // 2 + 1) that evaluation multiplies the kernels' spectrum with on `grid`, 0 at columns
        that it drops; for k = 1 give the grid (1, 1). Nothing is updated, training or not.

        Its phase only turns each channel. But images are real: where a column is its own mirror image, what is left of
        V is the part that keeps them so, the mean of V(f1) and the conjugate of V(-f1).
        """
        running = self.running_preconditioner
        v = running if running.shape[1] == grid[0] else published_preconditioner(self.weight, grid)
        if self.kernel_size == 1:
            return v
        own = (v + v.roll(-1, 1).flip(1).conj()) / 2
        gain = v.real.new_zeros(len(v), grid[0], grid[1] // 2 + 1)
        gain[:, :, 0] = own.abs()
        gain[:, :, 1] = (own if grid[1] == 2 else v).abs()
        return gain

    @torch.no_grad()
    def _update_running(self, v: Tensor, known: bool) -> None:
        self.num_batches_tracked += 1
        running = self.running_preconditioner
        if not known:  # from 0 at the first batch; at a new height from this batch's own, as PreConv2d does
            running = torch.zeros_like(v) if running.numel() == 0 else v
        real = torch.float64 if v.dtype in (torch.float64, torch.complex128) else torch.float32
        momentum = self.momentum if self.momentum is not None else cosine_momentum(self.num_batches_tracked.to(real))
        newest = momentum * v + (1 - momentum) * running.to(v.dtype)
        if known and self.running_preconditioner.dtype == newest.dtype:
            self.running_preconditioner.copy_(newest)
        else:
            self.running_preconditioner = newest

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> "PublishedPreConv2d":
        """As for any module, but `.double()` and the like must not make a complex estimate real."""
        running = self.running_preconditioner
        if not running.is_complex():
            return super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        self.running_preconditioner = torch.view_as_real(running)
        try:
            super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        except BaseException:  # such as a device that is not there
            self.running_preconditioner = running
            raise
        moved = self.running_preconditioner
        wide = moved if moved.dtype in (torch.float32, torch.float64) else moved.float()
        self.running_preconditioner = torch.view_as_complex(wide.contiguous())
        return self

    def _load_from_state_dict(
        self, state_dict: Any, prefix: str, local_metadata: Any, strict: bool, *args: Any
    ) -> None:
        # The estimate is sized by the data seen: this module takes the incoming one's size.
        incoming, running = state_dict.get(prefix + "running_preconditioner"), self.running_preconditioner
        if isinstance(incoming, Tensor) and incoming.dim() == running.dim() and len(incoming) == self.out_channels:
            self.running_preconditioner = running.new_zeros(incoming.shape)
        super()._load_from_state_dict(state_dict, prefix, local_metadata, strict, *args)

    def extra_repr(self) -> str:
        return (
            f"{self.in_channels}, {self.out_channels}, kernel_size={self.kernel_size}, stride={self.stride}, "
            f"padding={self.padding}, momentum={self.momentum}"
        )


@torch.no_grad()
def published_preconditioner(weight: Tensor, grid: tuple[int, int]) -> Tensor:
    """V of the kernels (C_out, C_in, k, k) on a grid (P1, P2), no gradient: complex (C_out, P1), real for k = 1.

    sum_j A_oj(f1, f2)^2 depends on the kernels only through sum_j a_oj(d) a_oj(d'), so its sum over the horizontal
    frequencies is one small product with a constant of (P1, k^2 * k^2); in float64, as the sums cancel.
    """
    k = weight.shape[-1]
    if k == 1:
        return weight.square().sum(1).rsqrt()  # (C_out, 1, 1)
    flat = weight.double().flatten(2)  # (C_out, C_in, k^2)
    gram = (flat.transpose(1, 2) @ flat).flatten(1)  # (C_out, k^2 * k^2)
    place = torch.arange(k, dtype=torch.float64, device=weight.device)
    both = place.unsqueeze(1) + place  # d + d'
    down = _turn(torch.arange(grid[0], device=weight.device), both, grid[0])  # (P1, k, k)
    across = _turn(torch.arange(grid[1] // 2 + 1, device=weight.device), both, grid[1]).sum(0)  # (k, k)
    # axes (f1, row d1, row d1', column d2, column d2') -> the Gram's order (d1, d2, d1', d2')
    constant = (down[:, :, None, :, None] * across[None, None, :, None, :]).flatten(1)  # (P1, k^4)
    square = gram.to(constant.dtype) @ constant.mT  # (C_out, P1)
    return square.pow(-0.5).to(torch.complex128 if weight.dtype == torch.float64 else torch.complex64)


def two_columns(x: Tensor, weight: Tensor, v: Tensor, stride: int, padding: int) -> Tensor:
    """The filtered convolution, (N, C_in, H, W) -> (N, C_out, H', W'), at the horizontal frequencies 0 and 1 only.

    `v` (C_out, P1) is a constant: no gradient flows to it.
    """
    k, (height, width) = weight.shape[-1], x.shape[2:]
    rows, columns = height + k - 1, width + k - 1  # P1, P2
    images = _lowest_columns(x, rows, columns)  # (N, C_in, P1, 2)
    kernels = _lowest_columns(weight.flip(-1, -2), rows, columns)  # flipped: a cross-correlation
    product = torch.einsum("nifc,oifc->nofc", images, kernels) * v.unsqueeze(-1)
    crop = k - 1 - padding
    vertical = torch.fft.ifft(product, dim=2)[:, :, crop : rows - crop : stride]  # (N, C_out, H', 2)
    # The inverse along the width, of which only the wanted columns are made: column 1 stands for its mirror image too.
    place = torch.arange(crop, columns - crop, stride, device=x.device, dtype=torch.float64)
    angle, mirrored = 2.0 * math.pi / columns * place, 1.0 if columns == 2 else 2.0
    inverse = torch.stack(
        [torch.ones_like(angle), torch.zeros_like(angle), mirrored * angle.cos(), -mirrored * angle.sin()]
    )
    return torch.view_as_real(vertical).flatten(-2) @ (inverse / columns).to(x.dtype)


def _lowest_columns(maps: Tensor, rows: int, columns: int) -> Tensor:
    """Columns 0 and 1 of rfft2 of maps (..., H, W) zero-padded to (rows, columns): complex (..., rows, 2)."""
    place = torch.arange(maps.shape[-1], device=maps.device, dtype=torch.float64)
    angle = 2.0 * math.pi / columns * place
    basis = torch.stack([torch.ones_like(angle), torch.zeros_like(angle), angle.cos(), -angle.sin()], dim=1)
    horizontal = torch.view_as_complex((maps @ basis.to(maps.dtype)).unflatten(-1, (COLUMNS, 2)))
    return torch.fft.fft(horizontal, n=rows, dim=-2)


def _turn(frequency: Tensor, place: Tensor, length: int) -> Tensor:
    """exp(-2 pi i f d / length) for every frequency and place: complex128 (F, *place.shape)."""
    angle = (-2.0 * math.pi / length) * frequency.double().view(-1, *(1 for _ in place.shape)) * place
    return torch.polar(torch.ones_like(angle), angle)


def _format_of(x: Tensor) -> torch.memory_format:
    dense = x.is_contiguous() or not x.is_contiguous(memory_format=torch.channels_last)
    return torch.contiguous_format if dense else torch.channels_last
