"""Trained weights, with all that is needed to use them or to start another run from them.

They are read from a checkpoint, or from a weights-only file (.safetensors) that export.py wrote.
"""

import hashlib
from collections import OrderedDict
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from base.base_model import BaseModel
from data_loader.build import RunData
from data_loader.pictures import SIZE
from data_loader.preprocess import Preprocess
from models.preconv_running import ESTIMATE, RunningPreconditioner
from parse_config import Config, validate
from trainer.changes import FUNCTION, changes, listed
from trainer.checkpoint import BEST_NAME, CheckpointStore
from trainer.checkpoint_file import LARGEST_FILE, check_numbers, read_bytes, unpack
from trainer.restore import check_model, load_model
from trainer.run_folder import folder_of
from trainer.state import RunState, check_version, checked, config_of
from utils import strict_json
from utils.errors import CheckpointError, ConfigError
from utils.files import open_regular, read_file, user_path
from utils.optional import needed
from utils.reading import errors_as
from utils.text import first_of

SUFFIX = ".safetensors"
_LARGEST_HEADER = 16 << 20  # bytes; a ResNet50 takes 40 kB
_OUTPUTS = "arch.args.num_classes"


@dataclass(frozen=True)
class Weights:
    """Trained weights as read from the file `source`, which has the digest `sha256`.

    `config` is that of the run. A weights-only file holds `arch` of it, and the rest is as by default. `preprocess` is
    None for a checkpoint of an earlier version. `state` is the checkpoint's.
    """

    source: str
    sha256: str
    config: Config
    classes: tuple[str, ...]
    model: dict[str, Any]
    preprocess: Preprocess | None
    state: RunState | None = None

    @property
    def image_size(self) -> tuple[int, int]:
        """Height and width of the images. Earlier versions had one size only."""
        return (SIZE, SIZE) if self.preprocess is None else self.preprocess.image_size

    def check(self) -> None:
        """Raise CheckpointError unless the weights fit the network of `config`."""
        if not self.classes:
            raise CheckpointError(f"{self.source}: malformed: it names no classes")
        with _of_the_file(self.source):
            check_model(self.config, len(self.classes), self.model, self.source)


def file_of(place: Path) -> Path:
    """The file that `place` names: itself, or of a run folder model_best.pth, or the newest checkpoint without that.

    Raises CheckpointError if there is none.
    """
    if not place.is_dir():
        return place
    found = [place / BEST_NAME] if (place / BEST_NAME).exists() else CheckpointStore(place).newest_first()
    if not found:
        raise CheckpointError(f"{place} is a folder without checkpoints; give a run folder or a .pth file")
    return found[0]


def read_weights(place: Path) -> Weights:
    """The weights in a checkpoint, a weights-only file or a run folder, on the CPU. No code in the file runs.

    Raises:
        CheckpointError: there is no such file, or it is damaged, or not of this program.
    """
    path = file_of(place)
    folder_of(path)  # raises if there is no such file
    return _of_safetensors(path) if path.suffix == SUFFIX else _of_checkpoint(path)


def _of_checkpoint(path: Path) -> Weights:
    source, data = str(path), read_bytes(path)
    values = unpack(data, source)
    check_version(values, source)
    state = checked(values, source, allow_inexact=True)  # generators are needed for a resume only
    record = state.get("preprocessing")
    return Weights(
        source=source,
        sha256=hashlib.sha256(data).hexdigest(),
        config=config_of(state, source),
        classes=tuple(state["classes"]),
        model=state["model"],
        preprocess=None if record is None else Preprocess.from_record(record),
        state=state,
    )


def _of_safetensors(path: Path) -> Weights:
    source = str(path)
    read = needed("safetensors.torch", f"reading {source}").load
    with errors_as(CheckpointError, source, "not a weights-only file of this program"), _of_the_file(source):
        with open_regular(path) as file:
            length = int.from_bytes(file.read(8), "little")
        if not 2 <= length <= _LARGEST_HEADER:
            raise ValueError("it has no header of sensible size")
        data = read_file(path, LARGEST_FILE)
        header = strict_json.loads(data[8 : 8 + length].decode())
        facts = {key: strict_json.loads(text) for key, text in header.get("__metadata__", {}).items()}
        if missing := _FACTS - facts.keys():
            raise ValueError(f"it lacks {', '.join(sorted(missing))}")
        classes = facts["classes"]
        if not isinstance(classes, list) or not all(type(name) is str for name in classes):
            raise ValueError("its classes are no names")
        model = OrderedDict(read(data))
        model._metadata = {name: _with_tuples(entry) for name, entry in facts["versions"].items()}  # type: ignore[attr-defined]
        check_numbers(model, source)
        return Weights(
            source=source,
            sha256=hashlib.sha256(data).hexdigest(),
            config=validate({"name": "weights", "arch": facts["arch"]}, f"arch in {source}"),
            classes=tuple(classes),
            model=model,
            preprocess=Preprocess.from_record({key: facts[key] for key in ("mean", "std", "image_size")}),
        )


