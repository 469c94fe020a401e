import copy
import io
import math
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torch.func import functional_call

from models.preconv import METHODS, PreConv2d
from models.preconv_fft import inverse_root, preconditioner
from models.preconv_published import PublishedPreConv2d
from models.preconv_running import cosine_momentum
from tests.reference_cases import TOLERANCE, case_errors, load_cases, relative_error

CASES, TAGS = load_cases("preconv_cases.npz")


@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize("tag", TAGS)
@pytest.mark.parametrize("method", METHODS)
def test_layer_agrees_with_the_reference(method: str, tag: str, dtype: torch.dtype) -> None:
    errors = case_errors(CASES, tag, dtype, partial(PreConv2d, method=method))
    assert max(errors.values()) < TOLERANCE[dtype], errors


def by_definition(x: np.ndarray, layer: PreConv2d) -> np.ndarray:
    """The layer's steps 1 to 4, with numpy's full complex FFT and nothing shared with the implementation."""
    weight = layer.weight.detach().numpy()
    k, stride, padding = layer.kernel_size, layer.stride, layer.padding
    rows, columns = x.shape[2] + k - 1, x.shape[3] + k - 1
    spectrum = np.fft.fft2(weight, s=(rows, columns))
    v = (np.abs(spectrum) ** 2).sum(1) ** -0.5
    x_hat = np.fft.fft2(x, s=(rows, columns))
    y_hat = np.einsum("njpq,ojpq->nopq", x_hat, spectrum.conj()) * v
    y = np.fft.ifft2(y_hat)
    assert np.abs(y.imag).max() < 1e-12
    # the product with the conjugate puts the full cross-correlation's first row k-1 places round the circle
    full = np.roll(y.real, (k - 1, k - 1), axis=(2, 3))
    crop = k - 1 - padding
    return full[:, :, crop : rows - crop : stride, crop : columns - crop : stride]


@pytest.mark.parametrize("size", [(7, 7), (8, 5), (6, 11), (13, 13)])
@pytest.mark.parametrize(("k", "stride", "padding"), [(1, 1, 0), (1, 3, 0), (3, 1, 1), (3, 2, 0), (5, 3, 2), (7, 1, 6)])
def test_layer_is_its_definition(k: int, stride: int, padding: int, size: tuple[int, int]) -> None:
    if min(size) + 2 * padding < k:
        pytest.skip("the kernel is larger than the padded input")
    torch.manual_seed(0)
    layer = PreConv2d(3, 4, k, stride, padding, affine=False).double()
    x = torch.randn(2, 3, *size, dtype=torch.float64)
    y = layer(x)
    assert y.shape == nn.Conv2d(3, 4, k, stride, padding).double()(x).shape
    np.testing.assert_allclose(y.detach().numpy(), by_definition(x.numpy(), layer), atol=1e-12)


@pytest.mark.parametrize("fast", [True, pytest.param(False, marks=pytest.mark.slow)])
@pytest.mark.parametrize("affine", [True, False])
@pytest.mark.parametrize(("k", "stride", "padding", "size"), [(3, 1, 1, (5, 6)), (3, 2, 1, (6, 5)), (1, 2, 0, (4, 4))])
@pytest.mark.parametrize("method", METHODS)
def test_gradients_with_a_constant_preconditioner(
    method: str, k: int, stride: int, padding: int, size: tuple[int, int], affine: bool, fast: bool
) -> None:
    """`fast` compares products with random vectors, in place of each entry of the Jacobians."""
    torch.manual_seed(1)
    layer = PreConv2d(2, 3, k, stride, padding, affine=affine, method=method).double()
    x = torch.randn(2, 2, *size, dtype=torch.float64, requires_grad=True)
    layer(x)
    layer.eval()  # holds V at the running estimate while gradcheck moves the weights
    names, values = zip(*layer.named_parameters(), strict=True)

    def run(x: torch.Tensor, *parameters: torch.Tensor) -> torch.Tensor:
        return functional_call(layer, dict(zip(names, parameters, strict=True)), (x,))

    inputs = (x, *(value.detach().requires_grad_() for value in values))
    assert torch.autograd.gradcheck(run, inputs, fast_mode=fast)
    assert torch.autograd.gradgradcheck(run, inputs, fast_mode=fast)


