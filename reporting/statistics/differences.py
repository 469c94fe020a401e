"""Finds settings and machines in which the runs of one dataset differ, although they are compared."""

import copy
import json
import re
from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any

from pydantic import ValidationError

from config_schema import NO_RESULT_DEPENDS_ON, Config
from reporting.runs.run import NOT_RECORDED, Key, Run
from reporting.runs.words import LONGEST, first_of, percent, plain
from utils.keys import flat, value_at

#: A setting that an arm has of its own.
_OF_AN_ARM = "trainer.clip_grad_norm"
#: Settings that a cell or a machine has of its own; runs that differ in others are not quite comparable.
_OWN = {*NO_RESULT_DEPENDS_ON, "seed", "arch.args.norm", "label_noise.rate", "trainer.diagnostics"}
MOST_SETTINGS = 20  # that are named where runs differ


def differing_settings(*groups: Mapping[Key, Mapping[int, Run]]) -> list[str]:
    """A warning for each setting in which runs of one dataset differ, apart from arm, noise and seed."""
    warnings = []
    for dataset, cells in _by_dataset(groups):
        # one run of each cell for each config but for name and seed
        runs = {(key, json.dumps({**run.config, "name": None, "seed": None})): run for key, run in cells}
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
                said = "; ".join(f"{_short(value)} in {first_of(sorted(at), 3)}" for value, at in sorted(arms.items()))
                warnings.append(f"Runs of {dataset} differ in `{_short(name)}`, so they do not quite compare: {said}.")
        if differing > MOST_SETTINGS:
            warnings.append(f"Runs of {dataset} differ in {differing - MOST_SETTINGS} more settings.")
    return warnings


def differing_places(*groups: Mapping[Key, Mapping[int, Run]]) -> list[str]:
    """A sentence for each dataset whose runs were not all trained on one kind of machine by one version of the code."""
    sentences = []
    for dataset, runs in _by_dataset(groups):
        unknown = ((NOT_RECORDED, NOT_RECORDED),)
        places = [(run.data and run.data.places) or unknown for _, run in runs]
        if len(set(places)) == 1:
            continue
        machines = Counter(", then ".join(dict.fromkeys(on for on, _ in each)) for each in places)
        said = first_of([f"{each} ({count})" for each, count in sorted(machines.items())], MOST_SETTINGS, "; ")
        codes = {code for each in places for _, code in each}
        known = len(codes - {NOT_RECORDED})
        what = "on several kinds of machine" if len(machines) > 1 else "on one kind of machine"
        more = "by one code" if len(codes) == 1 else "by code that is not recorded of all"
        more = f"by {known} versions of the code, which each run's data.json names" if known > 1 else more
        sentences.append(f"Runs of {dataset} were trained {what}, {more}: {said}.")
    return sentences


def differing_data(*groups: Mapping[Key, Mapping[int, Run]]) -> list[str]:
    """A sentence for each dataset whose runs were trained on images or labels that are not the same."""
    sentences = []
    for dataset, runs in _by_dataset(groups):
        digests = {run.data.sha256 for _, run in runs if run.data} - {""}
        if len(digests) > 1:
            sentences.append(
                f"Runs of {dataset} were trained on {len(digests)} different sets of images and labels (sha256 in "
                "data.json), so they do not compare."
            )
    return sentences


def changed_settings(*groups: Mapping[Key, Mapping[int, Run]]) -> list[str]:
    """A sentence for each setting that a resume of some runs of one dataset changed."""
    sentences = []
    for dataset, runs in _by_dataset(groups):
        found: dict[str, list[str]] = {}
        for key, run in runs:
            for name in run.data.changed if run.data else ():
                found.setdefault(name, []).append(f"`{plain(key.arm)}` at {percent(key.noise)}, seed {run.seed}")
        sentences += [
            f"Runs of {dataset} went on with another `{_short(name)}` than they began with: {first_of(at, 3, '; ')}."
            for name, at in sorted(found.items())[:MOST_SETTINGS]
        ]
    return sentences


def _by_dataset(groups: Iterable[Mapping[Key, Mapping[int, Run]]]) -> list[tuple[str, list[tuple[Key, Run]]]]:
    """The runs of each dataset with their cells, in the order of the names."""
    found: dict[str, list[tuple[Key, Run]]] = {}
    for group in groups:
        for key, cell in group.items():
            found.setdefault(key.dataset, []).extend((key, run) for run in cell.values())
    return sorted(found.items())


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
