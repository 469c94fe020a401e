"""The interface of a data loader."""

from abc import ABC, abstractmethod
from collections.abc import Iterator
from typing import NamedTuple

from torch import Tensor


class Batch(NamedTuple):
    """images: float32 (B, 3, H, W), normalised. `given` and `true` labels: int64 (B,); they differ under noise.

    `everyone` are the given labels of all processes' shares of the batch; where there is one process they are `given`.
    """

    images: Tensor
    given: Tensor
    true: Tensor
    everyone: Tensor


class BaseDataLoader(ABC):
    """Serves one split in batches on the training device."""

    @abstractmethod
    def __len__(self) -> int:
        """Number of batches in an epoch."""

    @property
    @abstractmethod
    def sample_count(self) -> int:
        """Number of images in an epoch."""

    @abstractmethod
    def batches(self, epoch: int = 0, first: int = 0) -> Iterator[Batch]:
        """The batches of `epoch`, starting with number `first`. They depend on the loader and `epoch` alone, so that a
        run resumed within an epoch sees exactly the batches that it has not seen."""

    def weight(self, batch: int) -> float:
        """The weight of this process's mean loss over its share of batch number `batch` in the mean over all processes:
        1 if all processes have equally many of its images."""
        return 1.0
