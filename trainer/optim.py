"""Optimizers and learning-rate schedules, by name."""

import inspect
import math
from collections.abc import Callable

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
    StepLR,
    StepLRArgs,
)

#: By the type's name. The arguments of a type in the config are those of the class here.
OPTIMIZERS: dict[str, type[Optimizer]] = {"SGD": torch.optim.SGD, "Adam": torch.optim.Adam, "AdamW": torch.optim.AdamW}

#: Whole epochs done -> the factor of the base rate for the next. Plain functions of the epoch have no state to go stale
#: when a run is trained on for longer than it was first told, as torch's schedulers have.
Schedule = Callable[[int], float]


def multi_step(args: MultiStepLRArgs) -> Schedule:
    return lambda epoch: args.gamma ** sum(epoch >= milestone for milestone in args.milestones)


def step(args: StepLRArgs) -> Schedule:
    return lambda epoch: args.gamma ** (epoch // args.step_size)


def cosine(args: CosineAnnealingLRArgs, epochs: int, base: float) -> Schedule:
    """Loshchilov & Hutter 2017, https://arxiv.org/abs/1608.03983, one descent without restarts."""
    length, low = args.T_max or epochs, args.eta_min / base
    return lambda epoch: low + (1.0 - low) * 0.5 * (1.0 + math.cos(math.pi * min(epoch, length) / length))


def constant(epoch: int) -> float:
    return 1.0


def schedule_of(config: Config) -> Schedule:
    schedule = config.lr_scheduler
    match schedule:
        case MultiStepLR():
            return multi_step(schedule.args)
        case StepLR():
            return step(schedule.args)
        case CosineAnnealingLR():
            return cosine(schedule.args, config.trainer.epochs, config.optimizer.args.lr)
        case ConstantLR():
            return constant


def build_optimizer(config: Config, model: BaseModel) -> tuple[Optimizer, Schedule]:
    """The optimizer of `config` over `model`'s parameters, and the schedule of its rate."""
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


def learning_rate(config: Config) -> Schedule:
    """Whole epochs done -> the learning rate of the next."""
    schedule = schedule_of(config)
    return lambda epoch: config.optimizer.args.lr * schedule(epoch)
