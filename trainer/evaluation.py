"""Evaluates a model on a split."""

import contextlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from base.base_data_loader import BaseDataLoader, Batch
from models.metric import Metric
from trainer.meter import Meter
from utils.columns import CLEAN, GIVEN, TRUE
from utils.progress import Bar
from utils.world import World

AMP_TYPES: dict[str | None, torch.dtype | None] = {None: None, "bf16": torch.bfloat16, "fp16": torch.float16}
Metrics = Mapping[str, Metric]


@dataclass(frozen=True)
class Evaluator:
    """Runs `model` over splits in evaluation mode, under autocast to `amp` if it is set."""

    model: nn.Module
    metrics: Metrics
    device: torch.device
    amp: torch.dtype | None = None
    world: World = field(default_factory=World)

    def autocast(self) -> contextlib.AbstractContextManager[None]:
        return torch.autocast(self.device.type, dtype=self.amp, enabled=self.amp is not None)

    def figures(
        self, loader: BaseDataLoader, name: str, after_batch: Callable[[], None] | None = None
    ) -> dict[str, float]:
        """Cross-entropy ("loss") and metrics over a split, against the given labels."""
        meter = Meter(self.device, self.world)
        for batch, logits in self._logits(loader, name):
            if len(batch.given):
                measure(meter, self.metrics, logits, F.cross_entropy(logits, batch.given), batch.given)
            if after_batch is not None:
                after_batch()
        return meter.figures()

    def predictions(
        self, loader: BaseDataLoader, name: str, after_batch: Callable[[], None] | None = None
    ) -> tuple[Tensor, Tensor]:
        """(predicted, true) classes of a split on the CPU, int64 (N,) each."""
        own = []
        for batch, logits in self._logits(loader, name):
            own.append(torch.stack([logits.argmax(1), batch.true]))
            if after_batch is not None:
                after_batch()
        predicted, true = torch.cat(self.world.gathered(torch.cat(own, 1).cpu()), 1)
        return predicted, true

    @torch.no_grad()
    def _logits(self, loader: BaseDataLoader, name: str) -> Iterator[tuple[Batch, Tensor]]:
        self.model.eval()
        for batch in Bar(loader.batches(), desc=name, total=len(loader), leave=False):
            if len(batch.given) == 0:  # a last batch may have fewer images than there are processes
                yield batch, batch.images.new_zeros(0, 1)
                continue
            with self.autocast():
                logits = self.model(batch.images)
            yield batch, logits.float()


def measure(meter: Meter, metrics: Metrics, logits: Tensor, loss: Tensor, targets: Tensor) -> None:
    """Add a batch's loss (a mean) and metrics to `meter`."""
    count = len(targets)
    meter.add("loss", loss * count, count)
    for name, metric in metrics.items():
        meter.add_state(name, metric.update(logits, targets))


def measure_noise(meter: Meter, logits: Tensor, batch: Batch) -> None:
    """Add the accuracy on a training batch, separately for clean and for mislabelled images.

    Mislabelled images are compared with their given labels (memorised) and with their true labels (resisted).
    """
    predicted = logits.argmax(1)
    clean = batch.given == batch.true
    as_given, as_true = predicted == batch.given, predicted == batch.true
    meter.add(CLEAN, (as_true & clean).sum(), clean.sum())
    meter.add(GIVEN, (as_given & ~clean).sum(), (~clean).sum())
    meter.add(TRUE, (as_true & ~clean).sum(), (~clean).sum())
