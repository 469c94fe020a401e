"""Sums of figures over an epoch, kept on the device until the epoch ends, so that no step waits for them."""

from collections.abc import Mapping

import torch
from torch import Tensor

from models.metric import METRICS, Metric, mean
from utils.world import World


class Meter:
    """Figures over samples: add states batch by batch, read the figures once.

    The state of a mean is a sum and a count; that of any other figure is defined by its `Metric`. Each process adds its
    own. The figures are over all processes, so all must call `figures` and `state_dict`.
    """

    def __init__(self, device: torch.device, world: World | None = None) -> None:
        self._world = world or World()
        # Apple's GPUs have no float64
        self._dtype = torch.float32 if device.type == "mps" else torch.float64
        self._device = device
        self._states: dict[str, Tensor] = {}

    def add(self, name: str, total: Tensor, count: Tensor | int) -> None:
        """Add a batch to a mean: the sum of a figure over `count` samples, both scalars."""
        total = total.detach().to(self._dtype)
        self.add_state(name, torch.stack([total, torch.zeros_like(total) + count]))

    def add_state(self, name: str, state: Tensor) -> None:
        """Add a batch's state (S,)."""
        state = state.detach().to(self._dtype)
        self._states[name] = self._states[name] + state if name in self._states else state

    def figures(self, metrics: Mapping[str, Metric] = METRICS) -> dict[str, float]:
        """Name -> figure, a mean where `metrics` says nothing else; NaN if no sample counted. Waits for the device."""
        sums: dict[str, Tensor] = {}
        for part in self._world.gathered(self._own()):
            for name, numbers in part.items():
                state = torch.tensor(numbers, dtype=torch.float64)
                sums[name] = sums[name] + state if name in sums else state
        return {name: (metrics[name].compute if name in metrics else mean)(state) for name, state in sums.items()}

    def state_dict(self) -> dict[str, dict[str, list[float]]]:
        """Rank of each process -> name -> state. Waits for the device."""
        parts = self._world.gathered(self._own())
        return {str(rank): part for rank, part in enumerate(parts)} if any(parts) else {}

    def load_state_dict(self, state: dict[str, dict[str, list[float]]]) -> None:
        """Restore what `state_dict` returned. If the number of processes has changed, the first takes all states."""
        self._states = {}
        alike = len(state) == self._world.size
        for rank, part in state.items():
            for name, numbers in part.items():
                if rank == str(self._world.rank) if alike else self._world.first:
                    self.add_state(name, torch.tensor(numbers, dtype=self._dtype, device=self._device))

    def _own(self) -> dict[str, list[float]]:
        return {name: state.tolist() for name, state in self._states.items()}
