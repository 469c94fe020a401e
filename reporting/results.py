"""The runs sorted into cells of a grid: dataset, arm, noise; in each a run by seed. What is missing, what is odd."""

import json
import os
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

from reporting.runs import ARMS, Run, plain
from reporting.settings import LONGEST, number, text, whole
from reporting.style import Look, looks
from utils import strict_json
from utils.errors import DataError
from utils.files import read_file
from utils.run_files import GRID_NAME

#: Settings that an arm, a cell or a machine has of its own; runs that differ in others are not quite comparable.
_OWN = {
    *("name", "seed", "arch.args.norm", "label_noise.rate", "trainer.clip_grad_norm", "trainer.save_dir"),
    *("trainer.save_period", "trainer.save_every_minutes", "trainer.tensorboard", "trainer.keep_freed_memory"),
    *("trainer.diagnostics",),
}
_UNSET = {"protocol": "clean"}  # what it means where an older config lacks the key


LARGEST_GRID = 1 << 24  # bytes of a grid.json
MOST_HOLES = 10_000
MOST_SETTINGS = 20  # that are named where runs differ
_CELL: dict[str, Callable[[Any], bool]] = {
    "dataset": text,
    "arm": text,
    "noise": number(0, 100),
    "seed": whole(0),
    "folder": lambda v: type(v) is str,
}


class Key(NamedTuple):
    dataset: str
    noise: float
    arm: str


class Wanted(NamedTuple):
    """A run that there should be."""

    key: Key
    seed: int


Place = tuple[Wanted, tuple[int, str]]  # with the number of the searched folder and where in it a run should lie


@dataclass(frozen=True)
class Results:
    """Finished runs by cell and seed; unfinished ones; runs not there at all; warnings, a sentence each."""

    cells: Mapping[Key, Mapping[int, Run]]
    unfinished: Mapping[Key, Mapping[int, Run]]
    missing: tuple[Wanted, ...]
    warnings: tuple[str, ...] = field(default=())

    @cached_property
    def datasets(self) -> list[str]:
        return sorted({key.dataset for key in (*self.cells, *self.unfinished)})

    @cached_property
    def asked(self) -> set[Key]:
        """The cells with a run, be it finished, unfinished or missing."""
        return {*self.cells, *self.unfinished, *(want.key for want in self.missing)}

    def fullest_levels(self, dataset: str) -> set[float]:
        """The noise levels of a dataset for which the most seeds were asked for, by any arm."""
        seeds: dict[float, set[int]] = {}
        for cells in (self.cells, self.unfinished):
            for key, cell in cells.items():
                if key.dataset == dataset:
                    seeds.setdefault(key.noise, set()).update(cell)
        for want in self.missing:
            if want.key.dataset == dataset:
                seeds.setdefault(want.key.noise, set()).add(want.seed)
        most = max(map(len, seeds.values()), default=0)
        return {noise for noise, asked in seeds.items() if len(asked) == most}

    @property
    def drawn(self) -> list[Key]:
        """The cells with a run of an epoch or more."""
        return [*self.cells, *(key for key, cell in self.unfinished.items() if any(r.epochs for r in cell.values()))]

    @cached_property
    def looks(self) -> Mapping[str, Look]:
        """How each arm looks in this report's figures."""
        return looks(sorted({key.arm for key in self.asked}, key=arm_order))

    @cached_property
    def file_names(self) -> Mapping[str, str]:
        """Each dataset's part of the names of its figures, no two the same."""
        names: dict[str, str] = {}
        for dataset in self.datasets:
            name = first = slug(dataset)[:80] or "dataset"
            number = 1
            while name in names.values():
                number += 1
                name = f"{first}-{number}"
            names[dataset] = name
        return names

    def noises(self, dataset: str) -> list[float]:
        """Of cells with a finished run."""
        return sorted({key.noise for key in self.cells if key.dataset == dataset})

    def arms(self, dataset: str, noise: float | None = None) -> list[str]:
        """Of cells with a finished run, at `noise` or at any."""
        found = {key.arm for key in self.cells if key.dataset == dataset and noise in (None, key.noise)}
        return sorted(found, key=arm_order)

    def runs(self, dataset: str, noise: float, arm: str) -> list[Run]:
        """The finished runs of a cell, by seed."""
        return list(self.cells.get(Key(dataset, noise, arm), {}).values())

    def by_seed(self, dataset: str, noise: float, arm: str, measure: Callable[[Run], float | None]) -> dict[int, float]:
        """A measure of the finished runs of a cell by seed, those left out that it is not defined for."""
        found = ((seed, measure(run)) for seed, run in self.cells.get(Key(dataset, noise, arm), {}).items())
        return {seed: value for seed, value in found if value is not None}

    @property
    def lacking(self) -> int:
        """How many runs are missing or unfinished."""
        return len(self.missing) + sum(len(cell) for cell in self.unfinished.values())

    @property
    def finished(self) -> list[Run]:
        return [run for cell in self.cells.values() for run in cell.values()]

    def of(self, dataset: str) -> list[Run]:
        """All finished runs of a dataset, or the unfinished ones if none has finished."""
        runs = [run for key, cell in self.cells.items() if key.dataset == dataset for run in cell.values()]
        begun = [run for key, cell in self.unfinished.items() if key.dataset == dataset for run in cell.values()]
        return runs or begun


