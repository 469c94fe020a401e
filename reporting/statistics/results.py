"""Sorts runs into the cells of a grid (dataset, noise, arm) with one run for each seed; finds missing runs."""

import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import product

from reporting.runs.run import ARMS, Place, Run, Wanted
from reporting.runs.run import Key as Key
from reporting.runs.words import percent, plain
from reporting.statistics.differences import changed_settings, differing_data, differing_places, differing_settings

MOST_HOLES = 10_000


@dataclass(frozen=True)
class Results:
    """Finished and unfinished runs by cell and seed, missing runs, warnings of one sentence each, and the notes of the
    grids' authors."""

    cells: Mapping[Key, Mapping[int, Run]]
    unfinished: Mapping[Key, Mapping[int, Run]]
    missing: tuple[Wanted, ...]
    warnings: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()

    @cached_property
    def datasets(self) -> list[str]:
        return sorted({key.dataset for key in (*self.cells, *self.unfinished)})

    @cached_property
    def asked(self) -> set[Wanted]:
        """Every run that exists or is planned: finished, unfinished or missing."""
        there = (Wanted(key, seed) for key, cell in (*self.cells.items(), *self.unfinished.items()) for seed in cell)
        return {*there, *self.missing}

    @cached_property
    def asked_arms(self) -> list[str]:
        return sorted({want.key.arm for want in self.asked}, key=arm_order)

    def asked_of(self, dataset: str) -> list[Key]:
        """The cells of a dataset that have an existing or planned run."""
        return sorted({want.key for want in self.asked if want.key.dataset == dataset}, key=cell_order)

    def fullest_levels(self, dataset: str) -> set[float]:
        """The noise levels of a dataset with the most seeds planned, by any arm."""
        return {noise for noise, count in self._seeds(dataset).items() if count == self.most_seeds(dataset)}

    def most_seeds(self, dataset: str) -> int:
        """The number of seeds planned for those levels."""
        return max(self._seeds(dataset).values())

    def _seeds(self, dataset: str) -> Counter[float]:
        return Counter(noise for noise, _ in {(key.noise, seed) for key, seed in self.asked if key.dataset == dataset})

    @property
    def drawn(self) -> list[Key]:
        """The cells that have a run of at least one epoch."""
        return [*self.cells, *(key for key, cell in self.unfinished.items() if any(r.epochs for r in cell.values()))]

    @cached_property
    def file_names(self) -> Mapping[str, str]:
        """The unique part of each dataset's figure names."""
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
        """The noise levels of a dataset that have a finished run."""
        return sorted({key.noise for key in self.cells if key.dataset == dataset})

    def arms(self, dataset: str, noise: float | None = None) -> list[str]:
        """The arms of a dataset that have a finished run, at `noise` or at any level."""
        found = {key.arm for key in self.cells if key.dataset == dataset and noise in (None, key.noise)}
        return sorted(found, key=arm_order)

    def runs(self, dataset: str, noise: float, arm: str) -> list[Run]:
        """The finished runs of a cell, by seed."""
        return list(self.cells.get(Key(dataset, noise, arm), {}).values())

    def by_seed(self, dataset: str, noise: float, arm: str, measure: Callable[[Run], float | None]) -> dict[int, float]:
        """A measure of the finished runs of a cell by seed, without the runs that it is not defined for."""
        found = ((seed, measure(run)) for seed, run in self.cells.get(Key(dataset, noise, arm), {}).items())
        return {seed: value for seed, value in found if value is not None}

    def values(self, dataset: str, noise: float, arm: str, measure: Callable[[Run], float | None]) -> list[float]:
        """The values of `by_seed`."""
        return list(self.by_seed(dataset, noise, arm, measure).values())

    @property
    def lacking(self) -> int:
        """The number of runs that are missing or unfinished."""
        return len(self.missing) + sum(len(cell) for cell in self.unfinished.values())

    def is_final(self, dataset: str) -> bool:
        """Whether no run of a dataset is still to come: all have finished or diverged."""
        begun = (run for key, cell in self.unfinished.items() if key.dataset == dataset for run in cell.values())
        return all(run.diverged for run in begun) and all(want.key.dataset != dataset for want in self.missing)

    def progress(self, dataset: str, noise: float, arm: str | None = None) -> tuple[int, int]:
        """How many runs of a dataset at one noise level (and of one arm) have finished, and how many should."""
        asked = [w for w in self.asked if w.key[:2] == (dataset, noise) and arm in (None, w.key.arm)]
        return sum(want.seed in self.cells.get(want.key, ()) for want in asked), len(asked)

    @property
    def finished(self) -> list[Run]:
        return [run for cell in self.cells.values() for run in cell.values()]

    def of(self, dataset: str) -> list[Run]:
        """All finished runs of a dataset, or the unfinished ones if none has finished."""
        for cells in (self.cells, self.unfinished):
            found = [run for key, cell in cells.items() if key.dataset == dataset for run in cell.values()]
            if found:
                return found
        return []