def test_preconditioned_kernels_are_unit_rows_at_every_frequency() -> None:
    weight = torch.randn(4, 5, 3, 3, dtype=torch.float64)
    v = preconditioner(weight, (9, 8))
    rows = torch.fft.rfft2(weight, s=(9, 8)) * v.unsqueeze(1)
    torch.testing.assert_close(rows.abs().square().sum(1), torch.ones(4, 9, 5, dtype=torch.float64))


def test_output_does_not_depend_on_the_scale_of_a_kernel() -> None:
    layer = PreConv2d(3, 4, 3, padding=1)
    x = torch.randn(2, 3, 8, 8)
    before = layer(x)
    with torch.no_grad():
        layer.weight.mul_(torch.tensor([0.1, 1.0, 7.0, 1e4]).view(-1, 1, 1, 1))
    torch.testing.assert_close(layer(x), before, rtol=1e-4, atol=1e-5)


def test_parameters_and_buffers_have_their_names() -> None:
    state = PreConv2d(3, 4, 3).state_dict()
    assert list(state) == ["weight", "running_preconditioner", "num_batches_tracked", "affine.weight", "affine.bias"]
    assert state["affine.weight"].shape == (4, 1, 3, 3)
    assert list(PreConv2d(3, 4, 3, affine=False, track_running_stats=False).state_dict()) == ["weight"]
    assert not any(isinstance(module, nn.modules.batchnorm._BatchNorm) for module in PreConv2d(3, 4, 3).modules())


@pytest.mark.parametrize("kind", [PreConv2d, PublishedPreConv2d])
def test_kernels_start_as_those_of_conv2d(kind: Callable[..., nn.Module]) -> None:
    torch.manual_seed(0)
    bound = (3 * 3 * 3) ** -0.5
    assert 0.98 * bound < kind(3, 100, 3).get_parameter("weight").abs().max() <= bound


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_magnitude_is_bounded_by_epsilon_times_the_largest(dtype: torch.dtype) -> None:
    eps = torch.finfo(dtype).eps
    magnitudes = torch.tensor([[[2.0, 2.0 * 8 * eps, 2.0 * eps / 8, 0.0]]], dtype=torch.float64)
    v = inverse_root(magnitudes.square().to(dtype), dtype)
    wanted = torch.tensor([[[0.5, 0.5 / (8 * eps), 0.5 / eps, 0.5 / eps]]], dtype=dtype)
    torch.testing.assert_close(v, wanted, rtol=1e-5, atol=0.0)


def test_affine_part_starts_as_the_identity() -> None:
    torch.manual_seed(0)
    with_affine = PreConv2d(3, 4, 3, padding=1)
    without = PreConv2d(3, 4, 3, padding=1, affine=False)
    without.weight.data.copy_(with_affine.weight.data)
    x = torch.randn(2, 3, 8, 8)
    torch.testing.assert_close(with_affine(x), without(x))


def trained(size: tuple[int, int], **options: Any) -> PreConv2d:
    torch.manual_seed(0)
    layer = PreConv2d(2, 3, 3, padding=1, **options)
    for _ in range(3):
        layer(torch.randn(2, 2, *size))
        with torch.no_grad():
            layer.weight.add_(0.1 * torch.randn_like(layer.weight))
    return layer.eval()


def through_a_file(state: dict) -> dict:
    buffer = io.BytesIO()
    torch.save(state, buffer)
    buffer.seek(0)
    return torch.load(buffer, weights_only=True)


@pytest.mark.parametrize("size", [(6, 6), (6, 7), (7, 6), (5, 9)])
def test_state_loads_into_a_fresh_module_and_into_one_of_another_size(size: tuple[int, int]) -> None:
    saved = trained(size)
    other = trained((11, 4))
    x = torch.randn(2, 2, *size)
    for target in (PreConv2d(2, 3, 3, padding=1), other, copy.deepcopy(saved)):
        target.load_state_dict(through_a_file(saved.state_dict()))
        assert torch.equal(target.eval()(x), saved(x))
        assert target.num_batches_tracked == 3


