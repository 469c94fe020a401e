"""The typed configuration: load a JSON file, inherit, override, validate. No side effects, no heavy imports.

    config = load_config("configs/coco_bncn_10noise.json", ["optimizer.args.lr=0.05"])

A file may inherit: `"_base_"` names one file or a list of them, relative to the file. They are merged key by key in
order, the file's own keys last, and the KEY=VALUE overrides after that. Where a later layer changes the `type` of
`optimizer` or `lr_scheduler`, the arguments given for the earlier type are dropped with it; `Config.remarks` says so.

An override's VALUE is JSON, but a setting that takes text takes it as it stands: name=2024 is the text. There, quotes
(label_noise.path='"null"') tell text from null, which is no text where a setting may be null.
"""

import contextlib
import difflib
import json
import math
import os
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import islice
from pathlib import Path
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, PrivateAttr, ValidationError, field_validator
from pydantic.fields import FieldInfo

from utils import strict_json
from utils.columns import columns_of
from utils.errors import ConfigError
from utils.files import read_file
from utils.keys import flat, nested
from utils.text import control_character, one_line

# The names that a config may use. A test holds each list against the registry that it names.
ArchName = Literal["resnet18", "resnet34", "resnet50"]  # models.resnet.MODELS
NormName = Literal[
    "bn", "conv", "bncn", "conv_published", "bncn_published", "gn", "ln", "in", "none"
]  # models.norms.NORMS
ActivationName = Literal["relu", "srelu"]  # models.activations.ACTIVATIONS
DatasetName = Literal["CIFAR10", "TinyCOCO", "TinyExDark", "ImageFolder", "Digits"]  # data_loader.datasets.DATASETS
NoiseName = Literal["symmetric", "asymmetric", "file"]  # data_loader.noise.NOISES
OptimizerName = Literal["SGD", "Adam", "AdamW"]  # trainer.optim.OPTIMIZERS
SchedulerName = Literal["MultiStepLR", "StepLR", "CosineAnnealingLR", "ConstantLR"]  # trainer.optim.SCHEDULERS
LossName = Literal["cross_entropy", "smoothed_cross_entropy"]  # models.loss.LOSSES
MetricName = Literal["accuracy", "top5_accuracy"]  # models.metric.METRICS

#: The arguments that each type takes; the others must stay unset.
OPTIMIZER_ARGS: dict[str, tuple[str, ...]] = {
    "SGD": ("lr", "momentum", "weight_decay", "nesterov"),
    "Adam": ("lr", "weight_decay", "betas", "eps"),
    "AdamW": ("lr", "weight_decay", "betas", "eps"),
}
SCHEDULER_ARGS: dict[str, tuple[str, ...]] = {
    "MultiStepLR": ("milestones", "gamma"),
    "StepLR": ("step_size", "gamma"),
    "CosineAnnealingLR": ("T_max", "eta_min"),
    "ConstantLR": (),
}

# What torch computes with: whole numbers of 64 bits, and floats of 32.
LARGEST = 3.4e38
Positive = Annotated[int, Field(gt=0, lt=2**63)]
PositiveFloat = Annotated[float, Field(gt=0.0, le=LARGEST)]
NotNegative = Annotated[float, Field(ge=0.0, le=LARGEST)]

LARGEST_CONFIG = 1 << 18  # bytes of a config and all the files that it inherits from
MOST_FILES = 100  # that a config inherits from, each counted as often as it is named
LARGEST_OVERRIDES = 1 << 16  # characters of all overrides
DEEPEST = 20  # objects within one another; a config has four
MOST_PROBLEMS = 20  # that one message lists
LONGEST_GUESS = 100  # characters of a word for which another is looked for


def _without_control_characters(text: str) -> str:
    found = control_character(text)
    if found is not None:
        raise ValueError(f"must not hold the control character {found}")
    return text


#: What may end in a script, a command line or a log: no character of it ends a line or is one that a terminal acts on.
PathText = Annotated[str, AfterValidator(_without_control_characters)]
Share = Annotated[float, Field(ge=0.0, le=1.0)]


class _Block(BaseModel):
    """Unknown keys are errors, and types are taken as written: `true` is no number and "1" no integer."""

    model_config = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False, frozen=True)


