"""The typed configuration: load a JSON file, inherit, override, validate. No side effects, no heavy imports.

    config = load_config("configs/coco_bncn_10noise.json", ["optimizer.args.lr=0.05"])

A file may inherit: `"_base_"` names one file or a list of them, relative to the file. They are merged key by key in
order, the file's own keys last, and the KEY=VALUE overrides after that. Where a later layer changes the `type` of
`optimizer`, `lr_scheduler` or `loss`, the arguments given for the earlier type are dropped with it; `Config.remarks`
says so. Of `arch` and `label_noise` those stay that the new type takes. `label_noise.map` is one value: a later one
takes the place of an earlier one.

An override's VALUE is JSON, but a setting that takes text (and no list) takes it as it stands: name=2024 is the text.
There, quotes (label_noise.path='"null"') tell text from null, which is no text where a setting may be null.
"""

import contextlib
import json
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from types import NoneType
from typing import Any

from pydantic import ValidationError

from config_messages import config_error, describe, kinds_at
from config_schema import (
    PICTURES,
    SGD,
    Loss,
    Network,
    OneCycleLR,
    Optimizer,
    Scheduler,
    as_block,
    json_schema,
    network_args,
    noise_settings,
)
from config_schema import Config as Config
from utils import strict_json
from utils.errors import ConfigError
from utils.files import read_file
from utils.keys import nested
from utils.text import one_line, shortened

LARGEST_CONFIG = 1 << 18  # bytes of a config and all the files that it inherits from
MOST_FILES = 100  # that a config inherits from, each counted as often as it is named
LARGEST_OVERRIDES = 1 << 16  # characters of all overrides
DEEPEST = 20  # objects within one another; a config has four
#: Blocks whose args go with their type; of a network's, those that the new type takes stay.
RETYPED = ("optimizer", "lr_scheduler", "loss", "arch")
WHOLE = ("label_noise", "map")  # a setting whose value is an object; between layers it is not merged key by key


#: The bytes of a file, at most so many; raises OSError.
Reader = Callable[[Path, int], bytes]


def load_config(
    source: str | Path | Mapping[str, Any], overrides: Sequence[str] = (), read: Reader = read_file
) -> Config:
    """Read, inherit, override and validate. `read` gives the bytes of a file, as `read_file` does.

    `source` is a file, or the object that a file would hold, whose `_base_` is relative to the working directory.

    Raises:
        ConfigError: one line that lists every problem found, each with its dotted path.
    """
    files = _Files(read)
    layer = parse_overrides(overrides)
    if isinstance(source, Mapping):
        values, name = files.with_bases(_as_json(source, "the config"), Path("config"), ()), "the config"
    elif not isinstance(source, str | os.PathLike):
        raise ConfigError(f"the config: a file's name or a dict, not {shortened(source)}")
    else:
        values, name = files.merged(Path(source)), str(source)
    config = validate(merge(values, layer, files.dropped), name)
    config._remarks = (*_not_inherited(config, files.dropped), *_without_effect(config))
    return config


def validate(values: dict[str, Any], source: str) -> Config:
    """`values` as a Config; `source` says in the error where they came from."""
    try:
        config = Config.model_validate(values)
    except ValidationError as error:
        found = error.errors()
        raise config_error(source, (describe(problem, values) for problem in found), len(found)) from error
    problems = list(_cross_check(config))
    if problems:
        raise config_error(source, problems, len(problems))
    return config


def parse_overrides(overrides: Sequence[str]) -> dict[str, Any]:
    """["a.b=1", "c=x"] as {"a": {"b": 1}, "c": "x"}. A value is JSON, or text if it is none; for a setting that takes
    text it is the text. Raises ConfigError."""
    if sum(map(len, overrides)) > LARGEST_OVERRIDES:
        raise ConfigError(f"overrides: more than {LARGEST_OVERRIDES:,} characters; write a config file instead")
    layer: dict[str, Any] = {}
    for override in overrides:
        path, equals, text = override.partition("=")
        keys = path.split(".")
        if not equals or not all(keys):
            raise ConfigError(f"override {shortened(override)} is not KEY=VALUE, such as optimizer.args.lr=0.05")
        layer = merge(layer, nested(path, _value(keys, text)), as_layers=False)
    return layer


