"""The layer that the published experiments ran under the name of ConvNorm, kept so that they can be repeated.

Batra and Chatterjee's code ported ConvNorm (models/preconv.py) from torch.rfft to torch.fft.rfft2. torch.rfft returned
a real tensor with a trailing axis (re, im); rfft2 returns a complex tensor without that axis. The port left the
functions that read the last axis unchanged, and now that axis is the horizontal frequencies:

- |A|^2, "the squares summed over (re, im)", became the *complex* squares summed over the horizontal frequencies, so
  that V_o(f1) = (sum_j sum_f2 A_oj(f1, f2)^2)^(-1/2) is complex and independent of f2: (C_out, P1);
- the product with V takes columns 0 and 1 for re and im. So it keeps the two lowest horizontal frequencies and drops
  all others, and irfft2 pads them with zeros.

So the output of every such layer varies along its width as a constant plus one cosine, whatever the input. The layer
also ends in its own BatchNorm, so the arm "conv" is this layer with one BatchNorm and "bncn" with two. For k = 1 the
code was right: V is the real (sum_j a_oj^2)^(-1/2).

The map is linear, so it is computed only at the 2 * P1 frequencies of these two columns. That gives the same numbers
with a fraction of the published code's work (tests/test_preconv_published.py).
"""

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.preconv_kept import kept
from models.preconv_running import RunningPreconditioner, under_autocast, without_autocast

COLUMNS = 2  # horizontal frequencies that survive


