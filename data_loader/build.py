"""Builds the data of a run from a config: dataset, splits, noisy labels and loaders."""

from dataclasses import dataclass, replace
from functools import cached_property, partial
from pathlib import Path

import torch
from torch import Tensor

from config_schema import PICTURES
from data_loader.access import Access
from data_loader.batches import ImageBatches, PixelStats, pixel_stats
from data_loader.class_names import MOST_IN_MATRIX
from data_loader.dataset import ImageDataset
from data_loader.datasets import AS_PUBLISHED, DATASETS
from data_loader.memory import Room
from data_loader.noise import GivenLabels, given_labels
from data_loader.pictures import scaled
from data_loader.splits import Splits, check_nothing_is_shared, make_splits
from parse_config import Config
from protocol import FLOAT_BYTES, OVERLAPPING, TRUE_CLASS, departures
from utils.errors import ConfigError, DataError
from utils.files import user_path
from utils.reading import errors_as
from utils.text import CELL, visible
from utils.world import World


@dataclass(frozen=True)
class RunData:
    """All data of a run. `given` are the labels after noise, by split."""

    dataset: ImageDataset
    sha256: str
    splits: Splits
    given: GivenLabels
    stats: PixelStats
    train: ImageBatches
    val: ImageBatches
    test: ImageBatches

    @cached_property
    def noisy(self) -> bool:
        """Whether any training label is wrong."""
        return not torch.equal(self.given["train"], self.dataset.labels[self.splits.train])

    @property
    def image_size(self) -> tuple[int, int]:
        """Height and width of the images."""
        return (self.dataset.images.shape[2], self.dataset.images.shape[3])

    def all_given(self) -> Tensor:
        """The given labels of train, val and test, one after the other: int64."""
        return torch.cat([self.given[name] for name in self.splits.named()])


def build_data(
    config: Config,
    device: torch.device,
    world: World | None = None,
    access: Access | None = None,
    dataset: ImageDataset | None = None,
) -> RunData:
    """Load and split the dataset, add noise, and make the loaders. Without `access`, a new run's permissions hold.

    A `dataset` takes the place of the one that the config names.

    Raises:
        DataError: the data are missing, damaged or unsuitable.
        ConfigError: the settings do not fit the data.
    """
    with errors_as(DataError, f"the data in {config.data_loader.args.data_dir}", "they cannot be read"):
        return _build(config, device, world, access or Access(), dataset)


def _place(data_dir: str) -> Path:
    """The folder or file of a dataset. Anything else is refused unopened, since opening a FIFO would block."""
    path = user_path(data_dir)
    if path.exists() and not (path.is_dir() or path.is_file()):
        raise DataError(f"{path} is neither a folder nor a regular file; name the data with data_loader.args.data_dir")
    return path


def _load(config: Config, access: Access, room: Room, misread: bool) -> ImageDataset:
    args, kind = config.data_loader.args, config.data_loader.type
    load = (AS_PUBLISHED if misread else DATASETS)[kind]
    if kind in PICTURES:
        load = partial(load, skip_broken=args.skip_broken, image_size=args.image_size, room=room)
    dataset = load(_place(args.data_dir), access)
    if dataset.images.shape[2:] == (args.image_size, args.image_size):
        return dataset
    return replace(dataset, images=torch.from_numpy(scaled(dataset.images.numpy(), args.image_size)))


def _check_classes(dataset: ImageDataset, of_folders: bool) -> None:
    present = dataset.labels.unique().tolist()
    if len(present) == 1:
        ask = "is data_loader.args.data_dir the folder around train/<class>/*?"
        advice = ask if of_folders else "add images of others"
        name = visible(dataset.classes[present[0]], CELL)
        raise DataError(f"{dataset.source}: they are all of class {name!r}, and one class cannot be learnt; {advice}")


def _build(
    config: Config, device: torch.device, world: World | None, access: Access, given_dataset: ImageDataset | None
) -> RunData:
    args = config.data_loader.args
    switches = departures(config)
    misread = FLOAT_BYTES in switches
    if misread and given_dataset is not None:
        raise ConfigError(f"{FLOAT_BYTES}: only TinyCOCO's own file can be misread, not a dataset given from Python")
    room = Room(args.in_memory, 1 if world is None else world.size, device)
    dataset = _load(config, access, room, misread) if given_dataset is None else given_dataset
    if len(dataset.classes) > MOST_IN_MATRIX:
        note = f"no noise_transition.csv for {len(dataset.classes):,} classes; noise.npz has each label"
        dataset = replace(dataset, notes=(*dataset.notes, note))
    _check_classes(dataset, given_dataset is None and config.data_loader.type in PICTURES)
    overlapping = OVERLAPPING in switches
    shares = (args.validation_split, args.test_split, args.subset)
    splits = make_splits(dataset, *shares, config.seed, args.test_subset, overlapping)
    if not (args.allow_duplicates or overlapping):
        # Compare true images: misread pixels cover a quarter of an image, and different images may look the same.
        check_nothing_is_shared(_load(config, access, room, misread=False) if misread else dataset, splits)
    given = given_labels(dataset, splits, config.label_noise, config.seed, TRUE_CLASS in switches)
    stats = pixel_stats(dataset.images, splits.train)
    in_memory = room.holds(*dataset.images[:, 0].shape) if dataset.in_memory is None else dataset.in_memory
    asked = config.trainer.channels_last
    channels_last = device.type == "cpu" if asked is None else asked

    def loader(name: str) -> ImageBatches:
        positions = splits.named()[name]
        return ImageBatches(
            dataset.images[positions] if in_memory else dataset.images,
            given[name],
            dataset.labels[positions],
            stats,
            args.batch_size,
            device,
            augment=args.augment if name == "train" else None,
            seed=config.seed,
            channels_last=channels_last,
            world=world,
            rows=None if in_memory else positions,
            check=dataset.check_file,
        )

    train, val, test = map(loader, ("train", "val", "test"))
    return RunData(dataset, dataset.sha256(), splits, given, stats, train, val, test)
