"""Figures of each layer after each epoch, for diagnostics.csv. Measuring does not change the run."""

import torch

from base.base_model import BaseModel
from logger.tables import DiagnosticRow
from models.singular_values import count_convolutions, find_layers, singular_values, weight_norm
from trainer.meter import Meter
from utils.columns import DIAGNOSTIC_COLUMNS
from utils.world import World


class Diagnostics:
    """Measures the layers of `model`, for images of `size` (H, W).

    The gradient norms are averaged over an epoch's steps, on the device. So their sums are part of a run's state.
    """

    def __init__(self, model: BaseModel, size: tuple[int, int], device: torch.device, world: World) -> None:
        self._layers = find_layers(model, size)
        self._convolutions = count_convolutions(model)
        self._device, self._world = device, world
        self.gradients = Meter(device, world)

    @property
    def remarks(self) -> list[str]:
        """A line where there are convolutions without a row."""
        if len(self._layers) == self._convolutions:
            return []
        return [
            f"diagnostics.csv has rows for {len(self._layers)} of {self._convolutions} convolutions; the others have "
            "groups or a dilation, or no image passes them"
        ]

    def add_gradients(self) -> None:
        """Add the norms of the current gradients. Does not wait for the device.

        A step of fp16 does not count if its gradients overflowed and its scaler skips it.
        """
        for layer in self._layers:
            gradients = [p.grad for p in layer.module.parameters() if p.grad is not None]
            if not gradients:
                continue
            norm = torch.nn.utils.get_total_norm(gradients)
            counts = torch.isfinite(norm)
            self.gradients.add(layer.name, torch.where(counts, norm, torch.zeros_like(norm)), counts)

    def rows(self, epoch: int) -> list[DiagnosticRow]:
        """A row for each layer, from the current weights and the gradients since the last call. All processes must
        call it; only the first gets rows."""
        gradients = self.gradients.figures({})
        self.gradients = Meter(self._device, self._world)
        if not self._world.first:
            return []
        rows: list[DiagnosticRow] = []
        for layer in self._layers:
            largest, smallest = singular_values(layer.convolution, layer.grid)
            figures = (largest, smallest, gradients.get(layer.name, float("nan")), weight_norm(layer.convolution))
            rows.append(dict(zip(DIAGNOSTIC_COLUMNS, (epoch, layer.name, *figures), strict=True)))
        return rows