class ArchArgs(_Block):
    norm: NormName = Field(
        "bn",
        description="Arm: bn = BatchNorm, conv = ConvNorm alone, bncn = ConvNorm then BatchNorm; conv_published and "
        "bncn_published are what the published experiments ran under those names.",
    )
    activation: ActivationName = Field("relu", description="relu, or srelu: max(x, b) with b learned per channel.")
    num_classes: Positive | None = Field(None, description="Outputs of the network; null takes the dataset's classes.")
    width: Positive = Field(64, description="Channels of the first stage; the last has eight times as many.")


class Arch(_Block):
    type: ArchName = Field("resnet18", description="The network.")
    args: ArchArgs = Field(default_factory=ArchArgs, description="How the network is built.")


class Augment(_Block):
    crop_padding: Annotated[int, Field(ge=0, le=16)] = Field(
        4, description="Pixels of black border from which a random crop of the image's size is taken; 0 crops nothing."
    )
    horizontal_flip: bool = Field(True, description="Mirror each training image with probability one half.")


class DataLoaderArgs(_Block):
    data_dir: PathText = Field("data", description="The folder of the dataset's files, or the file itself.")
    batch_size: Positive = Field(128, description="Images in a training batch.")
    validation_split: Annotated[float, Field(gt=0.0, lt=1.0)] = Field(
        0.1,
        description="Share of the images held out for validation, test images of the dataset's own not counted; unused "
        "where it has validation images of its own.",
    )
    test_split: Annotated[float, Field(gt=0.0, lt=1.0)] = Field(
        0.1, description="Share of the images held out for testing where the dataset has no test images of its own."
    )
    subset: float | None = Field(
        None,
        description="Use so many (2000) or such a share (0.1; 1 is all) of those that train and validate; null is all.",
    )
    float_bytes_as_pixels: bool | None = Field(
        None, description="TinyCOCO: take the bytes of its floats for pixels, as published; null is as `protocol` says."
    )
    overlapping_splits: bool | None = Field(
        None,
        description="As published: test on the whole of a dataset that has no test images of its own, and validate on "
        "training images of one that has; null is as `protocol` says.",
    )
    test_subset: float | None = Field(
        None,
        description="Use so many or such a share of the test images, for a faster look at each epoch; null is all.",
    )
    allow_duplicates: bool = Field(
        False, description="Go on where train, validation and test share an image, pixel for pixel."
    )
    skip_broken: bool = Field(
        False, description="ImageFolder: leave out images that cannot be read, and name them, instead of stopping."
    )
    augment: Augment = Field(default_factory=Augment, description="Random changes to training images.")

    @field_validator("subset", "test_subset")
    @classmethod
    def _count_or_share(cls, subset: float | None) -> float | None:
        if subset is None or 0.0 < subset <= 1.0 or (subset > 1.0 and subset == int(subset)):
            return subset
        raise ValueError(f"must be a number of images or a share in (0, 1], got {subset}")


class DataLoader(_Block):
    type: DatasetName = Field("CIFAR10", description="The dataset.")
    args: DataLoaderArgs = Field(default_factory=DataLoaderArgs, description="Where it is and how it is served.")


class LabelNoise(_Block):
    type: NoiseName = Field("symmetric", description="How a wrong label is drawn, or file: read from `path`.")
    rate: Share = Field(0.0, description="Share of labels redrawn, from 0 to 1.")
    include_true_class: bool | None = Field(
        None,
        description="Symmetric noise: draw over all classes, the true one too, so that fewer labels change; null is as "
        "`protocol` says, and false under the clean one.",
    )
    on_validation: bool = Field(True, description="Put noise on the validation labels as well. Test labels stay true.")
    path: PathText | None = Field(None, description="For type file: an .npz with `index` and `given_label`.")


class OptimizerArgs(_Block):
    lr: PositiveFloat = Field(0.1, description="Learning rate at the start.")
    momentum: Annotated[float, Field(ge=0.0, lt=1.0)] | None = Field(None, description="SGD: momentum.")
    weight_decay: NotNegative = Field(0.0, description="Weight decay; thresholds of srelu take none.")
    nesterov: bool | None = Field(None, description="SGD: Nesterov's form of the momentum.")
    betas: Annotated[list[Annotated[float, Field(ge=0.0, lt=1.0)]], Field(min_length=2, max_length=2)] | None = Field(
        None, description="Adam, AdamW: decay of the two running averages."
    )
    eps: PositiveFloat | None = Field(None, description="Adam, AdamW: term added to the denominator.")


