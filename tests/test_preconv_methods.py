"""The ways to compute ConvNorm against each other: torch.fft is the oracle of the other two."""

import copy
import json
import pickle
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch._dynamo.testing import CompileCounter
from torch._subclasses.fake_tensor import FakeTensorMode

from models import (
    preconv,
    preconv_constants,
    preconv_cost,
    preconv_fft,
    preconv_filter,
    preconv_matmul,
    preconv_operators,
)
from models.activations import ACTIVATIONS
from models.norms import NORMS
from models.preconv import METHODS, PreConv2d
from models.preconv_constants import Geometry, constants
from models.resnet import BasicBlock, ResNet, resnet18
from tests import golden_losses

TOLERANCE = {torch.float64: 1e-11, torch.float32: 2e-5}
EXAMPLES = settings(deadline=None, max_examples=80)


def relative_error(got: Tensor, want: Tensor) -> float:
    return ((got.double() - want.double()).norm() / want.double().norm().clamp_min(1e-300)).item()


def one_for_each_method(*arguments: int, **options: Any) -> list[PreConv2d]:
    """The same layer with each method, the oracle first."""
    layers = [PreConv2d(*arguments, method="fft", **options)]
    for method in METHODS.keys() - {"fft"}:
        layers.append(copy.deepcopy(layers[0]))
        layers[-1].method = method
    return layers