def slug(text: str) -> str:
    """`text` as part of a file name."""
    kept = "".join(char if char.isascii() and char.isalnum() else "-" for char in text.lower())
    return "-".join(part for part in kept.split("-") if part)


def arm_order(arm: str) -> tuple[int, str]:
    return (ARMS.index(arm) if arm in ARMS else len(ARMS), arm)


def sort_into_cells(
    runs: list[Run], warnings: list[str], wanted: Iterable[Place] | None, notes: tuple[str, ...] = ()
) -> Results:
    """Sort `runs`. `wanted` are the planned runs with their folders; None takes each hole in the grid as missing."""
    warnings, places = list(warnings), list(wanted or ())
    planned = {place.folder: place for place in places}
    runs = [
        replace(run, sweep=place.sweep, planned_arm=place.arm)
        if (place := planned.get((run.root, run.folder))) is not None
        else run
        for run in runs
    ]
    by_cell: dict[Key, dict[int, list[Run]]] = {}
    for run in runs:
        by_cell.setdefault(run.key, {}).setdefault(run.seed, []).append(run)
    cells: dict[Key, dict[int, Run]] = {}
    unfinished: dict[Key, dict[int, Run]] = {}
    for key in sorted(by_cell, key=cell_order):
        for seed, found in sorted(by_cell[key].items()):
            chosen = max(found, key=_newest_complete)
            found = [run for run in found if run is chosen or not run.is_copy_of(chosen)]
            if len(found) > 1:
                which = f"`{plain(chosen.folder)}`, the newest{' complete' if chosen.finished else ''} one by its name"
                warnings.append(f"There are {len(found)} runs of {describe(key)}, seed {seed}; {which}, counts.")
            (cells if chosen.finished else unfinished).setdefault(key, {})[seed] = chosen
    for differing in (differing_settings, changed_settings, differing_data, differing_places):
        warnings += differing(cells, unfinished)
    lost = [
        f"{describe(key)}, seed {seed}"
        for key, cell in unfinished.items()
        for seed, run in cell.items()
        if run.diverged
    ]
    if lost:
        count = "A run's loss" if len(lost) == 1 else f"The loss of {len(lost)} runs"
        warnings.append(f"{count} became NaN or infinite; means are of the others alone: {'; '.join(lost)}.")
    have = {Wanted(key, seed) for group in (cells, unfinished) for key, cell in group.items() for seed in cell}
    missing = _holes(have, warnings) if wanted is None else _absent(places, runs, have)
    missing = sorted(missing, key=lambda w: (cell_order(w.key), w.seed))
    return Results(cells, unfinished, tuple(missing), tuple(warnings), notes)


def describe(key: Key) -> str:
    return f"{key.dataset}, `{plain(key.arm)}`, {percent(key.noise)} noise"


def cell_order(key: Key) -> tuple[str, float, tuple[int, str]]:
    return key.dataset, key.noise, arm_order(key.arm)


def _newest_complete(run: Run) -> tuple[bool, str, int, str]:
    """The sort key by which the newest run is last: finished, the time in the folder's name, its epochs, the path."""
    stamp = re.search(r"\d{8}_\d{6}(-\d+)?$", run.folder)
    return run.finished, stamp[0] if stamp else "", run.epochs, run.folder


def _holes(have: set[Wanted], warnings: list[str]) -> list[Wanted]:
    """The runs that a full grid over each dataset's noise levels, arms and seeds has and `have` lacks. Adds a warning
    if the runs are far from a grid."""
    missing: list[Wanted] = []
    for dataset in sorted({key.dataset for key, _ in have}):
        here = [(key, seed) for key, seed in have if key.dataset == dataset]
        noises, arms, seeds = {k.noise for k, _ in here}, {k.arm for k, _ in here}, {seed for _, seed in here}
        if len(noises) * len(arms) * len(seeds) > MOST_HOLES:
            warnings.append(f"The runs of {dataset} are too unlike each other to tell which are missing.")
        else:
            cells = product(noises, arms, seeds)
            missing += {Wanted(Key(dataset, noise, arm), seed) for noise, arm, seed in cells} - have
    return missing


def _absent(wanted: list[Place], runs: list[Run], have: set[Wanted]) -> list[Wanted]:
    """The runs of `wanted` that are neither in their folder nor elsewhere.

    If a run lies in the folder that the grid names, the grid's name for its dataset counts as the run's own.
    """
    folders = {(run.root, run.folder): run for run in runs}
    labels = {want.key.dataset: folders[folder].dataset for want, folder, *_ in wanted if folder in folders}
    named = ((want._replace(key=_named(want.key, labels)), folder) for want, folder, *_ in wanted)
    return [want for want, folder in named if folder not in folders and want not in have]


def _named(key: Key, labels: Mapping[str, str]) -> Key:
    return key._replace(dataset=labels.get(key.dataset, key.dataset))
