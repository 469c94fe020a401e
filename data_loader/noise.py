"""Label noise: deliberately wrong labels, the same for every arm at one seed.

A kind of noise is one function: it takes a `NoiseRequest` and its settings and returns the labels that training gets.
"""

import csv
import io
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from config_schema import AsymmetricNoise, InstanceNoise, LabelNoise, NoiseFile, PairFlipNoise, SymmetricNoise
from data_loader.batches import pixel_stats
from data_loader.class_names import MOST_IN_MATRIX
from data_loader.dataset import ImageDataset
from data_loader.label_file import read_labels
from data_loader.splits import Splits
from utils.errors import ConfigError, DataError
from utils.files import user_path
from utils.seeding import generator
from utils.text import CELL, csv_cell, did_you_mean, quoted, visible

#: Confusable pairs of CIFAR10 (Patrini et al. 2017, https://arxiv.org/abs/1609.03683), true class -> given class.
CIFAR10_CONFUSIONS = {
    "truck": "automobile",
    "bird": "airplane",
    "deer": "horse",
    "cat": "dog",
    "dog": "cat",
}


_ONE_CLASS = "label_noise: a dataset of one class has no other label to give"
_NUMBERS_AT_ONCE = 1 << 24  # of images, as floats of 64 bits


@dataclass(frozen=True)
class NoiseRequest:
    """A request for noise on one split. `true_labels` (n,) belong to the images at `positions` (n,).

    `generator` has draws of its own for each split, and `shared` the same ones.
    """

    split: str
    dataset: ImageDataset
    positions: Tensor
    true_labels: Tensor
    generator: torch.Generator
    shared: torch.Generator


#: Split -> the given labels of its images, int64 (n,), in the order of the split's positions.
GivenLabels = dict[str, Tensor]


def given_labels(
    dataset: ImageDataset, splits: Splits, noise: LabelNoise, seed: int, include_true_class: bool = False
) -> GivenLabels:
    """The labels with noise on train and, if `noise` says so, on validation. Test labels stay true.

    Each split draws from its own stream, so that its noise does not depend on the other split; an image in both may get
    two labels. `include_true_class` applies if `noise` leaves it open (None).

    Raises:
        ConfigError: this kind of noise does not fit this dataset.
        DataError: a file of labels is missing, malformed or made for another dataset.
    """
    given = {name: dataset.labels[positions] for name, positions in splits.named().items()}
    for name in ("train", "val") if noise.on_validation else ("train",):
        streams = generator(seed, f"label noise {name}"), generator(seed, "label noise")
        request = NoiseRequest(name, dataset, splits.named()[name], given[name], *streams)
        found = _noisy(request, noise, include_true_class)
        whole = found.dtype == torch.int64 and found.shape == given[name].shape
        if not whole or bool(((found < 0) | (found >= len(dataset.classes))).any()):
            raise ConfigError(
                f"label_noise.type: {noise.type} must give each of {len(given[name]):,} images a label from 0 to "
                f"{len(dataset.classes) - 1}, as int64"
            )
        given[name] = found
    return given


def _noisy(request: NoiseRequest, noise: LabelNoise, include_true_class: bool) -> Tensor:
    match noise:
        case SymmetricNoise():
            asked = noise.include_true_class
            return symmetric(request, noise.rate, include_true_class if asked is None else asked)
        case AsymmetricNoise():
            return flips(request, noise.rate, named_pairs(request.dataset, noise.map))
        case PairFlipNoise():
            return flips(request, noise.rate, next_classes(request.dataset) if noise.rate else {})
        case InstanceNoise():
            return instance(request, noise.rate)
        case NoiseFile():
            return from_file(request, noise.path, noise.key)


def symmetric(request: NoiseRequest, rate: float, include_true_class: bool) -> Tensor:
    """Redraw exactly round(rate * n) labels, uniformly from the other classes of the dataset.

    With `include_true_class` it draws from all classes, so that about rate * (1 - 1 / classes) of the labels change.
    """
    labels = request.true_labels.clone()
    if rate == 0.0:
        return labels
    present = request.dataset.labels.unique()  # some files name classes without images
    count = round(rate * len(labels))
    chosen = torch.randperm(len(labels), generator=request.generator)[:count]
    rank = torch.searchsorted(present, labels[chosen])
    first = 0 if include_true_class else 1
    if first == len(present):
        raise ConfigError(_ONE_CLASS)
    shift = torch.randint(first, len(present), (count,), generator=request.generator)
    labels[chosen] = present[(rank + shift) % len(present)]
    return labels


