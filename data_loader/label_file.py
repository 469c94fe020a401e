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
from utils.plain_pickle import malformed
from utils.reading import errors_as
from utils.tensor_file import is_tensor_file
from utils.text import did_you_mean, quoted, visible

PLAIN = "label"  # the name of labels that have none
#: What stands beside labels: their images, those images' true labels, and the split that a label is for.
_BESIDE = ("index", "true_label", "clean_label", "split")
_SPLITS = ("train", "val", "test")


@dataclass(frozen=True)
class Labels:
    """The labels of a file: int64 (m,) each. `index` is None if there is a label for each image, in order. `split` has
    a name in each row, or "". `true` are the true labels, if the file has them."""

    given: Tensor
    index: Tensor | None
    true: Tensor | None
    split: np.ndarray


def read_labels(path: Path, key: str | None, classes: Sequence[str] = ()) -> Labels:
    """The labels under `key`, or the only ones, or those under `given_label`. They may be names of `classes`.

    Raises:
        ConfigError: there is nothing under `key`, or without one there are several.
        DataError: the file is missing or malformed, or names an image twice, not for two splits.
    """
    if not path.exists():
        raise DataError(f"there is no noise file {path}; name one with label_noise.path")
    data, source = read_bytes(path), str(path)
    reader = _READERS.get(path.suffix.lower())
    if reader is None:
        if path.suffix.lower() != ".npz" and not data.startswith(b"PK"):
            raise DataError(
                f"{source}: labels are read from {', '.join(('.npz', *_READERS))}; save them as one of these"
            )
        wanted = _wanted(npz_names(data, source), key, source)
        arrays = load_npz(data, wanted, source, optional=_BESIDE)
    else:
        arrays = reader(data, source)
        wanted = _wanted(list(arrays), key, source)
        if any(name not in arrays for name in wanted):
            raise DataError(f"{source}: it has no labels, only {quoted(arrays)}")
        if reader is _of_csv and arrays[wanted[-1]].dtype.kind == "f":
            _check_names(arrays[wanted[-1]], classes, source)
    with errors_as(DataError, source, "malformed text"):  # numbers beyond Unicode
        labels = _checked(arrays, wanted[-1], source, classes)
    if labels.index is not None:
        _check_once(labels.index, labels.split, source)
    return labels


def _wanted(names: Sequence[str], key: str | None, source: str) -> tuple[str, ...]:
    """The arrays that are needed, the labels last."""
    labels = [name for name in names if name not in _BESIDE]
    if key is not None:
        if key not in names:
            guess = did_you_mean(key, names)
            raise ConfigError(f"label_noise.key: {source} has nothing under {key!r}, only {quoted(names)}{guess}")
        return (key,)
    if "given_label" in names:
        return ("given_label",)
    if not labels:
        return ("index", "given_label")
    if len(labels) > 1:
        raise ConfigError(
            f"label_noise.key: {source} has several labels; name one of {quoted(labels)}; "
            "without a column index the rows are taken in the dataset's order"
        )
    return (labels[0],)


def _checked(arrays: dict[str, np.ndarray], name: str, source: str, classes: Sequence[str]) -> Labels:
    true_name = "true_label" if "true_label" in arrays else "clean_label"
    columns = {key: _column(arrays[key]) for key in ("index", true_name, name) if key in arrays}
    count = columns[name].size
    if any(column.shape != (count,) for column in columns.values()):
        raise DataError(f"{source}: index and labels must be whole numbers, one row each")
    split = arrays.get("split", np.full(count, _SPLITS[0]))
    if split.shape != (count,):
        raise DataError(f"{source}: split must name the split of each row")
    for row, value in enumerate(split.tolist()):
        if value not in _SPLITS:
            raise DataError(
                f"{source}: split must be train, val or test, and row {row}, counted from 0, has "
                f"{quoted([value])}{did_you_mean(str(value), _SPLITS)}"
            )
    found = {key: _whole(column, key, source, () if key == "index" else classes) for key, column in columns.items()}
    split = split.astype(str) if "split" in arrays else np.full(count, "")
    return Labels(found[name], found.get("index"), found.get(true_name), split)


def _column(array: object) -> np.ndarray:
    """(m,) of numbers or text, from (m,) or (m, 1); of no axes if it is anything else."""
    if not isinstance(array, np.ndarray) or array.dtype.kind not in "iufUO":
        return np.empty(())
    return array[:, 0] if array.ndim == 2 and array.shape[1] == 1 else array


