"""Groups and dilation, against the layer's definition in plain loops and dense matrices."""

from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call

from models.preconv import METHODS, PreConv2d
from models.preconv_fft import dilated, preconditioner
from models.preconv_operators import preconditioner as by_gram

# (c_in, c_out, k, stride, padding, dilation, groups), and the images' size
CASES = [
    ((4, 6, 3, 1, 1, 1, 2), (6, 7)),
    ((4, 4, 3, 2, 1, 1, 4), (7, 8)),  # depthwise
    ((3, 6, 3, 1, 2, 2, 3), (5, 6)),  # depthwise, two outputs for each input
    ((2, 3, 3, 1, 4, 3, 1), (8, 5)),
    ((4, 4, 5, 2, 3, 2, 2), (13, 12)),
    ((4, 6, 1, 2, 0, 3, 2), (5, 6)),
]
GROUPED = {name for name, method in METHODS.items() if method.any_convolution}


def gain(weight: np.ndarray, rows: int, columns: int, dilation: int) -> np.ndarray:
    """V (C_out, P1, P2) from dense DFT matrices of the kernels with their zeros."""
    size = dilation * (weight.shape[-1] - 1) + 1
    spread = np.zeros((*weight.shape[:2], size, size))
    spread[..., ::dilation, ::dilation] = weight
    down, across = dft(rows)[:, :size], dft(columns)[:, :size]
    return (np.abs(down @ spread @ across.T) ** 2).sum(1) ** -0.5


def dft(n: int) -> np.ndarray:
    return np.exp(-2j * np.pi * np.outer(np.arange(n), np.arange(n)) / n)


def by_definition(x: np.ndarray, layer: PreConv2d, v: np.ndarray | None = None) -> np.ndarray:
    """Steps 1 to 4 with the preconditioner `v`, or with that of the weights."""
    weight = layer.weight.detach().numpy()
    c_out, inputs, k, _ = weight.shape
    reach = layer.dilation * (k - 1)
    rows, columns = x.shape[2] + reach, x.shape[3] + reach
    padded = np.pad(x, ((0, 0), (0, 0), (reach, reach), (reach, reach)))
    full = np.zeros((len(x), c_out, rows, columns))
    for o in range(c_out):
        first = o // (c_out // layer.groups) * inputs
        for j, a, b in np.ndindex(inputs, k, k):
            top, left = layer.dilation * a, layer.dilation * b
            full[:, o] += weight[o, j, a, b] * padded[:, first + j, top : top + rows, left : left + columns]
    v = gain(weight, rows, columns, layer.dilation) if v is None else v
    y_hat = dft(rows) @ full @ dft(columns).T * v
    y = (dft(rows).conj() @ y_hat @ dft(columns).conj().T / (rows * columns)).real
    crop = reach - layer.padding
    return y[:, :, crop : rows - crop : layer.stride, crop : columns - crop : layer.stride]


def made(case: tuple[int, ...], method: str, **options: Any) -> PreConv2d:
    torch.manual_seed(0)
    return PreConv2d(*case, method=method, dtype=torch.float64, **options)


