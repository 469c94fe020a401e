"""Makes a trained network of its weights, ready for use."""

from typing import NamedTuple

import torch

from base.base_model import BaseModel
from data_loader.access import Access
from data_loader.build import build_data
from data_loader.preprocess import Preprocess
from models.build import build_model
from protocol import FLOAT_BYTES, departures
from trainer.restore import check_data, load_model
from trainer.weights import Weights
from utils.errors import CheckpointError, UserError


class Trained(NamedTuple):
    """A network in evaluation mode, the function that brings a picture into its form, and the names of its classes."""

    model: BaseModel
    preprocess: Preprocess
    classes: list[str]


def trained(weights: Weights, device: torch.device) -> Trained:
    """The network of `weights` on `device`.

    Raises:
        CheckpointError: the weights do not fit their network, or an earlier version saved them and their mean and
            standard deviation cannot be derived.
    """
    preprocess = preprocess_of(weights)
    weights.check()
    model = build_model(weights.config, len(weights.classes), weights.image_size)
    load_model(model, weights.model, weights.source)
    return Trained(model.eval().to(device), preprocess, list(weights.classes))


def preprocess_of(weights: Weights) -> Preprocess:
    """How the run of `weights` brings images into form. Raises CheckpointError if that is not known."""
    if FLOAT_BYTES in departures(weights.config):
        raise CheckpointError(
            f"{weights.source}: this run took the bytes of floats for pixels, as published ({FLOAT_BYTES}), so no "
            "picture can be shown to it; train it without"
        )
    return _derived(weights) if weights.preprocess is None else weights.preprocess


def _derived(weights: Weights) -> Preprocess:
    """From the data of a run that an earlier version saved."""
    assert weights.state is not None, "a weights-only file has always had it"
    try:
        data = build_data(weights.config, torch.device("cpu"), access=Access.of_checkpoint(named=False))
        check_data(data, weights.state, weights.source)
    except UserError as error:
        raise CheckpointError(
            f"{weights.source}: it lacks the mean, the standard deviation and the size of its images, as those of "
            f"earlier versions do, and they cannot be derived from its data: {error}"
        ) from error
    return Preprocess.of(data.stats, data.image_size)
