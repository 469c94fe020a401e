"""Finds settings and machines in which the runs of one dataset differ, although they are compared."""

import copy
import json
import re
from collections import Counter
from collections.abc import Mapping
from typing import Any

from pydantic import ValidationError

from config_schema import NO_RESULT_DEPENDS_ON, Config
from reporting.runs.run import Key, Run
from reporting.runs.words import LONGEST, first_of, percent, plain
from utils.keys import flat, value_at

#: A setting that an arm has of its own.
_OF_AN_ARM = "trainer.clip_grad_norm"
#: Settings that a cell or a machine has of its own; runs that differ in others are not quite comparable.
_OWN = {*NO_RESULT_DEPENDS_ON, "seed", "arch.args.norm", "label_noise.rate", "trainer.diagnostics"}
MOST_SETTINGS = 20  # that are named where runs differ


def differing_settings(*groups: Mapping[Key, Mapping[int, Run]]) -> list[str]:
    """A warning for each setting in which runs of one dataset differ, apart from arm, noise and seed."""
    by_dataset: dict[str, dict[tuple[Key, str], Run]] = {}  # one run of each cell for each config but for name and seed
    for group in groups:
        for key, cell in group.items():
            for run in cell.values():
                config = json.dumps({**run.config, "name": None, "seed": None})
                by_dataset.setdefault(key.dataset, {})[key, config] = run
    warnings = []
    for dataset, runs in sorted(by_dataset.items()):
        settings = [(key, _settings(run.config)) for (key, _), run in runs.items()]
        swept = tuple({key.removesuffix("type") for run in runs.values() for key in run.sweep})  # args go with a type
        differing = 0
        for name in sorted({name for _, values in settings for name in values if not name.startswith(swept)} - _OWN):
            arms: dict[str, set[str]] = {}
            by_arm: dict[str, set[str]] = {}
            for key, values in settings:
                value = json.dumps(values.get(name))
                arms.setdefault(value, set()).add(f"`{plain(key.arm)}` at {percent(key.noise)}")
                by_arm.setdefault(key.arm, set()).add(value)
            if len(arms) == 1 or (name == _OF_AN_ARM and all(len(values) == 1 for values in by_arm.values())):
                continue
            differing += 1
            if differing <= MOST_SETTINGS:
                said = "; ".join(
                    f"{_short(value)} in {first_of(sorted(cells), 3)}" for value, cells in sorted(arms.items())
                )
                warnings.append(f"Runs of {dataset} differ in `{_short(name)}`, so they do not quite compare: {said}.")
        if differing > MOST_SETTINGS:
            warnings.append(f"Runs of {dataset} differ in {differing - MOST_SETTINGS} more settings.")
    return warnings


def differing_places(*groups: Mapping[Key, Mapping[int, Run]]) -> list[str]:
    """A sentence for each dataset whose runs were not all trained on one kind of machine by one version of the code."""
    by_dataset: dict[str, Counter[str]] = {}
    for group in groups:
        for key, cell in group.items():
            for run in cell.values():
                places = run.data.places if run.data else ()
                by_dataset.setdefault(key.dataset, Counter())[", then ".join(places) or "not recorded"] += 1
    return [
        f"Runs of {dataset} were not all trained on one machine by one version of the code: "
        f"{first_of([f'{place} ({count})' for place, count in sorted(places.items())], MOST_SETTINGS, '; ')}."
        for dataset, places in sorted(by_dataset.items())
        if len(places) > 1
    ]


def differing_data(*groups: Mapping[Key, Mapping[int, Run]]) -> list[str]:
    """A sentence for each dataset whose runs were trained on images or labels that are not the same."""
    digests: dict[str, set[str]] = {}
    for group in groups:
        for key, cell in group.items():
            known = {run.data.sha256 for run in cell.values() if run.data}
            digests.setdefault(key.dataset, set()).update(known - {""})
    return [
        f"Runs of {dataset} were trained on {len(found)} different sets of images and labels (sha256 in data.json), so "
        "they do not compare."
        for dataset, found in sorted(digests.items())
        if len(found) > 1
    ]


def _short(text: str) -> str:
    return plain(text if len(text) <= LONGEST else f"{text[:LONGEST]}...")


def _settings(config: Mapping[str, Any]) -> dict[str, Any]:
    """The settings by dotted key. A setting that an older config lacks has its default.

    `data_dir` is reduced to its last part: the same data lie elsewhere on another machine.
    """
    found = _resolved(config)
    for key in found:
        if key.split(".")[-1] == "data_dir":
            found[key] = re.split(r"[/\\]", str(found[key]).rstrip("/\\"))[-1]
    return found


def _resolved(config: Mapping[str, Any]) -> dict[str, Any]:
    """The settings of a config as this code understands them, with the unknown settings of a newer config as they are.
    If the config is invalid otherwise, all settings are as they are."""
    known = copy.deepcopy(dict(config))
    more = {}
    try:
        return Config.model_validate(known).settings()
    except ValidationError as error:
        for problem in error.errors():
            *above, last = map(str, problem["loc"])
            block = value_at(known, above)
            if problem["type"] == "extra_forbidden" and isinstance(block, dict):
                more[".".join([*above, last])] = block.pop(last, None)
    try:
        return Config.model_validate(known).settings() | dict(flat(more))
    except ValidationError:
        return dict(flat(config))