@pytest.mark.parametrize(("case", "size"), CASES)
@pytest.mark.parametrize("method", ["auto", *METHODS])
def test_groups_and_dilation_are_the_definition_s(method: str, case: tuple[int, ...], size: tuple[int, int]) -> None:
    if case[-1] > 1 and method not in {"auto", *GROUPED}:
        with pytest.raises(ValueError, match="groups=1"):
            made(case, method)
        return
    layer = made(case, method, affine=False, momentum=1.0)
    x = torch.randn(2, case[0], *size, dtype=torch.float64)
    y = layer(x)
    assert y.shape == nn.Conv2d(*case).double()(x).shape
    np.testing.assert_allclose(y.detach().numpy(), by_definition(x.numpy(), layer), atol=1e-12)
    reach = layer.dilation * (layer.kernel_size - 1)
    grid = (1, 1) if reach == 0 else (size[0] + reach, size[1] + reach)
    v = gain(layer.weight.detach().numpy(), *grid, layer.dilation)
    np.testing.assert_allclose(layer.running_preconditioner.numpy(), v[:, :, : grid[1] // 2 + 1], rtol=1e-10)
    with torch.no_grad():
        layer.weight.add_(0.3 * torch.randn_like(layer.weight))
    wanted = by_definition(x.numpy(), layer.eval(), v)
    np.testing.assert_allclose(layer(x).detach().numpy(), wanted, atol=1e-11)
    with torch.no_grad():  # by what is kept for the next batch
        np.testing.assert_allclose(layer(x).numpy(), wanted, atol=1e-11)
    narrow = layer.float()
    assert np.abs(narrow(x.float()).detach().numpy() - wanted).max() < 1e-4 * np.abs(wanted).max()


@pytest.mark.parametrize(("case", "size"), CASES[2:5])
@pytest.mark.parametrize("method", METHODS)
def test_gradients_of_groups_and_dilation(method: str, case: tuple[int, ...], size: tuple[int, int]) -> None:
    if case[-1] > 1 and method not in GROUPED:
        pytest.skip("refused")
    layer = made(case, method)
    x = torch.randn(2, case[0], *size, dtype=torch.float64, requires_grad=True)
    layer(x)
    layer.eval()  # holds V while gradcheck moves the weights
    names, values = zip(*layer.named_parameters(), strict=True)

    def run(x: Tensor, *parameters: Tensor) -> Tensor:
        return functional_call(layer, dict(zip(names, parameters, strict=True)), (x,))

    inputs = (x, *(value.detach().requires_grad_() for value in values))
    assert torch.autograd.gradcheck(run, inputs, fast_mode=True)
    assert torch.autograd.gradgradcheck(run, inputs, fast_mode=True)


def test_the_affine_part_has_no_dilation() -> None:
    layer = made((4, 6, 3, 1, 2, 2, 2), "filter")
    nn.init.normal_(layer.affine.weight)
    nn.init.normal_(layer.affine.bias)
    x = torch.randn(2, 4, 6, 7, dtype=torch.float64)
    plain = torch.from_numpy(by_definition(x.numpy(), layer))
    wanted = F.conv2d(plain, layer.affine.weight, layer.affine.bias, padding=1, groups=6)
    torch.testing.assert_close(layer(x), wanted)


def test_a_depthwise_layer_is_an_isometry_of_each_channel_on_the_grid() -> None:
    layer = made((3, 3, 3, 1, 2, 1, 3), "auto", affine=False)  # padding 2 keeps the whole grid
    x = torch.randn(2, 3, 6, 7, dtype=torch.float64)
    torch.testing.assert_close(layer(x).flatten(2).norm(dim=2), x.flatten(2).norm(dim=2))


@pytest.mark.parametrize("dilation", [1, 2, 5])
@pytest.mark.parametrize("k", [2, 3, 4])
def test_zeros_between_taps_and_the_gram_matrix_s_lags(k: int, dilation: int) -> None:
    weight = torch.randn(3, 2, k, k)
    spread = dilated(weight, dilation)
    assert spread.shape[-1] == dilation * (k - 1) + 1
    assert torch.equal(spread[..., ::dilation, ::dilation], weight)
    assert spread.count_nonzero() == weight.numel()
    grid = (spread.shape[-1] + 4, spread.shape[-1] + 5)
    exact = preconditioner(weight.double(), grid, dilation).float()
    torch.testing.assert_close(by_gram(weight, grid, dilation), exact, rtol=1e-5, atol=0)


def test_same_padding_and_sizes_count_the_dilation() -> None:
    assert PreConv2d(3, 4, 3, padding="same", dilation=3)(torch.randn(1, 3, 9, 8)).shape == (1, 4, 9, 8)
    assert PreConv2d(3, 4, 4, padding="same", dilation=2, affine=False)(torch.randn(1, 3, 9, 8)).shape == (1, 4, 9, 8)
    assert PreConv2d(2, 2, 3, 1, 2, 2, 2, input_size=(5, 6)).running_preconditioner.shape == (2, 9, 6)
    with pytest.raises(ValueError, match="padding must be from 0 to"):
        PreConv2d(3, 4, 3, padding=5, dilation=2)
    with pytest.raises(ValueError, match="smaller than the 7-wide kernel"):
        PreConv2d(3, 4, 3, dilation=3)(torch.zeros(1, 3, 6, 8))
    for wrong in ({"groups": 2}, {"groups": 0}, {"dilation": 0}, {"dilation": (1, 2)}, {"padding_mode": "reflect"}):
        with pytest.raises(ValueError, match=next(iter(wrong))):
            PreConv2d(3, 4, 3, **wrong)
    layer = PreConv2d(4, 4, 3)
    layer.groups, layer.method = 2, "matmul"
    with pytest.raises(ValueError, match="groups=1"):
        layer(torch.zeros(1, 4, 6, 6))
    assert "dilation=3, groups=2" in repr(PreConv2d(4, 4, 3, dilation=3, groups=2))


def test_auto_leaves_groups_and_dilation_to_torch_s_convolution() -> None:
    x = torch.empty(128, 64, 32, 32)
    assert PreConv2d(64, 64, 3, padding=1)._pick_method(x).name == "matmul"
    for option in ({"groups": 64}, {"groups": 2}, {"dilation": 2}):
        layer = PreConv2d(64, 64, 3, padding=1, **option)
        assert layer._pick_method(x).name in {"fft", "filter"}
        with torch.autocast("cpu", dtype=torch.bfloat16):
            assert layer._pick_method(x).name == "fft"
