"""A run as the report sees it; reading.py makes one from each run folder."""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, NamedTuple, get_args

from config_schema import NormName
from protocol import FLOAT_BYTES, OVERLAPPING, TRUE_CLASS
from reporting.runs.words import LONGEST, plain
from utils.columns import FIRST_COLUMNS
from utils.keys import short_names, value_at
from utils.monitor import Monitor

AS_PUBLISHED = "as_published"
NOT_RECORDED = "not recorded"
THE_PAPERS = "resnet18"  # network
SYMMETRIC, FROM_FILE = "symmetric", "file"
ARMS: tuple[str, ...] = get_args(NormName)
Column = tuple[float | None, ...]  # None where the cell is empty or not finite


class Key(NamedTuple):
    """A cell of a grid, which has one run for each seed."""

    dataset: str
    noise: float
    arm: str


class Wanted(NamedTuple):
    """A run that a grid asks for."""

    key: Key
    seed: int


class Place(NamedTuple):
    """A run that a grid asks for; the number of the searched folder and where in it the run should lie; the settings
    that the grid's sweep gives it; the grid's own name of its arm."""

    want: Wanted
    folder: tuple[int, str]
    sweep: Mapping[str, Any]
    arm: str


def in_search(dataset: str) -> str:
    return f"{dataset} (search)"


def setting(sweep: Mapping[str, Any]) -> str:
    """The settings that a sweep gives a run, in words."""
    names = short_names(sweep)
    words = (f"{names[key]}={value if isinstance(value, str) else json.dumps(value)}" for key, value in sweep.items())
    return plain(" ".join(words)[:LONGEST])


@dataclass(frozen=True)
class Diagnostics:
    """The contents of diagnostics.csv: the epochs and layers in its order, and each column by (epoch, layer)."""

    epochs: tuple[int, ...]
    layers: tuple[str, ...]
    values: Mapping[str, Mapping[tuple[int, str], float | None]]


@dataclass(frozen=True)
class Data:
    """From data.json: the numbers of images in train, val and test, the number of wrong labels in train, where it was
    trained, as device and torch, and by what code (nothing in older files), the number of classes, the digest of the
    dataset, whether it was given from Python, so that the config does not name it, and the settings that a resume
    changed."""

    images: tuple[int, ...]
    wrong: int | None
    places: tuple[tuple[str, str], ...] = ()
    classes: int | None = None
    sha256: str = ""
    from_python: bool = False
    changed: tuple[str, ...] = ()