class Optimizer(_Block):
    type: OptimizerName = Field("SGD", description="The optimizer, by torch.optim's name.")
    args: OptimizerArgs = Field(default_factory=OptimizerArgs, description="Its arguments.")


class SchedulerArgs(_Block):
    milestones: list[Positive] | None = Field(
        None, description="MultiStepLR: epochs after which the rate is multiplied."
    )
    gamma: PositiveFloat | None = Field(None, description="MultiStepLR, StepLR: the factor.")
    step_size: Positive | None = Field(None, description="StepLR: epochs between two multiplications.")
    T_max: Positive | None = Field(
        None, description="CosineAnnealingLR: epochs to the lowest rate; null is all epochs."
    )
    eta_min: NotNegative | None = Field(None, description="CosineAnnealingLR: the lowest rate.")


class Scheduler(_Block):
    type: SchedulerName = Field(
        "ConstantLR", description="The schedule, by torch.optim's name; ConstantLR keeps the rate."
    )
    args: SchedulerArgs = Field(default_factory=SchedulerArgs, description="Its arguments.")


class TrainerConfig(_Block):
    epochs: Positive = Field(100, description="Epochs to train in all, those before a resume included.")
    save_dir: PathText = Field("saved", description="Run folders are made in <save_dir>/<name>/.")
    save_period: Positive = Field(1, description="Epochs between two checkpoints; the last epoch is always saved.")
    save_every_minutes: PositiveFloat | None = Field(
        None, description="Save within an epoch as well, when so many minutes have gone by since the last time."
    )
    monitor: str = Field(
        "max val_accuracy",
        description="What model_best.pth is best by: 'max COLUMN' or 'min COLUMN' of metrics.csv, or 'off'.",
    )
    early_stop: Positive | None = Field(
        None, description="Stop after so many epochs without a better `monitor`; null never."
    )
    clip_grad_norm: PositiveFloat | None = Field(
        None, description="Scale a step's gradients down to this norm, over all parameters; null leaves them."
    )
    device: PathText | None = Field(None, description="cpu, cuda, cuda:1 or mps; null is the best there is.")
    amp: Literal["bf16", "fp16"] | None = Field(None, description="Autocast to this type; null trains in float32.")
    channels_last: bool | None = Field(
        None, description="Keep images in NHWC memory order; null does so on the CPU, where it is much faster."
    )
    compile: bool = Field(False, description="torch.compile the model; the first step then takes a minute.")
    keep_freed_memory: bool = Field(
        True,
        description="Keep the memory that is freed: faster steps, a higher peak. Linux with glibc only.",
    )
    deterministic: bool = Field(False, description="Ask torch for deterministic kernels only (slower on CUDA).")
    tensorboard: bool = Field(True, description="Write TensorBoard events into the run folder.")
    diagnostics: bool = Field(
        False,
        description="After each epoch, write each layer's singular values, gradient and weight norm (diagnostics.csv).",
    )

    @field_validator("monitor")
    @classmethod
    def _monitor(cls, monitor: str) -> str:
        columns = columns_of(("loss", *get_args(MetricName)))
        mode, _, column = monitor.partition(" ")
        if monitor == "off" or (mode in ("min", "max") and column in columns):
            return monitor
        raise ValueError(f"must be 'off', or 'max' or 'min' and one of {', '.join(columns)}, got {monitor!r}")


