"""Putting a checkpoint's state back, once it is known to fit."""

import copy
import re
from typing import Any

import torch
from torch.optim import Optimizer

from base.base_model import BaseModel
from data_loader.build import RunData
from trainer.checkpoint import check_tensors
from utils.errors import CheckpointError

_MISMATCH = re.compile(r"size mismatch for (\S+): .*?torch\.Size\(\[([\d, ]*)\]\).*?torch\.Size\(\[([\d, ]*)\]\)")


def check_data(data: RunData, state: dict[str, Any], source: str) -> None:
    """Raise CheckpointError unless `data` is what the checkpoint was trained on, split and mislabelled alike."""
    if state["dataset_sha256"] != data.sha256:
        raise CheckpointError(
            f"{source}: it was trained on other data (SHA-256 {state['dataset_sha256'][:12]}, here "
            f"{data.sha256[:12]}); give it the dataset it was trained on"
        )
    saved = state["splits"]
    changed = [name for name, part in data.splits.named().items() if not torch.equal(part, saved.get(name, part[:0]))]
    if changed or not torch.equal(data.all_given(), state["given_labels"]):
        what = f"the split ({', '.join(changed)})" if changed else "the label noise"
        raise CheckpointError(f"{source}: {what} would not be the same; set seed, splits and noise back")


def check_progress(state: dict[str, Any], batches: int, source: str) -> None:
    """Raise CheckpointError unless position and history of the run agree; `batches` is those in an epoch from now on,
    which may have been more or fewer in earlier ones."""
    epoch, history = state["epoch"], state["history"]
    rows = [row["epoch"] for row in history if all(isinstance(value, int | float) for value in row.values())]
    within = 0 <= state["batch"] <= batches and state["global_step"] >= epoch + state["batch"]
    if epoch < 0 or rows != list(range(1, epoch + 1)) or len(history) != epoch or not within:
        raise CheckpointError(
            f"{source}: malformed: {epoch} epochs and {state['batch']} batches at step "
            f"{state['global_step']} with {len(history)} rows of history"
        )


def load_model(model: BaseModel, state: dict[str, Any], source: str) -> None:
    """Load a checkpoint's weights into `model`.

    Raises:
        CheckpointError: another architecture, shapes or values that are no weights; it lists the keys, and `model` is
            as it was.
    """
    weights = state["model"]
    check_tensors(model.state_dict(), weights, source)
    trial = copy.deepcopy(model)  # load_state_dict copies what fits before it complains of what does not
    try:
        trial.load_state_dict(weights)
    except RuntimeError as error:
        found = _MISMATCH.findall(str(error))
        listed = "; ".join(f"{key} is ({saved}) there, ({here}) here" for key, saved, here in found[:4])
        more = f"; and {len(found) - 4} more" if len(found) > 4 else ""
        raise CheckpointError(f"{source}: it is of another architecture: {listed or error}{more}") from error
    model.load_state_dict(weights)


def load_optimizer(optimizer: Optimizer, state: dict[str, Any], source: str) -> None:
    """Load an optimizer's buffers. Its options stay the config's, so that one changed on purpose takes effect.

    Raises:
        CheckpointError: it was saved by another type of optimizer, or over other parameters.
    """
    kind = type(optimizer).__name__
    if state["optimizer_type"] != kind:
        raise CheckpointError(
            f"{source}: saved with the optimizer {state['optimizer_type']}, but the config says {kind}; "
            "set optimizer.type back"
        )
    options = [{key: value for key, value in group.items() if key != "params"} for group in optimizer.param_groups]
    try:
        optimizer.load_state_dict(state["optimizer"])
        _check_buffers(optimizer)
    except (ValueError, KeyError, TypeError) as error:
        raise CheckpointError(f"{source}: the optimizer's state does not fit: {error}") from error
    for group, kept in zip(optimizer.param_groups, options, strict=True):
        group.update(kept)


def _check_buffers(optimizer: Optimizer) -> None:
    for parameter, buffers in optimizer.state.items():
        for name, buffer in buffers.items():
            if isinstance(buffer, torch.Tensor) and buffer.dim() > 0 and buffer.shape != parameter.shape:
                raise ValueError(f"{name} is {tuple(buffer.shape)} for a parameter of {tuple(parameter.shape)}")
