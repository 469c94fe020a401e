"""torch.compile as an option."""

import os
import shutil
from typing import cast

import torch
from torch import nn

from utils.errors import ConfigError

MOST_GRAPHS = 64  # of whole, last and evaluated batches; beyond the limit torch.compile gives up, and compiles no more


def compiled(model: nn.Module, wanted: bool, device: torch.device) -> nn.Module:
    """`model` itself, or if `wanted` what torch.compile makes of it; both share parameters and buffers.

    Raises:
        ConfigError: on a CPU, where compiling needs a C++ compiler, and there is none.
    """
    if not wanted:
        return model
    if device.type == "cpu" and not any(map(shutil.which, (os.environ.get("CXX", ""), "g++", "clang++"))):
        raise ConfigError("trainer.compile: there is no C++ compiler here; install g++ or set trainer.compile=false")
    # Each shape has a graph of its own. Graphs for any shape are made when a second one comes along, and sum in another
    # order; a run resumed elsewhere in its epoch would meet the shapes, and so round, in another order too.
    torch._dynamo.config.recompile_limit = max(MOST_GRAPHS, torch._dynamo.config.recompile_limit)
    return cast(nn.Module, torch.compile(model, dynamic=False))
