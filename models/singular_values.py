"""The singular values of the transfer matrices of a network's convolutions.

Without its stride, a convolution is circular on the (P1, P2) = (H+k-1, W+k-1) grid. There the DFT splits it into one
C_out x C_in matrix for each frequency f, the transfer matrix. The largest singular value over all frequencies is the
convolution's Lipschitz constant on that grid, and an upper bound for the real layer, which zero-pads, crops and
strides. Here the transfer matrix is

    T(f) = diag_o(V_o(f)) A(f)      A: the DFT of the kernels; V: the preconditioner that evaluation uses, or 1

without the affine part and without a norm behind it (BatchNorm, GroupNorm, ...). docs/diagnostics.md says why.
"""

import copy
import math
from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor, nn

from models.normed import Normed
from models.preconv import PreConv2d
from models.preconv_published import PublishedPreConv2d

Convolution = nn.Conv2d | PreConv2d | PublishedPreConv2d
_CHUNK = 1 << 22  # complex numbers of transfer matrices held at a time: 64 MiB


class Layer(NamedTuple):
    """`module`, at the path `name`, is a convolution with its normalisation; `convolution` is the one in it.

    `grid` is (P1, P2), or (1, 1) for a kernel of one pixel, whose transfer matrix is the same at every frequency.
    """

    name: str
    module: nn.Module
    convolution: Convolution
    grid: tuple[int, int]


def find_layers(model: nn.Module, size: tuple[int, int]) -> list[Layer]:
    """All layers that an image of `size` (H, W) passes, in the order of their definition.

    It runs an image of zeros through a copy of `model` to find the input size of each layer; `model` does not change.
    """
    pairs = {_pair(model, path): convolution for path, convolution in _convolutions(model)}
    inputs = _input_sizes(model, size, list(pairs))
    layers = []
    for name, convolution in pairs.items():
        if name not in inputs:
            continue
        (height, width), (rows, columns) = inputs[name], convolution.weight.shape[2:]
        grid = (1, 1) if rows == columns == 1 else (height + rows - 1, width + columns - 1)
        layers.append(Layer(name, model.get_submodule(name), convolution, grid))
    return layers


@torch.no_grad()
def singular_values(convolution: Convolution, grid: tuple[int, int]) -> tuple[float, float]:
    """The largest and the smallest of the min(C_out, C_in) singular values of each T(f), over all f of `grid`.

    Computed in float64 from the eigenvalues of the Gram matrices of the smaller side. The error of a value s is about
    1e-16 * largest^2 / s, and at most 1e-8 * largest where s is 0. NaN for weights that are not finite. Waits for the
    device.
    """
    device = torch.device("cpu") if convolution.weight.device.type == "mps" else convolution.weight.device
    weight = convolution.weight.detach().to(device).double()
    gain = _gain(convolution, grid).to(device).double()  # (C_out, P1, P2 // 2 + 1)
    frequency = _distinct_frequencies(grid, device)
    gain = gain[:, frequency[:, 0], frequency[:, 1]].T  # (F, C_out)
    heard = (gain != 0).any(1)
    values = [] if bool(heard.all()) else [torch.zeros(1, dtype=torch.float64, device=device)]
    for matrices in _transfer_matrices(weight, gain[heard], frequency[heard], grid):
        tall = matrices.shape[1] > matrices.shape[2]
        gram = matrices.mH @ matrices if tall else matrices @ matrices.mH
        if not bool(torch.isfinite(torch.view_as_real(gram)).all()):
            return math.nan, math.nan
        values.append(torch.linalg.eigvalsh(gram).flatten())
    squares = torch.cat(values).clamp_min(0.0)
    return float(squares.amax().sqrt()), float(squares.amin().sqrt())


def weight_norm(convolution: Convolution) -> float:
    """The L2 norm of a convolution's kernels. Waits for the device."""
    return float(convolution.weight.detach().norm())