class Config(_Block):
    """A run: every choice that its result depends on."""

    _remarks: tuple[str, ...] = PrivateAttr(())

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,99}$")] = Field(
        description="Name of the experiment: letters, digits, '.', '_' and '-'."
    )
    seed: Annotated[int, Field(ge=0, lt=2**63)] = Field(
        12,
        description="The one seed; split, noise, initialisation, order and augmentation each derive their own from it.",
    )
    protocol: Literal["clean", "as_published"] = Field(
        "clean",
        description="clean: disjoint splits of rightly read images. as_published: the defects of the published "
        "experiments' data, each of which is also a switch of its own; see docs/as_published.md.",
    )
    arch: Arch = Field(default_factory=Arch, description="The network.")
    data_loader: DataLoader = Field(default_factory=DataLoader, description="The data.")
    label_noise: LabelNoise = Field(default_factory=LabelNoise, description="Wrong labels, put in on purpose.")
    optimizer: Optimizer = Field(default_factory=Optimizer, description="How weights are updated.")
    lr_scheduler: Scheduler = Field(default_factory=Scheduler, description="How the learning rate changes by epoch.")
    loss: LossName = Field("cross_entropy", description="The training loss.")
    metrics: list[MetricName] = Field(
        ["accuracy", "top5_accuracy"], min_length=1, description="Figures besides the loss; accuracy comes first."
    )
    trainer: TrainerConfig = Field(default_factory=TrainerConfig, description="The loop, its files and its device.")

    @field_validator("metrics")
    @classmethod
    def _accuracy_first(cls, metrics: list[str]) -> list[str]:
        if metrics[0] != "accuracy" or len(set(metrics)) != len(metrics):
            raise ValueError("must begin with 'accuracy' and name nothing twice")
        return metrics

    @property
    def remarks(self) -> tuple[str, ...]:
        """Lines that whoever starts the run should be told: what the config's files do that is easily overlooked."""
        return self._remarks

    def settings(self) -> dict[str, Any]:
        """Every setting by its dotted key."""
        return dict(flat(self.model_dump()))


#: The bytes of a file, at most so many; raises OSError.
Reader = Callable[[Path, int], bytes]


def load_config(path: str | Path, overrides: Sequence[str] = (), read: Reader = read_file) -> Config:
    """Read, inherit, override and validate. `read` gives the bytes of a file, as `read_file` does.

    Raises:
        ConfigError: one line that lists every problem found, each with its dotted path.
    """
    files = _Files(read)
    layer = parse_overrides(overrides)
    config = validate(merge(files.merged(Path(path)), layer, files.dropped), str(path))
    config._remarks = tuple(_not_inherited(config, files.dropped))
    return config


def validate(values: dict[str, Any], source: str) -> Config:
    """`values` as a Config; `source` says in the error where they came from."""
    try:
        config = Config.model_validate(values)
    except ValidationError as error:
        found = error.errors()
        raise _config_error(source, map(_describe, found), len(found)) from error
    problems = list(_cross_check(config))
    if problems:
        raise _config_error(source, problems, len(problems))
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
        layer = merge(layer, nested(path, _value(keys, text)))
    return layer


def _value(keys: list[str], text: str) -> Any:
    kinds = _kinds_at(keys)
    as_it_stands = str in kinds and not text.startswith('"') and not (text == "null" and NoneType in kinds)
    if not as_it_stands:
        with contextlib.suppress(json.JSONDecodeError):
            return strict_json.loads(text)
    return text


def json_schema() -> dict[str, Any]:
    """JSON Schema of a config file, for editors. A file may inherit, so no key is required."""
    schema = Config.model_json_schema()
    for block in (schema, *schema["$defs"].values()):
        block.pop("required", None)
    path = {"type": "string"}
    schema["properties"] = {
        "$schema": path | {"description": "The schema that an editor checks this file with."},
        "_base_": {
            "anyOf": [path, {"type": "array", "items": path}],
            "description": "Files to inherit from, in order.",
        },
        **schema["properties"],
    }
    return schema


#: An earlier type of optimizer or lr_scheduler and its arguments, with which block it is.
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
            self._merged[own] = self._with_bases(path, (*chain, own))
        return self._merged[own]

    def _with_bases(self, path: Path, chain: tuple[Path, ...]) -> dict[str, Any]:
        values = self._read(path, chain)
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
    base: dict[str, Any], layer: dict[str, Any], dropped: list[Dropped] | None = None, path: tuple[str, ...] = ()
) -> dict[str, Any]:
    """`layer` over `base`, object by object; neither is changed. What a change of type drops is added to `dropped`.

    Raises:
        ConfigError: objects lie too deep within one another.
    """
    if len(path) > DEEPEST:
        raise ConfigError(f"objects lie more than {DEEPEST} deep within one another, at {shortened('.'.join(path))}")
    merged = dict(base)
    retyped = "type" in base and "type" in layer and base["type"] != layer["type"]
    if retyped and path in (("optimizer",), ("lr_scheduler",)):
        args = merged.pop("args", None)
        if dropped is not None and isinstance(args, dict):
            dropped.append((path[0], base["type"], args))
    for key, value in layer.items():
        below = merged.get(key)
        if isinstance(value, dict):
            below = below if isinstance(below, dict) else {}
            merged[key] = merge(below, value, dropped, (*path, key))
        else:
            merged[key] = value
    return merged


