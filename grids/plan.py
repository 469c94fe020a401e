"""Makes the cells of a grid from its file: one training run for each dataset, arm, noise level and seed."""

import hashlib
import json
import math
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache, partial
from itertools import product
from pathlib import Path
from typing import Annotated, Any, get_args

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from config_messages import MOST_PROBLEMS
from config_schema import NormName, PathText
from parse_config import LARGEST_CONFIG, Config, load_config
from utils import strict_json
from utils.errors import ConfigError
from utils.files import read_file, user_path
from utils.keys import flat, short_names
from utils.run_files import LONGEST_NOTE
from utils.text import did_you_mean, one_line

Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,49}$")]
Settings = dict[str, Any]
Arms = Annotated[list[Name], Field(min_length=1)]
NORM = "arch.args.norm"
#: Settings that the grid gives each cell.
GIVEN = ("name", "seed", NORM, "label_noise.rate", "trainer.save_dir")
_BRACES = re.compile(r"(\{\w*\}|\{\{|\}\}|[{}])")
LARGEST_GRID = 1 << 18  # bytes
MOST_CELLS = 10_000
LONGEST_WORD = 60  # characters that a sweep adds to the name of a folder


class GridFile(BaseModel):
    """The contents of a grid file."""

    model_config = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False, frozen=True)

    name: Name = Field(description="Name of the grid; its runs lie in <save_dir>/<name>/.")
    config: PathText = Field(
        description="Path of the config to start from, relative to the grid file. {dataset}, {arm} and {noise} stand "
        "for those of the cell."
    )
    datasets: list[Name] = Field(min_length=1, description="The datasets, as `config` and `by_dataset` name them.")
    arms: Arms = Field(description=f"The arms, by the names of {NORM}; a name of your own needs {NORM} in by_arm.")
    arms_of: dict[Name, Arms] = Field(default_factory=dict, description="Datasets that have other arms than `arms`.")
    noise: list[Annotated[int, Field(ge=0, le=100)]] = Field(min_length=1, description="Label noise in percent.")
    seeds: list[Annotated[int, Field(ge=0, lt=2**63)]] = Field(min_length=1, description="One run each.")
    settings: Settings = Field(default_factory=dict, description="KEY: VALUE changes to the config, for every cell.")
    by_dataset: dict[Name, Settings] = Field(default_factory=dict, description="Changes for the cells of a dataset.")
    by_arm: dict[Name, Settings] = Field(default_factory=dict, description="Changes for the cells of an arm.")
    sweep: dict[str, Annotated[list[Any], Field(min_length=1)]] = Field(
        default_factory=dict,
        description="KEY: [VALUE, ...], settings to search: a run for each combination, over all other changes.",
    )
    save_dir: PathText = Field("saved", description="Where the grid's folder is made.")
    notes: list[Annotated[str, Field(max_length=LONGEST_NOTE)]] = Field(
        default_factory=list,
        description="Sentences that the report tells first, such as where the data come from.",
    )

    def arms_for(self, dataset: str) -> list[str]:
        return self.arms_of.get(dataset, self.arms)

    def points(self) -> list[Settings]:
        """The combinations of the sweep; one without settings if there is none."""
        return [dict(zip(self.sweep, values, strict=True)) for values in product(*self.sweep.values())]


@dataclass(frozen=True, eq=False)
class Cell:
    """One run of the grid: `train.py -c base --run-dir folder` with `overrides`, which resolve to `config`. `point` is
    those of them that the grid's sweep gives it."""

    dataset: str
    arm: str
    noise: int
    seed: int
    base: Path
    overrides: tuple[str, ...]
    config: Config
    folder: Path
    point: Settings

    @property
    def name(self) -> str:
        return f"{self.folder.parent.name}/{self.folder.name}"


