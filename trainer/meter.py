"""Sums of figures over an epoch, kept on the device until the epoch ends, so that no step waits for them."""

import math

import torch
from torch import Tensor

from utils.world import World


class Meter:
    """Means over samples: add sums and counts batch by batch, read the ratios once.

    Each process adds its own sums. The means are over all processes, so all must call `means` and `state_dict`.
    """

    def __init__(self, device: torch.device, world: World | None = None) -> None:
        self._world = world or World()
        # Apple's GPUs have no float64
        self._dtype = torch.float32 if device.type == "mps" else torch.float64
        self._device = device
        self._sums: dict[str, tuple[Tensor, Tensor]] = {}

    def add(self, name: str, total: Tensor, count: Tensor | int) -> None:
        """Add a batch: the sum of a figure over `count` samples, both scalars."""
        old_total, old_count = self._sums.get(name) or (self._zero(), self._zero())
        self._sums[name] = (old_total + total.detach().to(self._dtype), old_count + count)

    def means(self) -> dict[str, float]:
        """Name -> mean; NaN if no sample counted. Waits for the device."""
        sums: dict[str, list[float]] = {}
        for part in self._world.gathered(self._own()):
            for name, (total, count) in part.items():
                so_far = sums.setdefault(name, [0.0, 0.0])
                sums[name] = [so_far[0] + total, so_far[1] + count]
        return {name: total / count if count else math.nan for name, (total, count) in sums.items()}

    def state_dict(self) -> dict[str, dict[str, list[float]]]:
        """Rank of each process -> name -> [sum, count]. Waits for the device."""
        parts = self._world.gathered(self._own())
        return {str(rank): part for rank, part in enumerate(parts)} if any(parts) else {}

    def load_state_dict(self, state: dict[str, dict[str, list[float]]]) -> None:
        """Restore what `state_dict` returned. If the number of processes has changed, the first takes all sums."""
        self._sums = {}
        alike = len(state) == self._world.size
        for rank, part in state.items():
            for name, (total, count) in part.items():
                if rank == str(self._world.rank) if alike else self._world.first:
                    self.add(name, self._zero() + total, self._zero() + count)

    def _own(self) -> dict[str, list[float]]:
        return {name: [total.item(), count.item()] for name, (total, count) in self._sums.items()}

    def _zero(self) -> Tensor:
        return torch.zeros((), dtype=self._dtype, device=self._device)