@dataclass(frozen=True, eq=False)
class Run:
    """One run folder. `root` is the index of the searched folder, and `folder` the path in it, with forward slashes.

    `data` is None if the run has none; `diverged` is the epoch in which the loss ceased to be finite; `sweep` has the
    settings that a grid's sweep gives it.
    """

    root: int
    folder: str
    config: Mapping[str, Any]
    metrics: Mapping[str, Column]
    diagnostics: Diagnostics | None
    data: Data | None = None
    diverged: int | None = None
    sweep: Mapping[str, Any] = field(default_factory=dict)
    planned_arm: str = ""  # by the grid's own name; empty if no grid planned it

    @cached_property
    def dataset(self) -> str:
        """The label of the run's dataset: the config's name without `_<arm>_<N>noise`, or the dataset's type if the
        name has another form. A note in brackets tells another network, other data or another kind of noise apart."""
        match = self._name_parts
        label = plain(match[1] if match else self.config["data_loader"]["type"])
        notes = [] if self.network == THE_PAPERS else [plain(self.network)]
        if self.partly_as_published:
            notes.append("partly as published")
        elif self.as_published and "published" not in label.lower():
            notes.append("as published")
        if self.data and self.data.from_python:
            notes.append("from Python")
        if self.noise_type != SYMMETRIC:
            notes.append("labels of a file" if self.noise_type == FROM_FILE else f"{plain(self.noise_type)} noise")
        label = f"{label} ({', '.join(notes)})" if notes else label
        return in_search(label) if self.sweep else label

    @property
    def network(self) -> str:
        return plain(str(self.config["arch"].get("type", THE_PAPERS)))

    @property
    def as_published(self) -> bool:
        """Whether the data have every defect of the published data that this dataset can have."""
        return self.config.get("protocol") == AS_PUBLISHED and False not in self._switches()

    @property
    def partly_as_published(self) -> bool:
        """Whether some of those defects were switched on or off individually."""
        one_by_one = self._switches()
        return False in one_by_one if self.config.get("protocol") == AS_PUBLISHED else True in one_by_one

    def _switches(self) -> list[Any]:
        """The switch of each defect of the data: True, False, or None if `protocol` decides."""
        keys = [OVERLAPPING, TRUE_CLASS]
        if self.config["data_loader"]["type"] == "TinyCOCO":
            keys.append(FLOAT_BYTES)
        return [value_at(self.config, key) for key in keys]

    @cached_property
    def _name_parts(self) -> re.Match[str] | None:
        """The match of <dataset>_<arm>_<N>noise, where the arm is a norm, or the run's own norm and a suffix."""
        own = re.escape(self.config["arch"]["args"]["norm"])
        planned = [re.escape(self.planned_arm)] if self.planned_arm else []
        arms = "|".join([*planned, rf"{own}_[a-z0-9]+", *sorted({own, *map(re.escape, ARMS)}, key=len, reverse=True)])
        return re.fullmatch(rf"(.+?)_({arms})_[0-9.]+noise", self.config["name"])

    @property
    def arm(self) -> str:
        """The name of the arm, and what a sweep sets."""
        return f"{self.own_arm} {setting(self.sweep)}" if self.sweep else self.own_arm

    @property
    def own_arm(self) -> str:
        """The norm; of a variant, such as a control, its name in the run's name."""
        norm, match = self.config["arch"]["args"]["norm"], self._name_parts
        if self.planned_arm:
            return plain(self.planned_arm)
        return plain(match[2] if match and match[2].startswith(f"{norm}_") and match[2] not in ARMS else norm)

    @cached_property
    def noise(self) -> float:
        """The share of labels redrawn, from 0 to 1. For labels from a file: the share of wrong ones in train, to a
        percent."""
        if self.noise_type != FROM_FILE:
            return float(f"{self.config['label_noise']['rate']:.6g}")  # what tells two levels apart in print as well
        assert self.data is not None, "such a run is left out"
        assert self.data.wrong is not None
        return round(self.data.wrong / self.data.images[0], 2)

    @property
    def noise_type(self) -> str:
        return str(self.config["label_noise"].get("type", SYMMETRIC))

    @property
    def key(self) -> Key:
        return Key(self.dataset, self.noise, self.arm)

    @property
    def seed(self) -> int:
        return int(self.config["seed"])

    @property
    def epochs(self) -> int:
        """The number of epochs that the run has completed."""
        return len(self.metrics["epoch"])

    @property
    def planned(self) -> int:
        return int(self.config["trainer"]["epochs"])

    @cached_property
    def finished(self) -> bool:
        return self.epochs >= self.planned or self._stopped_early

    def is_copy_of(self, other: "Run") -> bool:
        """Whether this is the same run, or how it was some epochs before, as records made of its folder are."""
        if self.config != other.config or self.metrics.keys() != other.metrics.keys():
            return False
        return all(values == other.metrics[name][: len(values)] for name, values in self.metrics.items())

    def column(self, name: str) -> list[float]:
        """A column that every run has, without gaps."""
        values = self.metrics[name]
        assert name in FIRST_COLUMNS
        return [value for value in values if value is not None]

    def last(self, name: str) -> float | None:
        """The value of the last epoch; None if the run has no such column or the cell is empty."""
        return self.metrics[name][-1] if name in self.metrics else None

    @property
    def _stopped_early(self) -> bool:
        loop = self.config["trainer"]
        monitor = Monitor(str(loop.get("monitor", "")), loop.get("early_stop"))
        return monitor.add_all(self.metrics.get(monitor.column or "", ())).has_had_enough