def _not_inherited(config: Config, dropped: Iterable[Dropped]) -> Iterator[str]:
    """A line for each type that took the place of another, if arguments that it takes as well fell back to defaults."""
    for where, earlier, args in dropped:
        block, takes = (
            (config.optimizer, OPTIMIZER_ARGS) if where == "optimizer" else (config.lr_scheduler, SCHEDULER_ARGS)
        )
        now, given = block.args.model_dump(), block.args.model_fields_set
        lost = [key for key in takes[block.type] if key in args and key not in given and args[key] != now[key]]
        if lost:
            each = (
                f"{where}.args.{key} {shortened(args[key])} is not inherited, it is now {shortened(now[key])}"
                for key in lost
            )
            yield f"{where}.type is {block.type} in place of {shortened(earlier)}: {'; '.join(each)}"


def _cross_check(config: Config) -> Iterable[str]:
    """Problems that no single field shows."""
    for where, block, takes in (
        ("optimizer", config.optimizer, OPTIMIZER_ARGS),
        ("lr_scheduler", config.lr_scheduler, SCHEDULER_ARGS),
    ):
        taken = takes[block.type]
        for key, value in block.args.model_dump(exclude_defaults=True).items():
            if key not in taken and value is not None:
                listed = ", ".join(taken) or "no arguments"
                yield f"{where}.args.{key}: {block.type} does not take it; it takes {listed}"
    schedule = config.lr_scheduler
    needs = {"MultiStepLR": "milestones", "StepLR": "step_size"}.get(schedule.type)
    if needs and not schedule.args.model_dump()[needs]:
        yield f"lr_scheduler.args.{needs}: {schedule.type} needs it"
    milestones = schedule.args.milestones or []
    if milestones != sorted(set(milestones)):
        yield f"lr_scheduler.args.milestones: must increase, got {milestones}"
    if config.optimizer.args.nesterov and not config.optimizer.args.momentum:
        yield "optimizer.args.nesterov: needs a momentum above 0"
    noise = config.label_noise
    if noise.type == "file" and noise.path is None:
        yield "label_noise.path: type 'file' needs the .npz to read"
    if noise.type != "file" and noise.path is not None:
        yield f"label_noise.path: type {noise.type!r} reads no file; use type 'file'"
    if noise.include_true_class and noise.type != "symmetric":
        yield f"label_noise.include_true_class: only symmetric noise has it, not {noise.type!r}"
    if config.data_loader.args.float_bytes_as_pixels and config.data_loader.type != "TinyCOCO":
        yield "data_loader.args.float_bytes_as_pixels: only TinyCOCO was read so"
    if config.data_loader.args.skip_broken and config.data_loader.type != "ImageFolder":
        yield "data_loader.args.skip_broken: only ImageFolder reads images one by one"
    monitor = config.trainer.monitor
    if monitor == "off":
        if config.trainer.early_stop:
            yield "trainer.early_stop: needs a trainer.monitor, which is 'off'"
    else:
        metric = monitor.split("_", 1)[1]
        if metric != "loss" and metric not in config.metrics:
            yield f"trainer.monitor: {metric!r} is not among metrics {config.metrics}"


def _config_error(source: str, problems: Iterable[str], count: int) -> ConfigError:
    listed = [*islice(problems, MOST_PROBLEMS), *["..."] * (count > MOST_PROBLEMS)]
    return ConfigError(f"{source}: {'1 problem' if count == 1 else f'{count} problems'}: {'; '.join(listed)}")


def _describe(problem: Any) -> str:
    """One pydantic problem as `path: what is wrong, the choices, did you mean`."""
    loc = list(problem["loc"])
    path, given = ".".join(map(str, loc)) or "config", problem["input"]
    kind, context = problem["type"], problem.get("ctx", {})
    if kind == "extra_forbidden":
        keys = list(_block_at(loc[:-1]).model_fields)
        return f"unknown key {path!r}{did_you_mean(str(loc[-1]), keys)}; keys here: {', '.join(keys)}"
    if kind == "missing":
        return f"{path}: missing; {_block_at(loc[:-1]).model_fields[str(loc[-1])].description}"
    if kind == "literal_error":
        choices = re.findall(r"'([^']*)'", context["expected"])
        listed = f"{did_you_mean(str(given), choices)}; choose from {', '.join(choices)}"
        return f"{path}: unknown choice {given!r}{listed}{_json_form(kind, given, NoneType in _kinds_at(loc))}"
    if kind == "model_type":
        return f"{path}: must be an object {{...}}, got {shortened(given)}"
    if kind == "value_error":
        return f"{path}: {context['error']}"
    message = problem["msg"].removeprefix("Input ")
    return f"{path}: {message}, got {shortened(given)}{_json_form(kind, given, NoneType in _kinds_at(loc))}"


