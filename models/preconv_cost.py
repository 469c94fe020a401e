"""How long each method of ConvNorm takes on a CPU, estimated from counts: `method="auto"` takes the shortest.

The counts are those of multiply-adds, of numbers that are read and written, and of calls. The seconds for each were
fitted to measurements (docs/performance.md). They are those of one processor, but the choice depends on their ratios
alone. It depends on nothing that varies from run to run, so a resumed run computes the same numbers.
"""

from collections.abc import Callable
from typing import NamedTuple

from .preconv_constants import DENSE_PIXELS, Geometry


class Task(NamedTuple):
    """A layer's work on one batch: its forward pass, or in training its forward and backward pass."""

    batch: int
    c_in: int
    c_out: int
    geometry: Geometry
    training: bool

    @property
    def passes(self) -> int:
        """A backward pass takes two products where the forward pass takes one."""
        return 3 if self.training else 1


def fft(task: Task) -> float:
    p1, p2 = task.geometry.grid
    maps = task.batch * task.c_out * p1 * p2 * (2 if task.training else 1)
    return 1.1 * (_convolution(task) + 12e-9 * maps + 0.6e-3 * (2 if task.training else 1))


def filtered(task: Task) -> float:
    (p1, p2), (height, width) = task.geometry.grid, task.geometry.out
    even1, even2 = p1 + p1 % 2, p2 + p2 % 2
    products = even1 * p1 * p2 + even1 * p2 * even2 + even1 * even2 * width + even1 * height * width
    maps = task.batch * task.c_out * (36e-12 * products + 7.6e-9 * even1 * even2) + 1.2e-3
    return _convolution(task) + maps * (2 if task.training else 1) + 5e-9 * task.c_out * even1 * even2


def matmul(task: Task) -> float:
    (p1, p2), (out1, out2) = task.geometry.grid, task.geometry.out
    height, width = task.geometry.height, task.geometry.width
    frequencies = p1 * p2
    if height * width <= DENSE_PIXELS:
        into, back, blocks = frequencies * height * width, frequencies * out1 * out2, 1
    else:
        into, back = (p1 * n * m + 2 * frequencies * m for n, m in ((height, width), (out1, out2)))
        blocks = (p1 + 1) // 2
    # products of a few channels take as long as those of eight
    c_in, c_out = max(task.c_in, 8), max(task.c_out, 8)
    transforms = task.batch * (43e-12 * (c_in * into + c_out * back) + 2.2e-9 * (c_in + c_out) * frequencies)
    products = 2 * 21e-12 * task.batch * task.c_in * task.c_out * frequencies
    spectra = (2.3e-9 if task.training else 0.7e-9) * task.c_in * task.c_out * frequencies  # an evaluation keeps them
    calls = 0.32e-3 * blocks + 0.5e-3
    return transforms * (2.5 if task.training else 1.0) + (products + spectra + calls) * task.passes


def _convolution(task: Task) -> float:
    """Of torch, on the whole grid, whatever the stride."""
    p1, p2 = task.geometry.grid
    return 26e-12 * task.batch * task.c_in * task.c_out * task.geometry.kernel**2 * p1 * p2 * task.passes


COSTS: dict[str, Callable[[Task], float]] = {"fft": fft, "filter": filtered, "matmul": matmul}


def fastest(task: Task) -> str:
    return min(COSTS, key=lambda method: COSTS[method](task))
