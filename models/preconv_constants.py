"""The constant matrices that make ConvNorm a handful of matrix products, one set for each geometry.

On the (P1, P2) grid the real 2-D DFT has P1 * P2 independent real coefficients. They are computed in two stages, along
H and then along W, each a product with a constant real matrix:

    along H   a real signal of length H has P1 coefficients, in R + 2 * Q rows: R rows of the real frequencies (0, and
              P1 / 2 if P1 is even), then a row of real and a row of imaginary parts for each of the Q others
    along W   the R real rows together are again real signals, whose spectrum has R * P2 coefficients;
              each (re, im) pair of rows is a complex signal, whose spectrum has P2 complex coefficients

So there are two bands of rows, and no coefficient is computed twice: the half spectrum of rfft2 has 6 % more of them
at 34 x 34, 33 % more at 6 x 6. Within a band the coefficients of one item (all real rows, or one pair) are ordered as
real ones, then real parts, then imaginary parts, so that each of the three is contiguous.

Cropping and striding are rows that the inverse leaves out. Where a grid is tiny, both stages are one dense matrix.
"""

import functools
from collections.abc import Callable, Hashable
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils._python_dispatch import _get_current_dispatch_mode

T = TypeVar("T")
Complex = NDArray[np.complex128]
Reals = NDArray[np.float64]
Indices = NDArray[np.int64]
ToTensor = Callable[[Reals], Tensor]
DENSE_PIXELS = 121  # up to 11 x 11, one dense matrix is faster than two stages (docs/performance.md)


