"""The published layer against its reference cases and against the published code's own way to compute it."""

import copy
import math
from collections.abc import Callable
from functools import partial

import pytest
import torch
import torch.nn.functional as F
from torch.func import functional_call

from models.norms import NORMS
from models.preconv_published import (
    PublishedPreConv2d,
    _into_columns,
    _of_products,
    _out_of_columns,
    published_preconditioner,
    two_columns,
)
from tests.reference_cases import TOLERANCE, case_errors, load_cases, relative_error

CASES, TAGS = load_cases("published_cases.npz")


@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize("tag", TAGS)
def test_layer_agrees_with_the_reference(tag: str, dtype: torch.dtype) -> None:
    errors = case_errors(CASES, tag, dtype, partial(PublishedPreConv2d, batch_norm=False))
    assert max(errors.values()) < TOLERANCE[dtype], errors


def as_published(x: torch.Tensor, weight: torch.Tensor, stride: int, padding: int) -> torch.Tensor:
    """As the published code computes it: the whole transform, of which two columns are used."""
    k = weight.shape[-1]
    grid = (x.shape[2] + k - 1, x.shape[3] + k - 1)
    v = (torch.fft.rfft2(weight, s=grid) ** 2).sum(-1).sum(1) ** -0.5  # (C_out, P1)
    spectrum = torch.fft.rfft2(F.conv2d(x, weight, padding=k - 1))
    kept = torch.stack([spectrum[..., 0] * v.detach(), spectrum[..., 1] * v.detach()], -1)
    y = torch.fft.irfft2(kept, s=grid)
    crop = k - 1 - padding
    return y[..., crop : grid[0] - crop : stride, crop : grid[1] - crop : stride]


@pytest.mark.parametrize(("k", "stride", "padding"), [(2, 1, 0), (3, 1, 1), (3, 3, 2), (5, 2, 0), (7, 1, 3)])
@pytest.mark.parametrize("size", [(9, 12), (12, 9), (7, 7)])
def test_two_columns_are_what_the_published_code_keeps(k: int, stride: int, padding: int, size: tuple) -> None:
    torch.manual_seed(k)
    x = torch.randn(2, 3, *size, dtype=torch.float64, requires_grad=True)
    weight = torch.randn(4, 3, k, k, dtype=torch.float64, requires_grad=True)
    grid = (size[0] + k - 1, size[1] + k - 1)
    ours = two_columns(x, weight, published_preconditioner(weight, grid), stride, padding)
    theirs = as_published(x, weight, stride, padding)
    assert ours.shape == theirs.shape == F.conv2d(x, weight, stride=stride, padding=padding).shape
    assert relative_error(ours, theirs) < 1e-10
    grad_out = torch.randn_like(ours)
    for got, want in zip(
        torch.autograd.grad(ours, (x, weight), grad_out),
        torch.autograd.grad(theirs, (x, weight), grad_out),
        strict=True,
    ):
        assert relative_error(got, want) < 1e-10


def test_an_image_one_pixel_wide_has_the_second_column_at_the_nyquist_frequency() -> None:
    x, weight = torch.randn(2, 3, 6, 1).double(), torch.randn(4, 3, 2, 2).double()
    got = two_columns(x, weight, published_preconditioner(weight, (7, 2)), 1, 1)
    assert relative_error(got, as_published(x, weight, 1, 1)) < 1e-10


def test_only_a_constant_and_one_cosine_are_left_along_the_width() -> None:
    y = PublishedPreConv2d(3, 5, 3, padding=2, affine=False, batch_norm=False)(torch.randn(2, 3, 10, 14))  # uncropped
    spectrum = torch.fft.rfft(y, dim=-1).abs()
    assert spectrum[..., 2:].max() < 1e-5 * spectrum[..., :2].max()


