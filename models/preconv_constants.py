"""The constant matrices of ConvNorm's matrix products, one set for each geometry.

On the (P1, P2) grid the real 2-D DFT has P1 * P2 independent real coefficients. They are computed in two stages, along
H and then along W, each a product with a constant real matrix:

    along H   a real signal of length H has P1 coefficients, in R + 2 * Q rows: R rows for the real frequencies (0, and
              P1 / 2 if P1 is even), then a row of real and a row of imaginary parts for each of the Q others
    along W   the R real rows are real signals again, and their spectra have R * P2 real coefficients in all;
              each (re, im) pair of rows is a complex signal, and its spectrum has P2 complex coefficients

So no coefficient is computed twice. The half spectrum of rfft2 has 6 % more of them at 34 x 34, and 33 % more at 6 x 6.
A `Block` is a set of coefficients that are computed together: the real rows, or one pair of rows (on a GPU all pairs).
On a tiny grid one dense matrix does both stages, and one block has all coefficients and a single row of H * W pixels.

The inverse is the transpose of such matrices, made for the kept rows and columns only: crop and stride are free.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from .preconv_kept import kept

DENSE_PIXELS = 121  # up to 11 x 11, one dense matrix is faster than two stages (docs/performance.md)


@dataclass(frozen=True)
class Geometry:
    """The input's size and the kernel's size, stride and padding, which determine the constants."""

    height: int
    width: int
    kernel: int
    stride: int
    padding: int

    @property
    def grid(self) -> tuple[int, int]:
        """(P1, P2), the grid on which the full correlation is circular."""
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
class Block:
    """Coefficients that are computed together: `real` real ones, then the real and the imaginary parts of `pairs`.

    An item is the rows that one matrix transforms: all real rows, or one pair of rows.

    rows: the block's slice of the rows of the stage along H, the rows of all its `items`.
    source: (coefs / items, rows / items * W), the stage along W of one item of the input.
    target: the same for the kept columns of the output; its transpose is the inverse.
    coefs: the block's slice of all coefficients.
    """

    rows: slice
    items: int
    real: int
    pairs: int
    source: Tensor
    target: Tensor
    coefs: slice


@dataclass(frozen=True)
class Constants:
    """All constant matrices of a geometry.

    source, target: (P1, H) and (P1, H'), the stages along H of the input and of the output; None if dense matrices of
        all pixels do both stages.
    kernels: (P1 * P2, k * k), the DFT of a kernel's taps at each coefficient's frequency.
    half_spectrum: (P1 * P2,), the index of each coefficient's V in a flattened half spectrum (P1, P2 // 2 + 1).
    """

    source: Tensor | None
    target: Tensor | None
    blocks: tuple[Block, ...]
    kernels: Tensor
    half_spectrum: Tensor

    @property
    def dtype(self) -> torch.dtype:
        return self.kernels.dtype


@kept
def constants(geometry: Geometry, dtype: torch.dtype, device: torch.device) -> Constants:
    """The constants, built in float64 and rounded once to `dtype`; all layers of a geometry share them."""
    p1, p2 = geometry.grid
    (real1, pairs1), (real2, pairs2) = _frequencies(p1), _frequencies(p2)
    all2 = torch.arange(p2, device="cpu")
    images, outputs = (range(geometry.height), range(geometry.width)), geometry.kept

    def tensor(matrix: Tensor) -> Tensor:
        return matrix.to(dtype).contiguous().to(device)

    blocks: list[Block] = []
    kernels: list[Tensor] = []
    places: list[Tensor] = []

    def add(first: int, rows: int, items: int, real: Tensor, pairs: Tensor, source: Tensor, target: Tensor) -> None:
        start, size = sum(map(len, kernels)), len(real) + 2 * len(pairs)
        coefs = slice(start, start + size)
        blocks.append(Block(slice(first, first + rows), items, len(real), len(pairs), source, target, coefs))
        frequencies = torch.cat([real, pairs, pairs])
        dft = _kernel_dft(geometry, frequencies)
        kernels.append(torch.cat([dft.real[: size - len(pairs)], dft.imag[size - len(pairs) :]]))
        places.append(in_half_spectrum(geometry.grid, frequencies))

    def all_of(source: Tensor | None, target: Tensor | None) -> Constants:
        return Constants(source, target, tuple(blocks), tensor(torch.cat(kernels)), torch.cat(places).to(device))

    if geometry.height * geometry.width <= DENSE_PIXELS:
        real, pairs = every(real1, real2), torch.cat([every(real1, pairs2), every(pairs1, all2)])
        into, back = (
            _real_of(_dft(p1, positions1), _dft(p2, positions2), real, pairs)
            for positions1, positions2 in (images, outputs)
        )
        back = back * _for_conjugates(real, pairs) / (p1 * p2)
        add(0, 1, 1, real, pairs, tensor(into), tensor(back))
        return all_of(None, None)

    down1, up1 = (_along_h(p1, positions, real1, pairs1) for positions, _ in (images, outputs))
    up1 = up1 * _for_conjugates(real1, pairs1) / p1
    down2, up2 = (_dft(p2, positions) for _, positions in (images, outputs))
    real, pairs = every(real1, real2), every(real1, pairs2)
    own_row = torch.zeros(p1, len(real1), dtype=torch.complex128, device="cpu")  # each real row has its own frequency
    own_row[real1, torch.arange(len(real1), device="cpu")] = 1
    into, back = (_real_of(own_row, across, real, pairs) for across in (down2, up2))
    back = back * _for_conjugates(real, pairs) / p2
    add(0, len(real1), 1, real, pairs, tensor(into), tensor(back))
    into, back = tensor(_as_real(down2)), tensor(_as_real(up2) / p2)
    items = _together(len(pairs1), device)
    for i in range(0, len(pairs1), items):
        some = every(pairs1[i : i + items], all2)
        add(len(real1) + 2 * i, 2 * items, items, real[:0], some, into, back)
    return all_of(tensor(down1), tensor(up1))


def _together(pairs: int, device: torch.device) -> int:
    """The number of pairs of rows in a block: one on a CPU, so that operands fit a core's cache, and all on a GPU."""
    return 1 if device.type == "cpu" else max(1, pairs)


@kept
def autocorrelation(kernel: int, grid: tuple[int, int], dilation: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """Two float64 matrices whose product maps a Gram matrix of taps (k^4) to the power spectrum (P1 * (P2 // 2 + 1)).

    The first, (k^4, lags), sums the Gram matrix over the pairs of taps at each lag; a lag and its negative are one. The
    second, (lags, frequencies), is the cosine of each lag at each frequency.
    """
    (p1, p2), span = grid, 2 * kernel - 1
    place = torch.arange(kernel, device="cpu")
    taps = every(place, place)
    apart = (taps[:, None] - taps[None]).reshape(-1, 2)
    # one number for a lag's rows and columns; abs() maps a lag and its negative to one number, 0 to 2 k (k - 1)
    which = (apart[:, 0] * span + apart[:, 1]).abs()
    number = torch.arange(2 * kernel * (kernel - 1) + 1, device="cpu")
    rows = (number + kernel - 1).div(span, rounding_mode="floor")
    columns = number - rows * span
    f1, f2 = every(torch.arange(p1, device="cpu"), torch.arange(p2 // 2 + 1, device="cpu")).T
    turns = (rows[:, None] * dilation * f1 % p1).double() / p1 + (columns[:, None] * dilation * f2 % p2).double() / p2
    sums = (which[:, None] == number).to(torch.float64)
    return sums.to(device), (2 * math.pi * turns).cos().to(device)


def _frequencies(n: int) -> tuple[Tensor, Tensor]:
    """The frequencies at which a real signal's spectrum is real, and one frequency of each other conjugate pair."""
    return torch.tensor([0, n // 2] if n % 2 == 0 else [0], device="cpu"), torch.arange(1, (n + 1) // 2, device="cpu")


def every(first: Tensor, second: Tensor) -> Tensor:
    """(len(first) * len(second), 2): all pairs of an element of `first` and one of `second`."""
    return torch.stack(torch.meshgrid(first, second, indexing="ij"), dim=-1).reshape(-1, 2)


def _for_conjugates(real: Tensor, pairs: Tensor) -> Tensor:
    """(len(real) + 2 * len(pairs), 1): weights of the inverse, 2 where a coefficient also stands for its conjugate."""
    counts = [1.0] * len(real) + [2.0] * (2 * len(pairs))
    return torch.tensor(counts, dtype=torch.float64, device="cpu").unsqueeze(1)


def _dft(n: int, positions: range) -> Tensor:
    """(n, len(positions)): exp(-2 pi i f u / n), with f u reduced modulo n so that large sizes stay exact."""
    places = torch.tensor(list(positions), dtype=torch.int64, device="cpu")
    angle = (torch.outer(torch.arange(n, device="cpu"), places) % n).double() * (-2 * math.pi) / n
    return torch.complex(angle.cos(), angle.sin())


def _along_h(n: int, positions: range, real: Tensor, pairs: Tensor) -> Tensor:
    """(n, len(positions)): the rows of the real frequencies, then re and im of each pair in turn."""
    down = _dft(n, positions)
    both = torch.stack([down[pairs].real, down[pairs].imag], dim=1)
    return torch.cat([down[real].real, both.flatten(0, 1)])


def _real_of(first: Tensor, second: Tensor, real: Tensor, pairs: Tensor) -> Tensor:
    """(len(real) + 2 * len(pairs), n * m): the outer products of `first` (P1, n) and `second` (P2, m) as a real matrix:
    the real parts at the frequencies `real`, then the real and then the imaginary parts at `pairs`."""
    at_real, at_pairs = (_outer(first, second, frequencies) for frequencies in (real, pairs))
    return torch.cat([at_real.real, at_pairs.real, at_pairs.imag])


def _outer(first: Tensor, second: Tensor, frequencies: Tensor) -> Tensor:
    """(F, n * m): the outer product of row f1 of `first` (P1, n) and row f2 of `second` (P2, m), for each (f1, f2)."""
    return (first[frequencies[:, 0]][:, :, None] * second[frequencies[:, 1]][:, None, :]).flatten(1)


def _as_real(matrix: Tensor) -> Tensor:
    """(n, m) complex -> (2 n, 2 m) real, the same map on (re, im)."""
    re, im = matrix.real, matrix.imag
    return torch.cat([torch.cat([re, -im], dim=1), torch.cat([im, re], dim=1)])


def _kernel_dft(geometry: Geometry, frequencies: Tensor) -> Tensor:
    """(F, k * k): the DFT of a kernel's mirrored taps, since the layer correlates."""
    (p1, p2), taps = geometry.grid, range(geometry.kernel - 1, -1, -1)
    return _outer(_dft(p1, taps), _dft(p2, taps), frequencies)


def in_half_spectrum(grid: tuple[int, int], frequencies: Tensor) -> Tensor:
    """The index of each frequency (F, 2), or of its conjugate, in a flattened (P1, P2 // 2 + 1) half spectrum."""
    p1, p2 = grid
    f1, f2 = frequencies.T
    upper = f2 > p2 // 2
    return torch.where(upper, -f1 % p1, f1) * (p2 // 2 + 1) + torch.where(upper, p2 - f2, f2)


def left(matrix: Tensor, batch: Tensor, out: Tensor | None = None) -> Tensor:
    """matrix (m, k) @ batch (N, k, n) -> (N, m, n)."""
    return torch.bmm(matrix.expand(len(batch), -1, -1), batch, out=out)
