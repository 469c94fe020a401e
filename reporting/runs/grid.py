"""Reads grid.json, the list of a grid's planned runs that grid.py writes."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from reporting.runs.run import Key, Place, Wanted, in_search, setting
from reporting.runs.settings import number, text, whole
from reporting.runs.words import plain
from utils import strict_json
from utils.errors import DataError
from utils.files import folders_below, read_file
from utils.run_files import GRID_NAME, LONGEST_NOTE

LARGEST_GRID = 1 << 24  # bytes of a grid.json
_CELL: dict[str, Callable[[Any], bool]] = {
    "dataset": text,
    "arm": text,
    "noise": number(0, 100),
    "seed": whole(0),
    "folder": lambda v: type(v) is str,
}


class Plan(NamedTuple):
    """The planned runs of all grids, None if there is no grid, and what the grids' authors tell their readers."""

    places: list[Place] | None
    notes: tuple[str, ...]


def read_grid(folders: list[Path]) -> Plan:
    """What every grid.json in and below the folders plans and tells.

    Raises:
        DataError: a grid.json is damaged.
    """
    wanted: list[Place] | None = None
    notes: list[str] = []
    for root, path in ((n, path) for n, folder in enumerate(folders) for path in _grids(folder)):
        below = path.parent.relative_to(folders[root])
        try:
            grid = strict_json.loads(read_file(path, LARGEST_GRID).decode("utf-8-sig"))
            found = [
                Place(
                    _wanted(cell), (root, (below / str(cell["folder"])).as_posix()), cell.get("sweep", {}), cell["arm"]
                )
                for cell in grid["cells"]
            ]
            told = grid.get("notes", [])
            if not (isinstance(told, list) and all(isinstance(note, str) for note in told)):
                raise ValueError("notes is no list of sentences")
        except (OSError, ValueError, KeyError, TypeError) as error:
            why = f"no {error}" if isinstance(error, KeyError) else getattr(error, "strerror", None) or str(error)
            raise DataError(f"{path}: not what grid.py writes ({why}); mend it or take it away") from error
        wanted = (wanted or []) + found
        notes += [plain(note[:LONGEST_NOTE]) for note in told]
    return Plan(wanted, tuple(dict.fromkeys(notes)))


def _grids(folder: Path) -> list[Path]:
    return sorted(place / GRID_NAME for place, files in folders_below(folder) if GRID_NAME in files)


def _wanted(cell: dict[str, Any]) -> Wanted:
    """A planned run from a cell of grid.json, whose noise is in percent. Raises KeyError, TypeError and ValueError."""
    for name, fits in _CELL.items():
        if not fits(cell[name]):
            raise ValueError(f"{name} is {json.dumps(cell[name])[:60]} in one of its cells")
    dataset, arm, sweep = plain(cell["dataset"]), plain(cell["arm"]), cell.get("sweep", {})
    if not isinstance(sweep, dict):
        raise ValueError(f"sweep is {json.dumps(sweep)[:60]} in one of its cells")
    if sweep:
        dataset, arm = in_search(dataset), f"{arm} {setting(sweep)}"
    return Wanted(Key(dataset, cell["noise"] / 100, arm), cell["seed"])