def trained(k: int = 3) -> PublishedPreConv2d:
    layer = PublishedPreConv2d(3, 4, k, padding=k // 2)
    for _ in range(3):
        layer(torch.randn(2, 3, 8, 10))
    return layer


@pytest.mark.parametrize("k", [1, 3])
def test_state_is_saved_and_loaded_like_any_other(k: int) -> None:
    layer, x = trained(k).eval(), torch.randn(2, 3, 8, 10)
    fresh = PublishedPreConv2d(3, 4, k, padding=k // 2)
    fresh.load_state_dict(copy.deepcopy(layer.state_dict()))
    assert fresh.running_preconditioner.shape == ((4, 1, 1) if k == 1 else (4, 10, 2))
    assert torch.equal(fresh.eval()(x), layer(x))
    small = PublishedPreConv2d(3, 4, k, padding=k // 2)
    small(torch.randn(2, 3, 5, 5))
    small.load_state_dict(layer.state_dict())
    assert torch.equal(small.eval()(x), layer(x))
    with pytest.raises(RuntimeError, match="size mismatch"):
        PublishedPreConv2d(3, 5, k).load_state_dict(layer.state_dict())


def test_an_estimate_that_was_saved_as_complex_is_read() -> None:
    layer, x = trained().eval(), torch.randn(2, 3, 8, 10)
    older = copy.deepcopy(layer.state_dict())
    older["running_preconditioner"] = torch.view_as_complex(older["running_preconditioner"])
    older._metadata[""].pop("grid")
    fresh = PublishedPreConv2d(3, 4, 3, padding=1).eval()
    fresh.load_state_dict(older)
    assert torch.equal(fresh(x), layer(x))


def test_the_estimate_survives_a_change_of_the_module_s_type() -> None:
    layer = trained().eval()
    before = layer(torch.ones(1, 3, 8, 10))
    assert layer.running_preconditioner[..., 1].abs().max() > 0.01, "it has an imaginary part"
    assert relative_error(layer.double()(torch.ones(1, 3, 8, 10).double()), before.double()) < 1e-5
    assert layer.half().evaluation_gain((10, 12)).dtype == torch.float32


def test_evaluation_uses_the_estimate_of_that_size_and_otherwise_the_weights() -> None:
    layer = PublishedPreConv2d(3, 4, 3, padding=1, affine=False, batch_norm=False)
    layer(torch.randn(2, 3, 8, 8))
    with torch.no_grad():
        layer.running_preconditioner.mul_(2.0)
    layer.eval()
    for height, factor in ((8, 2.0), (9, 1.0)):
        x = torch.randn(2, 3, height, 8)
        v = factor * published_preconditioner(layer.weight, (height + 2, 10))
        momentum = 1.0 if factor == 1.0 else 0.5 * (1 + math.cos(math.pi / 40000))
        assert relative_error(layer(x), two_columns(x, layer.weight, momentum * v, 1, 1)) < 1e-5


def test_bfloat16_autocast_computes_the_filter_in_float32() -> None:
    layer, x = PublishedPreConv2d(3, 4, 3, padding=1, affine=False, batch_norm=False), torch.randn(2, 3, 8, 8)
    with torch.autocast("cpu", torch.bfloat16):
        y = layer(x.bfloat16())
    assert relative_error(y, layer(x.bfloat16().float())) < 1e-6


def in_inference_mode(layer: PublishedPreConv2d, x: torch.Tensor) -> None:
    with torch.inference_mode():
        layer(x)


def exported_in_inference_mode(layer: PublishedPreConv2d, x: torch.Tensor) -> None:
    with torch.inference_mode():
        torch.export.export(layer, (x,))


def under_a_transform(layer: PublishedPreConv2d, x: torch.Tensor) -> None:
    torch.func.grad(lambda w: functional_call(layer, {"weight": w}, (x,)).square().mean())(layer.weight.detach())


@pytest.mark.parametrize("first", [in_inference_mode, exported_in_inference_mode, under_a_transform])
def test_constants_serve_whoever_comes_after(first: Callable[[PublishedPreConv2d, torch.Tensor], None]) -> None:
    for constants in (_of_products, _into_columns, _out_of_columns):
        constants.cache_clear()
    layer, x = PublishedPreConv2d(3, 4, 3, padding=1, batch_norm=False).eval(), torch.randn(2, 3, 8, 10)
    first(layer, x)
    exported = torch.export.export(layer, (x,)).module()
    torch.testing.assert_close(exported(x), layer(x))
    layer.train()(x).sum().backward()
    assert layer.weight.grad is not None


def test_an_exported_and_a_traced_layer_take_other_sizes() -> None:
    layer = PublishedPreConv2d(3, 4, 3, padding=1).eval()
    x, other = torch.randn(2, 3, 9, 9), torch.randn(2, 3, 14, 12)
    height, width = torch.export.Dim("height", min=4, max=64), torch.export.Dim("width", min=4, max=64)
    exported = torch.export.export(layer, (x,), dynamic_shapes=({2: height, 3: width},), strict=False).module()
    kept = _into_columns.cache_info().currsize
    traced = torch.jit.trace(layer, x, check_trace=False)
    assert _into_columns.cache_info().currsize == kept, "the sizes of a trace are no key"
    for program in (exported, traced):
        torch.testing.assert_close(program(other), layer(other))


def test_the_published_arms_differ_by_one_batch_norm() -> None:
    counts = {}
    for name in ("conv_published", "bncn_published"):
        arm = NORMS[name](3, 4, 3, 1, 1)
        counts[name] = sum(isinstance(module, torch.nn.BatchNorm2d) for module in arm.modules())
        assert sum(isinstance(module, PublishedPreConv2d) for module in arm.modules()) == 1
    assert counts == {"conv_published": 1, "bncn_published": 2}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [((3, 4, 3, 1, 3), "padding"), ((3, 4, 2), "odd"), ((0, 4, 3), "at least 1"), ((3, 4, 3, 0), "at least 1")],
)
def test_unsupported_arguments_raise(arguments: tuple, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        PublishedPreConv2d(*arguments)
    with pytest.raises(ValueError, match="expected"):
        PublishedPreConv2d(3, 4, 3)(torch.randn(1, 2, 8, 8))
