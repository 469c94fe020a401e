"""What a loader of this framework is."""

from abc import ABC, abstractmethod
from collections.abc import Iterator
from typing import NamedTuple

from torch import Tensor


class Batch(NamedTuple):
    """images: float32 (B, 3, H, W), normalised; given and true labels: int64 (B,). They differ under label noise."""

    images: Tensor
    given: Tensor
    true: Tensor


class BaseDataLoader(ABC):
    """Serves one split in batches, on the device that it trains on."""

    @abstractmethod
    def __len__(self) -> int:
        """Number of batches in an epoch."""

    @property
    @abstractmethod
    def sample_count(self) -> int:
        """Number of images in an epoch."""

    @abstractmethod
    def batches(self, epoch: int = 0, first: int = 0) -> Iterator[Batch]:
        """The batches of `epoch` from the `first`-th on: a function of the loader and `epoch` alone, so that a run
        resumed within an epoch sees just the batches it has not seen."""

    def weight(self, batch: int) -> float:
        """What this process's mean loss over its share of batch number `batch` counts in the mean over all processes:
        1, unless one process has more of its images than another."""
        return 1.0