@dataclass(frozen=True)
class Grid:
    name: str
    folder: Path
    cells: tuple[Cell, ...]
    notes: tuple[str, ...] = ()

    def record(self) -> bytes:
        """The bytes of grid.json, for reports: planned runs and notes. Paths are relative to the grid's folder."""
        cells = [
            {
                "dataset": cell.dataset,
                "arm": cell.arm,
                "noise": cell.noise,
                "seed": cell.seed,
                "folder": cell.folder.relative_to(self.folder).as_posix(),
                **({"sweep": cell.point} if cell.point else {}),
            }
            for cell in self.cells
        ]
        notes = {"notes": self.notes} if self.notes else {}
        return (json.dumps({"name": self.name, **notes, "cells": cells}, indent=1) + "\n").encode()


def load_grid(path: Path) -> Grid:
    """Read a grid file and validate the config of each dataset, arm and noise level.

    Raises:
        ConfigError: the file or any of its cells is wrong; one line.
    """
    one_line(str(path), "the grid file's name")
    file = _read(path)
    for what, given_for, listed in (
        ("by_dataset", file.by_dataset, file.datasets),
        ("by_arm", file.by_arm, sorted({arm for dataset in file.datasets for arm in file.arms_for(dataset)})),
        ("arms_of", file.arms_of, file.datasets),
    ):
        unknown = sorted(given_for.keys() - set(listed))
        if unknown:
            raise ConfigError(f"{path}: {what}.{unknown[0]}: not in the grid, which has {', '.join(listed)}")
    swept = [{key: value} for key, values in file.sweep.items() for value in values]
    everywhere = (file.settings, *file.by_dataset.values(), *swept)
    for arm, settings in (*((None, each) for each in everywhere), *file.by_arm.items()):
        allowed = NORM if arm is not None and arm not in get_args(NormName) else None
        keys = {*settings, *(key for key, _ in flat(settings))}
        no_key = next((key for key in keys if "=" in key), None)
        if no_key is not None:
            raise ConfigError(f"{path}: {no_key!r} is no key of a setting")
        given = [key for key in GIVEN if key in keys and key != allowed]
        if given:
            raise ConfigError(f"{path}: {given[0]} cannot be among the settings: the grid gives each cell its own")
    lists: tuple[list[Any], ...] = (file.datasets, file.noise, file.seeds, *map(file.arms_for, file.datasets))
    lists += tuple(list(map(json.dumps, values)) for values in file.sweep.values())
    if any(len(set(each)) < len(each) for each in lists):
        raise ConfigError(f"{path}: datasets, arms, noise, seeds and what is swept must each name nothing twice")
    count = len(file.noise) * len(file.seeds) * sum(len(file.arms_for(dataset)) for dataset in file.datasets)
    count *= math.prod(map(len, file.sweep.values()))
    if count > MOST_CELLS:
        raise ConfigError(f"{path}: {count:,} runs, which are more than {MOST_CELLS:,}; make several grids of it")
    folder = user_path(file.save_dir) / file.name
    cells = tuple(_cells(file, path, folder))
    for name, uses in Counter(cell.name for cell in cells).items():
        if uses > 1:
            raise ConfigError(f"{path}: {uses} of its runs have the name {name}; name datasets or arms otherwise")
    return Grid(file.name, folder, cells, tuple(file.notes))


def _cells(file: GridFile, path: Path, folder: Path) -> Iterator[Cell]:
    """The cells by seed, then by noise level, then by dataset, so that an unfinished grid compares arms."""
    whole = cache(partial(read_file, limit=LARGEST_CONFIG))

    def read(base: Path, limit: int) -> bytes:
        data = whole(base)
        return data if len(data) <= limit else read_file(base, limit)  # which says that it is too large

    points = _by_word(file.points())

    @cache
    def planned(dataset: str, arm: str, noise: int, word: str) -> tuple[Path, Settings, Config]:
        base, changes = _changes(file, path, dataset, arm, noise, points[word])
        try:
            return base, changes, load_config(base, _overrides(changes), read)
        except ConfigError as error:
            raise ConfigError(f"{path}: {changes['name']}{word}: {error}") from error

    for seed, noise, dataset in product(file.seeds, file.noise, file.datasets):
        for arm, (word, point) in product(file.arms_for(dataset), points.items()):
            base, changes, config = planned(dataset, arm, noise, word)
            own, place = config.model_copy(update={"seed": seed}), folder / f"{config.name}{word}" / f"seed{seed}"
            yield Cell(dataset, arm, noise, seed, base, _overrides({**changes, "seed": seed}), own, place, point)


