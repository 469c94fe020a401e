"""Checks that a checkpoint's state fits, and restores it."""

import copy
import re
import warnings
from collections import OrderedDict
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

from base.base_model import BaseModel
from data_loader.build import RunData
from models.build import outline_model
from parse_config import Config
from trainer.state import RunState
from utils.errors import CheckpointError
from utils.reading import errors_as
from utils.text import first_of, quoted, visible

_MISMATCH = re.compile(r"size mismatch for (\S+): .*?torch\.Size\(\[([\d, ]*)\]\).*?torch\.Size\(\[([\d, ]*)\]\)")


def check_data(data: RunData, state: RunState, source: str) -> None:
    """Raise CheckpointError unless `data` has the checkpoint's dataset, splits and given labels."""
    if state["dataset_sha256"] != data.sha256:
        raise CheckpointError(
            f"{source}: it was trained on other data (SHA-256 {state['dataset_sha256'][:12]}, here "
            f"{data.sha256[:12]}); give it the dataset it was trained on"
        )
    _check_classes(data, state, source)
    saved = state["splits"]
    changed = [name for name, part in data.splits.named().items() if not torch.equal(part, saved.get(name, part[:0]))]
    if changed or not torch.equal(data.all_given(), state["given_labels"]):
        what = f"the split ({', '.join(changed)})" if changed else "the label noise"
        raise CheckpointError(f"{source}: {what} would not be the same; set seed, splits and noise back")


def _check_classes(data: RunData, state: RunState, source: str) -> None:
    """A checkpoint from before its file named the classes has the names of the file's format in their place."""
    saved, classes, unnamed = tuple(state["classes"]), data.dataset.classes, data.dataset.digest_classes
    if saved == classes or (saved == unnamed and len(saved) == len(classes)):
        return
    if unnamed is None:
        raise CheckpointError(f"{source}: malformed: its classes are not those of the data that it names")
    raise CheckpointError(
        f"{source}: it was trained on classes of other names, {quoted(saved)}, and the data have {quoted(classes)}; "
        "give it the file it was trained on"
    )


def check_progress(state: RunState, batches: int, source: str) -> None:
    """Raise CheckpointError unless position and history of the run agree. `batches` is the number in an epoch from now
    on; earlier epochs may have had another number."""
    epoch, history = state["epoch"], state["history"]
    rows = [row["epoch"] for row in history if all(isinstance(value, int | float) for value in row.values())]
    within = 0 <= state["batch"] <= batches and state["global_step"] >= epoch + state["batch"]
    if epoch < 0 or rows != list(range(1, epoch + 1)) or len(history) != epoch or not within:
        raise CheckpointError(
            f"{source}: malformed: {epoch} epochs and {state['batch']} batches at step "
            f"{state['global_step']} with {len(history)} rows of history"
        )


def check_fit(config: Config, data: RunData, state: RunState, source: str) -> None:
    """Raise CheckpointError unless a checkpoint's data and weights fit `data` and the network of `config`."""
    check_data(data, state, source)
    check_model(config, len(data.dataset.classes), state["model"], source)


def check_model(config: Config, classes: int, weights: dict[str, Any], source: str) -> None:
    """Raise CheckpointError, which lists the keys, unless `weights` fit the network of `config`.

    It checks an outline of the network on torch's meta device: a config may ask for a network that no machine can hold.
    """
    with errors_as(CheckpointError, source, "its config is of a network that cannot be built"):
        outline = outline_model(config, classes)
    _check_weights(outline, _as_real(weights, outline), source)


def load_model(model: BaseModel, saved: dict[str, Any], source: str) -> None:
    """Load the weights `saved` in a checkpoint into `model`.

    Raises:
        CheckpointError: another architecture, other shapes, or values that are not weights. It lists the keys, and
            `model` does not change.
    """
    weights = _as_real(saved, model)
    _check_weights(copy.deepcopy(model), weights, source)
    with errors_as(CheckpointError, source, "its weights cannot be loaded"):
        model.load_state_dict(weights)


def check_tensors(wanted: dict[str, Tensor], found: dict[str, Any], source: str) -> None:
    """Check keys, layouts and dtypes of a model state against `wanted`; load_state_dict checks shapes.

    Raises:
        CheckpointError: they do not fit; it lists the keys.
    """
    missing, unexpected = sorted(wanted.keys() - found.keys()), sorted(found.keys() - wanted.keys())
    if missing or unexpected:
        shown = [first_of(keys, 4) or "none" for keys in (missing, unexpected)]
        raise CheckpointError(f"{source}: it is of another architecture: missing {shown[0]}; unexpected {shown[1]}")
    for key, tensor in found.items():
        if not isinstance(tensor, Tensor) or tensor.layout != torch.strided or tensor.dtype != wanted[key].dtype:
            kind = f"{tensor.dtype}, {tensor.layout}" if isinstance(tensor, Tensor) else type(tensor).__name__
            raise CheckpointError(f"{source}: {key} is {kind}, expected {wanted[key].dtype}, torch.strided")


