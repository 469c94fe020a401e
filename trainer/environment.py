"""The facts about machine and code on which a run's numbers depend."""

import os
import subprocess
from pathlib import Path
from typing import Any

import torch

_ROOT = Path(__file__).resolve().parent.parent


def device_name(device: torch.device) -> str:
    return torch.cuda.get_device_name(device) if device.type == "cuda" else device.type


def environment(device: torch.device, processes: int) -> dict[str, Any]:
    """The values that must not change for a bit-exact resume."""
    threads = torch.get_num_threads()
    return {"torch": str(torch.__version__), "device": device_name(device), "threads": threads, "world_size": processes}


def code_version() -> str | None:
    """The commit of this code, with "-dirty" where files differ from it; None outside of a git checkout."""
    if not (_ROOT / ".git").exists():
        return None  # git would look for one further up
    command = ["git", "-C", str(_ROOT), "describe", "--always", "--dirty", "--abbrev=12", "--exclude=*"]
    # Variables of git's, as a hook has them, may name another repository.
    variables = {name: value for name, value in os.environ.items() if not name.startswith("GIT_")}
    variables["GIT_OPTIONAL_LOCKS"] = "0"  # nothing is written, not even into .git
    try:
        found = subprocess.run(command, env=variables, capture_output=True, text=True, timeout=10, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    return found.stdout.strip() or None
