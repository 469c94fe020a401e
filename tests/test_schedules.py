"""Learning-rate schedules: torch's own, step for step, as functions of the step; a run resumes exactly within them."""

import signal
from collections.abc import Callable
from itertools import product
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.optim import Optimizer
from torch.optim.lr_scheduler import ChainedScheduler, CosineAnnealingLR, LinearLR, LRScheduler, MultiStepLR, OneCycleLR

from parse_config import load_config, validate
from tests.conftest import ROOT
from tests.runs import coco, rows, run, same_run
from trainer.optim import Step, rate_of, schedule_of
from trainer.trainer import Trainer

EPOCHS, BATCHES = 5, 7
STEPS = EPOCHS * BATCHES


def planned(kind: str, optimizer: str = "SGD", **args: Any) -> list[dict[str, Any]]:
    """The options that our schedule gives the optimizer at each step."""
    values = {
        "name": "x",
        "optimizer": {"type": optimizer, "args": {"lr": 0.3}},
        "lr_scheduler": {"type": kind, "args": args},
        "trainer": {"epochs": EPOCHS},
    }
    schedule = schedule_of(validate(values, "test"))
    return [schedule(Step(epoch, batch, BATCHES)) for epoch, batch in product(range(EPOCHS), range(BATCHES))]


def torch_s(make: Callable[[Optimizer], LRScheduler], kind: type[Optimizer] = torch.optim.SGD) -> list[dict[str, Any]]:
    """Those of torch's scheduler."""
    optimizer = kind([torch.zeros(1, requires_grad=True)], lr=0.3)
    scheduler = make(optimizer)
    found = []
    for step in range(STEPS):
        if step:
            optimizer.step()
            scheduler.step()
        found.append(dict(optimizer.param_groups[0]))
    return found


@pytest.mark.parametrize(
    "args",
    [
        {},
        {"pct_start": 0.0, "anneal_strategy": "linear"},
        {"pct_start": 0.55, "div_factor": 3.0, "final_div_factor": 7.0, "base_momentum": 0.5, "max_momentum": 0.75},
        {"pct_start": 1.0},
        {"cycle_momentum": False},
    ],
    ids=str,
)
@pytest.mark.parametrize("kind", [torch.optim.SGD, torch.optim.AdamW])
def test_one_cycle_is_torch_s_bit_for_bit(kind: type[Optimizer], args: dict[str, Any]) -> None:
    ours = planned("OneCycleLR", kind.__name__, max_lr=0.8, **args)
    theirs = torch_s(lambda optimizer: OneCycleLR(optimizer, 0.8, total_steps=STEPS, **args), kind)
    moves = ["momentum" if kind is torch.optim.SGD else "betas"] if args.get("cycle_momentum", True) else []
    for mine, other in zip(ours, theirs, strict=True):
        assert list(mine) == ["lr", *moves]
        assert mine["lr"] == other["lr"]
        assert [mine[key] if key == "momentum" else tuple(mine[key]) for key in moves] == [other[key] for key in moves]


def test_a_rise_of_one_step_is_none() -> None:
    """torch divides by zero there."""
    assert planned("OneCycleLR", max_lr=0.8, pct_start=1 / STEPS)[0]["lr"] == 0.8


@pytest.mark.parametrize("length", [EPOCHS, 3])
def test_a_cosine_by_step_is_torch_s(length: int) -> None:
    ours = [at["lr"] for at in planned("CosineAnnealingLR", by="step", T_max=length, eta_min=0.01)]
    theirs = torch_s(lambda optimizer: CosineAnnealingLR(optimizer, length * BATCHES, 0.01))
    descent = length * BATCHES
    assert ours[:descent] == pytest.approx([at["lr"] for at in theirs[:descent]], rel=1e-12)
    assert ours[descent:] == pytest.approx([0.01] * (STEPS - descent)), "where torch's rises again"


def test_a_warm_up_is_torch_s_and_leaves_the_milestones_where_they_are() -> None:
    args = {"milestones": [1, 3], "warmup_epochs": 2, "warmup_factor": 0.125}

    def both(optimizer: Optimizer) -> LRScheduler:
        slow = LinearLR(optimizer, start_factor=0.125, total_iters=2 * BATCHES)
        return ChainedScheduler([slow, MultiStepLR(optimizer, [BATCHES, 3 * BATCHES])])

    ours = [at["lr"] for at in planned("MultiStepLR", **args)]
    assert ours == pytest.approx([at["lr"] for at in torch_s(both)], rel=1e-12)
    assert ours[0] == 0.3 / 8
    assert ours[-1] == 0.3 * 0.1**2


