"""Random numbers: a generator for each (seed, purpose), and the state of the global generators.

No two parts of this project draw from the same stream. So at one seed the arms of an experiment see the same split, the
same noisy labels and the same batches, whatever else they draw.
"""

import os
import random
from typing import Any, cast

import numpy as np
import torch

from utils.seeds import derive_seed


def generator(seed: int, purpose: str, *index: int) -> torch.Generator:
    """A generator for one purpose. It is on the CPU, so that every device sees the same draws."""
    return torch.Generator().manual_seed(derive_seed(seed, purpose, *index))


def seed_everything(seed: int, deterministic: bool = False) -> None:
    """Seed the global generators of Python, numpy and torch, for code that draws from them.

    With `deterministic`, torch also uses only deterministic kernels, and raises RuntimeError where there is none.
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
    """Restore what `rng_state` returned; CUDA generators only if the number of GPUs is the same."""
    _restore(state, random, np.random, torch.default_generator)
    if state["cuda"] and torch.cuda.device_count() == len(state["cuda"]):
        torch.cuda.set_rng_state_all(state["cuda"])


def check_rng_state(state: dict[str, Any]) -> None:
    """Raise an Exception, of any type, if generators cannot take `state`; the global ones do not change."""
    _restore(state, random.Random(), np.random.RandomState(), torch.Generator())
    if not isinstance(state["cuda"], list) or not all(
        isinstance(one, torch.Tensor) and one.dtype == torch.uint8 and one.dim() == 1 for one in state["cuda"]
    ):
        raise ValueError("the states of CUDA's generators")


def _restore(state: dict[str, Any], python: Any, numpy: Any, of_torch: torch.Generator) -> None:
    of_python, of_numpy = state["python"], state["numpy"]
    python.setstate((of_python["version"], tuple(of_python["state"]), of_python["gauss"]))
    keys = of_numpy["keys"].numpy()
    # numpy checks neither the words nor the position, and would read beyond their end.
    if ((keys < 0) | (keys >= 1 << 32)).any() or not 0 <= of_numpy["position"] <= len(keys):
        raise ValueError("numpy's generator has 624 words of 32 bits, and a position among them")
    words = keys.astype(np.uint32)
    numpy.set_state((of_numpy["name"], words, of_numpy["position"], of_numpy["has_gauss"], of_numpy["cached"]))
    of_torch.set_state(state["torch"])
