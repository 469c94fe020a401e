"""The progress of a grid's cells by the files in their run folders, and the table that shows it."""

import csv
import io
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

from config_schema import NO_RESULT_DEPENDS_ON
from grids.plan import Cell, Grid
from parse_config import LARGEST_CONFIG, load_config
from utils import strict_json
from utils.errors import ConfigError
from utils.files import read_file
from utils.keys import flat
from utils.monitor import Monitor
from utils.run_files import CONFIG_NAME, METRICS_NAME

LARGEST_TABLE = 64 << 20  # bytes of a metrics.csv; an epoch takes some 200
MOST_LISTED = 20  # cells of one state in a table
WAITING, RUNNING, FINISHED, FAILED = "waiting", "running", "finished", "failed"


@dataclass(frozen=True)
class Standing:
    """`epochs` done out of `of`, the median seconds of one, and whether the run has finished."""

    epochs: int
    of: int
    pace: float
    finished: bool


def standing(cell: Cell) -> Standing:
    """The progress of a cell by its metrics.csv. A missing or damaged file counts as not begun: train.py repairs it."""
    trainer = cell.config.trainer
    of = trainer.epochs
    try:
        text = read_file(cell.folder / METRICS_NAME, LARGEST_TABLE).decode("utf-8-sig")
        names, *rows = [row for row in csv.reader(io.StringIO(text, newline="")) if row]
        place = {name: index for index, name in enumerate(names)}
        pace = median([float(row[place["seconds"]]) for row in rows] or [0.0])
        monitor = Monitor(trainer.monitor, trainer.early_stop)
        if trainer.early_stop:
            monitor.add_all(float(row[place[monitor.column or ""]]) for row in rows)
    except (OSError, ValueError, LookupError, csv.Error):
        return Standing(0, of, 0.0, False)
    return Standing(len(rows), of, pace, len(rows) >= of or monitor.has_had_enough)


def misfit(cell: Cell) -> str | None:
    """Why a cell cannot be run: its folder holds a run of other settings, by that run's config.json. None if it can.

    A run that left neither a checkpoint nor a metrics.csv, such as one that diverged at once, may be replaced.
    """
    if not (cell.folder / METRICS_NAME).exists() and not any(cell.folder.glob("*.pth")):
        return None
    path, planned = cell.folder / CONFIG_NAME, cell.config.model_dump()
    try:
        written = strict_json.loads(read_file(path, LARGEST_CONFIG).decode("utf-8-sig"))
        # Validation is slow, and most configs do not differ.
        if isinstance(written, dict) and (written == planned or _settings(written) == _settings(planned)):
            return None
        there, here = _settings(load_config(path).model_dump()), _settings(planned)
    except (OSError, ValueError, RecursionError, ConfigError):  # train.py reports a missing or damaged config
        return None
    for key in here:
        if there.get(key) != here[key]:
            difference = f"{key} is {there.get(key)} there, {here[key]} here"
            advice = "move it away, or give the grid another name"
            return f"{cell.folder} holds a run of other settings ({difference}); {advice}"
    return None


class Progress:
    """The state of each cell of `grid`, notes on some of them, and the table that shows both.

    The caller changes `states` and `notes`. The files of a cell are read again only while its state is RUNNING, and
    once after its state has changed.
    """

    def __init__(self, grid: Grid) -> None:
        self.grid = grid
        self.notes: dict[Cell, str] = {}
        standings = {cell: standing(cell) for cell in grid.cells}
        self.states = {cell: FINISHED if where.finished else WAITING for cell, where in standings.items()}
        self._read = {cell: (self.states[cell], where) for cell, where in standings.items()}

    def table(self) -> list[str]:
        """A line for each dataset and noise level, a column for each arm: "<seeds finished>/<seeds>".

        Below are lines for the cells that run, wait with a note, or failed: at most MOST_LISTED for each state.
        """
        arms = list(dict.fromkeys(cell.arm for cell in self.grid.cells))
        rows: dict[tuple[str, int], dict[str, list[str]]] = {}
        for cell in self.grid.cells:
            rows.setdefault((cell.dataset, cell.noise), {}).setdefault(cell.arm, []).append(self.states[cell])
        wide = max(len("dataset"), *(len(dataset) for dataset, _ in rows))
        shares = [["dataset", "noise", *arms]]
        shares += [
            [dataset, f"{noise}%", *(_share(by_arm.get(arm, [])) for arm in arms)]
            for (dataset, noise), by_arm in rows.items()
        ]
        widths = [max(len(arm), 8) for arm in arms]
        lines = [
            "  ".join([f"{dataset:<{wide}}", f"{noise:>5}", *(f"{c:>{w}}" for c, w in zip(cells, widths, strict=True))])
            for dataset, noise, *cells in shares
        ]
        done = sum(state == FINISHED for state in self.states.values())
        lines.append(f"{done} of {len(self.grid.cells)} runs finished{self._time_left()}")
        for state in (RUNNING, WAITING, FAILED):
            cells = [cell for cell in self.grid.cells if self.states[cell] == state]
            if state == WAITING:
                cells = [cell for cell in cells if cell in self.notes]
            lines += [
                f"{state}: {cell.name}, {self.notes.get(cell) or self._epochs(cell)}" for cell in cells[:MOST_LISTED]
            ]
            if len(cells) > MOST_LISTED:
                lines.append(f"{state}: {len(cells) - MOST_LISTED:,} more")
        return lines

    def _standing(self, cell: Cell) -> Standing:
        state, where = self._read[cell]
        if self.states[cell] == RUNNING or self.states[cell] != state:
            where = standing(cell)
            self._read[cell] = self.states[cell], where
        return where

    def _epochs(self, cell: Cell) -> str:
        where = self._standing(cell)
        return f"epoch {where.epochs} of {where.of}"

    def _time_left(self) -> str:
        """An estimate from the median pace of each arm and dataset; empty if one of them has not begun.

        A few epochs that shared the machine with other work do not move a median.
        """
        standings = {cell: self._standing(cell) for cell, state in self.states.items() if state != FAILED}
        paces: dict[tuple[str, str], list[float]] = {(cell.dataset, cell.arm): [] for cell in standings}
        for cell, where in standings.items():
            paces[cell.dataset, cell.arm] += [where.pace] if where.epochs else []
        seconds = 0.0
        for cell, where in standings.items():
            if self.states[cell] == FINISHED:
                continue
            if not paces[cell.dataset, cell.arm]:
                return ""
            seconds += median(paces[cell.dataset, cell.arm]) * (where.of - where.epochs)
        minutes = seconds / 60 / max(1, sum(state == RUNNING for state in self.states.values()))
        if minutes >= 120:
            return f", about {minutes / 60:.0f} h left"
        return f", about {minutes:.0f} min left" if minutes else ""


def _share(states: list[str]) -> str:
    failed = states.count(FAILED)
    return f"{states.count(FINISHED)}/{len(states)}" + (f" {failed}!" if failed else "")


def _settings(config: Mapping[str, Any]) -> dict[str, Any]:
    """All settings that a result depends on, by dotted key."""
    ignored = {*NO_RESULT_DEPENDS_ON, "weights.sha256"}  # which a run notes
    return {key: value for key, value in flat(config) if key not in ignored}


def log_path(grid: Grid, cell: Cell) -> Path:
    """The log to which the output of the cell's processes is appended."""
    return grid.folder / "logs" / f"{cell.folder.parent.name}-seed{cell.seed}.log"
