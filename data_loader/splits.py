"""Splits a dataset: stratified by class, disjoint, and the same for every arm at one seed."""

import hashlib
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from data_loader.dataset import ImageDataset
from utils.errors import ConfigError, DataError
from utils.seeds import derive_seed
from utils.text import quoted


@dataclass(frozen=True)
class Splits:
    """Positions in a dataset, int64 (n,) each, increasing. No position is in two splits, unless they may overlap."""

    train: Tensor
    val: Tensor
    test: Tensor

    def named(self) -> dict[str, Tensor]:
        return {"train": self.train, "val": self.val, "test": self.test}


def make_splits(
    dataset: ImageDataset,
    validation_split: float,
    test_split: float,
    subset: float | None,
    seed: int,
    test_subset: float | None = None,
    overlapping: bool = False,
) -> Splits:
    """Split `dataset`. Shares are of all its images, or of those outside its own test set if it has one.

    `subset` limits training and validation together, to a number of images (above 1) or a share. The test set stays
    whole, so that figures of different subsets compare, unless `test_subset` limits it in the same way.

    If the dataset has its own validation set, that is used: the other shares are of the images outside it, and
    `validation_split` is ignored.

    `overlapping` makes the splits of the published experiments: if the dataset has its own test set, the validation
    images are training images as well; otherwise the test set is the whole dataset.

    Raises:
        ConfigError: the shares leave nothing to train on, or the subset is larger than the dataset.
        DataError: a class of the dataset is missing from a split, or the images are too few to split.
    """
    own_val = None if dataset.own_val is None else dataset.own_val.numpy()
    pool, test, validation = _split_off_test(dataset, validation_split, test_split, seed, overlapping)
    if test_subset is not None:
        count = _subset_size("test_subset", test_subset, len(test), "in the test set")
        if count < len(test):
            _, test = _take(test, count, seed, "test subset", dataset)
    if subset is not None:
        available = len(pool) + (0 if own_val is None else len(own_val))
        count = _subset_size("subset", subset, available, "outside the test set")
        validation *= count / available
        if own_val is not None and count < available:
            held_out = round(count * len(own_val) / available)
            _, own_val = _take(own_val, held_out, seed, "validation subset", dataset)
            count -= held_out
        if count < len(pool):
            _, pool = _take(pool, count, seed, "subset", dataset)
    if own_val is not None:
        train, val = pool, own_val
    else:
        train, val = _take(pool, round(validation), seed, "validation", dataset)
        if overlapping and dataset.own_test is not None:
            train = pool
    splits = Splits(*(torch.from_numpy(np.sort(part)) for part in (train, val, test)))
    _check_classes(dataset, splits)
    return splits


def _split_off_test(
    dataset: ImageDataset, validation_split: float, test_split: float, seed: int, overlapping: bool
) -> tuple[np.ndarray, np.ndarray, float]:
    """(positions to train and validate on, positions of the test set, number of validation images, not yet rounded).

    The dataset's own validation set is in neither. Raises as `make_splits` does.
    """
    everything = np.arange(len(dataset))
    if dataset.own_val is not None:
        everything = np.setdiff1d(everything, dataset.own_val.numpy())
    if dataset.own_test is not None:
        test = dataset.own_test.numpy()
        pool = np.setdiff1d(everything, test)
        return pool, test, validation_split * len(pool)
    validation = validation_split * len(everything)
    if overlapping:
        return everything, everything, validation
    if dataset.own_val is None and validation_split + test_split >= 1.0:
        raise ConfigError(
            f"data_loader.args: validation_split {validation_split} and test_split {test_split} leave nothing to "
            "train on"
        )
    return *_take(everything, round(test_split * len(everything)), seed, "test", dataset), validation


def _subset_size(key: str, asked: float, available: int, where: str) -> int:
    """The size of a subset, given as a number of images (above 1) or as a share of the `available` ones."""
    count = round(asked * available) if asked <= 1.0 else int(asked)
    if count > available:
        raise ConfigError(f"data_loader.args.{key}: {count} images of only {available} {where}")
    return count


def check_nothing_is_shared(dataset: ImageDataset, splits: Splits) -> None:
    """Raise DataError, with their names or positions, if two splits hold the same image, pixel for pixel.

    A model would be tested on its training images. Copies within one split are allowed.
    """
    pixels = dataset.images.contiguous().numpy()
    seen: dict[bytes, tuple[str, int]] = {}  # hashing 60,000 images takes 0.3 s, sorting them several
    shared: list[str] = []
    for name, positions in splits.named().items():
        for position in positions.tolist():
            first = seen.setdefault(hashlib.blake2b(pixels[position], digest_size=16).digest(), (name, position))
            if first[0] != name:
                shared.append(f"{dataset.name_of(first[1])} ({first[0]}) and {dataset.name_of(position)} ({name})")
    if shared:
        more = f" and {len(shared) - 5} more" if len(shared) > 5 else ""
        raise DataError(
            f"{dataset.source}: train, validation and test share images: {', '.join(shared[:5])}{more}; remove the "
            "copies, or set data_loader.args.allow_duplicates=true"
        )


