"""Chooses the device of a run."""

import warnings

import torch

from utils.errors import ConfigError


def choose_device(name: str | None, local_rank: int | None = None) -> torch.device:
    """The device called `name`, or, for None, the best available (CUDA, then Apple's MPS, then the CPU).

    Of several processes on a machine, each takes the GPU of its `local_rank` unless `name` has a number.

    Raises:
        ConfigError: there is no such device. An explicit choice never falls back silently.
    """
    if name is None:
        if torch.cuda.is_available():
            return choose_device("cuda", local_rank)
        return torch.device("mps" if torch.backends.mps.is_available() else "cpu")
    try:
        with warnings.catch_warnings(action="ignore"):  # torch warns of obsolete names, which are refused below
            device = torch.device(name)
    except RuntimeError as error:
        raise ConfigError(f"unknown device {name!r}; use cpu, cuda, cuda:1 or mps") from error
    if device.type == "cuda":
        count = torch.cuda.device_count() if torch.cuda.is_available() else 0
        index = (local_rank or 0) if device.index is None else device.index
        if index >= count:
            wanted = f"device {name!r}" + (f" for process {local_rank}" if local_rank else "")
            raise ConfigError(f"{wanted} was asked for, but this machine has {count} CUDA devices; use -d cpu")
        torch.cuda.set_device(index)
        return torch.device("cuda", index)
    if device.type == "mps" and not torch.backends.mps.is_available():
        raise ConfigError("device 'mps' was asked for, but this machine has none; use -d cpu")
    if device.type not in ("cpu", "mps"):
        raise ConfigError(f"device {name!r} is not supported; use cpu, cuda, cuda:1 or mps")
    return device