def flips(request: NoiseRequest, rate: float, pairs: Mapping[int, int]) -> Tensor:
    """Relabel exactly round(rate * its images) images of each class in `pairs` as the class that it is paired with.

    It starts from the true labels: a cat that is relabelled as a dog is not relabelled back.
    """
    labels = request.true_labels.clone()
    for true, wrong in pairs.items():
        members = (request.true_labels == true).nonzero().flatten()
        order = torch.randperm(len(members), generator=request.generator)
        labels[members[order[: round(rate * len(members))]]] = wrong
    return labels


def named_pairs(dataset: ImageDataset, names: Mapping[str, str] | None) -> dict[int, int]:
    """The pairs of classes that `names` pairs by name, CIFAR10's look-alikes if it is None. The order of the names does
    not count. Raises ConfigError if a class is not the dataset's."""
    classes = dataset.classes
    if names is None or names == CIFAR10_CONFUSIONS:
        names = CIFAR10_CONFUSIONS
        missing = sorted({*names, *names.values()} - set(classes))
        if missing:
            raise ConfigError(
                f"label_noise.type: asymmetric noise is defined for CIFAR10's classes; {dataset.source} lacks "
                f"{', '.join(missing)}; name its own with label_noise.map, or use symmetric or file"
            )
        return {classes.index(true): classes.index(wrong) for true, wrong in names.items()}
    for name in (*names, *names.values()):
        if name not in classes:
            raise ConfigError(
                f"label_noise.map: {dataset.source} has no class {visible(name, CELL)!r}, only {quoted(classes, 20)}"
                f"{did_you_mean(name, classes)}"
            )
    return dict(sorted((classes.index(true), classes.index(wrong)) for true, wrong in names.items()))


def next_classes(dataset: ImageDataset) -> dict[int, int]:
    """Each class that has images with the next such class; the last with the first."""
    present = dataset.labels.unique().tolist()
    if len(present) == 1:
        raise ConfigError(_ONE_CLASS)
    return dict(zip(present, [*present[1:], present[0]], strict=True))