def slug(text: str) -> str:
    """`text` for a file's name."""
    kept = "".join(char if char.isascii() and char.isalnum() else "-" for char in text.lower())
    return "-".join(part for part in kept.split("-") if part)


def arm_order(arm: str) -> tuple[int, str]:
    return (ARMS.index(arm) if arm in ARMS else len(ARMS), arm)


def sort_into_cells(runs: list[Run], warnings: list[str], wanted: Iterable[Place] | None) -> Results:
    """`wanted` are the runs that there should be with their folders; None takes every hole in what was found."""
    warnings = list(warnings)
    by_cell: dict[Key, dict[int, list[Run]]] = {}
    for run in runs:
        by_cell.setdefault(Key(run.dataset, run.noise, run.arm), {}).setdefault(run.seed, []).append(run)
    cells: dict[Key, dict[int, Run]] = {}
    unfinished: dict[Key, dict[int, Run]] = {}
    for key in sorted(by_cell, key=cell_order):
        for seed, found in sorted(by_cell[key].items()):
            chosen = max(found, key=_newest_complete)
            if len(found) > 1:
                which = f"`{plain(chosen.folder)}`, the newest{' complete' if chosen.finished else ''} one by its name"
                warnings.append(f"There are {len(found)} runs of {describe(key)}, seed {seed}; {which}, counts.")
            (cells if chosen.finished else unfinished).setdefault(key, {})[seed] = chosen
    warnings += _differing_settings(cells, unfinished)
    lost = [
        f"{describe(key)}, seed {seed}"
        for key, cell in unfinished.items()
        for seed, run in cell.items()
        if run.diverged
    ]
    if lost:
        count = "A run's loss" if len(lost) == 1 else f"The loss of {len(lost)} runs"
        warnings.append(f"{count} became NaN or infinite; means are of the others alone: {'; '.join(lost)}.")
    have = {(key, seed) for group in (cells, unfinished) for key, cell in group.items() for seed in cell}
    missing = _holes(have, warnings) if wanted is None else _absent(list(wanted), runs, have)
    return Results(
        cells, unfinished, tuple(sorted(missing, key=lambda w: (cell_order(w.key), w.seed))), tuple(warnings)
    )


def describe(key: Key) -> str:
    return f"{key.dataset}, `{plain(key.arm)}`, {percent(key.noise)} noise"


def percent(share: float) -> str:
    return f"{100 * share:g} %"


def cell_order(key: Key) -> tuple[str, float, tuple[int, str]]:
    return key.dataset, key.noise, arm_order(key.arm)


def _newest_complete(run: Run) -> tuple[bool, str, str]:
    """Finished before unfinished, then by the time in the folder's name, as train.py names them, then by the path."""
    stamp = re.search(r"\d{8}_\d{6}(-\d+)?$", run.folder)
    return run.finished, stamp[0] if stamp else "", run.folder


def _holes(have: set[tuple[Key, int]], warnings: list[str]) -> list[Wanted]:
    """What lacks in each dataset to every arm with every noise and seed; a warning where that is far from a grid."""
    missing: list[Wanted] = []
    for dataset in sorted({key.dataset for key, _ in have}):
        here = [(key, seed) for key, seed in have if key.dataset == dataset]
        noises, arms, seeds = {k.noise for k, _ in here}, {k.arm for k, _ in here}, {seed for _, seed in here}
        if len(noises) * len(arms) * len(seeds) > MOST_HOLES:
            warnings.append(f"The runs of {dataset} are too unlike each other to tell which are missing.")
            continue
        for noise in noises:
            for arm in arms:
                key = Key(dataset, noise, arm)
                missing += [Wanted(key, seed) for seed in seeds if (key, seed) not in have]
    return missing