def _transfer_matrices(weight: Tensor, gain: Tensor, frequency: Tensor, grid: tuple[int, int]) -> Iterator[Tensor]:
    """T (F, C_out, C_in) of real kernels (C_out, C_in, k, k) and gains (F, C_out) at frequencies (F, 2), in parts of
    _CHUNK numbers."""
    c_out, c_in, rows, columns = weight.shape
    down = torch.arange(rows, device=weight.device).view(-1, 1).expand(rows, columns).flatten()
    across = torch.arange(columns, device=weight.device).repeat(rows)
    # reduce modulo the grid while in integers: a quotient of integers would be float32
    vertical = (frequency[:, :1] * down % grid[0]).double() / grid[0]
    angle = 2.0 * math.pi * (vertical + (frequency[:, 1:] * across % grid[1]).double() / grid[1])  # (F, k * k)
    taps = weight.flatten(2).permute(2, 0, 1).flatten(1)  # (k * k, C_out * C_in)
    at_once = max(1, _CHUNK // taps.shape[1])
    for part, scale in zip(angle.split(at_once), gain.split(at_once), strict=True):
        spectrum = torch.complex(part.cos() @ taps, -(part.sin() @ taps))
        yield spectrum.view(-1, c_out, c_in) * scale.unsqueeze(2)


def _gain(convolution: Convolution, grid: tuple[int, int]) -> Tensor:
    if isinstance(convolution, PreConv2d | PublishedPreConv2d):
        return convolution.evaluation_gain(grid)
    return convolution.weight.new_ones(()).expand(len(convolution.weight), grid[0], grid[1] // 2 + 1)


def _distinct_frequencies(grid: tuple[int, int], device: torch.device) -> Tensor:
    """(F, 2): one of each pair f and -f, whose transfer matrices are conjugates of each other."""
    p1, p2 = grid
    f1, f2 = torch.meshgrid(torch.arange(p1, device=device), torch.arange(p2 // 2 + 1, device=device), indexing="ij")
    mirrored = (f2 == 0) | (2 * f2 == p2)  # columns that hold both f and -f
    return torch.stack([f1, f2], 2)[~mirrored | (f1 <= p1 // 2)]


def count_convolutions(model: nn.Module) -> int:
    """All convolutions of `model`, also those of which `find_layers` has no layer."""
    return sum(1 for _ in _all_convolutions(model))


def _convolutions(model: nn.Module) -> Iterator[tuple[str, Convolution]]:
    """Dense convolutions by path. One with groups or dilation has other transfer matrices than those here."""
    for path, module in _all_convolutions(model):
        if isinstance(module, PublishedPreConv2d) or (module.groups == 1 and module.dilation in (1, (1, 1))):
            yield path, module


def _all_convolutions(model: nn.Module) -> Iterator[tuple[str, Convolution]]:
    """Convolutions by path; the depthwise affine part of a ConvNorm is not one."""
    for path, module in model.named_modules():
        parent = model.get_submodule(path.rpartition(".")[0])
        affine = isinstance(parent, PreConv2d | PublishedPreConv2d)
        if isinstance(module, PreConv2d | PublishedPreConv2d) or (isinstance(module, nn.Conv2d) and not affine):
            yield path, module


def _pair(model: nn.Module, path: str) -> str:
    """The path of the `Normed` around the convolution at `path`, or `path` if there is none."""
    parent = path.rpartition(".")[0]
    return parent if isinstance(model.get_submodule(parent), Normed) else path


@torch.no_grad()
def _input_sizes(model: nn.Module, size: tuple[int, int], paths: list[str]) -> dict[str, tuple[int, int]]:
    """(H, W) of the input of each module at `paths`; a module that is not run is missing."""
    trial = copy.deepcopy(model).eval()
    sizes: dict[str, tuple[int, int]] = {}

    def remember(path: str, x: Tensor) -> None:
        sizes[path] = (x.shape[2], x.shape[3])

    for path in paths:
        trial.get_submodule(path).register_forward_pre_hook(lambda _, inputs, path=path: remember(path, inputs[0]))
    some = next(trial.parameters())
    trial(torch.zeros(1, 3, *size, dtype=some.dtype, device=some.device))
    return sizes