def _by_word(points: Sequence[Settings]) -> dict[str, Settings]:
    """The points of a sweep by what tells them apart in the names of folders, such as _lr0.05_momentum0.9; without a
    sweep that is empty.

    A word that is too long, or that another point has as well, ends with a digest of the values.
    """
    names = short_names(points[0])
    words = ["".join(f"_{names[key]}{_word(value)}" for key, value in point.items()) for point in points]
    often = Counter(map(str.casefold, words))
    return {
        word
        if len(word) <= LONGEST_WORD and often[word.casefold()] == 1
        else f"{word[:LONGEST_WORD]}-{hashlib.sha256(json.dumps(point).encode()).hexdigest()[:8]}": point
        for word, point in zip(words, points, strict=True)
    }


def _word(value: Any) -> str:
    if isinstance(value, str | list | dict):
        return re.sub(r"[^A-Za-z0-9.]+", "-", value if isinstance(value, str) else json.dumps(value)).strip("-.")
    return json.dumps(value)


def _changes(file: GridFile, path: Path, dataset: str, arm: str, noise: int, point: Settings) -> tuple[Path, Settings]:
    """The path of the config that the cells of an arm start from, and the settings that they change in it."""
    stands_for = {"{dataset}": dataset, "{arm}": arm, "{noise}": str(noise), "{{": "{", "}}": "}"}
    parts = _BRACES.split(file.config)  # every second part is a brace expression
    if not stands_for.keys() >= set(parts[1::2]):
        raise ConfigError(f"{path}: config: only {{dataset}}, {{arm}} and {{noise}} may stand in braces")
    config_path = "".join(stands_for[part] if place % 2 else part for place, part in enumerate(parts))
    changes = {**file.settings, **file.by_dataset.get(dataset, {}), NORM: arm, **file.by_arm.get(arm, {})}
    return path.parent / config_path, {
        **{key: value for key, value in changes.items() if key not in point},
        **point,  # last, where another key is that of a block around it
        "name": f"{dataset}_{arm}_{noise}noise",
        "seed": file.seeds[0],
        "label_noise.rate": noise / 100,
    }


def _overrides(changes: Settings) -> tuple[str, ...]:
    return tuple(f"{key}={json.dumps(value)}" for key, value in changes.items())


def _read(path: Path) -> GridFile:
    try:
        values = strict_json.loads(read_file(path, LARGEST_GRID).decode("utf-8-sig"))
        if isinstance(values, dict):
            values.pop("$schema", None)
        return GridFile.model_validate(values)
    except json.JSONDecodeError as error:
        raise ConfigError(f"{path}: not valid JSON: {error}") from error
    except ValidationError as error:
        keys = list(GridFile.model_fields)
        problems = []
        for problem in error.errors()[:MOST_PROBLEMS]:
            where = ".".join(map(str, problem["loc"])) or "the file"
            unknown = problem["type"] == "extra_forbidden"
            problems.append(
                f"unknown key {where!r}{did_you_mean(where, keys)}" if unknown else f"{where}: {problem['msg']}"
            )
        raise ConfigError(f"{path}: {'; '.join(problems)}; keys: {', '.join(keys)}") from error
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else "not a UTF-8 text file"
        raise ConfigError(f"cannot read the grid {str(path)!r}: {reason}") from error