@pytest.mark.parametrize("size", [(6, 6), (5, 9), (5, 8), (9, 4)])
def test_state_without_metadata_still_loads(size: tuple[int, int]) -> None:
    saved = trained(size)
    fresh = PreConv2d(2, 3, 3, padding=1)
    fresh.load_state_dict({key: value.clone() for key, value in saved.state_dict().items()})
    x = torch.randn(2, 2, *size)
    assert torch.equal(fresh.eval()(x), saved(x))
    untracked = PreConv2d(2, 3, 3, padding=1, track_running_stats=False).eval()
    untracked.load_state_dict(
        {key: value for key, value in saved.state_dict().items() if key in untracked.state_dict()}
    )
    wider = torch.randn(2, 2, size[0], size[1] + 1)
    assert torch.equal(fresh(wider), untracked(wider))


def test_state_of_another_width_is_refused() -> None:
    with pytest.raises(RuntimeError, match="size mismatch"):
        PreConv2d(2, 4, 3, padding=1).load_state_dict(trained((6, 6)).state_dict())


@pytest.mark.parametrize("size", [(6, 7), (7, 6), (12, 12)])
def test_another_size_is_evaluated_with_the_weights_own_preconditioner(size: tuple[int, int]) -> None:
    layer = trained((6, 6))
    untracked = PreConv2d(2, 3, 3, padding=1, track_running_stats=False).eval()
    own = {key: value for key, value in layer.state_dict().items() if key in untracked.state_dict()}
    untracked.load_state_dict(own)
    x = torch.randn(2, 2, *size)
    assert torch.equal(layer(x), untracked(x))
    x = torch.randn(2, 2, 6, 6)
    assert not torch.allclose(layer(x), untracked(x)), "the running estimate is not used at its own size"


def test_training_at_another_size_starts_the_estimate_anew() -> None:
    layer = trained((6, 6), momentum=0.1).train()
    layer(torch.randn(2, 2, 9, 8))
    torch.testing.assert_close(layer.running_preconditioner, preconditioner(layer.weight, (11, 10)))
    assert layer.num_batches_tracked == 4


def test_evaluation_before_any_training() -> None:
    layer = PreConv2d(2, 3, 3, padding=1).eval()
    x = torch.randn(2, 2, 6, 6)
    torch.testing.assert_close(layer(x), copy.deepcopy(layer).train()(x))


def test_momentum_schedule() -> None:
    # the reference's closed form at n = 1, 10000, 20000, 39999 and beyond the ramp
    for batches, share in ((1, 1.0), (10_000, 0.853553), (20_000, 0.5), (39_999, 0.01), (10**6, 0.01)):
        assert cosine_momentum(torch.tensor(float(batches))).item() == pytest.approx(share, abs=1e-6)


@pytest.mark.parametrize("counted", [torch.int64, torch.int32, torch.float64])
@pytest.mark.parametrize("batches", [1, 10_000, 39_999, 40_000, 40_001, 10**6])
def test_the_estimate_takes_the_share_of_the_schedule(batches: int, counted: torch.dtype) -> None:
    layer = PreConv2d(2, 3, 3, padding=1, input_size=(6, 6), dtype=torch.float64)
    layer.num_batches_tracked = torch.tensor(batches - 1, dtype=counted)  # Module.type makes it a floating number
    estimate = layer.running_preconditioner
    layer(torch.randn(1, 2, 6, 6, dtype=torch.float64))
    share = max(0.5 * (1 + math.cos(math.pi * min(batches, 40_000) / 40_000)), 0.01)
    assert layer.running_preconditioner is estimate
    torch.testing.assert_close(estimate, share * preconditioner(layer.weight, (8, 8)), rtol=1e-10, atol=0)