def instance(request: NoiseRequest, rate: float) -> Tensor:
    """Noise that depends on the image: Xia et al. 2020, https://arxiv.org/abs/2006.07836, Algorithm 2.

    An image's label is wrong with a probability q, drawn from a normal distribution of mean `rate` and standard
    deviation 0.1 within [0, 1]. The wrong class is drawn from the softmax over the other classes of x W, where x is the
    image and W (S, C) standard normal, one for each true class and the same for all splits. So the realised share is
    not exactly `rate`; at a rate of 0 no label changes. Pixels are normalised with the dataset's mean and standard
    deviation.
    """
    labels = request.true_labels.clone()
    present = request.dataset.labels.unique()
    if rate == 0.0:
        return labels
    if len(present) == 1:
        raise ConfigError(_ONE_CLASS)
    draws = torch.rand(2, len(labels), dtype=torch.float64, generator=request.generator)
    wrong = _truncated_normal(draws[0], rate, 0.1)
    images = request.dataset.images
    mean, std = (part.view(3, 1, 1) for part in pixel_stats(images))
    std = std.clamp(min=1.0 / 255.0)  # a constant channel has no spread to divide by
    at_once = max(1, _NUMBERS_AT_ONCE // images[0].numel())
    for rank, true in enumerate(present.tolist()):
        weights = torch.randn(images[0].numel(), len(present), dtype=torch.float64, generator=request.shared)
        for members in (request.true_labels == true).nonzero().flatten().split(at_once):
            pixels = images[request.positions[members]].double().div_(255.0).sub_(mean).div_(std)
            scores = pixels.flatten(1) @ weights
            scores[:, rank] = -torch.inf
            shares = wrong[members].unsqueeze(1) * scores.softmax(1)
            shares[:, rank] = 1.0 - wrong[members]
            drawn = (shares.cumsum(1) < draws[1, members].unsqueeze(1)).sum(1).clamp(max=len(present) - 1)
            labels[members] = present[drawn]
    return labels


def _truncated_normal(uniform: Tensor, mean: float, std: float) -> Tensor:
    """Draws within [0, 1] from draws of the uniform distribution, by the inverse of the distribution function."""
    low, high = torch.special.ndtr(torch.tensor([(0.0 - mean) / std, (1.0 - mean) / std], dtype=torch.float64))
    draws: Tensor = mean + std * torch.special.ndtri(low + (high - low) * uniform)
    return draws.clamp(0.0, 1.0)


def from_file(request: NoiseRequest, file: str, key: str | None) -> Tensor:
    """The labels of a file that `read_labels` reads, numbers or names of classes; labels that it lacks stay true.

    Labels without positions are of all images of the dataset, or of all but its own test images. If the file has true
    labels, those must be this dataset's. If an image has two labels, the one whose `split` is the requested split
    counts.
    """
    path, dataset = user_path(file), request.dataset
    found = read_labels(path, key, dataset.classes)
    given, true = found.given, found.true
    index = _positions(dataset, len(given), path) if found.index is None else found.index
    for name, values, top in (("index", index, len(dataset)), ("given_label", given, len(dataset.classes))):
        outside = (values < 0) | (values >= top)
        if outside.any():
            at = int(outside.nonzero()[0])
            raise DataError(f"{path}: {name} {int(values[at])} at row {at} is outside 0 to {top - 1}")
    if true is not None and not torch.equal(true, dataset.labels[index]):
        at = int((true != dataset.labels[index]).nonzero()[0])
        raise DataError(
            f"{path}: it was made for another dataset: image {int(index[at])} has the true label "
            f"{int(dataset.labels[index[at]])} here and {int(true[at])} there"
        )
    labels = dataset.labels.clone()
    own = torch.from_numpy(found.split == request.split)
    for part in (~own, own):
        labels[index[part]] = given[part]
    return labels[request.positions]


def _positions(dataset: ImageDataset, count: int, path: Path) -> Tensor:
    """The images that so many labels are of."""
    every = torch.arange(len(dataset))
    outside_test = every if dataset.own_test is None else every[~torch.isin(every, dataset.own_test)]
    for positions in (every, outside_test):
        if count == len(positions):
            return positions
    without = "" if len(outside_test) == len(every) else f", of which {len(outside_test):,} are no test images"
    raise DataError(
        f"{path}: {count:,} labels, but {dataset.source} has {len(every):,} images{without}; give one for each, or an "
        "`index` with the position of each label's image"
    )


def transition_matrix(true: Tensor, given: Tensor, classes: int) -> Tensor:
    """The share of each true class (row) with each given label (column): float64 (classes, classes), 0 if absent."""
    counts = torch.bincount(true * classes + given, minlength=classes * classes).view(classes, classes).double()
    return counts / counts.sum(1, keepdim=True).clamp(min=1)


def _realised(dataset: ImageDataset, splits: Splits, given: GivenLabels) -> Tensor | None:
    """The transition matrix of the training split; None if there are too many classes for it."""
    if len(dataset.classes) > MOST_IN_MATRIX:
        return None
    return transition_matrix(dataset.labels[splits.train], given["train"], len(dataset.classes))


def transition_table(dataset: ImageDataset, splits: Splits, given: GivenLabels) -> str | None:
    """The realised transition matrix of the training split as CSV: true class by row, given class by column. None for
    more than MOST_IN_MATRIX classes."""
    classes, matrix = dataset.classes, _realised(dataset, splits, given)
    if matrix is None:
        return None
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["true", *map(csv_cell, classes)])
    for name, row in zip(classes, matrix.tolist(), strict=True):
        writer.writerow([csv_cell(name), *(f"{share:.6g}" for share in row)])
    return text.getvalue()


def noise_record(dataset: ImageDataset, splits: Splits, given: GivenLabels) -> bytes:
    """The bytes of noise.npz: `index`, `given_label`, `true_label` and `split` ("train" or "val") of the training and
    then the validation images, the class names, and, of MOST_IN_MATRIX classes at most, the realised transition matrix
    of the training split."""
    index = torch.cat([splits.train, splits.val])
    matrix = _realised(dataset, splits, given)
    more: dict[str, Any] = {} if matrix is None else {"transition_matrix": matrix.numpy()}
    buffer = io.BytesIO()
    np.savez_compressed(
        buffer,
        index=index.numpy(),
        given_label=torch.cat([given["train"], given["val"]]).numpy(),
        true_label=dataset.labels[index].numpy(),
        split=np.array(["train"] * len(splits.train) + ["val"] * len(splits.val)),
        classes=np.array(dataset.classes),
        **more,
    )
    return buffer.getvalue()