def _absent(wanted: list[Place], runs: list[Run], have: set[tuple[Key, int]]) -> list[Wanted]:
    """Those of `wanted` that are neither in their folder nor anywhere else.

    A grid's names of datasets are taken for the runs' own where a run lies in the folder that the grid says.
    """
    folders = {(run.root, run.folder): run for run in runs}
    labels = {want.key.dataset: folders[folder].dataset for want, folder in wanted if folder in folders}
    missing = []
    for want, folder in wanted:
        key = want.key._replace(dataset=labels.get(want.key.dataset, want.key.dataset))
        if folder not in folders and (key, want.seed) not in have:
            missing.append(Wanted(key, want.seed))
    return missing


def read_grid(folders: list[Path]) -> list[Place] | None:
    """The runs that every grid.json in and below the folders asks for; None if there is no grid.json.

    Raises:
        DataError: one is damaged.
    """
    wanted: list[Place] | None = None
    for root, path in ((n, path) for n, folder in enumerate(folders) for path in _grids(folder)):
        below = path.parent.relative_to(folders[root])
        try:
            cells = strict_json.loads(read_file(path, LARGEST_GRID).decode("utf-8-sig"))["cells"]
            found = [(_wanted(cell), (root, (below / str(cell["folder"])).as_posix())) for cell in cells]
        except (OSError, ValueError, KeyError, TypeError) as error:
            why = f"no {error}" if isinstance(error, KeyError) else getattr(error, "strerror", None) or str(error)
            raise DataError(f"{path}: not what grid.py writes ({why}); mend it or take it away") from error
        wanted = (wanted or []) + found
    return wanted


def _grids(folder: Path) -> list[Path]:
    return sorted(Path(place, GRID_NAME) for place, _, files in os.walk(folder) if GRID_NAME in files)


def _wanted(cell: dict[str, Any]) -> Wanted:
    """Noise is in percent there. Raises KeyError, TypeError and ValueError."""
    for name, fits in _CELL.items():
        if not fits(cell[name]):
            raise ValueError(f"{name} is {json.dumps(cell[name])[:60]} in one of its cells")
    return Wanted(Key(plain(cell["dataset"]), cell["noise"] / 100, plain(cell["arm"])), cell["seed"])


def _differing_settings(*groups: Mapping[Key, Mapping[int, Run]]) -> list[str]:
    """A warning for each setting in which runs of one dataset differ though neither arm, noise nor seed is meant to."""
    by_dataset: dict[str, list[tuple[Key, Run]]] = {}
    for group in groups:
        for key, cell in group.items():
            by_dataset.setdefault(key.dataset, []).extend((key, run) for run in cell.values())
    warnings = []
    for dataset, runs in sorted(by_dataset.items()):
        settings = [(key, _settings(run.config)) for key, run in runs]
        differing = 0
        for name in sorted({name for _, values in settings for name in values} - _OWN):
            arms: dict[str, set[str]] = {}
            for key, values in settings:
                value = json.dumps(values.get(name, _UNSET.get(name)))
                arms.setdefault(value, set()).add(f"`{plain(key.arm)}` at {percent(key.noise)}")
            differing += len(arms) > 1
            if len(arms) > 1 and differing <= MOST_SETTINGS:
                said = "; ".join(f"{_short(value)} in {_few(sorted(cells))}" for value, cells in sorted(arms.items()))
                warnings.append(f"Runs of {dataset} differ in `{_short(name)}`, so they do not quite compare: {said}.")
        if differing > MOST_SETTINGS:
            warnings.append(f"Runs of {dataset} differ in {differing - MOST_SETTINGS} more settings.")
    return warnings


def _short(text: str) -> str:
    return plain(text if len(text) <= LONGEST else f"{text[:LONGEST]}...")


def _few(names: list[str]) -> str:
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")


def _settings(config: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """By dotted key. Of data_dir the last part only: the same data lie elsewhere on another machine."""
    flat: dict[str, Any] = {}
    for key, value in config.items():
        if isinstance(value, Mapping):
            flat |= _settings(value, f"{prefix}{key}.")
        elif key == "data_dir":
            flat[prefix + key] = re.split(r"[/\\]", str(value).rstrip("/\\"))[-1]
        else:
            flat[prefix + key] = value
    return flat
