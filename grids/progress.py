"""How far the cells of a grid are, read off their run folders, and the table that says so."""

import csv
import io
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from grids.plan import Cell, Grid
from parse_config import Config, load_config
from utils.errors import ConfigError
from utils.files import read_file
from utils.monitor import Monitor
from utils.run_files import CONFIG_NAME, METRICS_NAME

LARGEST_TABLE = 64 << 20  # bytes of a metrics.csv; an epoch takes some 200
WAITING, RUNNING, FINISHED, FAILED = "waiting", "running", "finished", "failed"


@dataclass(frozen=True)
class Standing:
    """Epochs done of all, the seconds that they took, and whether nothing is left to do."""

    epochs: int
    of: int
    seconds: float
    finished: bool


def standing(cell: Cell) -> Standing:
    """Of a run folder, by its metrics.csv; a damaged or missing one counts as not begun, and train.py mends it."""
    trainer = cell.config.trainer
    of = trainer.epochs
    try:
        text = read_file(cell.folder / METRICS_NAME, LARGEST_TABLE).decode("utf-8-sig")
        rows = list(csv.DictReader(io.StringIO(text, newline="")))
        seconds = sum(float(row["seconds"]) for row in rows)
        monitor = Monitor(trainer.monitor, trainer.early_stop)
        if trainer.early_stop:
            monitor.add_all(float(row[monitor.column or ""]) for row in rows)
    except (OSError, ValueError, KeyError, TypeError, csv.Error):
        return Standing(0, of, 0.0, False)
    return Standing(len(rows), of, seconds, len(rows) >= of or monitor.has_had_enough)


def misfit(cell: Cell) -> str | None:
    """Why a cell cannot be run where its folder holds a run of other settings, by that run's own config; else None.

    A run that left neither a checkpoint nor a figure, as one that diverged at once, is nothing to hold on to.
    """
    if not (cell.folder / METRICS_NAME).exists() and not any(cell.folder.glob("*.pth")):
        return None
    try:
        own = load_config(cell.folder / CONFIG_NAME)
    except ConfigError:  # not there, or damaged, which train.py tells of
        return None
    there, here = _settings(own), _settings(cell.config)
    for key in here:
        if there.get(key) != here[key]:
            difference = f"{key} is {there.get(key)} there, {here[key]} here"
            advice = "move it away, or give the grid another name"
            return f"{cell.folder} holds a run of other settings ({difference}); {advice}"
    return None


def table(grid: Grid, states: Mapping[Cell, str], notes: Mapping[Cell, str]) -> list[str]:
    """A line for each dataset and noise, a column for each arm: seeds finished of all; then what runs or failed."""
    arms = list(dict.fromkeys(cell.arm for cell in grid.cells))
    rows: dict[tuple[str, int], dict[str, list[Cell]]] = {}
    for cell in grid.cells:
        rows.setdefault((cell.dataset, cell.noise), {}).setdefault(cell.arm, []).append(cell)
    wide = max(len(dataset) for dataset, _ in rows)
    columns = [max(len(arm), 8) for arm in arms]
    lines = [
        "  ".join([f"{'dataset':<{max(wide, 7)}}", "noise", *(f"{a:>{w}}" for a, w in zip(arms, columns, strict=True))])
    ]
    for (dataset, noise), by_arm in rows.items():
        shares = [_share(by_arm.get(arm, []), states) for arm in arms]
        cells = [f"{share:>{w}}" for share, w in zip(shares, columns, strict=True)]
        lines.append("  ".join([f"{dataset:<{max(wide, 7)}}", f"{noise:>4}%", *cells]))
    done = sum(state == FINISHED for state in states.values())
    lines.append(f"{done} of {len(grid.cells)} runs finished{_time_left(grid, states)}")
    for state in (RUNNING, WAITING, FAILED):
        for cell in grid.cells:
            if states[cell] == state and (state != WAITING or cell in notes):
                lines.append(f"{state}: {cell.name}, {notes.get(cell) or _epochs(standing(cell))}")
    return lines


def _share(cells: list[Cell], states: Mapping[Cell, str]) -> str:
    failed = sum(states[cell] == FAILED for cell in cells)
    return f"{sum(states[cell] == FINISHED for cell in cells)}/{len(cells)}" + (f" {failed}!" if failed else "")


def _epochs(where: Standing) -> str:
    return f"epoch {where.epochs} of {where.of}"


def _time_left(grid: Grid, states: Mapping[Cell, str]) -> str:
    """By the seconds an epoch of each arm and dataset took so far; nothing where one has not begun."""
    all_standings = {cell: standing(cell) for cell in grid.cells if states[cell] != FAILED}
    took: dict[tuple[str, str], list[float]] = {}
    for cell, where in all_standings.items():
        sums = took.setdefault((cell.dataset, cell.arm), [0.0, 0.0])
        sums[0] += where.seconds
        sums[1] += where.epochs
    left = 0.0
    for cell, where in all_standings.items():
        if states[cell] == FINISHED:
            continue
        seconds, epochs = took[cell.dataset, cell.arm]
        if not epochs:
            return ""
        left += seconds / epochs * (where.of - where.epochs)
    parallel = max(1, sum(state == RUNNING for state in states.values()))
    return f", about {left / parallel / 60:.0f} min left" if left else ""


def _settings(config: Config) -> dict[str, object]:
    """All that a result depends on, by dotted key."""
    ignored = {"name", "trainer.save_dir", "trainer.device", "trainer.tensorboard", "trainer.save_every_minutes"}
    return {key: value for key, value in config.settings().items() if key not in ignored}


def log_path(grid: Grid, cell: Cell) -> Path:
    """What the cell's processes print is appended there."""
    return grid.folder / "logs" / f"{cell.folder.parent.name}-seed{cell.seed}.log"
