"""How long each method of ConvNorm takes on a CPU, estimated from counts: `method="auto"` takes the fastest.

An estimate is a sum of counts (multiply-adds, numbers read and written, calls), each times its seconds.
`python -m benchmarks.methods` measures the methods and fits the seconds. There are those of one processor with AVX-512
and of one without, on which the ratios differ most: products of matrices gain more by it than FFTs. The choice depends
on the ratios alone, and on nothing that varies from run to run, so that a resumed run computes the same numbers.
"""

from collections.abc import Callable
from typing import NamedTuple

import torch

from .preconv_constants import DENSE_PIXELS, Geometry
from .preconv_kept import kept


class Task(NamedTuple):
    """A layer's work on one batch: its forward pass, or in training its forward and backward pass."""

    batch: int
    c_in: int
    c_out: int
    geometry: Geometry
    training: bool
    dilation: int = 1  # of the geometry's kernel, whose size includes it

    @property
    def convolution(self) -> int:
        """Multiply-adds of torch's convolution on the whole grid. The backward pass has twice the forward pass's."""
        p1, p2 = self.geometry.grid
        taps = ((self.geometry.kernel - 1) // self.dilation + 1) ** 2
        forward = self.batch * self.c_in * self.c_out * taps * p1 * p2
        return forward * (3 if self.training else 1)


Counts = tuple[float, ...]


def fft(task: Task) -> Counts:
    """The convolution, numbers of the maps, calls."""
    p1, p2 = task.geometry.grid
    times = 2 if task.training else 1
    return task.convolution, times * task.batch * task.c_out * p1 * p2, times


def filtered(task: Task) -> Counts:
    """The convolution, multiply-adds of the transforms, numbers of the maps, calls."""
    (p1, p2), (height, width) = task.geometry.grid, task.geometry.out
    even1, even2 = p1 + p1 % 2, p2 + p2 % 2
    transforms = even1 * (p1 * p2 + p2 * even2 + even2 * width + height * width)
    times = 2 if task.training else 1
    maps = times * task.batch * task.c_out
    return task.convolution, maps * transforms, maps * even1 * even2, times


def matmul(task: Task) -> Counts:
    """Multiply-adds of the transforms, coefficients, products, spectra (made, and kept before), blocks, calls."""
    (p1, p2), (out1, out2) = task.geometry.grid, task.geometry.out
    height, width = task.geometry.height, task.geometry.width
    frequencies = p1 * p2
    if height * width <= DENSE_PIXELS:
        into, back, blocks = frequencies * height * width, frequencies * out1 * out2, 1
    else:
        into, back = (p1 * n * m + 2 * frequencies * m for n, m in ((height, width), (out1, out2)))
        blocks = (p1 + 1) // 2
    transforms = task.batch * (2.5 if task.training else 1)  # backward: of x again, of the gradients to y and to x
    products = 3 if task.training else 1
    c_in, c_out = max(task.c_in, 8), max(task.c_out, 8)  # fewer channels take as long as eight
    spectra = task.c_in * task.c_out * frequencies
    return (
        transforms * (c_in * into + c_out * back),
        transforms * (c_in + c_out) * frequencies,
        products * 2 * task.batch * spectra,
        products * spectra if task.training else 0,
        0 if task.training else spectra,
        products * blocks,
        products,
    )


COUNTS: dict[str, Callable[[Task], Counts]] = {"fft": fft, "filter": filtered, "matmul": matmul}
#: By torch.backends.cpu.get_cpu_capability(); any other one takes the first.
SECONDS: dict[str, dict[str, Counts]] = {
    "AVX2": {
        "fft": (31e-12, 14e-9, 0.71e-3),
        "filter": (29e-12, 42e-12, 9.1e-9, 0.82e-3),
        "matmul": (53e-12, 2.2e-9, 24e-12, 2.8e-9, 0.87e-9, 0.39e-3, 0.2e-3),
    },
    "AVX512": {
        "fft": (10e-12, 7.5e-9, 0.42e-3),
        "filter": (9.4e-12, 9.3e-12, 3.5e-9, 0.49e-3),
        "matmul": (14e-12, 0.58e-9, 9.3e-12, 0.69e-9, 0.38e-9, 0.12e-3, 0.22e-3),
    },
}
_HERE = SECONDS.get(torch.backends.cpu.get_cpu_capability(), SECONDS["AVX2"])


def seconds(method: str, task: Task) -> float:
    return sum(count * cost for count, cost in zip(COUNTS[method](task), _HERE[method], strict=True))


@kept
def fastest(task: Task, among: tuple[str, ...] = tuple(COUNTS)) -> str:
    best, *others = among  # no min(): torch's compiler has none for sizes that are not known yet
    for method in others:
        best = method if seconds(method, task) < seconds(best, task) else best
    return best
