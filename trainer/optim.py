"""Optimizers and learning-rate schedules, by name."""

import inspect
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch.optim import Optimizer

from base.base_model import BaseModel
from config_schema import (
    Config,
    ConstantLR,
    CosineAnnealingLR,
    CosineAnnealingLRArgs,
    MultiStepLR,
    MultiStepLRArgs,
    OneCycleLR,
    OneCycleLRArgs,
    ScheduleArgs,
    StepLR,
    StepLRArgs,
)

#: By the type's name. The arguments of a type in the config are those of the class here.
OPTIMIZERS: dict[str, type[Optimizer]] = {"SGD": torch.optim.SGD, "Adam": torch.optim.Adam, "AdamW": torch.optim.AdamW}


@dataclass(frozen=True)
class Step:
    """A step of a run: before it come `epoch` whole epochs, and `batch` of the `batches` of the one in progress."""

    epoch: int
    batch: int = 0
    batches: int = 1

    @property
    def progress(self) -> float:
        """The epochs before it."""
        return self.epoch + self.batch / self.batches


#: A learning rate or a momentum at each step. Plain functions of the step have no state to go stale when a run is
#: trained on for longer than it was first told, as torch's schedulers have.
Curve = Callable[[Step], float]
#: The options of the optimizer at each step: `lr`, and the momentum where the schedule changes it.
Schedule = Callable[[Step], dict[str, Any]]


def multi_step(args: MultiStepLRArgs, base: float) -> Curve:
    return lambda step: base * args.gamma ** sum(step.epoch >= milestone for milestone in args.milestones)


def every_so_often(args: StepLRArgs, base: float) -> Curve:
    return lambda step: base * args.gamma ** (step.epoch // args.step_size)


def cosine(args: CosineAnnealingLRArgs, epochs: int, base: float) -> Curve:
    """Loshchilov & Hutter 2017, https://arxiv.org/abs/1608.03983, one descent without restarts."""
    length, low = args.T_max or epochs, args.eta_min / base

    def at(step: Step) -> float:
        done = step.epoch if args.by == "epoch" else step.progress
        return base * (low + (1.0 - low) * 0.5 * (1.0 + math.cos(math.pi * min(done, length) / length)))

    return at


def one_cycle(args: OneCycleLRArgs, epochs: int, first: float, middle: float, last: float) -> Curve:
    """From `first` to `middle` in the share `pct_start` of all steps, then to `last`, by the formulas of torch's
    OneCycleLR; Smith & Topin 2017, https://arxiv.org/abs/1708.07120."""

    def between(start: float, end: float, share: float) -> float:
        if args.anneal_strategy == "linear":
            return (end - start) * share + start
        return end + (start - end) / 2.0 * (math.cos(math.pi * share) + 1)

    def at(step: Step) -> float:
        steps = epochs * step.batches
        done = min(step.epoch * step.batches + step.batch, steps - 1)
        turn = args.pct_start * steps - 1
        if done <= turn:
            return between(first, middle, done / turn if turn else 1.0)
        return between(middle, last, (done - turn) / (steps - 1 - turn))

    return at


def warmed_up(curve: Curve, args: ScheduleArgs) -> Curve:
    """`curve` times a factor that rises to 1; Goyal et al. 2017, https://arxiv.org/abs/1706.02677."""

    def at(step: Step) -> float:
        if step.progress >= args.warmup_epochs:
            return curve(step)
        return curve(step) * (args.warmup_factor + (1.0 - args.warmup_factor) * step.progress / args.warmup_epochs)

    return at


def rate_of(config: Config) -> Curve:
    """The learning rate of `config` at each step."""
    return warmed_up(_without_warmup(config), config.lr_scheduler.args)


def setting_of_rate(config: Config) -> str:
    """The setting that the learning rate goes by."""
    return "lr_scheduler.args.max_lr" if isinstance(config.lr_scheduler, OneCycleLR) else "optimizer.args.lr"


def _without_warmup(config: Config) -> Curve:
    schedule, base, epochs = config.lr_scheduler, config.optimizer.args.lr, config.trainer.epochs
    match schedule:
        case MultiStepLR():
            return multi_step(schedule.args, base)
        case StepLR():
            return every_so_often(schedule.args, base)
        case CosineAnnealingLR():
            return cosine(schedule.args, epochs, base)
        case ConstantLR():
            return lambda step: base
        case OneCycleLR():
            top = schedule.args.max_lr
            first = top / schedule.args.div_factor
            return one_cycle(schedule.args, epochs, first, top, first / schedule.args.final_div_factor)


def schedule_of(config: Config) -> Schedule:
    rate, schedule = rate_of(config), config.lr_scheduler
    if not isinstance(schedule, OneCycleLR) or not schedule.args.cycle_momentum:
        return lambda step: {"lr": rate(step)}
    most, least = schedule.args.max_momentum, schedule.args.base_momentum
    momentum = one_cycle(schedule.args, config.trainer.epochs, most, least, most)
    betas = getattr(config.optimizer.args, "betas", None)
    if betas is None:
        return lambda step: {"lr": rate(step), "momentum": momentum(step)}
    return lambda step: {"lr": rate(step), "betas": [momentum(step), betas[1]]}


def build_optimizer(config: Config, model: BaseModel) -> tuple[Optimizer, Schedule]:
    """The optimizer of `config` over `model`'s parameters, and the schedule of its options."""
    args = config.optimizer.args.model_dump()
    groups = model.parameter_groups(args.pop("weight_decay"))
    return eager(OPTIMIZERS[config.optimizer.type])(groups, **args), schedule_of(config)


def eager(kind: type[Optimizer]) -> type[Optimizer]:
    """`kind`, under the same name, without what torch wraps its methods in for a step within torch.compile.

    Elsewhere the wrappers do nothing, but they import torch._dynamo, a third of the time to the first step.
    """
    names = ("add_param_group", "zero_grad", "state_dict", "load_state_dict")
    methods = {name: inspect.unwrap(getattr(kind, name)) for name in names}
    return type(kind.__name__, (kind,), {**methods, "step": torch.no_grad()(inspect.unwrap(kind.step))})
