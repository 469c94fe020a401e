"""Reads labels from files as people have them: .npz, .npy, .csv, and .pt of torch.save."""

import csv
import io
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from data_loader.array_file import OLD_TORCH, of_tensor
from data_loader.npz import load_npy, load_npz, npz_names, pickle_in_npy, read_bytes
from data_loader.restricted_pickle import as_array, load_arrays, load_old, load_saved
from utils.errors import ConfigError, DataError
from utils.memory_zip import shown
from utils.plain_pickle import malformed
from utils.reading import errors_as
from utils.tensor_file import is_tensor_file
from utils.text import did_you_mean

PLAIN = "label"  # the name of labels that have none
#: What stands beside labels: their images, those images' true labels, and the split that a label is for.
_BESIDE = ("index", "true_label", "clean_label", "split")


@dataclass(frozen=True)
class Labels:
    """The labels of a file: int64 (m,) each. `index` is None if there is a label for each image, in order. `split` has
    a name in each row, or "". `true` are the true labels, if the file has them."""

    given: Tensor
    index: Tensor | None
    true: Tensor | None
    split: np.ndarray


def read_labels(path: Path, key: str | None) -> Labels:
    """The labels under `key`, or the only ones, or those under `given_label`.

    Raises:
        ConfigError: there is nothing under `key`, or without one there are several.
        DataError: the file is missing or malformed, or names an image twice, not for two splits.
    """
    if not path.exists():
        raise DataError(f"there is no noise file {path}; name one with label_noise.path")
    data, source = read_bytes(path), str(path)
    reader = _READERS.get(path.suffix.lower())
    if reader is None:
        wanted = _wanted(npz_names(data, source), key, source)
        arrays = load_npz(data, wanted, source, optional=_BESIDE)
    else:
        arrays = reader(data, source)
        wanted = _wanted(list(arrays), key, source)
        if any(name not in arrays for name in wanted):
            raise DataError(f"{source}: it has no labels, only {shown(arrays)}")
    labels = _checked(arrays, wanted[-1], source)
    if labels.index is not None:
        _check_once(labels.index, labels.split, source)
    return labels


def _wanted(names: Sequence[str], key: str | None, source: str) -> tuple[str, ...]:
    """The arrays that are needed, the labels last."""
    labels = [name for name in names if name not in _BESIDE]
    if key is not None:
        if key not in names:
            guess = did_you_mean(key, names)
            raise ConfigError(f"label_noise.key: {source} has nothing under {key!r}, only {shown(names)}{guess}")
        return (key,)
    if "given_label" in names:
        return ("given_label",)
    if not labels:
        return ("index", "given_label")
    if len(labels) > 1:
        raise ConfigError(f"label_noise.key: {source} has several labels; name one of {shown(labels)}")
    return (labels[0],)


def _checked(arrays: dict[str, np.ndarray], name: str, source: str) -> Labels:
    found = {"given": arrays[name], "index": arrays.get("index")}
    found["true"] = arrays.get("true_label", arrays.get("clean_label"))
    columns = {each: _whole(array) for each, array in found.items() if array is not None}
    count = len(columns["given"]) if columns["given"] is not None else 0
    if any(column is None or len(column) != count for column in columns.values()):
        raise DataError(f"{source}: index and labels must be whole numbers, one row each")
    split = arrays.get("split", np.full(count, ""))
    if split.dtype.kind != "U" or split.shape != (count,):
        raise DataError(f"{source}: split must name the split of each row")
    given = columns["given"]
    assert given is not None
    return Labels(given, columns.get("index"), columns.get("true"), split)


def _whole(array: object) -> Tensor | None:
    """Whole numbers (m,), or (m, 1), as int64 (m,); None if they are anything else."""
    if not isinstance(array, np.ndarray) or array.dtype.kind not in "iuf":
        return None
    if array.ndim == 2 and array.shape[1] == 1:
        array = array[:, 0]
    if array.ndim != 1 or (array.dtype.kind == "f" and not (np.abs(array) < 2**53).all()):
        return None
    whole = array.astype(np.int64)
    return torch.from_numpy(whole) if (whole == array).all() else None


def _check_once(index: Tensor, split: np.ndarray, source: str) -> None:
    names, of_split = np.unique(split, return_inverse=True)
    places = index * len(names) + torch.from_numpy(of_split)  # the same ones only for an image that one split has twice
    found, counts = places.unique(return_counts=True)
    if (counts > 1).any():
        first, second, *_ = (places == found[counts > 1][0]).nonzero().flatten().tolist()
        image = int(index[first])
        where = f"at rows {first} and {second}, counted from 0"
        raise DataError(f"{source}: image {image} is listed twice, {where}; leave one out")


def _of_npy(data: bytes, source: str) -> dict[str, np.ndarray]:
    pickled = pickle_in_npy(data)
    return {PLAIN: load_npy(data, source)} if pickled is None else _by_name(load_arrays(pickled, source), len(data))


def _of_csv(data: bytes, source: str) -> dict[str, np.ndarray]:
    """The columns under their header. Without one they are labels, or index and labels."""
    with errors_as(DataError, source, "malformed .csv", "; it must have the columns index and label, or label"):
        rows = [row for row in csv.reader(io.StringIO(data.decode("utf-8-sig"), newline="")) if row]
        if not rows:
            malformed("it is empty")
        names = [name.strip() for name in rows[0]]
        if _numbers(names).dtype.kind == "f":
            if len(names) > 2:
                malformed(f"it has {len(names)} columns without a header")
            names = ["index", PLAIN][-len(names) :]
        else:
            names = [name.lower() if name.lower() in _BESIDE else name or "index" for name in names]  # pandas has ""
            rows = rows[1:]
        if len(set(names)) < len(names):
            malformed("two columns have one name")
        for number, row in enumerate(rows):
            if len(row) != len(names):
                malformed(f"row {number} has {len(row)} cells, and the others {len(names)}")
        columns = zip(*rows, strict=True) if rows else ((),) * len(names)
        return {name: _numbers(column) for name, column in zip(names, columns, strict=True)}


def _numbers(cells: Sequence[str]) -> np.ndarray:
    """The numbers in text; the text, cut short, if it is none."""
    try:
        return np.array([float(cell) for cell in cells])
    except ValueError:
        return np.array([cell.strip()[:20] for cell in cells])


def _of_torch(data: bytes, source: str) -> dict[str, np.ndarray]:
    with errors_as(DataError, source, "no file of plain labels", "; save a tensor, an array, or a dict of them"):
        value = load_saved(data) if is_tensor_file(data) else load_arrays(data, source)
        if type(value) is int and value == OLD_TORCH:
            value = load_old(data, source)
        return _by_name(value, len(data))


def _by_name(value: Any, size: int) -> dict[str, np.ndarray]:
    """The arrays in what a file of so many bytes holds; text, which no labels are, in place of anything else."""
    values = value if isinstance(value, dict) else {PLAIN: value}
    arrays = {
        str(name): of_tensor(item) if isinstance(item, Tensor) else as_array(item, size)
        for name, item in values.items()
    }
    return {name: item if isinstance(item, np.ndarray) else np.array(["no array"]) for name, item in arrays.items()}


#: By suffix; any other file is an .npz.
_READERS: dict[str, Callable[[bytes, str], dict[str, np.ndarray]]] = {
    ".npy": _of_npy,
    ".csv": _of_csv,
    ".pt": _of_torch,
    ".pth": _of_torch,
}
