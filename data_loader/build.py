"""From a config to the data of a run: dataset, splits, noisy labels and loaders."""

from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from data_loader.batches import ImageBatches, PixelStats, pixel_stats
from data_loader.dataset import ImageDataset
from data_loader.datasets import DATASETS
from data_loader.noise import given_labels
from data_loader.splits import Splits, check_nothing_is_shared, make_splits
from parse_config import Config
from utils.files import user_path
from utils.world import World


@dataclass(frozen=True)
class RunData:
    """All that a run sees. `given` (N,) are the labels after noise, for the whole dataset."""

    dataset: ImageDataset
    sha256: str
    splits: Splits
    given: Tensor
    stats: PixelStats
    train: ImageBatches
    val: ImageBatches
    test: ImageBatches

    @cached_property
    def noisy(self) -> bool:
        """Whether any training label is wrong."""
        train = self.splits.train
        return not torch.equal(self.given[train], self.dataset.labels[train])


def build_data(config: Config, device: torch.device, world: World | None = None) -> RunData:
    """Load, split, add noise and serve. Raises DataError or ConfigError; see the parts."""
    args = config.data_loader.args
    dataset = DATASETS[config.data_loader.type](user_path(args.data_dir))
    splits = make_splits(dataset, args.validation_split, args.test_split, args.subset, config.seed, args.test_subset)
    if not args.allow_duplicates:
        check_nothing_is_shared(dataset, splits)
    given = given_labels(dataset, splits, config.label_noise, config.seed)
    stats = pixel_stats(dataset.images[splits.train])
    asked = config.trainer.channels_last
    channels_last = device.type == "cpu" if asked is None else asked

    def loader(positions: Tensor, training: bool) -> ImageBatches:
        return ImageBatches(
            dataset.images[positions],
            given[positions],
            dataset.labels[positions],
            stats,
            args.batch_size,
            device,
            augment=args.augment if training else None,
            seed=config.seed,
            channels_last=channels_last,
            world=world,
        )

    train, val, test = (loader(splits.train, True), loader(splits.val, False), loader(splits.test, False))
    return RunData(dataset, dataset.sha256(), splits, given, stats, train, val, test)
