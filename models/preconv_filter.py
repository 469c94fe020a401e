"""ConvNorm's filtered convolution as torch's convolution and a filter of its maps, the filter as matrix products.

It is the same function as preconv_fft.py, with products in place of the FFTs:

    c = a (*) x            torch's convolution, padding k-1, on the (P1, P2) grid
    z = E1 c E2^T          the real coefficients of every map, along H and then along W
    z = M z + D swap(z)    which multiplies the DFT's coefficients by V (see `Basis`)
    y = T1^T z T2          back, to the kept rows and columns only

It multiplies V, a number for each output channel and frequency, where "matmul" multiplies the spectra of all
C_out * C_in kernels. So it is faster for small batches. For large ones it is slower: torch's convolution takes more
multiply-adds than the products of the frequencies, and P1 x P2 maps take more to transform than H x W images.

The basis is orthonormal, so the gradient with respect to c is the same map with E and T exchanged.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from .preconv_constants import every, in_half_spectrum, left
from .preconv_fft import full_conv
from .preconv_kept import KeptFilter, kept

CHUNK = 2**17  # coefficients that a CPU computes at a time, so that they fit a core's cache


@dataclass(frozen=True)
class Basis:
    """Constant matrices of a grid (P1, P2), with G = ceil(P / 2) on each side.

    On a side of P pixels the basis has 2 G functions in two halves: the cosines of the frequencies 0 to G - 1, then
    their partners, which are the sines of the same frequencies; but the partner of frequency 0 is the cosine of
    frequency P / 2 (0 if P is odd). With cs for the coefficient of a cosine along H and a sine along W, the DFT is
    (cc - ss) - i (cs + sc) at the frequencies (f1, f2), and (cc + ss) + i (cs - sc) at (f1, -f2). So multiplying it by
    V maps a coefficient z to M z + D swap(z), where swap(z) is the coefficient of both partners, M the mean of V at
    (f1, f2) and (f1, -f2), and D half their difference, negative for cs and sc.

    source: (2 G1, P1) and (2 G2, P2), from the pixels of the grid to coefficients.
    target: (2 G1, H') and (2 G2, W'), the columns of `source` that belong to the kept rows and columns.
    places: for (f1, f2) and (f1, -f2), the index (4 G1 G2,) of each coefficient's V in a flattened half spectrum.
    """

    source: tuple[Tensor, Tensor]
    target: tuple[Tensor, Tensor]
    places: tuple[Tensor, Tensor]

    def mean_and_difference(self, v: Tensor) -> tuple[Tensor, Tensor]:
        """M, and D without its sign, of V (C, P1, P2 // 2 + 1); each (2, G1, 2, G2, C)."""
        here, opposite = (v.flatten(1).T[place] for place in self.places)
        shape = [2, len(self.source[0]) // 2, 2, len(self.source[1]) // 2, len(v)]
        return (here + opposite).mul_(0.5).view(shape), (opposite - here).mul_(0.5).view(shape)

    @property
    def dtype(self) -> torch.dtype:
        return self.source[0].dtype


@kept
def basis(p1: int, p2: int, crop: int, stride: int, dtype: torch.dtype, device: torch.device) -> Basis:
    """The basis of the grid (P1, P2), built in float64 and rounded once to `dtype`."""
    sides = [_functions(p1), _functions(p2)]
    frequencies = every(*(frequencies for _, frequencies in sides))
    opposite = torch.stack([frequencies[:, 0], -frequencies[:, 1] % p2], dim=1)

    def rounded(matrix: Tensor) -> Tensor:
        return matrix.to(dtype).contiguous().to(device)

    first, second = (functions for functions, _ in sides)
    kept_rows, kept_columns = slice(crop, p1 - crop, stride), slice(crop, p2 - crop, stride)
    return Basis(
        source=(rounded(first), rounded(second)),
        target=(rounded(first[:, kept_rows]), rounded(second[:, kept_columns])),
        places=(in_half_spectrum((p1, p2), frequencies).to(device), in_half_spectrum((p1, p2), opposite).to(device)),
    )


def _functions(n: int) -> tuple[Tensor, Tensor]:
    """The orthonormal functions on n pixels, (2 G, n), and their frequencies (2 G,)."""
    group = torch.arange((n + 1) // 2, device="cpu")
    angle = (torch.outer(group, torch.arange(n, device="cpu")) % n).double() * (2 * math.pi / n)
    cosines, partners = angle.cos() * math.sqrt(2 / n), angle.sin() * math.sqrt(2 / n)
    cosines[0] = math.sqrt(1 / n)
    if n % 2 == 0:
        partners[0, ::2], partners[0, 1::2] = math.sqrt(1 / n), -math.sqrt(1 / n)
    frequencies = group.repeat(2)
    frequencies[len(group)] = n // 2 if n % 2 == 0 else 0
    return torch.cat([cosines, partners]), frequencies


def spectral_filter(maps: Tensor, v: Tensor, p1: int, p2: int, crop: int, stride: int, adjoint: bool) -> Tensor:
    """Steps 3 and 4 of the layer: maps (N, C, P1, P2) -> their kept pixels (N, C, H', W') of channels_last strides.

    `v` is the preconditioner (C, P1, P2 // 2 + 1). `adjoint` is the other way round: (N, C, H', W') -> (N, C, P1, P2).
    """
    const = basis(p1, p2, crop, stride, torch.promote_types(maps.dtype, torch.float32), maps.device)
    matrices = (const.target, const.source) if adjoint else (const.source, const.target)
    return _filtered(maps, *matrices, *const.mean_and_difference(v.to(const.dtype)))


def prepare(
    x: Tensor, weight: Tensor, v: Tensor, stride: int, padding: int, dilation: int = 1, groups: int = 1
) -> KeptFilter:
    """The convolution and its filter for many inputs like x and any kernels like `weight`, with M and D made once."""
    reach = dilation * (weight.shape[-1] - 1)
    grid = (x.shape[2] + reach, x.shape[3] + reach)
    const = basis(*grid, reach - padding, stride, torch.promote_types(x.dtype, torch.float32), x.device)
    factors = const.mean_and_difference(v.to(const.dtype))

    def run(x: Tensor, weight: Tensor) -> Tensor:
        maps = full_conv(x, weight.to(x.dtype), dilation, groups)
        return _filtered(maps, const.source, const.target, *factors)

    return run


def _filtered(
    maps: Tensor, into: tuple[Tensor, Tensor], back: tuple[Tensor, Tensor], mean: Tensor, difference: Tensor
) -> Tensor:
    images = maps.permute(0, 2, 3, 1).contiguous()
    n, height, width, channels = images.shape
    size = back[0].shape[1], back[1].shape[1]
    out = mean.new_empty(n, size[0], size[1] * channels)
    chunk = max(1, CHUNK // mean.numel() if maps.is_cpu else n)
    for source, target in zip(images.split(chunk), out.split(chunk), strict=True):
        rows = left(into[0], source.to(mean.dtype).reshape(len(source), height, width * channels))
        z = left(into[1], rows.view(-1, width, channels)).view(len(source), *mean.shape)
        scaled = z * mean
        for a, b in ((0, 0), (0, 1), (1, 0), (1, 1)):
            scaled[:, a, :, b].addcmul_(z[:, 1 - a, :, 1 - b], difference[a, :, b], value=1 if a == b else -1)
        rows = left(back[1].T, scaled.view(-1, len(back[1]), channels))
        left(back[0].T, rows.view(len(source), len(back[0]), size[1] * channels), out=target)
    return out.view(n, *size, channels).permute(0, 3, 1, 2).to(maps.dtype)