@pytest.mark.parametrize("kind", ["StepLR", "CosineAnnealingLR", "ConstantLR", "OneCycleLR"])
def test_every_schedule_warms_up(kind: str) -> None:
    args: dict[str, Any] = {"OneCycleLR": {"max_lr": 0.5}, "StepLR": {"step_size": 1}}.get(kind, {})
    cold, warm = (planned(kind, **args, warmup_epochs=epochs) for epochs in (0, 1.5))
    factors = [each["lr"] / other["lr"] for each, other in zip(warm, cold, strict=True)]
    assert factors == pytest.approx([1 / 3 + 2 / 3 * min(1.0, step / (1.5 * BATCHES)) for step in range(STEPS)])


@pytest.mark.parametrize(
    ("kind", "args", "rates"),
    [
        ("MultiStepLR", {"milestones": [1, 3]}, [0.3, 0.03, 0.03, 0.0030000000000000005, 0.0030000000000000005]),
        ("StepLR", {"step_size": 2, "gamma": 0.7}, [0.3, 0.3, 0.21, 0.21, 0.14699999999999996]),
        (
            "CosineAnnealingLR",
            {"T_max": 3, "eta_min": 0.01},
            [0.3, 0.22749999999999998, 0.08250000000000003, 0.01, 0.01],
        ),
        (
            "CosineAnnealingLR",
            {},
            [0.3, 0.27135254915624213, 0.19635254915624212, 0.1036474508437579, 0.0286474508437579],
        ),
        ("ConstantLR", {}, [0.3] * EPOCHS),
    ],
)
def test_rates_by_epoch_are_bit_for_bit_what_they_were_as_functions_of_the_epoch(
    kind: str, args: dict[str, Any], rates: list[float]
) -> None:
    assert planned(kind, **args) == [{"lr": rate} for rate in rates for _ in range(BATCHES)]


def test_a_rate_that_one_cycle_does_not_take_is_told() -> None:
    cycle = ["lr_scheduler.type=OneCycleLR", "lr_scheduler.args.max_lr=0.5"]
    path = ROOT / "configs" / "coco_bn_0noise.json"
    (remark,) = load_config(path, cycle).remarks
    assert remark == "optimizer.args.lr 0.025 has no effect: OneCycleLR takes lr_scheduler.args.max_lr, 0.5"
    _, remark = load_config(path, [*cycle, "optimizer.args.momentum=0.5"]).remarks
    taken = "OneCycleLR takes it from 0.95 to 0.85 (lr_scheduler.args.cycle_momentum)"
    assert remark == f"optimizer.args.momentum 0.5 has no effect: {taken}"
    fixed = [*cycle, "optimizer.args.momentum=0.5", "lr_scheduler.args.cycle_momentum=false"]
    assert len(load_config(path, fixed).remarks) == 1


@pytest.mark.parametrize(
    ("optimizer", "steps"),
    [("SGD", 7), *(pytest.param("AdamW", steps, marks=pytest.mark.slow) for steps in (5, 7))],  # 5 are an epoch
)
def test_a_run_stopped_within_its_cycle_ends_as_one_never_stopped(
    coco_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, optimizer: str, steps: int
) -> None:
    """The column `lr` has the rate of each epoch's last step."""
    args = {"max_lr": 0.05, "warmup_epochs": 0.5}
    options = ["trainer.epochs=2", f"optimizer.type={optimizer}", "lr_scheduler.type=OneCycleLR"]
    options += [f"lr_scheduler.args.{key}={value}" for key, value in args.items()]
    given = [each for each in coco(coco_dir, tmp_path / "straight", *options) if "milestones" not in each]
    assert run(*given) == 0
    step = Trainer.train_step

    def stopping(self: Trainer, *args: Any) -> None:
        step(self, *args)
        if self.global_step + 1 == steps:  # of ten
            self.stop.signal = signal.SIGTERM

    part = tmp_path / "part"
    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "train_step", stopping)
        assert run(*(str(part) if each == str(tmp_path / "straight") else each for each in given)) == 143
    assert run("-r", "auto", "--run-dir", part) == 0
    same_run(part, tmp_path / "straight", 2)
    rate = rate_of(load_config(part / "config.json"))
    last = [rate(Step(epoch, 4, 5)) for epoch in (0, 1)]
    assert [float(row["lr"]) for row in rows(part)] == pytest.approx(last, rel=1e-6)
