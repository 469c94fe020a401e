"""Label noise: deliberately wrong labels, the same for every arm at one seed.

A kind of noise is one function: it takes a `NoiseRequest` and its settings and returns the labels that training gets.
"""

import csv
import io
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from config_schema import AsymmetricNoise, LabelNoise, NoiseFile, SymmetricNoise
from data_loader.dataset import ImageDataset
from data_loader.npz import load_npz, read_bytes
from data_loader.splits import Splits
from utils.errors import ConfigError, DataError
from utils.files import user_path
from utils.seeding import generator
from utils.text import csv_cell

#: Confusable pairs of CIFAR10 (Patrini et al. 2017, https://arxiv.org/abs/1609.03683), true class -> given class.
CIFAR10_CONFUSIONS = {
    "truck": "automobile",
    "bird": "airplane",
    "deer": "horse",
    "cat": "dog",
    "dog": "cat",
}


@dataclass(frozen=True)
class NoiseRequest:
    """A request for noise on one split. `true_labels` (n,) belong to the images at `positions` (n,)."""

    split: str
    dataset: ImageDataset
    positions: Tensor
    true_labels: Tensor
    generator: torch.Generator


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
        DataError: a noise file is missing, malformed or made for another dataset.
    """
    given = {name: dataset.labels[positions] for name, positions in splits.named().items()}
    for name in ("train", "val") if noise.on_validation else ("train",):
        stream = generator(seed, f"label noise {name}")
        request = NoiseRequest(name, dataset, splits.named()[name], given[name], stream)
        given[name] = _noisy(request, noise, include_true_class)
    return given


def _noisy(request: NoiseRequest, noise: LabelNoise, include_true_class: bool) -> Tensor:
    match noise:
        case SymmetricNoise():
            asked = noise.include_true_class
            return symmetric(request, noise.rate, include_true_class if asked is None else asked)
        case AsymmetricNoise():
            return asymmetric(request, noise.rate)
        case NoiseFile():
            return from_file(request, noise.path)


def symmetric(request: NoiseRequest, rate: float, include_true_class: bool) -> Tensor:
    """Redraw exactly round(rate * n) labels, uniformly from the other classes of the dataset.

    With `include_true_class` it draws from all classes, so that about rate * (1 - 1 / classes) of the labels change.
    """
    labels = request.true_labels.clone()
    present = request.dataset.labels.unique()  # some files name classes without images
    count = round(rate * len(labels))
    chosen = torch.randperm(len(labels), generator=request.generator)[:count]
    rank = torch.searchsorted(present, labels[chosen])
    first = 0 if include_true_class else 1
    if first == len(present):
        raise ConfigError("label_noise: a dataset of one class has no other label to give")
    shift = torch.randint(first, len(present), (count,), generator=request.generator)
    labels[chosen] = present[(rank + shift) % len(present)]
    return labels


def asymmetric(request: NoiseRequest, rate: float) -> Tensor:
    """Relabel exactly round(rate * its images) images of each class in CIFAR10_CONFUSIONS as its confused class.

    It starts from the true labels: a cat that is relabelled as a dog is not relabelled back.
    """
    classes = request.dataset.classes
    missing = sorted({*CIFAR10_CONFUSIONS, *CIFAR10_CONFUSIONS.values()} - set(classes))
    if missing:
        raise ConfigError(
            f"label_noise.type: asymmetric noise is defined for CIFAR10's classes; {request.dataset.source} lacks "
            f"{', '.join(missing)}; use symmetric or file"
        )
    labels = request.true_labels.clone()
    for true, wrong in CIFAR10_CONFUSIONS.items():
        members = (request.true_labels == classes.index(true)).nonzero().flatten()
        order = torch.randperm(len(members), generator=request.generator)
        labels[members[order[: round(rate * len(members))]]] = classes.index(wrong)
    return labels


def from_file(request: NoiseRequest, file: str) -> Tensor:
    """The labels of an .npz with `index` and `given_label` (m,), such as a run's noise.npz; other labels stay true.

    If the file has `true_label`, those must be this dataset's labels. If an image has two labels, the one whose `split`
    is the requested split counts.
    """
    path = user_path(file)
    index, given, true, split = _read_noise(path)
    dataset = request.dataset
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
    own = torch.from_numpy(split == request.split)
    for part in (~own, own):
        labels[index[part]] = given[part]
    return labels[request.positions]


def transition_matrix(true: Tensor, given: Tensor, classes: int) -> Tensor:
    """The share of each true class (row) with each given label (column): float64 (classes, classes), 0 if absent."""
    counts = torch.bincount(true * classes + given, minlength=classes * classes).view(classes, classes).double()
    return counts / counts.sum(1, keepdim=True).clamp(min=1)


def transition_table(dataset: ImageDataset, splits: Splits, given: GivenLabels) -> str:
    """The realised transition matrix of the training split as CSV: true class by row, given class by column."""
    classes = dataset.classes
    matrix = transition_matrix(dataset.labels[splits.train], given["train"], len(classes))
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["true", *map(csv_cell, classes)])
    for name, row in zip(classes, matrix.tolist(), strict=True):
        writer.writerow([csv_cell(name), *(f"{share:.6g}" for share in row)])
    return text.getvalue()


def noise_record(dataset: ImageDataset, splits: Splits, given: GivenLabels) -> bytes:
    """The bytes of noise.npz: `index`, `given_label`, `true_label` and `split` ("train" or "val") of the training and
    then the validation images, the class names, and the realised transition matrix of the training split."""
    index = torch.cat([splits.train, splits.val])
    matrix = transition_matrix(dataset.labels[splits.train], given["train"], len(dataset.classes))
    buffer = io.BytesIO()
    np.savez_compressed(
        buffer,
        index=index.numpy(),
        given_label=torch.cat([given["train"], given["val"]]).numpy(),
        true_label=dataset.labels[index].numpy(),
        split=np.array(["train"] * len(splits.train) + ["val"] * len(splits.val)),
        classes=np.array(dataset.classes),
        transition_matrix=matrix.numpy(),
    )
    return buffer.getvalue()


def _read_noise(path: Path) -> tuple[Tensor, Tensor, Tensor | None, np.ndarray]:
    """index, given_label, true_label or None, and split ("" if the file has none)."""
    if not path.exists():
        raise DataError(f"there is no noise file {path}; name one with label_noise.path")
    arrays = load_npz(read_bytes(path), ("index", "given_label"), str(path), optional=("true_label", "split"))
    split = arrays.pop("split", np.full(len(arrays["index"]), "") if arrays["index"].ndim else np.array(""))
    if any(a.ndim != 1 or a.dtype.kind not in "iu" or len(a) != len(arrays["index"]) for a in arrays.values()):
        raise DataError(f"{path}: index and labels must be whole numbers, one row each")
    if split.dtype.kind != "U" or split.shape != arrays["index"].shape:
        raise DataError(f"{path}: split must name the split of each row")
    index, given = (torch.from_numpy(arrays[key].astype(np.int64)) for key in ("index", "given_label"))
    true = arrays.get("true_label")
    return index, given, None if true is None else torch.from_numpy(true.astype(np.int64)), split
