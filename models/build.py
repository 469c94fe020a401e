"""From a config to a freshly initialised model."""

import torch

from base.base_model import BaseModel
from models.resnet import MODELS
from parse_config import Config
from utils.errors import ConfigError
from utils.memory import machine_memory
from utils.seeds import derive_seed

ALWAYS_FITS = 512  # of width, and of outputs


def build_model(config: Config, classes: int) -> BaseModel:
    """The network of `config` on the CPU, its weights a function of (seed, architecture) alone.

    Raises:
        ConfigError: `arch.args.num_classes` is smaller than the dataset's number of classes, or the network is larger
            than this machine's memory.
    """
    outputs = _outputs(config, classes)
    if config.arch.args.width > ALWAYS_FITS or outputs > ALWAYS_FITS:
        check_memory(outline_model(config, classes))
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


def check_memory(model: BaseModel) -> None:
    """Raise ConfigError if weights and gradients alone take more than this machine has. Where they do, the system may
    kill the process, or others, instead of refusing them."""
    needed = 2 * sum(weight.numel() * weight.element_size() for weight in model.parameters())
    if needed > (there := machine_memory()):
        raise ConfigError(
            f"the network's {model.parameter_count():,} weights take {needed:,} bytes with their gradients, and this "
            f"machine has {there:,}; lower arch.args.width or arch.args.num_classes"
        )
