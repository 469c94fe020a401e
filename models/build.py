"""Builds a freshly initialised model from a config."""

import torch

from base.base_model import BaseModel
from models.resnet import MODELS
from parse_config import Config
from utils.errors import ConfigError
from utils.memory import machine_memory
from utils.seeds import derive_seed

ALWAYS_FITS = 512  # largest width and number of outputs that need no check of memory


def build_model(config: Config, classes: int) -> BaseModel:
    """The network of `config` on the CPU. Its weights depend on seed and architecture alone.

    Raises:
        ConfigError: `arch.args.num_classes` is smaller than the dataset's number of classes, or the network
            does not fit into this machine's memory.
    """
    outputs = outputs_of(config, classes)
    if config.arch.args.width > ALWAYS_FITS or outputs > ALWAYS_FITS:
        check_memory(outline_model(config, classes))
    with torch.random.fork_rng(devices=[]):  # layers draw from the global generator, whose state must not change
        torch.manual_seed(derive_seed(config.seed, "init"))
        return _make(config, outputs)


def outline_model(config: Config, classes: int) -> BaseModel:
    """The network of `config`, of any size, on torch's meta device: names, shapes and dtypes without values.

    Raises:
        ConfigError: `arch.args.num_classes` is smaller than the dataset's number of classes.
        Exception: torch raises any type over sizes that no tensor can have.
    """
    outputs = outputs_of(config, classes)
    with torch.device("meta"):
        return _make(config, outputs)


def _make(config: Config, outputs: int) -> BaseModel:
    args = config.arch.args
    return MODELS[config.arch.type](args.norm, outputs, args.width, args.activation)


def outputs_of(config: Config, classes: int) -> int:
    """The number of the network's outputs. Raises ConfigError if it is smaller than that of `classes`."""
    args = config.arch.args
    outputs = classes if args.num_classes is None else args.num_classes
    if outputs < classes:
        raise ConfigError(f"arch.args.num_classes: {outputs}, but the dataset has {classes} classes; null takes those")
    return outputs


def check_memory(model: BaseModel) -> None:
    """Raise ConfigError if weights and gradients alone exceed this machine's memory. The system might not refuse them
    but kill this process or others."""
    needed = 2 * sum(weight.numel() * weight.element_size() for weight in model.parameters())
    if needed > (there := machine_memory()):
        raise ConfigError(
            f"the network's {model.parameter_count():,} weights take {needed:,} bytes with their gradients, and this "
            f"machine has {there:,}; lower arch.args.width or arch.args.num_classes"
        )
