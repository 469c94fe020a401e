"""Optimizers and learning-rate schedules, by name."""

import math
from collections.abc import Callable

import torch
from torch.optim import Optimizer

from base.base_model import BaseModel
from parse_config import Config, SchedulerArgs

OPTIMIZERS: dict[str, type[Optimizer]] = {"SGD": torch.optim.SGD, "Adam": torch.optim.Adam, "AdamW": torch.optim.AdamW}

#: Whole epochs done -> the factor of the base rate for the next. Plain functions of the epoch have no state to go stale
#: when a run is trained on for longer than it was first told, as torch's schedulers have.
Schedule = Callable[[int], float]


def multi_step(args: SchedulerArgs, epochs: int, base: float) -> Schedule:
    milestones, gamma = args.milestones or [], 0.1 if args.gamma is None else args.gamma
    return lambda epoch: gamma ** sum(epoch >= milestone for milestone in milestones)


def step(args: SchedulerArgs, epochs: int, base: float) -> Schedule:
    size, gamma = args.step_size or epochs, 0.1 if args.gamma is None else args.gamma
    return lambda epoch: gamma ** (epoch // size)


def cosine(args: SchedulerArgs, epochs: int, base: float) -> Schedule:
    """Loshchilov & Hutter 2017, https://arxiv.org/abs/1608.03983, one descent without restarts."""
    length, low = args.T_max or epochs, (args.eta_min or 0.0) / base
    return lambda epoch: low + (1.0 - low) * 0.5 * (1.0 + math.cos(math.pi * min(epoch, length) / length))


def constant(args: SchedulerArgs, epochs: int, base: float) -> Schedule:
    return lambda epoch: 1.0


SCHEDULERS: dict[str, Callable[[SchedulerArgs, int, float], Schedule]] = {
    "MultiStepLR": multi_step,
    "StepLR": step,
    "CosineAnnealingLR": cosine,
    "ConstantLR": constant,
}


def build_optimizer(config: Config, model: BaseModel) -> tuple[Optimizer, Schedule]:
    """The optimizer of `config` over `model`'s parameters, and the schedule of its rate."""
    args = config.optimizer.args.model_dump(exclude_none=True)
    groups = model.parameter_groups(args.pop("weight_decay"))
    return OPTIMIZERS[config.optimizer.type](groups, **args), schedule_of(config)


def schedule_of(config: Config) -> Schedule:
    schedule = SCHEDULERS[config.lr_scheduler.type]
    return schedule(config.lr_scheduler.args, config.trainer.epochs, config.optimizer.args.lr)


def learning_rate(config: Config) -> Schedule:
    """Whole epochs done -> the learning rate of the next."""
    schedule = schedule_of(config)
    return lambda epoch: config.optimizer.args.lr * schedule(epoch)
