"""The facts about a machine on which a run's numbers depend."""

from typing import Any

import torch


def environment(device: torch.device, processes: int) -> dict[str, Any]:
    """The values that must not change for a bit-exact resume."""
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else device.type
    threads = torch.get_num_threads()
    return {"torch": str(torch.__version__), "device": name, "threads": threads, "world_size": processes}
