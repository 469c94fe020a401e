"""From a config to a freshly initialised model."""

import torch

from base.base_model import BaseModel
from models.resnet import MODELS
from parse_config import Config
from utils.errors import ConfigError
from utils.seeding import derive_seed


def build_model(config: Config, classes: int) -> BaseModel:
    """The network of `config` on the CPU, its weights a function of (seed, architecture) alone.

    Raises:
        ConfigError: `arch.args.num_classes` is smaller than the dataset's number of classes.
    """
    outputs = _outputs(config, classes)
    with torch.random.fork_rng(devices=[]):  # layers draw from the global generator; leave it as it was
        torch.manual_seed(derive_seed(config.seed, "init"))
        return _make(config, outputs)


def outline_model(config: Config, classes: int) -> BaseModel:
    """The network of `config` without numbers (on torch's meta device), however large: names, shapes and types.

    Raises:
        ConfigError: as `build_model`.
        Exception: whatever torch raises over sizes that no tensor can have.
    """
    outputs = _outputs(config, classes)
    with torch.device("meta"):
        return _make(config, outputs)


def _make(config: Config, outputs: int) -> BaseModel:
    args = config.arch.args
    return MODELS[config.arch.type](args.norm, outputs, args.width, args.activation)


def _outputs(config: Config, classes: int) -> int:
    args = config.arch.args
    outputs = classes if args.num_classes is None else args.num_classes
    if outputs < classes:
        raise ConfigError(f"arch.args.num_classes: {outputs}, but the dataset has {classes} classes; null takes those")
    return outputs