class PublishedPreConv2d(RunningPreconditioner):
    """The published layer: (N, C_in, H, W) -> (N, C_out, H', W'), with the output size of Conv2d.

    Args:
        kernel_size, stride, padding: one number each, as for PreConv2d; padding is at most kernel_size - 1.
        affine: add a depthwise kernel_size x kernel_size convolution with bias, with Conv2d's random initialisation.
        batch_norm: end with a BatchNorm, the published default.
        momentum: share of the newest preconditioner in the running estimate; None for `cosine_momentum`.

    State: `weight`, `affine.weight`, `affine.bias`, `batch_norm.*`, and the buffers `running_preconditioner`, which is
    empty until the first training batch, and `num_batches_tracked`. The estimate is real: (C_out, P1, 2), the real and
    imaginary parts of V, or (C_out, 1, 1) for k = 1. A complex estimate (C_out, P1) is read too. Evaluation at another
    size than the estimate's uses the preconditioner of the weights.

    Raises:
        ValueError: an argument is out of range, or an input is not (N, C_in, H, W) or smaller than the kernel.
    """

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
        self._make_estimate((0, 0), torch.float32, None)

    def estimate_shape(self, grid: tuple[int, int]) -> tuple[int, int]:
        """(P1, 2), the real and imaginary parts of V at each vertical frequency."""
        return (1, 1) if self.kernel_size == 1 else (grid[0], 2)

    def forward(self, x: Tensor) -> Tensor:
        k = self.kernel_size
        if x.dim() != 4 or x.shape[1] != self.in_channels or min(x.shape[2:]) + 2 * self.padding < k:
            raise ValueError(f"expected (N, {self.in_channels}, H, W) no smaller than the kernel, got {tuple(x.shape)}")
        dtype = torch.promote_types(self.weight.dtype, torch.float32)  # half precision has no FFT
        with without_autocast(x):
            y = self._filter(x.to(dtype), self.weight.to(dtype))
            y = y.contiguous(memory_format=_format_of(x))
            if self.affine is not None:
                bias = None if self.affine.bias is None else self.affine.bias.to(dtype)
                y = F.conv2d(y, self.affine.weight.to(dtype), bias, padding=k // 2, groups=self.out_channels)
        if not under_autocast(x):
            y = y.to(self.weight.dtype)
        return y if self.batch_norm is None else self.batch_norm(y)

    def _filter(self, x: Tensor, weight: Tensor) -> Tensor:
        k = self.kernel_size
        grid = (1, 1) if k == 1 else (x.shape[2] + k - 1, x.shape[3] + k - 1)
        v = self._current_preconditioner(weight, grid)
        if k == 1:
            x = x[:, :, :: self.stride, :: self.stride]  # cheaper than a stride, and safe (models/pointwise.py)
            return F.conv2d(x, weight * v.unsqueeze(1))
        return two_columns(x, weight, v, self.stride, self.padding)

    def _current_preconditioner(self, weight: Tensor, grid: tuple[int, int]) -> Tensor:
        if not self.training and self._is_estimated_at(grid):
            return self._estimate(weight.dtype)
        v = published_preconditioner(weight, grid)
        if self.training:
            self._update_running(torch.view_as_real(v) if v.is_complex() else v, grid)
        return v

    def _estimate(self, dtype: torch.dtype) -> Tensor:
        """The running estimate in the form of `published_preconditioner`: complex (C_out, P1), or real for k = 1."""
        assert self.running_preconditioner is not None
        running = self.running_preconditioner.to(torch.promote_types(dtype, torch.float32))
        return running if self.kernel_size == 1 else torch.view_as_complex(running)

    @torch.no_grad()
    def evaluation_gain(self, grid: tuple[int, int]) -> Tensor:
        """The |V| (C_out, P1, P2 // 2 + 1) of evaluation on `grid`, 0 at dropped columns; give (1, 1) for k = 1.

        It updates nothing. The phase of V does not change singular values. But images are real, so in a column that
        is its own mirror image only a part of V has an effect: the mean of V(f1) and the conjugate of V(-f1).
        """
        known = self._is_estimated_at(grid)
        v = self._estimate(self.weight.dtype) if known else published_preconditioner(self.weight, grid)
        if self.kernel_size == 1:
            return v
        own = (v + v.roll(-1, 1).flip(1).conj()) / 2
        gain = v.real.new_zeros(len(v), grid[0], grid[1] // 2 + 1)
        gain[:, :, 0] = own.abs()
        gain[:, :, 1] = (own if grid[1] == 2 else v).abs()
        return gain

    def _load_from_state_dict(
        self, state_dict: Any, prefix: str, local_metadata: Any, strict: bool, *args: Any
    ) -> None:
        key = prefix + "running_preconditioner"
        if isinstance(incoming := state_dict.get(key), Tensor) and incoming.is_complex():
            state_dict[key] = torch.view_as_real(incoming)
        super()._load_from_state_dict(state_dict, prefix, local_metadata, strict, *args)

    def extra_repr(self) -> str:
        return (
            f"{self.in_channels}, {self.out_channels}, kernel_size={self.kernel_size}, stride={self.stride}, "
            f"padding={self.padding}, momentum={self.momentum}"
        )


@torch.no_grad()
def published_preconditioner(weight: Tensor, grid: tuple[int, int]) -> Tensor:
    """V of the kernels (C_out, C_in, k, k) on a grid (P1, P2), without gradient: complex (C_out, P1), or for k = 1 real
    (C_out, 1, 1).

    sum_j A_oj(f1, f2)^2 depends on the kernels only through sum_j a_oj(d) a_oj(d'). So its sum over the horizontal
    frequencies is one small product with a constant (P1, k^2 * k^2), in float64, because the terms cancel.
    """
    k = weight.shape[-1]
    if k == 1:
        return weight.square().sum(1).rsqrt()  # (C_out, 1, 1)
    flat = weight.double().flatten(2)  # (C_out, C_in, k^2)
    gram = (flat.transpose(1, 2) @ flat).flatten(1)  # (C_out, k^2 * k^2)
    square = gram.to(torch.complex128) @ _of_products(k, *grid, weight.device)  # (C_out, P1)
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
    inverse = _out_of_columns(crop, columns, stride, x.dtype, x.device)
    return torch.view_as_real(vertical).flatten(-2) @ inverse


def _lowest_columns(maps: Tensor, rows: int, columns: int) -> Tensor:
    """Columns 0 and 1 of rfft2 of maps (..., H, W) zero-padded to (rows, columns): complex (..., rows, 2)."""
    basis = _into_columns(maps.shape[-1], columns, maps.dtype, maps.device)
    horizontal = torch.view_as_complex((maps @ basis).unflatten(-1, (COLUMNS, 2)))
    return torch.fft.fft(horizontal, n=rows, dim=-2)


# The constants are made in float64, once for each geometry: on a GPU their many small kernels would take as long as all
# else.


@kept
def _of_products(k: int, rows: int, columns: int, device: torch.device) -> Tensor:
    """(k^4, P1) complex128: from the products of two taps to the squares, summed over the horizontal frequencies."""
    place = torch.arange(k, dtype=torch.float64, device=device)
    both = place.unsqueeze(1) + place  # d + d'
    down = _turn(torch.arange(rows, device=device), both, rows)  # (P1, k, k)
    across = _turn(torch.arange(columns // 2 + 1, device=device), both, columns).sum(0)  # (k, k)
    # axes (f1, row d1, row d1', column d2, column d2') -> the Gram's order (d1, d2, d1', d2')
    return (down[:, :, None, :, None] * across[None, None, :, None, :]).flatten(1).mT


@kept
def _into_columns(size: int, columns: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    """(size, 4): the real and imaginary parts of columns 0 and 1 of a row's DFT of length `columns`."""
    place = torch.arange(size, dtype=torch.float64, device=device)
    return torch.stack(_two_waves(place, columns), dim=1).to(dtype)


@kept
def _out_of_columns(crop: int, columns: int, stride: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    """(4, W'): the inverse at the places that are kept. Frequency 1 also stands for its mirror image."""
    place = torch.arange(crop, columns - crop, stride, dtype=torch.float64, device=device)
    mirrored = 1.0 if columns == 2 else 2.0
    one, zero, cosine, sine = _two_waves(place, columns)
    return (torch.stack([one, zero, mirrored * cosine, mirrored * sine]) / columns).to(dtype)


def _two_waves(place: Tensor, columns: int) -> list[Tensor]:
    """exp(-2 pi i f place / columns) for f of 0 and 1, real and imaginary parts: four tensors like `place`."""
    angle = 2.0 * math.pi / columns * place
    return [torch.ones_like(angle), torch.zeros_like(angle), angle.cos(), -angle.sin()]


def _turn(frequency: Tensor, place: Tensor, length: int) -> Tensor:
    """exp(-2 pi i f d / length) for every frequency and place: complex128 (F, *place.shape)."""
    angle = (-2.0 * math.pi / length) * frequency.double().view(-1, *(1 for _ in place.shape)) * place
    return torch.polar(torch.ones_like(angle), angle)


def _format_of(x: Tensor) -> torch.memory_format:
    dense = x.is_contiguous() or not x.is_contiguous(memory_format=torch.channels_last)
    return torch.contiguous_format if dense else torch.channels_last
