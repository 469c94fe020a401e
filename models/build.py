"""Builds a freshly initialised model from a config."""

from collections.abc import Callable

import torch
from torch import nn

from base.base_model import BaseModel
from config_schema import Arch
from models.library import build_library, check_name
from models.resnet import resnet18, resnet34, resnet50
from models.simple_cnn import simple_cnn
from models.vgg import vgg16
from parse_config import Config
from utils.errors import ConfigError
from utils.memory import machine_memory
from utils.seeds import derive_seed

ALWAYS_FITS = 512  # largest width and number of outputs that need no check of memory

#: Our own networks, as functions of norm, number of outputs, width and activation.
MODELS: dict[str, Callable[[str, int, int, str], BaseModel]] = {
    "resnet18": resnet18,
    "resnet34": resnet34,
    "resnet50": resnet50,
    "vgg16": vgg16,
    "simple_cnn": simple_cnn,
}


def check_network(config: Config) -> None:
    """Raise ConfigError if the network of `config` is of a library that lacks it, or that is not installed."""
    if not isinstance(config.arch, Arch):
        check_name(config.arch.type)


def build_model(config: Config, classes: int, size: tuple[int, int] | None = None) -> BaseModel:
    """The network of `config` on the CPU. Its weights depend on seed and architecture alone. `size` is the height and
    width of the images, if it is known.

    Raises:
        ConfigError: `arch.args.num_classes` is smaller than the dataset's number of classes, or the network
            does not fit into this machine's memory, or does not take images of `size`.
    """
    arch, outputs = config.arch, outputs_of(config, classes)
    seed = derive_seed(config.seed, "init")

    def prepare(outline: nn.Module) -> None:
        check_memory(outline)
        torch.manual_seed(seed)

    with torch.random.fork_rng(devices=[]):  # layers draw from the global generator, whose state must not change
        if not isinstance(arch, Arch):
            return build_library(arch, outputs, prepare, size)
        if arch.args.width > ALWAYS_FITS or outputs > ALWAYS_FITS:
            check_memory(outline_model(config, classes))
        torch.manual_seed(seed)
        return MODELS[arch.type](arch.args.norm, outputs, arch.args.width, arch.args.activation)


def outline_model(config: Config, classes: int) -> BaseModel:
    """The network of `config`, of any size, on torch's meta device: names, shapes and dtypes without values.

    Raises:
        ConfigError: `arch.args.num_classes` is smaller than the dataset's number of classes, or a library lacks the
            network.
        Exception: torch raises any type over sizes that no tensor can have.
    """
    arch, outputs = config.arch, outputs_of(config, classes)
    if not isinstance(arch, Arch):
        return build_library(arch, outputs, None)
    with torch.device("meta"):
        return MODELS[arch.type](arch.args.norm, outputs, arch.args.width, arch.args.activation)


def outputs_of(config: Config, classes: int) -> int:
    """The number of the network's outputs. Raises ConfigError if it is smaller than that of `classes`."""
    args = config.arch.args
    outputs = classes if args.num_classes is None else args.num_classes
    if outputs < classes:
        raise ConfigError(f"arch.args.num_classes: {outputs}, but the dataset has {classes} classes; null takes those")
    return outputs


def check_memory(model: nn.Module) -> None:
    """Raise ConfigError if weights and gradients alone exceed this machine's memory. The system might not refuse them
    but kill this process or others."""
    count = sum(weight.numel() for weight in model.parameters())
    needed = 2 * sum(weight.numel() * weight.element_size() for weight in model.parameters())
    if needed > (there := machine_memory()):
        raise ConfigError(
            f"the network's {count:,} weights take {needed:,} bytes with their gradients, and this "
            f"machine has {there:,}; lower arch.args.width or arch.args.num_classes, or take another arch.type"
        )