@dataclass(frozen=True)
class Geometry:
    """What the constants depend on: the input's size and how the kernel moves over it."""

    height: int
    width: int
    kernel: int
    stride: int
    padding: int

    @property
    def grid(self) -> tuple[int, int]:
        """(P1, P2), on which the full correlation is circular."""
        return self.height + self.kernel - 1, self.width + self.kernel - 1

    @property
    def kept(self) -> tuple[range, range]:
        """The rows and columns of the grid that the output keeps."""
        crop = self.kernel - 1 - self.padding
        p1, p2 = self.grid
        return range(crop, p1 - crop, self.stride), range(crop, p2 - crop, self.stride)

    @property
    def out(self) -> tuple[int, int]:
        height, width = ((n + 2 * self.padding - self.kernel) // self.stride + 1 for n in (self.height, self.width))
        return height, width


@dataclass(frozen=True)
class Band:
    """Rows of the stage along H that share their matrices: `count` items of `rows` rows each, from row `first` on.

    kernels: (count, coefs, k * k), the DFT of a kernel's taps at each coefficient's frequency.
    half_spectrum: (count, coefs), where in a flattened half spectrum (P1, P2 // 2 + 1) each coefficient's V is.
    """

    first: int
    rows: int
    count: int
    real: int  # how many of an item's coefficients are real; the others are the parts of `pairs` complex ones
    pairs: int
    kernels: Tensor
    half_spectrum: Tensor


@dataclass(frozen=True)
class Side:
    """The two stages that take images (N, height, width, C) to their coefficients; transposed, they take them back.

    down: (P1, height), along H, or None where the stage along W is a dense matrix that does both.
    across: a matrix for each band, (coefs, rows * width), along W.
    """

    height: int
    width: int
    down: Tensor | None
    across: tuple[Tensor, ...]

    @property
    def dtype(self) -> torch.dtype:
        return self.across[0].dtype


@dataclass(frozen=True)
class Constants:
    """The input's transform, and the transpose of the inverse that gives the kept rows and columns of the output."""

    source: Side
    target: Side
    bands: tuple[Band, ...]

    @property
    def dtype(self) -> torch.dtype:
        return self.source.dtype


def _kept(build: Callable[..., T]) -> Callable[..., T]:
    """`build`, its newest results kept for all layers, but none that were made under a mode, such as fake tensors."""
    kept = functools.lru_cache(maxsize=32)(build)  # a ResNet has at most a dozen geometries

    @functools.wraps(build)
    def find(*key: Hashable) -> T:
        return build(*key) if under_a_mode() else kept(*key)

    find.cache_info, find.cache_clear = kept.cache_info, kept.cache_clear  # type: ignore[attr-defined]
    return find


def under_a_mode() -> bool:
    """Whether something like FakeTensorMode stands between this code and torch's operators."""
    return _get_current_dispatch_mode() is not None


@_kept
def constants(geometry: Geometry, dtype: torch.dtype, device: torch.device) -> Constants:
    """Built in float64 and rounded once to `dtype`; shared by every layer of that geometry."""
    p1, p2 = geometry.grid
    real1, paired1 = _frequencies(p1)
    real2, paired2 = _frequencies(p2)
    dense = geometry.height * geometry.width <= DENSE_PIXELS

    real, pairs = _grid(real1, real2), _grid(real1, paired2)
    if dense:
        pairs = np.concatenate([pairs, _grid(paired1, np.arange(p2))])
    twice = np.repeat([1.0, 2.0], [len(real), 2 * len(pairs)])[:, None]  # a pair stands for its conjugate too

    def side(positions1: range, positions2: range, *, inverse: bool) -> Side:
        down, across = _dft(p1, positions1), _dft(p2, positions2)
        if dense:
            scale = twice / (p1 * p2) if inverse else 1.0
            return Side(len(positions1), len(positions2), None, (tensor(scale * _real_of(down, across, real, pairs)),))
        row = np.zeros((p1, len(real1)), complex)  # within the band of real rows, each has its own frequency
        row[real1, np.arange(len(real1))] = 1
        first, second = _real_of(row, across, real, pairs), _as_real(across)
        both = np.concatenate([down[real1].real, _interleaved(down[paired1])])
        if inverse:
            both *= np.repeat([1.0, 2.0], [len(real1), 2 * len(paired1)])[:, None] / p1
            first, second = first * twice / p2, second / p2
        return Side(len(positions1), len(positions2), tensor(both), (tensor(first), tensor(second)))

    def tensor(array: Reals) -> Tensor:
        return torch.tensor(array, dtype=dtype, device=device)

    def band(first: int, rows: int, count: int, real: Indices, pairs: Indices) -> Band:
        of_real, of_pairs = (_kernel_dft(geometry, f).reshape(count, -1, geometry.kernel**2) for f in (real, pairs))
        parts = [of_real.real, of_pairs.real, of_pairs.imag]
        spots = [_in_half_spectrum(geometry, f).reshape(count, -1) for f in (real, pairs, pairs)]
        return Band(
            first,
            rows,
            count,
            real=len(real),
            pairs=len(pairs) // count,
            kernels=tensor(np.concatenate(parts, axis=1)),
            half_spectrum=torch.tensor(np.concatenate(spots, axis=1), device=device),
        )

    bands = [band(0, geometry.height if dense else len(real1), 1, real, pairs)]
    if not dense and len(paired1):
        bands.append(band(len(real1), 2, len(paired1), real[:0], _grid(paired1, np.arange(p2))))
    source = side(range(geometry.height), range(geometry.width), inverse=False)
    return Constants(source, side(*geometry.kept, inverse=True), tuple(bands))


@_kept
def autocorrelation(kernel: int, grid: tuple[int, int], device: torch.device) -> tuple[Tensor, Tensor]:
    """Two float64 matrices that take a Gram matrix of taps (k^4) to the power spectrum (P1 * (P2 // 2 + 1)).

    (k^4, lags) sums the Gram matrix over the pairs of taps that lie equally far apart, a lag and its negative being
    one; (lags, frequencies) is the cosine of each lag at each frequency.
    """
    (p1, p2), taps = grid, _grid(np.arange(kernel), np.arange(kernel))
    apart = (taps[:, None] - taps[None]).reshape(-1, 2)
    flip = (apart[:, 0] < 0) | ((apart[:, 0] == 0) & (apart[:, 1] < 0))
    lags, which = np.unique(np.where(flip[:, None], -apart, apart), axis=0, return_inverse=True)
    sums = np.zeros((len(apart), len(lags)))
    sums[np.arange(len(apart)), which.reshape(-1)] = 1
    f1, f2 = _grid(np.arange(p1), np.arange(p2 // 2 + 1)).T
    turns = np.outer(lags[:, 0], f1) % p1 / p1 + np.outer(lags[:, 1], f2) % p2 / p2
    return torch.tensor(sums, device=device), torch.tensor(np.cos(2 * np.pi * turns), device=device)


def _kernel_dft(geometry: Geometry, frequencies: Indices) -> Complex:
    """(len(frequencies), k * k): the DFT of a kernel's taps, mirrored, since the layer correlates."""
    (p1, p2), taps = geometry.grid, range(geometry.kernel - 1, -1, -1)
    first, second = _dft(p1, taps)[frequencies[:, 0]], _dft(p2, taps)[frequencies[:, 1]]
    return (first[:, :, None] * second[:, None, :]).reshape(len(frequencies), geometry.kernel**2)


def _real_of(first: Complex, second: Complex, real: Indices, pairs: Indices) -> Reals:
    """(len(real) + 2 * len(pairs), n * m): what the outer products of `first` (P1, n) and `second` (P2, m) make of a
    real signal at the frequencies `real`, then the real parts, then the imaginary parts at `pairs`."""

    def at(frequencies: Indices) -> Complex:
        left, right = first[frequencies[:, 0]], second[frequencies[:, 1]]
        return (left[:, :, None] * right[:, None, :]).reshape(len(frequencies), first.shape[1] * second.shape[1])

    return np.concatenate([at(real).real, at(pairs).real, at(pairs).imag])


def _dft(n: int, positions: range) -> Complex:
    """(n, len(positions)): exp(-2 pi i f u / n), with f u reduced modulo n so that large sizes stay exact."""
    turns = np.outer(np.arange(n), np.asarray(positions, dtype=np.int64)) % n
    return np.exp(-2j * np.pi * turns / n)


def _frequencies(n: int) -> tuple[Indices, Indices]:
    """The frequencies at which a real signal's spectrum is real, and one of each conjugate pair of the others."""
    return np.array([0, n // 2] if n % 2 == 0 else [0]), np.arange(1, (n + 1) // 2)


def _grid(first: Indices, second: Indices) -> Indices:
    """(len(first) * len(second), 2): every pair of a frequency along H and one along W."""
    return np.stack(np.meshgrid(first, second, indexing="ij"), axis=-1).reshape(-1, 2)


def _interleaved(rows: Complex) -> Reals:
    """(n, m) complex -> (2 n, m) real: re and im of each row in turn."""
    return np.stack([rows.real, rows.imag], axis=1).reshape(-1, rows.shape[1])


def _as_real(matrix: Complex) -> Reals:
    """(n, m) complex -> (2 n, 2 m) real: the same map of (re, im)."""
    return np.block([[matrix.real, -matrix.imag], [matrix.imag, matrix.real]])


def _in_half_spectrum(geometry: Geometry, frequencies: Indices) -> Indices:
    """Where in a flattened (P1, P2 // 2 + 1) half spectrum each frequency, or the conjugate one, is."""
    p1, p2 = geometry.grid
    f1, f2 = frequencies.T
    upper = f2 > p2 // 2
    return np.where(upper, -f1 % p1, f1) * (p2 // 2 + 1) + np.where(upper, p2 - f2, f2)
