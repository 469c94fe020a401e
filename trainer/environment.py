"""The machine that a run is on, as far as its numbers depend on it."""

from typing import Any

import torch


def environment(device: torch.device, processes: int) -> dict[str, Any]:
    """What a bit-exact resume needs to be the same."""
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else device.type
    threads = torch.get_num_threads()
    return {"torch": str(torch.__version__), "device": name, "threads": threads, "world_size": processes}