def _json_form(kind: str, given: Any, nullable: bool) -> str:
    """The end of a message on a value of the wrong type: how JSON has what was meant, where that can be told."""
    if isinstance(given, dict | list) or (isinstance(given, str) and len(given) > LONGEST_GUESS):
        return ""
    text = given if isinstance(given, str) else json.dumps(given)
    word = text.strip().strip("'\"").lower()
    form: str | None = None
    if word in ("none", "null", "nil") and nullable:
        form = "null"
    elif kind == "bool_type":
        form = {"true": "true", "yes": "true", "on": "true", "1": "true"}.get(word)
        form = form or {"false": "false", "no": "false", "off": "false", "0": "false"}.get(word, "true or false")
    elif kind.startswith(("float", "int")):
        form = _number(word, whole=kind.startswith("int")) or (
            "a whole number, such as 16" if kind.startswith("int") else "a number as JSON has it, such as 0.05 or 1e-3"
        )
    elif kind == "string_type":
        form = json.dumps(text)
    elif kind == "list_type":
        form = _list(text)
    return f"; write {form}" if form else ""


def _number(word: str, whole: bool) -> str | None:
    """.05, 1., 0x10, 1_000 and the like as JSON has them; None if it is no finite number, or not whole where asked."""
    for read in (float, lambda text: float(int(text, 0))):
        with contextlib.suppress(ValueError, OverflowError):
            number = read(word)
            if math.isfinite(number) and number.is_integer() >= whole:
                return str(int(number)) if whole else json.dumps(number)
    return None


def _list(text: str) -> str:
    """What stands between commas as a JSON list."""
    inner = text.strip().strip("()[]")
    try:
        return json.dumps(strict_json.loads(f"[{inner}]"))
    except json.JSONDecodeError:
        words = (part.strip().strip("'\"") for part in inner.split(","))
        return f"[{', '.join(_number(word, whole=False) or json.dumps(word) for word in words)}]"


def _field_at(loc: Sequence[Any]) -> FieldInfo | None:
    """The field of that path; None if there is none."""
    block: Any = Config
    field = None
    for key in loc:
        if not (isinstance(block, type) and issubclass(block, BaseModel)):
            return None
        field = block.model_fields.get(key)
        block = None if field is None else field.annotation
    return field


def _kinds_at(loc: Sequence[Any]) -> set[Any]:
    field = _field_at(loc)
    return set() if field is None else _kinds(field.annotation)


def _kinds(annotation: Any) -> set[Any]:
    """The plain types that a field takes, {str, NoneType} of `Literal["bf16", "fp16"] | None`."""
    origin, parts = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        return _kinds(parts[0])
    if origin in (Union, UnionType):
        return set().union(*map(_kinds, parts))
    if origin is Literal:
        return set(map(type, parts))
    return {origin or annotation}


def _block_at(loc: Sequence[Any]) -> type[BaseModel]:
    block: type[BaseModel] = Config
    for key in loc:
        annotation = block.model_fields[key].annotation
        if isinstance(annotation, type) and issubclass(annotation, BaseModel):
            block = annotation
    return block


def did_you_mean(word: str, choices: Sequence[str]) -> str:
    """The end of a message: the choice that is most like `word`, if any is."""
    if len(word) > LONGEST_GUESS:
        return ""
    close = difflib.get_close_matches(word.lower(), [choice.lower() for choice in choices], n=1, cutoff=0.5)
    if not close:
        return ""
    match = next(choice for choice in choices if choice.lower() == close[0])
    return f"; did you mean {match!r}?"


def shortened(value: Any) -> str:
    """A value as JSON, cut where it is long."""
    text = json.dumps(value, default=str)
    return text if len(text) <= 60 else text[:57] + "..."


if __name__ == "__main__":  # make schema
    import sys

    sys.stdout.write(json.dumps(json_schema(), indent=2) + "\n")