#: What takes images -> the setting that says how many, and whether the images that it leaves are used as well.
_PURPOSES = {
    "test": ("test_split", True),
    "validation": ("validation_split", True),
    "subset": ("subset", False),
    "validation subset": ("subset", False),
    "test subset": ("test_subset", False),
}


def _take(
    pool: np.ndarray, count: int, seed: int, purpose: str, dataset: ImageDataset
) -> tuple[np.ndarray, np.ndarray]:
    """(the rest, `count` positions of `pool`), with the classes in proportion."""
    state = derive_seed(seed, "split " + purpose) % 2**32
    present, members, sizes = np.unique(dataset.labels.numpy()[pool], return_inverse=True, return_counts=True)
    reason = _why_not(present, sizes, count, purpose, dataset)
    if reason is not None:
        raise DataError(f"{dataset.source}: cannot take {count} of {len(pool)} images for {purpose}: {reason}")
    rest, taken = stratified(members, sizes, count, state)
    return pool[rest], pool[taken]


def _why_not(present: np.ndarray, sizes: np.ndarray, count: int, purpose: str, dataset: ImageDataset) -> str | None:
    """Why `count` images cannot be taken of the classes `present`, which have `sizes`, and what to do; None if they can
    be. Each class must have an image among those taken and, if the rest is used as well, one in the rest."""
    key, rest_is_used = _PURPOSES[purpose]
    names = [dataset.classes[label] for label in present.tolist()]
    each = (
        f"the {len(names):,} classes {quoted(names, 5)} must each" if len(names) > 1 else f"class {quoted(names)} must"
    )
    rest = int(sizes.sum()) - count
    if not names:
        return "there are none; add images that are not of the dataset's own test or validation set"
    if count < len(names):
        return f"{each} have one of them; raise data_loader.args.{key}, or add images"
    if rest_is_used and sizes.min() < 2:
        single = quoted([names[int(sizes.argmin())]])
        advice = "add images of it, raise data_loader.args.subset if it is set, or take the class away"
        return f"class {single} has only one image, and data_loader.args.{key} divides each class in two; {advice}"
    if rest_is_used and rest < len(names):
        return f"{each} have one of the {rest} others; lower data_loader.args.{key}, or add images"
    return None


def stratified(members: np.ndarray, sizes: np.ndarray, count: int, state: int) -> tuple[np.ndarray, np.ndarray]:
    """(the other positions, `count` positions), with the classes in proportion, each in a random order.

    It is scikit-learn's `train_test_split(..., test_size=count, stratify=members, random_state=state)`, draw for draw.
    `members` are the classes of the positions, from 0, and `sizes` how many each class has. scikit-learn refuses a
    class of one position, and fewer other positions than classes; they are divided by the same rule.
    """
    rng = np.random.RandomState(state)
    of_class = np.split(np.argsort(members, kind="stable"), np.cumsum(sizes)[:-1])
    kept = _shares(sizes, len(members) - count, rng)
    taken = _shares(sizes - kept, count, rng)
    mixed = [each[rng.permutation(len(each))] for each in of_class]
    rest = np.concatenate([each[:n] for each, n in zip(mixed, kept, strict=True)])
    chosen = np.concatenate([each[n : n + m] for each, n, m in zip(mixed, kept, taken, strict=True)])
    return rng.permutation(rest), rng.permutation(chosen)


def _shares(sizes: np.ndarray, count: int, rng: np.random.RandomState) -> np.ndarray:
    """How many of `count` draws each class has in proportion to `sizes`: what rounding down leaves over goes to the
    largest remainders, and ties are drawn."""
    exact = sizes / sizes.sum() * count
    shares = np.floor(exact)
    remainder, left = exact - shares, int(count - shares.sum())
    for value in np.unique(remainder)[::-1]:
        if left <= 0:
            break
        (tied,) = np.where(remainder == value)
        given = rng.choice(tied, size=min(len(tied), left), replace=False)
        shares[given] += 1
        left -= len(given)
    counts: np.ndarray = shares.astype(np.int64)
    return counts


def _check_classes(dataset: ImageDataset, splits: Splits) -> None:
    present = dataset.labels.unique()
    for name, positions in splits.named().items():
        missing = present[~torch.isin(present, dataset.labels[positions])]
        if len(missing):
            label = int(missing[0])
            count = int((dataset.labels == label).sum())
            raise DataError(
                f"{dataset.source}: the {name} split ({len(positions)} images) has none of class "
                f"{dataset.classes[label]!r}, of which there are {count} in all; add images or change the "
                "shares (data_loader.args.validation_split, test_split and subset)"
            )