def all_items_together(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a GPU gets: all pairs of rows in one block, and spectra in one piece."""
    monkeypatch.setattr(preconv_constants, "_together", lambda pairs, device: max(1, pairs))
    monkeypatch.setattr(preconv_matmul, "PIECE", 2**62)


@st.composite
def cases(draw: st.DrawFn) -> dict[str, object]:
    kernel = draw(st.sampled_from([1, 2, 3, 5, 7]))
    return {
        "kernel": kernel,
        "stride": draw(st.integers(1, 4)),
        "padding": draw(st.integers(0, kernel - 1)),
        "size": (draw(st.integers(1, 21)), draw(st.integers(1, 21))),
        "batch": draw(st.integers(1, 3)),
        "channels": (draw(st.integers(1, 5)), draw(st.integers(1, 5))),
        "dtype": draw(st.sampled_from([torch.float32, torch.float64])),
        "memory_format": draw(st.sampled_from([torch.contiguous_format, torch.channels_last])),
        "affine": kernel % 2 == 1 and draw(st.booleans()),
        "training": draw(st.booleans()),
        "dense_pixels": draw(st.sampled_from([0, 64])),
        "piece": draw(st.sampled_from([8, 2**22])),
        "together": draw(st.booleans()),
        "chunk": draw(st.sampled_from([8, 2**17])),
        "seed": draw(st.integers(0, 2**16)),
    }


@EXAMPLES
@given(case=cases())
def test_methods_agree(case: dict) -> None:
    assume(min(case["size"]) + 2 * case["padding"] >= case["kernel"])
    torch.manual_seed(case["seed"])
    c_in, c_out = case["channels"]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(preconv_constants, "DENSE_PIXELS", case["dense_pixels"])
        patch.setattr(preconv_matmul, "PIECE", case["piece"])
        patch.setattr(preconv_filter, "CHUNK", case["chunk"])
        if case["together"]:
            all_items_together(patch)
        constants.cache_clear()
        layers = one_for_each_method(
            c_in, c_out, case["kernel"], case["stride"], case["padding"], affine=case["affine"]
        )
        x = torch.randn(case["batch"], c_in, *case["size"], dtype=case["dtype"])
        grad, results = None, []
        for layer in layers:
            layer.to(case["dtype"])
            layer(x.clone())  # one training batch, so that there is a running estimate
            layer.train(case["training"])
            images = x.clone(memory_format=case["memory_format"]).requires_grad_()
            y = layer(images)
            grad = torch.randn_like(y) if grad is None else grad
            y.backward(grad)
            with torch.no_grad():
                again = layer.eval()(images)
            gradients = [parameter.grad for parameter in layer.parameters()]
            results.append([y, again, images.grad, layer.running_preconditioner, *gradients])
    constants.cache_clear()
    # Near a null of a spectrum V is large, and float32 rounds the more: all methods alike, in different digits.
    v = preconv_fft.preconditioner(layers[0].weight.double(), _grid(case))
    spread = (v.amax((-2, -1)) / v.amin((-2, -1))).max().item()
    oracle, *others = results
    for other in others:
        for got, want in zip(other, oracle, strict=True):
            assert got.shape == want.shape
            assert relative_error(got, want) < TOLERANCE[case["dtype"]] * spread


def _grid(case: dict) -> tuple[int, int]:
    return case["size"][0] + case["kernel"] - 1, case["size"][1] + case["kernel"] - 1


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("size", [4, 9, 16, 33])
def test_methods_agree_on_cuda(size: int) -> None:
    torch.manual_seed(0)
    layers = [layer.cuda() for layer in one_for_each_method(8, 16, 3, 2, 1)]
    x = torch.randn(4, 8, size, size, device="cuda")
    results = []
    for layer in layers:
        images = x.clone().requires_grad_()
        y = layer(images)
        y.square().sum().backward()
        with torch.no_grad():
            again = layer.eval()(images)
        results.append([y, again, images.grad, *(parameter.grad for parameter in layer.parameters())])
    oracle, *others = results
    for other in others:
        for got, want in zip(other, oracle, strict=True):
            assert relative_error(got, want) < 1e-4


@pytest.mark.parametrize("size", [7, 8, 9, 13, 31, 32, 33])
@pytest.mark.parametrize("stride", [1, 2])
def test_float32_is_as_accurate_as_the_oracle(size: int, stride: int) -> None:
    torch.manual_seed(size)
    x, weight = torch.randn(8, 16, size, size), torch.randn(16, 16, 3, 3)
    exact_x, exact_weight = x.double().requires_grad_(), weight.double().requires_grad_()
    v = preconv_fft.preconditioner(exact_weight, (size + 2, size + 2))
    exact = preconv_fft.filtered_conv(exact_x, exact_weight, v, stride, 1)
    grad = torch.randn_like(exact)
    wanted = (exact, *torch.autograd.grad(exact, (exact_x, exact_weight), grad))
    errors = {}
    for name, method in METHODS.items():
        x, weight = x.detach().requires_grad_(), weight.detach().requires_grad_()
        y = method.filtered_conv(x, weight, method.preconditioner(weight, (size + 2, size + 2)), stride, 1)
        got = (y, *torch.autograd.grad(y, (x, weight), grad.float()))
        errors[name] = max(relative_error(a, b) for a, b in zip(got, wanted, strict=True))
    assert max(errors.values()) < max(1e-6, 2 * errors["fft"]), errors


@pytest.mark.parametrize("autocast", [False, True])
def test_bfloat16_autocast_is_within_two_percent(autocast: bool) -> None:
    torch.manual_seed(0)
    for c_in, c_out, size, stride in ((3, 32, 32, 1), (32, 32, 32, 1), (32, 64, 16, 2), (64, 64, 8, 1), (64, 64, 4, 1)):
        layer = PreConv2d(c_in, c_out, 3, stride, 1, method="matmul")
        exact = copy.deepcopy(layer).double()
        exact.method = "fft"
        x = torch.randn(8, c_in, size, size).relu().requires_grad_()  # what a layer sees: a large mean
        exact_x = x.detach().double().requires_grad_()
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=autocast):
            y = layer(x)
        assert y.dtype == (torch.bfloat16 if autocast else torch.float32)
        wanted = exact(exact_x)
        grad = torch.randn_like(wanted)
        wanted.backward(grad)
        y.backward(grad.to(y.dtype))
        limit = 2e-2 if autocast else 1e-5
        assert relative_error(y, wanted) < limit
        assert relative_error(x.grad, exact_x.grad) < limit
        assert layer.running_preconditioner.dtype == torch.float32
        torch.testing.assert_close(
            layer.running_preconditioner.double(), exact.running_preconditioner, rtol=1e-5, atol=0
        )
        for got, want in zip(layer.parameters(), exact.parameters(), strict=True):
            assert got.dtype == torch.float32
            assert relative_error(got.grad, want.grad) < limit


KEPT_LOSSES = json.loads(golden_losses.FILE.read_text())  # a new arm is not in it until it is written anew


@pytest.mark.parametrize("steps", [2, pytest.param(10, marks=pytest.mark.slow)])
@pytest.mark.parametrize("norm", KEPT_LOSSES)
def test_losses_of_ten_steps_are_unchanged(norm: str, steps: int) -> None:
    """The first two tell of any change in a forward or backward pass; the others of what grows from step to step."""
    assert golden_losses.losses(norm, steps) == pytest.approx(KEPT_LOSSES[norm][:steps], rel=1e-5)


@pytest.mark.parametrize("method", METHODS)
def test_a_vanishing_spectrum_gives_a_bounded_output(method: str) -> None:
    torch.manual_seed(0)
    layer = PreConv2d(2, 4, 3, padding=1, affine=False, method=method)
    with torch.no_grad():
        layer.weight[0].zero_()
        layer.weight[1] = torch.tensor([1.0, 0.0, -1.0])  # 0 wherever the column frequency is 0
        layer.weight[2] = torch.tensor([1.0, -2.0, 1.0]) * 1e-30
        layer.weight[3] = torch.outer(torch.tensor([1.0, 0.0, -1.0]), torch.tensor([1.0, 0.0, -1.0])) * 1e15
    for size in ((6, 6), (9, 6), (32, 30)):
        x = torch.randn(4, 2, *size, requires_grad=True)
        y = layer(x)
        assert (y[:, 0] == 0).all()
        # Every row of the preconditioned operator has norm at most 1, but for rounding at the null frequencies, where
        # rounding over the floor is about 1 as well: sqrt(C_in) bounds the gain, and 2 leaves room for the rounding.
        assert y.norm() < 2 * x.norm() * (2 * 4) ** 0.5
        y.square().sum().backward()
        assert torch.isfinite(x.grad).all()
        assert torch.isfinite(layer.weight.grad[1]).all()


def trained(method: str = "matmul", **options: Any) -> PreConv2d:
    torch.manual_seed(0)
    layer = PreConv2d(3, 4, 3, padding=1, method=method, **options)
    layer(torch.randn(2, 3, 9, 10))
    return layer.eval()


def change_in_place(layer: PreConv2d) -> None:
    with torch.no_grad():
        layer.weight.add_(0.1 * torch.randn_like(layer.weight))


def change_through_data(layer: PreConv2d) -> None:
    layer.weight.data.copy_(torch.randn_like(layer.weight))


def take_an_optimizer_step(layer: PreConv2d) -> None:
    layer.weight.grad = torch.randn_like(layer.weight)
    torch.optim.SGD([layer.weight], lr=0.1).step()


def load_others(layer: PreConv2d) -> None:
    other = PreConv2d(3, 4, 3, padding=1)
    other(torch.randn(2, 3, 9, 10))
    layer.load_state_dict(other.state_dict())


def change_running_estimate(layer: PreConv2d) -> None:
    layer.running_preconditioner.mul_(1.5)


def train_one_batch(layer: PreConv2d) -> None:
    layer.train()(torch.randn(2, 3, 9, 10))
    change_in_place(layer)
    layer(torch.randn(2, 3, 9, 10))
    layer.eval()


def replace_parameter(layer: PreConv2d) -> None:
    layer.weight = nn.Parameter(torch.randn_like(layer.weight))


def become_double_and_back(layer: PreConv2d) -> None:
    layer.double().float()
    change_in_place(layer)


CHANGES = [
    change_in_place,
    change_through_data,
    take_an_optimizer_step,
    load_others,
    change_running_estimate,
    train_one_batch,
    replace_parameter,
    become_double_and_back,
]


@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize("tracked", [True, False])
@pytest.mark.parametrize("method", ["matmul", "filter"])
def test_kept_spectra_are_dropped_when_they_change(
    change: Callable[[PreConv2d], None], tracked: bool, method: str
) -> None:
    if not tracked and change in (change_running_estimate, load_others):
        pytest.skip("there is no running estimate")
    layer = trained(track_running_stats=tracked, method=method)
    x = torch.randn(2, 3, 9, 10)
    with torch.no_grad():
        before = layer(x)
        assert torch.equal(layer(x), before)
        assert layer._kept is not None
    change(layer)
    with torch.no_grad():
        after = layer(x)
    fresh = copy.deepcopy(layer)
    assert fresh._kept is None, "a copy would share what it must not"
    fresh.method = "fft"
    torch.testing.assert_close(after, fresh(x), rtol=1e-4, atol=1e-5)
    assert not torch.allclose(after, before, atol=1e-3)


def test_spectra_are_kept_over_evaluations(monkeypatch: pytest.MonkeyPatch) -> None:
    layer, made = trained(), []
    original = preconv_matmul._taps
    monkeypatch.setattr(preconv_matmul, "_taps", lambda *arguments: made.append(1) or original(*arguments))
    with torch.inference_mode():
        for batch in (2, 5, 1):
            layer(torch.randn(batch, 3, 9, 10))
        assert len(made) == 1
        layer(torch.randn(2, 3, 10, 10))  # another size
        layer(torch.randn(2, 3, 9, 10))
        assert len(made) == 3
    layer(torch.randn(2, 3, 9, 10))  # with gradients, from the weights each time
    assert len(made) == 4
    assert layer(torch.randn(2, 3, 9, 10)).requires_grad
    assert pickle.loads(pickle.dumps(layer))._kept is None
    layer.train()
    assert layer._kept is None


def test_a_moved_layer_keeps_no_spectra_behind() -> None:
    layer = trained()
    with torch.no_grad():
        for move in (layer.double, layer.float, lambda: layer.to("cpu"), layer.eval):
            layer(torch.randn(2, 3, 9, 10, dtype=layer.weight.dtype))
            assert layer._kept is not None
            move()
            assert layer._kept is None


def test_statistics_gathered_in_inference_mode_can_be_used_outside_of_it() -> None:
    layer, x = PreConv2d(3, 4, 3, padding=1, method="matmul"), torch.randn(2, 3, 9, 10)
    with torch.inference_mode():
        for _ in range(2):
            layer(x)
        layer.eval()(x)
    with torch.no_grad():
        kept = layer(x)
    y = layer(x)
    y.sum().backward()
    torch.testing.assert_close(y, kept)
    layer.train()(x)
    assert layer.num_batches_tracked == 3
    with torch.inference_mode():
        whole = PreConv2d(3, 4, 3, padding=1, method="matmul")
        whole(x)
        whole.eval()(x)


def test_a_weight_that_is_no_parameter_gets_its_gradient() -> None:
    layer, x = trained(affine=False), torch.randn(2, 3, 9, 10)
    weight = layer.weight.detach().clone().requires_grad_()
    del layer.weight
    layer.weight = weight
    layer(x).sum().backward()
    assert weight.grad.abs().sum() > 0


def test_fake_tensors_leave_nothing_behind() -> None:
    layer, x = trained(), torch.randn(2, 3, 9, 10)
    constants.cache_clear()
    with torch.no_grad(), FakeTensorMode(allow_non_fake_inputs=True):
        layer(x)
    assert layer._kept is None
    assert constants.cache_info().currsize == 0
    with torch.no_grad():
        assert type(layer(x)) is Tensor


def test_evaluation_from_several_threads() -> None:
    layer, failures = trained(), []
    images = {size: torch.randn(1, 3, size, 10) for size in (9, 11)}
    with torch.no_grad():
        wanted = {size: layer(x) for size, x in images.items()}

    def evaluate(size: int) -> None:
        with torch.no_grad():
            for _ in range(200):
                if not torch.equal(layer(images[size]), wanted[size]):
                    failures.append(size)

    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    try:
        with ThreadPoolExecutor(4) as pool:
            list(pool.map(evaluate, [9, 11, 9, 11]))  # raises what a thread raised
    finally:
        sys.setswitchinterval(interval)
    assert not failures


def test_tracing_takes_the_fft_form() -> None:
    layer = PreConv2d(3, 4, 3, padding=1)
    layer(torch.randn(2, 3, 9, 10))
    layer.eval()
    traced = torch.jit.trace(layer, torch.randn(2, 3, 9, 10))
    x = torch.randn(5, 3, 9, 10)
    torch.testing.assert_close(traced(x), layer(x), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("dynamic", [None, True])
def test_the_fastest_method_is_chosen_within_one_compiled_graph(dynamic: bool | None, training: bool) -> None:
    """As torch.compile does it by default: a second size makes a graph for any size."""
    layer, counter = PreConv2d(3, 8, 3, padding=1).train(training), CompileCounter()
    torch._dynamo.reset()
    compiled = torch.compile(layer, backend=counter, fullgraph=True, dynamic=dynamic)
    for count in (4, 6, 9):
        x = torch.randn(count, 3, 12, 12)
        torch.testing.assert_close(compiled(x), layer(x), rtol=1e-4, atol=1e-5)
    assert counter.frame_count <= 3


def test_one_compiled_graph_serves_all_sizes() -> None:
    layer, counter = PreConv2d(3, 4, 3, padding=1, method="matmul").eval(), CompileCounter()
    torch._dynamo.reset()
    compiled = torch.compile(layer, backend=counter, dynamic=True)
    for size in (8, 9, 12, 17, 20, 33):
        x = torch.randn(2, 3, size, size + 1)
        torch.testing.assert_close(compiled(x), layer(x), rtol=1e-4, atol=1e-5)
    assert counter.frame_count == 1


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("kernel", [1, 3])
def test_the_output_lies_in_memory_as_the_input_does(method: str, kernel: int) -> None:
    layer, x = PreConv2d(3, 4, kernel, padding=kernel // 2, method=method), torch.randn(2, 3, 9, 10)
    assert layer(x).view(2, -1).shape == (2, 360)  # as Conv2d's can be
    y = PreConv2d(3, 4, 3, padding=1, method="matmul")(x.to(memory_format=torch.channels_last))
    assert y.is_contiguous(memory_format=torch.channels_last)


def test_double_stays_double_under_autocast() -> None:
    layer, x = PreConv2d(3, 4, 3, padding=1, method="matmul").double(), torch.randn(2, 3, 9, 10, dtype=torch.float64)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        y = layer(x)
    assert torch.equal(y, layer(x))


def test_spectra_beyond_the_limit_are_not_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    layer, x = trained(), torch.randn(2, 3, 9, 10)
    with torch.no_grad():
        kept = layer(x)
        monkeypatch.setattr(preconv_matmul, "KEPT_BYTES", 1)
        layer.train().eval()
        torch.testing.assert_close(layer(x), kept)


def test_constants_are_shared_and_bounded() -> None:
    constants.cache_clear()
    for size in range(3, 43):
        PreConv2d(1, 1, 3, padding=1, method="matmul")(torch.zeros(1, 1, size, 4))
    held = constants.cache_info()
    assert held.currsize == held.maxsize == 32
    constants.cache_clear()
    model = resnet18("bncn", width=4)
    for module in model.modules():
        if isinstance(module, PreConv2d):
            module.method = "matmul"
    model(torch.zeros(2, 3, 32, 32))
    held = constants.cache_info()
    assert (held.misses, held.currsize) == (7, 7)  # seven geometries in 17 layers
    assert held.hits == 10


def test_auto_takes_what_the_costs_say() -> None:
    layer = PreConv2d(64, 64, 3, padding=1)
    assert layer._pick_method(torch.empty(128, 64, 32, 32)).name == "matmul"
    assert layer._pick_method(torch.empty(8, 64, 16, 16)).name == "filter"
    assert PreConv2d(3, 16, 3, padding=1)._pick_method(torch.empty(1, 3, 300, 300)).name == "fft"
    with pytest.raises(ValueError, match="method must be one of auto, fft, matmul, filter"):
        PreConv2d(1, 1, 3, method="dct")


@pytest.mark.parametrize("capability", preconv_cost.SECONDS)
def test_every_method_has_a_cost_that_grows_with_the_work(capability: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(preconv_cost, "_HERE", preconv_cost.SECONDS[capability])
    assert preconv_cost.COUNTS.keys() == METHODS.keys()
    geometry = Geometry(16, 16, 3, 1, 1)
    small = preconv_cost.Task(4, 16, 16, geometry, training=False)
    larger = [
        small._replace(batch=8),
        small._replace(c_in=32),
        small._replace(c_out=32),
        small._replace(geometry=Geometry(17, 18, 3, 1, 1)),
        small._replace(training=True),
    ]
    for method in preconv_cost.COUNTS:
        assert all(preconv_cost.seconds(method, task) > preconv_cost.seconds(method, small) for task in larger)


def test_what_auto_takes_does_not_depend_on_gradients() -> None:
    """Checkpointed activations are computed twice, without gradients and with them."""
    layer = PreConv2d(64, 64, 3, padding=1)
    x = torch.empty(16, 64, 32, 32)
    with torch.no_grad():
        without = layer._pick_method(x)
    assert layer._pick_method(x.requires_grad_()) == without


def test_under_autocast_auto_takes_the_method_that_narrows_but_for_large_images() -> None:
    limit, layer = preconv.LARGEST_MATMUL_GRID, PreConv2d(1, 1, 3, padding=1)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert layer._pick_method(torch.empty(1, 1, limit - 2, 4)).narrow
        assert layer._pick_method(torch.empty(1, 1, limit - 1, 4)).name == "fft"
    assert not layer._pick_method(torch.empty(1, 1, limit - 2, 4)).narrow


def test_on_a_gpu_auto_takes_the_fewest_kernels() -> None:
    with FakeTensorMode():
        assert PreConv2d(64, 64, 3, padding=1)._pick_method(torch.empty(1, 64, 32, 32, device="cuda")).name == "fft"


@pytest.mark.parametrize("method", ["fft", "matmul", "filter"])
def test_shapes_alone_pass_through_the_layer(method: str) -> None:
    """On the meta device, which has no autocast."""
    layer = PreConv2d(3, 4, 3, stride=2, padding=1, method=method, device="meta")
    y = layer(torch.empty(2, 3, 9, 10, device="meta"))
    y.sum().backward()
    assert (y.shape, y.device.type) == ((2, 4, 5, 5), "meta")
    assert layer.weight.grad is not None


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_products_stay_on_their_device(dtype: torch.dtype) -> None:
    with FakeTensorMode():
        for size, stride in (((32, 31), 2), ((4, 4), 1)):
            x = torch.randn(2, 3, *size, device="cuda", dtype=dtype)
            weight = torch.randn(5, 3, 3, 3, device="cuda")
            v = preconv_operators.preconditioner(weight, (size[0] + 2, size[1] + 2))
            y = preconv_matmul.forward(x, weight, v, stride, 1)
            fake = preconv_operators.filtered_conv(x, weight, v, stride, 1)
            assert (y.device.type, y.shape, y.stride(), y.dtype) == ("cuda", fake.shape, fake.stride(), fake.dtype)
            grads = preconv_matmul.backward(y, x, weight, v, stride, 1, True, 1)
            fakes = preconv_operators.backward_operator(y, x, weight, v, stride, 1, True, 1)
            for real, fake in zip(grads, fakes, strict=True):
                assert (real.device.type, real.shape, real.stride()) == ("cuda", fake.shape, fake.stride())
                assert real.dtype == fake.dtype
            for method in (preconv_matmul, preconv_filter):
                run = method.prepare(x, weight, v, stride, 1)
                y_kept = run(x, weight)
                assert (y_kept.device.type, y_kept.dtype) == ("cuda", dtype)
            for adjoint in (False, True):
                arguments = (*(side + 2 for side in size), 1, stride, adjoint)
                images = y if adjoint else torch.randn(2, 5, *arguments[:2], device="cuda", dtype=dtype)
                real = preconv_filter.spectral_filter(images, v, *arguments)
                fake = preconv_operators.filter_operator(images, v, *arguments)
                assert (real.device.type, real.shape, real.stride()) == ("cuda", fake.shape, fake.stride())
                assert real.dtype == fake.dtype == dtype


def test_operators_pass_torch_s_own_check() -> None:
    x, weight = torch.randn(2, 3, 8, 9), torch.randn(4, 3, 3, 3)
    v = preconv_operators.preconditioner(weight, (10, 11))
    tests = ("test_schema", "test_faketensor", "test_aot_dispatch_dynamic")
    torch.library.opcheck(preconv_operators.forward_operator, (x, weight, v, 2, 1), test_utils=tests)
    y = preconv_operators.filtered_conv(x, weight, v, 2, 1)
    arguments = (torch.randn_like(y), x, weight, v, 2, 1, True, 1)
    torch.library.opcheck(preconv_operators.backward_operator, arguments, test_utils=tests)
    torch.library.opcheck(preconv_operators.preconditioner_operator, (weight, 10, 11), test_utils=tests)
    maps = torch.randn(2, 4, 10, 11)
    torch.library.opcheck(preconv_operators.filter_operator, (maps, v, 10, 11, 1, 2, False), test_utils=tests)
    torch.library.opcheck(preconv_operators.filter_operator, (y, v, 10, 11, 1, 2, True), test_utils=tests)


def one_block(norm: str) -> ResNet:
    """Every kind of convolution that resnet18 has; the others repeat them."""
    return ResNet(BasicBlock, (0, 1, 0, 0), NORMS[norm], ACTIVATIONS["relu"], num_classes=10, width=4)


@pytest.mark.parametrize(
    ("make", "backend"),
    [
        (one_block, "aot_eager"),
        *(pytest.param(partial(resnet18, width=4), name, marks=pytest.mark.slow) for name in ("aot_eager", "inductor")),
    ],
    ids=lambda value: value if isinstance(value, str) else "resnet18" if isinstance(value, partial) else "small",
)
@pytest.mark.parametrize("norm", [pytest.param("conv", marks=pytest.mark.slow), "bncn"])
def test_a_compiled_network_is_one_graph_and_computes_the_same(
    norm: str, make: Callable[[str], ResNet], backend: str
) -> None:
    torch.manual_seed(0)
    # 17 layers amplify float32's rounding, which differs between kernels, to 2e-3 of a gradient; float64's tells more.
    whole = isinstance(make, partial)
    dtype, tolerance = (torch.float64, 1e-9) if whole else (torch.float32, 1e-3)
    plain = make(norm).to(dtype)
    compiled_from = copy.deepcopy(plain)
    torch._dynamo.reset()
    compiled = torch.compile(compiled_from, backend=backend, fullgraph=True)  # raises at a break
    for _ in range(3):
        x = torch.randn(4, 3, 32, 32, dtype=dtype)
        results = []
        for model, network in ((plain, plain), (compiled_from, compiled)):
            model.zero_grad()
            y = network(x)
            y.square().sum().backward()
            results.append([y, *(parameter.grad for parameter in model.parameters()), *model.buffers()])
        for got, want in zip(*results, strict=True):  # a bias in front of BatchNorm has a gradient of rounding alone
            assert (got - want).double().norm() <= tolerance * (want.double().norm() + 0.1)
    plain.eval()
    compiled.eval()
    with torch.no_grad():
        assert relative_error(compiled(x), plain(x)) < tolerance / 10


def test_dense_and_staged_transforms_agree(monkeypatch: pytest.MonkeyPatch) -> None:
    geometry = Geometry(8, 7, 3, 2, 1)
    x, weight = torch.randn(2, 3, 8, 7, dtype=torch.float64), torch.randn(4, 3, 3, 3, dtype=torch.float64)
    v = preconv_fft.preconditioner(weight, geometry.grid)
    results = []
    for limit in (0, 100):
        monkeypatch.setattr(preconv_constants, "DENSE_PIXELS", limit)
        constants.cache_clear()
        assert (constants(geometry, x.dtype, x.device).source is None) == (limit > 0)
        results.append(preconv_operators.filtered_conv(x, weight, v, 2, 1))
    constants.cache_clear()
    torch.testing.assert_close(*results)