def _as_real(weights: dict[str, Any], model: BaseModel) -> dict[str, Any]:
    """Convert the published layer's estimates of older checkpoints from complex numbers to real and imaginary parts."""
    complex_ones = {key for key, value in weights.items() if isinstance(value, Tensor) and value.is_complex()}
    if not complex_ones:
        return weights
    real = {key for key, value in model.state_dict().items() if not value.is_complex()} & complex_ones
    changed = OrderedDict((key, torch.view_as_real(value) if key in real else value) for key, value in weights.items())
    changed._metadata = getattr(weights, "_metadata", {})  # type: ignore[attr-defined]
    return changed


def _check_weights(trial: BaseModel, weights: dict[str, Any], source: str) -> None:
    """Load `weights` into `trial`, since load_state_dict copies the weights that fit before it raises for the others.

    Raises:
        CheckpointError: they do not fit; it lists the keys.
    """
    check_tensors(trial.state_dict(), weights, source)
    with errors_as(CheckpointError, source, "its weights cannot be loaded"):
        try:
            with warnings.catch_warnings(action="ignore"):  # torch warns that loading into an outline does nothing
                trial.load_state_dict(weights)
        except RuntimeError as error:
            found = _MISMATCH.findall(str(error))
            if not found:
                raise
            listed = "; ".join(f"{key} is ({saved}) there, ({here}) here" for key, saved, here in found[:4])
            more = f"; and {len(found) - 4} more" if len(found) > 4 else ""
            raise CheckpointError(f"{source}: it is of another architecture: {listed}{more}") from error


def load_optimizer(optimizer: Optimizer, state: RunState, source: str) -> None:
    """Load an optimizer's buffers. Its options stay those of the config, so that a deliberate change takes effect.

    Raises:
        CheckpointError: the state is of another type of optimizer, or of other parameters.
    """
    kind = type(optimizer).__name__
    if state["optimizer_type"] != kind:
        raise CheckpointError(
            f"{source}: saved with the optimizer {state['optimizer_type']}, but the config says {kind}; "
            "set optimizer.type back"
        )
    options = [_options(group) for group in optimizer.param_groups]
    with errors_as(CheckpointError, source, "the optimizer's state does not fit"):
        optimizer.load_state_dict(state["optimizer"])
        for group, kept in zip(optimizer.param_groups, options, strict=True):
            before = _options(group)
            for key in before.keys() - kept.keys():
                del group[key]
            group.update(kept)
            for parameter in group["params"]:
                _check_buffers(optimizer, parameter, before, kept)
        if strangers := optimizer.state.keys() - {p for group in optimizer.param_groups for p in group["params"]}:
            raise ValueError(f"it has buffers for {len(strangers)} parameters that are not the model's")


def _options(group: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in group.items() if key != "params"}


def _check_buffers(optimizer: Optimizer, parameter: Tensor, before: dict[str, Any], now: dict[str, Any]) -> None:
    """Raise ValueError unless the buffers of `parameter` are those that a step makes with the options `before`, with
    which they were saved, and include all that a step needs with the options `now`."""
    found = {name: buffer for name, buffer in optimizer.state.get(parameter, {}).items() if buffer is not None}
    if not found:  # it had no gradient yet, or a step makes no buffers
        return
    needed = _buffers_of_a_step(type(optimizer), now, parameter)
    known = needed | _buffers_of_a_step(type(optimizer), before, parameter)
    for name, buffer in found.items():
        if name not in known or not isinstance(buffer, Tensor):
            raise ValueError(f"{visible(str(name), 100)} is no buffer of {type(optimizer).__name__}")
        if buffer.shape != known[name]:
            raise ValueError(
                f"{name} is {tuple(buffer.shape)} for a parameter of {tuple(parameter.shape)}, "
                f"expected {tuple(known[name])}"
            )
        if not bool(torch.isfinite(buffer).all()) or (_is_count_or_square(name) and bool((buffer < 0).any())):
            raise ValueError(f"{name} has impossible values")
    if missing := needed.keys() - found.keys():
        raise ValueError(f"it lacks {', '.join(sorted(missing))}, which the present optimizer.args need")


def _is_count_or_square(name: str) -> bool:
    return name == "step" or "sq" in name  # exp_avg_sq, max_exp_avg_sq, square_avg


def _buffers_of_a_step(kind: type[Optimizer], options: dict[str, Any], like: Tensor) -> dict[str, torch.Size]:
    """The names and shapes of the buffers that an optimizer keeps for a parameter, found by a step on a copy of it."""
    parameter = torch.nn.Parameter(torch.zeros_like(like))
    parameter.grad = torch.zeros_like(like)
    trial = kind([parameter], lr=0.0)  # type: ignore[call-arg]
    trial.param_groups[0].update(options)
    trial.step()
    return {name: buffer.shape for name, buffer in trial.state[parameter].items() if isinstance(buffer, Tensor)}
