"""Optimizers go on bit for bit from their saved buffers, whichever buffers those are."""

import copy
from typing import Any

import pytest
import torch
from torch import nn
from torch.optim import Optimizer

from tests.states import made_state
from trainer.optim import OPTIMIZERS
from trainer.restore import load_optimizer
from trainer.state import RunState
from utils.errors import CheckpointError

OTHERS: list[tuple[type[Optimizer], dict[str, Any]]] = [
    (torch.optim.SGD, {"momentum": 0.9, "nesterov": True}),
    (torch.optim.Adam, {"amsgrad": True}),
    (torch.optim.RMSprop, {"momentum": 0.9, "centered": True}),
    (torch.optim.NAdam, {}),
    (torch.optim.Adafactor, {}),
]


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(1, 4, 3), nn.Flatten(), nn.Linear(16, 3))


def train(model: nn.Module, optimizer: Optimizer, steps: range) -> None:
    for step in steps:
        optimizer.zero_grad()
        x = torch.randn(2, 1, 4, 4, generator=torch.Generator().manual_seed(step))
        model(x).square().sum().backward()
        optimizer.step()


def saved(kind: type[Optimizer], **options: Any) -> tuple[nn.Module, Optimizer, RunState]:
    """A network, its optimizer after three steps, and a state that holds the optimizer's."""
    model = network()
    optimizer = kind(model.parameters(), lr=0.01, **options)
    train(model, optimizer, range(3))
    return model, optimizer, made_state(optimizer_type=kind.__name__, optimizer=copy.deepcopy(optimizer.state_dict()))


@pytest.mark.parametrize(
    ("kind", "options"), [*((kind, {}) for kind in OPTIMIZERS.values()), *OTHERS], ids=lambda value: str(value)[:60]
)
def test_an_optimizer_goes_on_as_if_never_stopped(kind: type[Optimizer], options: dict[str, Any]) -> None:
    model, optimizer, state = saved(kind, **options)
    again = network()
    again.load_state_dict(model.state_dict())
    resumed = kind(again.parameters(), lr=0.01, **options)
    load_optimizer(resumed, state, "file")
    for trained in ((model, optimizer), (again, resumed)):
        train(*trained, range(3, 6))
    for one, other in zip(model.parameters(), again.parameters(), strict=True):
        assert torch.equal(one, other)


@pytest.mark.parametrize(
    ("kind", "before", "now"),
    [
        (torch.optim.SGD, {"momentum": 0.9}, {}),
        (torch.optim.SGD, {}, {"momentum": 0.9}),
        (torch.optim.Adam, {"amsgrad": True}, {}),
    ],
    ids=str,
)
def test_options_may_change_where_the_buffers_allow_it(
    kind: type[Optimizer], before: dict[str, Any], now: dict[str, Any]
) -> None:
    model, _, state = saved(kind, **before)
    optimizer = kind(model.parameters(), lr=0.5, **now)
    load_optimizer(optimizer, state, "file")
    assert optimizer.param_groups[0]["lr"] == 0.5
    train(model, optimizer, range(1))


def test_a_buffer_that_is_needed_now_is_named() -> None:
    model, _, state = saved(torch.optim.Adam)
    optimizer = torch.optim.Adam(model.parameters(), amsgrad=True)
    with pytest.raises(CheckpointError, match=r"does not fit \(it lacks max_exp_avg_sq, which the present"):
        load_optimizer(optimizer, state, "file")


DAMAGES = {
    "exp_avg": (torch.zeros(3), r"exp_avg is \(3,\) for a parameter of \(4, 1, 3, 3\), expected \(4, 1, 3, 3\)"),
    "step": (torch.tensor(-1.0), "step has impossible values"),
    "exp_avg_sq": (-torch.ones(4, 1, 3, 3), "exp_avg_sq has impossible values"),
    "other": (torch.zeros(4, 1, 3, 3), "other is no buffer of Adam"),
}


@pytest.mark.parametrize("name", DAMAGES)
def test_a_buffer_that_does_not_fit_is_named(name: str) -> None:
    _, optimizer, state = saved(torch.optim.Adam)
    wrong, message = DAMAGES[name]
    state["optimizer"]["state"][0][name] = wrong
    with pytest.raises(CheckpointError, match=message):
        load_optimizer(optimizer, state, "file")


def test_buffers_of_strangers_are_refused() -> None:
    _, optimizer, state = saved(torch.optim.Adam)
    for number in (10, 11):
        state["optimizer"]["state"][number] = {}
    with pytest.raises(CheckpointError, match="buffers for 2 parameters that are not the model's"):
        load_optimizer(optimizer, state, "file")
