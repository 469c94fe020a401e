"""torch.compile as an option."""

import os
import shutil
from typing import cast

import torch
from torch import nn

from utils.errors import ConfigError

MOST_GRAPHS = 64  # one for each batch shape; beyond the limit torch.compile stops compiling


def compiled(model: nn.Module, wanted: bool, device: torch.device) -> nn.Module:
    """`model` itself, or, if `wanted`, its torch.compile form, which shares parameters and buffers with it.

    Raises:
        ConfigError: `device` is a CPU and there is no C++ compiler.
    """
    if not wanted:
        return model
    if device.type == "cpu" and not any(map(shutil.which, (os.environ.get("CXX", ""), "g++", "clang++"))):
        raise ConfigError("trainer.compile: there is no C++ compiler here; install g++ or set trainer.compile=false")
    # Each shape has its own graph. With dynamic shapes torch would make one graph for all shapes when it meets a second
    # shape, and that graph sums in another order. A resumed run meets the shapes in another order, so it would round
    # differently.
    torch._dynamo.config.recompile_limit = max(MOST_GRAPHS, torch._dynamo.config.recompile_limit)
    return cast(nn.Module, torch.compile(model, dynamic=False))
