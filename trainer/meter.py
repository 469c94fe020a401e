"""Sums of figures over an epoch, kept on the device until it ends, so that no step waits for them."""

from collections.abc import Iterable

import torch
from torch import Tensor


class Meter:
    """Means weighted by sample: add sums and counts batch by batch, read the ratios once."""

    def __init__(self, device: torch.device) -> None:
        # Apple's GPUs have no float64
        self._dtype = torch.float32 if device.type == "mps" else torch.float64
        self._device = device
        self._sums: dict[str, tuple[Tensor, Tensor]] = {}

    def add(self, name: str, total: Tensor, count: Tensor | int) -> None:
        """Add a batch: the sum of a figure over `count` samples, both scalars."""
        old_total, old_count = self._sums.get(name) or (self._zero(), self._zero())
        self._sums[name] = (old_total + total.detach().to(self._dtype), old_count + count)

    def means(self) -> dict[str, float]:
        """Name to mean; NaN where no sample counted. Waits for the device."""
        return {name: (total / count).item() for name, (total, count) in self._sums.items()}

    def state_dict(self) -> dict[str, list[float]]:
        return {name: [total.item(), count.item()] for name, (total, count) in self._sums.items()}

    def load_state_dict(self, state: dict[str, Iterable[float]]) -> None:
        self._sums = {}
        for name, (total, count) in state.items():
            self._sums[name] = (self._zero() + total, self._zero() + count)

    def _zero(self) -> Tensor:
        return torch.zeros((), dtype=self._dtype, device=self._device)
