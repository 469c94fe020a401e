"""Random numbers: a generator for each (seed, purpose), and the state of the global ones.

Nothing in this project draws from a stream that something else draws from too. So the arms of an experiment see the
same split, the same noisy labels and the same batches at one seed, whatever else they draw.
"""

import os
import random
from typing import Any, cast

import numpy as np
import torch

from utils.seeds import derive_seed


def generator(seed: int, purpose: str, *index: int) -> torch.Generator:
    """A CPU generator for one purpose; on the CPU so that every device sees the same draws."""
    return torch.Generator().manual_seed(derive_seed(seed, purpose, *index))


def seed_everything(seed: int, deterministic: bool = False) -> None:
    """Seed the global generators of python, numpy and torch, for code that draws from them.

    With `deterministic`, torch also takes only kernels whose result does not vary from run to run, and raises where
    there is none.
    """
    if deterministic:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # read when CUDA starts
        torch.use_deterministic_algorithms(True)
    derived = derive_seed(seed, "global")
    random.seed(derived)
    np.random.seed(derived % 2**32)
    torch.manual_seed(derived)


def rng_state() -> dict[str, Any]:
    """The state of the global generators, as tensors and plain values."""
    name, keys, position, has_gauss, cached = cast("tuple[str, np.ndarray, int, int, float]", np.random.get_state())
    version, internal, gauss = random.getstate()
    return {
        "python": {"version": version, "state": list(internal), "gauss": gauss},
        "numpy": {
            "name": name,
            "keys": torch.from_numpy(keys.astype(np.int64)),
            "position": position,
            "has_gauss": has_gauss,
            "cached": cached,
        },
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state_all() if torch.cuda.is_available() else [],
    }


def set_rng_state(state: dict[str, Any]) -> None:
    """Restore what `rng_state` returned; CUDA generators only where there are as many GPUs as then."""
    python, numpy = state["python"], state["numpy"]
    random.setstate((python["version"], tuple(python["state"]), python["gauss"]))
    keys = numpy["keys"].numpy().astype(np.uint32)
    np.random.set_state((numpy["name"], keys, numpy["position"], numpy["has_gauss"], numpy["cached"]))
    torch.set_rng_state(state["torch"])
    if state["cuda"] and torch.cuda.device_count() == len(state["cuda"]):
        torch.cuda.set_rng_state_all(state["cuda"])