def _whole(column: np.ndarray, name: str, source: str, classes: Sequence[str]) -> Tensor:
    """The whole numbers of a column, or the labels of the names of `classes` in it, as int64."""
    if column.dtype.kind in "UO":
        return _of_text(column.tolist(), name, source, classes)
    with np.errstate(invalid="ignore"):
        whole = column.astype(np.int64)
    wrong = (np.abs(column) >= 2.0**53) | (whole != column) if column.dtype.kind == "f" else whole != column
    if wrong.any():
        row = int(wrong.argmax())
        raise _no_label(source, name, "whole numbers", row, str(column[row]))
    return torch.from_numpy(whole)


def _of_text(values: list[str], name: str, source: str, classes: Sequence[str]) -> Tensor:
    """`_whole` of text: of names of classes if one of it is, and otherwise of numbers."""
    labels = {text: label for label, text in enumerate(classes)}
    named = any(value in labels for value in values)
    wrong = next(
        (row for row, value in enumerate(values) if not (value in labels if named else _is_whole(value))), None
    )
    if wrong is None:
        return torch.tensor([labels[value] if named else int(float(value)) for value in values], dtype=torch.int64)
    kinds = "whole numbers or names of classes" if classes else "whole numbers"
    commas = any(mark in values[wrong] + name for mark in ";\t")
    advice = "; separate columns with commas" if commas else did_you_mean(values[wrong], classes)
    raise _no_label(source, name, kinds, wrong, quoted([values[wrong]]) + advice)


def _check_names(column: np.ndarray, classes: Sequence[str], source: str) -> None:
    """Raise DataError if a number in text could be a label or the name of a class with another label: folders 0 to 11
    are sorted as text, so that class 10 has label 2."""
    for label, name in enumerate(classes):
        if _is_whole(name) and label != float(name) < len(classes) and float(name) in column:
            raise DataError(
                f"{source}: {name} could be label {name} or the class {name!r}, whose label is {label}; save the "
                "column in an .npz instead, as whole numbers or as text"
            )


def _is_whole(text: str) -> bool:
    try:
        return float(text).is_integer() and abs(float(text)) < 2**53
    except ValueError:
        return False


def _no_label(source: str, name: str, kinds: str, row: int, value: str) -> DataError:
    return DataError(f"{source}: {visible(name, 60)} must be {kinds}, and row {row}, counted from 0, has {value}")


def _check_once(index: Tensor, split: np.ndarray, source: str) -> None:
    names, of_split = np.unique(split, return_inverse=True)
    of_image = index.unique(return_inverse=True)[1]  # numbers that a product does not overflow
    places = of_image * len(names) + torch.from_numpy(of_split)  # equal for one image twice in a split
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
        if _numbers(names[:1] if len(names) == 2 else names).dtype.kind == "f":  # the second may be a class
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
    """The numbers in text; the text if it is none, as objects: an array of text takes the longest for each."""
    try:
        return np.array([float(cell) for cell in cells])
    except ValueError:
        return np.array([cell.strip() for cell in cells], dtype=object)


def _of_torch(data: bytes, source: str) -> dict[str, np.ndarray]:
    with errors_as(DataError, source, "no file of plain labels", "; save a tensor, an array, or a dict of them"):
        value = load_saved(data) if is_tensor_file(data) else load_arrays(data, source)
        if type(value) is int and value == OLD_TORCH:
            value = load_old(data, source)
        return _by_name(value, len(data))


def _by_name(value: Any, size: int) -> dict[str, np.ndarray]:
    """The arrays in what a file of so many bytes holds; an array of no axes, which no labels are, in place of anything
    else."""
    values = value if isinstance(value, dict) else {PLAIN: value}
    return {str(name): _as_column(item, size) for name, item in values.items()}


def _as_column(item: Any, size: int) -> np.ndarray:
    if isinstance(item, list | tuple) and item and all(isinstance(text, str) for text in item):
        return np.array(item, dtype=object)
    array = of_tensor(item) if isinstance(item, Tensor) else as_array(item, size)
    return array if isinstance(array, np.ndarray) else np.empty(())


#: By suffix; any other file is an .npz.
_READERS: dict[str, Callable[[bytes, str], dict[str, np.ndarray]]] = {
    ".npy": _of_npy,
    ".csv": _of_csv,
    ".pt": _of_torch,
    ".pth": _of_torch,
}