def as_overrides(overrides: Any) -> list[str]:
    """{"optimizer.args.lr": 0.05} as ["optimizer.args.lr=0.05"]; a list of such texts as it is; None as none.

    Raises:
        ConfigError: it is anything else, or a value cannot be written as JSON.
    """
    if not isinstance(overrides, Mapping):
        texts: list[Any] = [None]
        if overrides is None or isinstance(overrides, list | tuple):
            texts = list(overrides or ())
        if not all(isinstance(each, str) for each in texts):
            raise ConfigError(f"overrides: a dict of settings, or a list of KEY=VALUE, not {shortened(overrides)}")
        return texts
    for key in overrides:
        if not isinstance(key, str) or "=" in key:
            raise ConfigError(f"overrides: {shortened(key)} is not the name of a setting, such as optimizer.args.lr")
    return [f"{key}={json.dumps(value)}" for key, value in _as_json(overrides, "overrides").items()]


def _as_json(values: Mapping[str, Any], what: str) -> dict[str, Any]:
    """`values` as a file would hold them: tuples become lists, paths text, numpy's numbers numbers.

    `what` they are is said in the ConfigError of a value that no file can hold.
    """

    def plain(value: Any) -> Any:
        if isinstance(value, os.PathLike):
            return os.fspath(value)
        if isinstance(value, Mapping):
            return dict(value)
        if callable(getattr(value, "item", None)) and getattr(value, "ndim", None) == 0:
            return value.item()
        raise TypeError(f"{shortened(value)} is no value of a setting")

    try:
        text = json.dumps(dict(values), default=plain, allow_nan=False)
        found: dict[str, Any] = strict_json.loads(text)
    except (TypeError, ValueError, RecursionError) as error:
        raise ConfigError(f"{what}: {error}") from error
    return found


def _value(keys: list[str], text: str) -> Any:
    kinds = kinds_at(keys)
    takes_text = str in kinds and list not in kinds
    as_it_stands = takes_text and not text.startswith('"') and not (text == "null" and NoneType in kinds)
    if not as_it_stands:
        with contextlib.suppress(json.JSONDecodeError):
            return strict_json.loads(text)
    return text


#: Which block had an earlier type, that type, and its arguments.
Dropped = tuple[str, Any, dict[str, Any]]


class _Files:
    """The files of one config, each read once."""

    def __init__(self, read: Reader) -> None:
        self._bytes_of = read
        self.dropped: list[Dropped] = []
        self._merged: dict[Path, dict[str, Any]] = {}
        self._bytes_left, self._named = LARGEST_CONFIG, 0

    def merged(self, path: Path, chain: tuple[Path, ...] = ()) -> dict[str, Any]:
        """The keys of a file over those that it inherits; `chain` is the files that inherit from it."""
        one_line(str(path), "a file name")
        own = Path(os.path.realpath(path))  # which, unlike Path.resolve, takes a loop of links for a file
        if own in chain:
            names = " -> ".join(str(p) for p in (*chain, own))
            raise ConfigError(f"config inheritance goes in a circle: {names}; take one _base_ out")
        self._named += 1
        if self._named > MOST_FILES:
            raise ConfigError(f"{path}: the config inherits more than {MOST_FILES} times; take some _base_ out")
        if own not in self._merged:
            self._merged[own] = self.with_bases(self._read(path, (*chain, own)), path, (*chain, own))
        return self._merged[own]

    def with_bases(self, values: dict[str, Any], path: Path, chain: tuple[Path, ...]) -> dict[str, Any]:
        """`values`, which stand at `path`, over those that they inherit."""
        values.pop("$schema", None)
        bases = values.pop("_base_", [])
        bases = [bases] if isinstance(bases, str) else bases
        if not isinstance(bases, list) or not all(isinstance(base, str) for base in bases):
            raise ConfigError(f"{path}: _base_ must be a file name or a list of them")
        merged: dict[str, Any] = {}
        for base in bases:
            merged = merge(merged, self.merged(path.parent / base, chain), self.dropped)
        return merge(merged, values, self.dropped)

    def _read(self, path: Path, chain: tuple[Path, ...]) -> dict[str, Any]:
        try:
            data = self._bytes_of(path, self._bytes_left)
            text = data.decode("utf-8-sig")
        except (OSError, ValueError) as error:
            inherited = "".join(f", inherited by {p}" for p in reversed(chain[:-1]))
            reason = error.strerror if isinstance(error, OSError) else "not a UTF-8 text file"
            raise ConfigError(f"cannot read the config {str(path)!r}{inherited}: {reason}") from error
        self._bytes_left -= len(data)
        try:
            values = strict_json.loads(text)
        except json.JSONDecodeError as error:
            raise ConfigError(f"{path}: not valid JSON: {error}") from error
        if not isinstance(values, dict):
            kind = type(values).__name__
            raise ConfigError(f"{path}: line 1 column 1: a config is a JSON object {{...}}, not {kind}")
        return values