@pytest.mark.parametrize("kind", [PreConv2d, PublishedPreConv2d])
def test_a_layer_of_another_type_trains(kind: type[nn.Module]) -> None:
    layer = kind(3, 4, 3, padding=1).type(torch.float64)
    layer(torch.randn(2, 3, 9, 9, dtype=torch.float64)).sum().backward()
    assert layer.num_batches_tracked == 1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((0, 4, 3), "in_channels"),
        ((3, 0, 3), "out_channels"),
        ((3, 4, 0), "kernel_size"),
        ((3, 4, (3, 5)), "kernel_size"),
        ((3, 4, 2), "odd"),
        ((3, 4, 3, 0), "stride"),
        ((3, 4, 3, (1, 2)), "stride"),
        ((3, 4, 3, 1, 3), "padding"),
        ((3, 4, 3, 1, -1), "padding"),
        ((3, 4, 3, 1, "reflect"), "padding"),
        ((3, 4, 3, 2, "same"), "stride of 1"),
        ((3.0, 4, 3), "in_channels"),
    ],
)
def test_unsupported_arguments_raise(arguments: tuple, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        PreConv2d(*arguments)


def test_other_unsupported_options_raise() -> None:
    for momentum in (1.5, 0.0, True, "x"):
        with pytest.raises(ValueError, match="momentum"):
            PreConv2d(3, 4, 3, momentum=momentum)
    with pytest.raises(ValueError, match="affine part"):
        PreConv2d(3, 4, 3, bias=True)
    with pytest.raises(ValueError, match="odd kernel_size"):
        PreConv2d(3, 4, 2, padding="same", affine=False)
    for size in ((8,), 8, (8, 0), (8, 2.0), (1, 8)):
        with pytest.raises(ValueError, match="input_size"):
            PreConv2d(3, 4, 3, input_size=size)


@pytest.mark.parametrize("shape", [(3, 8, 8), (1, 4, 8, 8), (1, 3, 1, 8)])
def test_unfit_inputs_raise(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="input"):
        PreConv2d(3, 4, 3)(torch.zeros(shape))


def test_autocast_of_the_fft_form_computes_in_float32() -> None:
    layer = PreConv2d(3, 4, 3, padding=1, method="fft")
    x = torch.randn(2, 3, 8, 8)
    exact = layer(x)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        mixed = layer(x)
    assert mixed.dtype == torch.float32
    assert torch.equal(mixed, exact)


def test_narrow_parameters_compute_in_float32_and_return_their_own_type() -> None:
    layer = PreConv2d(3, 4, 3, padding=1)
    x = torch.randn(2, 3, 8, 8)
    exact = layer(x)
    narrow = layer.bfloat16()(x.bfloat16())
    assert narrow.dtype == torch.bfloat16
    assert relative_error(narrow.float(), exact) < 2e-2


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_the_gain_of_narrow_kernels_at_another_size(dtype: torch.dtype) -> None:
    layer = PreConv2d(3, 4, 3, dtype=dtype)
    expected = preconditioner(layer.weight.float(), (7, 9))
    torch.testing.assert_close(layer.evaluation_gain((7, 9)), expected, rtol=0, atol=0)


@pytest.mark.parametrize("input_size", [None, (8, 8)])
def test_a_layer_that_is_reset_has_seen_no_batch(input_size: tuple[int, int] | None) -> None:
    x = torch.randn(2, 3, 8, 8)
    trained, made_later = PreConv2d(3, 4, 3, input_size=input_size), PreConv2d(3, 4, 3, device="meta")
    trained(x)
    made_later.to_empty(device="cpu")
    assert made_later.num_batches_tracked is not None
    made_later.num_batches_tracked.fill_(1_000_000)  # what the memory happens to hold
    for layer in (trained, made_later):
        layer.reset_parameters()
        layer.eval()
        own = PreConv2d(3, 4, 3).eval()
        own.weight = layer.weight
        torch.testing.assert_close(layer(x), own(x))
        layer.train()
        own.train()
        layer(x)
        own(x)
        assert layer.num_batches_tracked == 1
        torch.testing.assert_close(layer.eval()(x), own.eval()(x))


def test_kernels_that_vanish_give_no_nan() -> None:
    layer = PreConv2d(2, 3, 3, padding=1)
    with torch.no_grad():
        layer.weight[0].zero_()
        layer.weight[1] = torch.tensor([1.0, 0.0, -1.0])  # its spectrum is 0 wherever the column frequency is 0
    y = layer(torch.randn(2, 2, 6, 6))
    y.sum().backward()
    assert y.abs().max() < 100, "rounding at a null of the spectrum is blown up"
    assert torch.isfinite(layer.weight.grad).all()
    assert (y[:, 0] == 0).all()


def test_the_layer_composes_with_torch_func() -> None:
    layer = PreConv2d(3, 4, 3, padding=1).eval()
    x = torch.randn(5, 3, 8, 8)
    parameters = dict(layer.named_parameters())
    loss = lambda parameters, x: functional_call(layer, parameters, (x,)).square().sum()  # noqa: E731
    each = torch.func.vmap(torch.func.grad(loss), in_dims=(None, 0))(parameters, x.unsqueeze(1))
    loss(parameters, x).backward()
    torch.testing.assert_close(each["weight"].sum(0), layer.weight.grad, rtol=1e-4, atol=1e-4)


def test_an_empty_batch_and_numpy_s_integers() -> None:
    layer = PreConv2d(np.int64(3), np.int64(4), np.int64(3), np.int64(2), np.int64(1))
    assert layer(torch.zeros(0, 3, 8, 8)).shape == (0, 4, 4, 4)


def test_a_parametrized_layer_can_be_copied() -> None:
    layer = torch.nn.utils.parametrizations.weight_norm(PreConv2d(2, 3, 3, padding=1))
    x = torch.randn(2, 2, 6, 6)
    layer(x)
    copied = copy.deepcopy(layer)
    assert torch.equal(copied.eval()(x), layer.eval()(x))
    with torch.no_grad():
        copied.parametrizations.weight.original1.add_(1.0)
    assert not torch.equal(copied.weight, layer.weight)


def test_channels_last_inputs_give_the_same() -> None:
    layer = PreConv2d(3, 4, 3, padding=1, stride=2)
    x = torch.randn(2, 3, 8, 8)
    torch.testing.assert_close(layer(x.to(memory_format=torch.channels_last)), layer(x))


def test_conv2d_s_other_arguments() -> None:
    layer = PreConv2d(3, 4, 5, padding="same", bias=False, device="cpu", dtype=torch.float64)
    assert {value.dtype for value in layer.state_dict().values()} == {torch.float64, torch.int64}
    assert layer(torch.randn(2, 3, 9, 8, dtype=torch.float64)).shape == (2, 4, 9, 8)
    assert PreConv2d(3, 4, 5, padding="valid")(torch.randn(2, 3, 9, 8)).shape == (2, 4, 5, 4)
    empty = PreConv2d(3, 4, 3, input_size=(9, 8), device="meta", dtype=torch.bfloat16)
    assert {value.device.type for value in empty.state_dict().values()} == {"meta"}
    assert empty.running_preconditioner.dtype == torch.float32, "the estimate is never narrower"


@pytest.mark.parametrize("momentum", [None, 0.1])
@pytest.mark.parametrize("k", [1, 3])
def test_an_estimate_of_a_given_size_changes_nothing_but_its_shape(k: int, momentum: float | None) -> None:
    torch.manual_seed(0)
    given = PreConv2d(2, 3, k, padding=k // 2, momentum=momentum, input_size=(6, 7))
    plain = PreConv2d(2, 3, k, padding=k // 2, momentum=momentum)
    plain.weight.data.copy_(given.weight.data)
    x, other = torch.randn(2, 2, 6, 7), torch.randn(2, 2, 9, 9)
    buffer = given.running_preconditioner
    assert buffer.shape == ((3, 1, 1) if k == 1 else (3, 8, 5))
    assert given.num_batches_tracked == 0
    assert torch.equal(given.eval()(x), plain.eval()(x)), "zeros are no estimate"
    for layer in (given, PreConv2d(2, 3, k, padding=k // 2)):  # nor are they in a state dict
        layer.load_state_dict({name: value.clone() for name, value in given.state_dict().items()})
        assert torch.equal(layer.eval()(x), plain.eval()(x))
    for images in (x, x, other, x):
        for layer in (given.train(), plain.train()):
            layer(images)
        assert torch.equal(given.running_preconditioner, plain.running_preconditioner)
        assert torch.equal(given.eval()(images), plain.eval()(images))
    fresh = PreConv2d(2, 3, k, padding=k // 2, input_size=(6, 7))
    fresh.load_state_dict(through_a_file(given.state_dict()))
    assert torch.equal(fresh.eval()(x), given(x))
    again = PreConv2d(2, 3, k, padding=k // 2, input_size=(6, 7))
    buffer = again.running_preconditioner
    again(x)
    assert again.running_preconditioner is buffer, "a buffer of the right size stays the same tensor"
