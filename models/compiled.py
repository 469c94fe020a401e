"""torch.compile as an option."""

import os
import shutil
from typing import cast

import torch
from torch import nn

from utils.errors import ConfigError


def compiled(model: nn.Module, wanted: bool, device: torch.device) -> nn.Module:
    """`model` itself, or if `wanted` what torch.compile makes of it; both share parameters and buffers.

    Raises:
        ConfigError: on a CPU, where compiling needs a C++ compiler, and there is none.
    """
    if not wanted:
        return model
    if device.type == "cpu" and not any(map(shutil.which, (os.environ.get("CXX", ""), "g++", "clang++"))):
        raise ConfigError("trainer.compile: there is no C++ compiler here; install g++ or set trainer.compile=false")
    return cast(nn.Module, torch.compile(model))