def merge(
    base: dict[str, Any],
    layer: dict[str, Any],
    dropped: list[Dropped] | None = None,
    path: tuple[str, ...] = (),
    *,
    as_layers: bool = True,
) -> dict[str, Any]:
    """`layer` over `base`, object by object; neither is changed. What a change of type drops is added to `dropped`.

    Unless `as_layers`, both are parts of one layer, such as two overrides: then a map grows key by key, nothing is
    dropped, and a type that does not take another part's settings is left for `validate` to refuse.

    Raises:
        ConfigError: objects lie too deep within one another.
    """
    if len(path) > DEEPEST:
        raise ConfigError(f"objects lie more than {DEEPEST} deep within one another, at {shortened('.'.join(path))}")
    merged = dict(base)
    if as_layers and path == WHOLE[:1] and "type" in layer and (taken := noise_settings(layer["type"])) is not None:
        merged = {key: value for key, value in merged.items() if key in taken}
    retyped = as_layers and "type" in base and "type" in layer and base["type"] != layer["type"]
    if retyped and len(path) == 1 and path[0] in RETYPED:
        args = merged.pop("args", None)
        if isinstance(args, dict):
            if path[0] == "arch":
                fields = network_args(layer["type"]).model_fields
                merged["args"] = {key: value for key, value in args.items() if key in fields}
            if dropped is not None:
                dropped.append((path[0], base["type"], args))
    for key, value in layer.items():
        below = merged.get(key)
        if not path and key == "loss" and {type(below), type(value)} == {str, dict}:
            below, value = as_block(below), as_block(value)
        if isinstance(value, dict) and not (as_layers and (*path, key) == WHOLE):
            below = below if isinstance(below, dict) else {}
            merged[key] = merge(below, value, dropped, (*path, key), as_layers=as_layers)
        else:
            merged[key] = value
    return merged


def _not_inherited(config: Config, dropped: Iterable[Dropped]) -> Iterator[str]:
    """A line for each type that took the place of another, if arguments that it takes as well fell back to defaults."""
    for where, earlier, args in dropped:
        block: Network | Optimizer | Scheduler | Loss = getattr(config, where)
        given = block.args.model_fields_set
        now = {key: value for key, value in block.args.model_dump().items() if key not in given}
        lost = [key for key, value in now.items() if args.get(key) not in (None, value)]
        if lost:
            each = (
                f"{where}.args.{key} {shortened(args[key])} is not inherited, it is now {shortened(now[key])}"
                for key in lost
            )
            yield f"{where}.type is {block.type} in place of {shortened(earlier)}: {'; '.join(each)}"


def _without_effect(config: Config) -> Iterator[str]:
    """A line for a rate or a momentum that the schedule does not take, and for ConvNorm alone at full gradients."""
    schedule, optimizer = config.lr_scheduler, config.optimizer
    rate = optimizer.args.lr
    if isinstance(schedule, OneCycleLR) and rate != schedule.args.max_lr:
        instead = f"lr_scheduler.args.max_lr, {schedule.args.max_lr:g}"
        yield f"optimizer.args.lr {rate:g} has no effect: OneCycleLR takes {instead}"
    if isinstance(schedule, OneCycleLR) and schedule.args.cycle_momentum and isinstance(optimizer, SGD):
        momentum, args = optimizer.args.momentum, schedule.args
        if not args.base_momentum <= momentum <= args.max_momentum:
            instead = f"from {args.max_momentum:g} to {args.base_momentum:g} (lr_scheduler.args.cycle_momentum)"
            yield f"optimizer.args.momentum {momentum:g} has no effect: OneCycleLR takes it {instead}"
    if config.arch.args.norm == "conv" and config.trainer.clip_grad_norm is None:
        yield (
            "arch.args.norm is conv, without any BatchNorm, and gradients are not clipped: it may not learn at all; "
            "the shipped configs have trainer.clip_grad_norm=1"
        )


def _cross_check(config: Config) -> Iterable[str]:
    """Problems that no single field shows."""
    if config.data_loader.args.float_bytes_as_pixels and config.data_loader.type != "TinyCOCO":
        yield "data_loader.args.float_bytes_as_pixels: only TinyCOCO was read so"
    if config.data_loader.args.skip_broken and config.data_loader.type not in PICTURES:
        yield f"data_loader.args.skip_broken: only {' and '.join(PICTURES)} read images one by one"
    monitor = config.trainer.monitor
    if monitor == "off":
        if config.trainer.early_stop:
            yield "trainer.early_stop: needs a trainer.monitor, which is 'off'"
    else:
        metric = monitor.split("_", 1)[1]
        if metric != "loss" and metric not in config.metrics:
            yield f"trainer.monitor: {metric!r} is not among metrics {config.metrics}"


if __name__ == "__main__":  # make schema
    import sys

    sys.stdout.write(json.dumps(json_schema(), indent=2) + "\n")
