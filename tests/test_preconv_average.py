"""The running estimate in averages of models, which are deep copies that never see a batch."""

import copy
import pickle
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_avg_fn, get_ema_multi_avg_fn

from models.preconv import PreConv2d

SIZES = {"size unknown": {}, "size given": {"input_size": (6, 7)}}


def images() -> Tensor:
    return torch.randn(2, 3, 6, 7)


def network(**options: Any) -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(PreConv2d(3, 4, 3, padding=1, momentum=0.3, **options), nn.BatchNorm2d(4))


def train(model: nn.Sequential) -> Tensor:
    """One batch and a step; the estimate afterwards."""
    model(images())
    with torch.no_grad():
        model[0].weight.add_(0.2 * torch.randn_like(model[0].weight))
    return model[0].running_preconditioner.clone()


def uses_its_estimate(model: nn.Sequential) -> bool:
    x, own = images(), copy.deepcopy(model)
    own[0].running_preconditioner = None  # then the weights' preconditioner
    return not torch.allclose(model.eval()(x), own.eval()(x), rtol=1e-3)


@pytest.mark.parametrize("options", SIZES.values(), ids=SIZES)
@pytest.mark.parametrize("avg", [{}, {"multi_avg_fn": get_ema_multi_avg_fn(0.6)}, {"avg_fn": get_ema_avg_fn(0.6)}])
@pytest.mark.parametrize("use_buffers", [True, False])
def test_torch_s_averaged_model(use_buffers: bool, avg: dict, options: dict) -> None:
    model = network(**options)
    average = AveragedModel(model, use_buffers=use_buffers, **avg)
    assert torch.isfinite(average.eval()(images())).all()
    wanted, estimates = None, []
    for n in range(4):
        estimates.append(train(model))
        average.update_parameters(model)
        wanted = estimates[0] if n == 0 else 0.6 * wanted + 0.4 * estimates[-1]
    if not use_buffers:
        wanted = estimates[-1]
    elif not avg:
        wanted = torch.stack(estimates).mean(0)
    layer = average.module[0]
    torch.testing.assert_close(layer.running_preconditioner, wanted)
    assert uses_its_estimate(average.module)
    fresh = network()
    fresh.load_state_dict(average.module.state_dict())
    x = images()
    assert torch.equal(fresh.eval()(x), average.module(x))


@pytest.mark.parametrize("options", SIZES.values(), ids=SIZES)
@pytest.mark.parametrize("foreach", [True, False])
def test_timm_s_ema(foreach: bool, options: dict) -> None:
    ema_kind = pytest.importorskip("timm.utils").ModelEmaV3
    model = network(**options)
    ema = ema_kind(model, decay=0.9, foreach=foreach)
    wanted = None
    for _ in range(4):
        estimate = train(model)
        ema.update(model)
        wanted = estimate if wanted is None else 0.9 * wanted + 0.1 * estimate
    torch.testing.assert_close(ema.module[0].running_preconditioner, wanted)
    assert uses_its_estimate(ema.module)


def test_a_compiled_layer_of_a_given_size_has_an_average() -> None:
    model = network(input_size=(6, 7))
    ema = pytest.importorskip("timm.utils").ModelEmaV3(model, decay=0.9)
    compiled = torch.compile(model, backend="eager", fullgraph=True)
    compiled(images())
    ema.update(model)
    torch.testing.assert_close(ema.module[0].running_preconditioner, model[0].running_preconditioner)


@pytest.mark.parametrize("options", SIZES.values(), ids=SIZES)
def test_a_copy_is_a_layer_of_its_own(options: dict) -> None:
    """The first estimate of its original changes neither what it evaluates nor what it learns."""
    original = network(**options)
    copied, alone = copy.deepcopy(original), network(**options)
    for (name, value), other in zip(original.state_dict().items(), copied.state_dict().values(), strict=True):
        assert torch.equal(value, other), name
    train(original)
    assert copied[0].num_batches_tracked == 0
    x = images()
    assert torch.equal(copied.eval()(x), alone.eval()(x))
    again = network()
    again.load_state_dict(copied.state_dict())
    for model in (copied, again, alone):
        for seed in range(3):
            torch.manual_seed(seed)
            train(model.train())
    for model in (copied, again):
        torch.testing.assert_close(model[0].running_preconditioner, alone[0].running_preconditioner)
    assert pickle.loads(pickle.dumps(original))[0]._copies == []


def test_no_copy_is_kept_alive_or_given_what_it_does_not_take() -> None:
    model = network()
    gone, untracked, taught = (copy.deepcopy(model) for _ in range(3))
    untracked[0].running_preconditioner = untracked[0].num_batches_tracked = None
    other = train(taught)
    del gone
    train(model)
    assert untracked[0].running_preconditioner is None
    assert torch.equal(taught[0].running_preconditioner, other)
    assert model[0]._copies == []


def test_an_average_that_is_trained_on_goes_on_from_its_estimate() -> None:
    model = network()
    average = AveragedModel(model, use_buffers=True)
    train(model)
    average.update_parameters(model)
    layer = average.module[0].train()
    before = layer.running_preconditioner.clone()
    fresh = PreConv2d(3, 4, 3, padding=1, momentum=1.0)
    fresh.weight = layer.weight
    x = images()
    layer(x), fresh(x)
    torch.testing.assert_close(layer.running_preconditioner, 0.3 * fresh.running_preconditioner + 0.7 * before)
    assert layer.num_batches_tracked == 2


def test_a_narrow_layer_keeps_a_wide_estimate() -> None:
    layer = PreConv2d(2, 3, 3, padding=1)
    with torch.no_grad():
        layer.weight[0] = torch.tensor([1.0, 0.0, -1.0])  # V is beyond float16's range where its spectrum is 0
    x = torch.randn(2, 2, 6, 6)
    layer(x)
    wanted = layer.eval()(x)
    narrow = layer.half()
    assert narrow.weight.dtype == torch.float16
    assert narrow.running_preconditioner.dtype == torch.float32
    torch.testing.assert_close(narrow(x.half()).float(), wanted, rtol=2e-2, atol=2e-2)
    assert narrow.double().running_preconditioner.dtype == torch.float64