_FACTS = {"arch", "classes", "mean", "std", "image_size", "versions"}


@contextmanager
def _of_the_file(source: str) -> Iterator[None]:
    """Turn an error in a config into one of the file that holds it."""
    try:
        yield
    except ConfigError as error:
        raise CheckpointError(f"{source}: malformed: {error}") from error


def _with_tuples(entry: dict[str, Any]) -> dict[str, Any]:
    """An entry of a state dict's metadata, of which JSON has made the tuples lists."""
    return {key: tuple(value) if isinstance(value, list) else value for key, value in entry.items()}


def initial_weights(config: Config) -> tuple[Config, Weights | None]:
    """The weights that a new run of `config` starts from, if any, and `config` with their digest.

    Raises:
        CheckpointError: they cannot be read, or are of another file than the config notes.
    """
    if config.weights is None:
        return config, None
    found = read_weights(user_path(config.weights.path))
    if config.weights.sha256 not in (None, found.sha256):
        raise CheckpointError(
            f"{found.source}: its SHA-256 is {found.sha256[:12]}..., and weights.sha256 is "
            f"{str(config.weights.sha256)[:12]}...; weights.sha256=null takes this file"
        )
    noted = config.weights.model_copy(update={"sha256": found.sha256})
    return config.model_copy(update={"weights": noted}), replace(found, state=None)  # which takes as much memory again


def start_from(weights: Weights, model: BaseModel, config: Config, data: RunData) -> list[str]:
    """Load `weights` into the new `model` of `config`. What does not fit the data stays new: the head where the classes
    are others, and ConvNorm's running estimates where images have another size. Returns lines for the user.

    Raises:
        CheckpointError: they are of another network.
    """
    source, classes = weights.source, data.dataset.classes
    since = {key: both for key, both in changes(weights.config, config).items() if key.startswith(FUNCTION)}
    since.pop(_OUTPUTS, None)
    if since:
        raise CheckpointError(f"{source}: its weights are of another network: {listed(since)}; set it as it was there")
    weights.check()
    lines = [f"started from the weights of {source} (SHA-256 {weights.sha256[:12]}...)"]
    new: set[str] = set()
    head = {key for key in model.state_dict() if any(key.startswith(f"{path}.") for path in model.head_paths)}
    if classes != weights.classes or any(model.state_dict()[key].shape != weights.model[key].shape for key in head):
        new |= head
        lines.append(f"the head is new: the weights are for {_shown(weights.classes)}, the data have {_shown(classes)}")
    size = data.image_size
    estimates = _estimates(model)
    if estimates and size != weights.image_size:
        new |= estimates
        there, here = (f"{height}x{width}" for height, width in (weights.image_size, size))
        lines.append(f"ConvNorm's running estimates start anew: images were {there} and are {here}")
    load_model(model, _merged(model, weights.model, new), source)
    return lines


def _estimates(model: BaseModel) -> set[str]:
    """The keys of the running estimates that depend on the images' size."""
    layers = [
        name
        for name, module in model.named_modules()
        if isinstance(module, RunningPreconditioner) and module.kernel_size > 1
    ]
    return {f"{name}.{buffer}" for name in layers for buffer in ESTIMATE}


def _merged(model: BaseModel, saved: dict[str, Any], new: set[str]) -> dict[str, Any]:
    """The state dict `saved`, with what the model has for the keys `new`."""
    own: Any = model.state_dict()
    merged = OrderedDict((key, own[key] if key in new else value) for key, value in saved.items())
    layers = {key.rpartition(".")[0] for key in new}
    versions = {**getattr(saved, "_metadata", {}), **{name: own._metadata[name] for name in layers}}
    merged._metadata = versions  # type: ignore[attr-defined]
    return merged


def _shown(classes: tuple[str, ...]) -> str:
    return f"{len(classes):,} classes ({first_of(classes)})"
