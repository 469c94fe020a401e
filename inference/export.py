"""Writes a trained network in the formats of other tools, each checked against the network itself."""

import copy
import io
import json
import logging
import math
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from inference.loading import Trained
from trainer.weights import Weights
from utils.errors import CheckpointError, ConfigError, UserError
from utils.optional import needed
from utils.reading import errors_as
from utils.seeding import generator

# How far an exported network may be from the network, relative to the largest logit, or to 1 if that is smaller: by
# TOLERANCE, or by ROUNDINGS times the network's own rounding. Some round by 5e-6; another order of sums is as exact.
TOLERANCE, ROUNDINGS = 1e-5, 10
_PRODUCER = "export.py of ConvNorm against BatchNorm"  # by which our own files are known
_ANY_NUMBER = ({0: torch.export.Dim("number")},)  # of images

#: Facts about the network, each as a JSON text.
Facts = dict[str, str]


class ExportError(UserError):
    """The network cannot be exported, or the exported file does not do what the network does."""

    exit_code = CheckpointError.exit_code


def facts_of(weights: Weights, network: Trained) -> Facts:
    """What inference needs beside the weights."""
    arch = weights.config.arch.model_dump()
    arch["args"]["num_classes"] = arch["args"]["num_classes"] or len(network.classes)
    facts = {"producer": _PRODUCER, "arch": arch, "classes": network.classes, **network.preprocess.record()}
    return {key: json.dumps(value) for key, value in facts.items()}


def as_safetensors(network: Trained, facts: Facts) -> tuple[bytes, str]:
    """The weights alone. Loaded back they are the same bit for bit."""
    library = needed("safetensors.torch", "--safetensors")
    state = network.model.state_dict()
    versions = {name: entry for name, entry in state._metadata.items() if entry}  # type: ignore[attr-defined]
    tensors = {key: value.contiguous() for key, value in state.items()}
    data = library.save(tensors, metadata={**facts, "versions": json.dumps(versions)})
    again = library.load(data)
    if again.keys() != tensors.keys() or any(_bits(again[key]) != _bits(value) for key, value in tensors.items()):
        raise ExportError("the weights that safetensors wrote are not the network's; nothing was written")
    return data, "the same bit for bit when loaded back"


def _bits(tensor: Tensor) -> tuple[Any, ...]:
    return tensor.dtype, tensor.shape, tensor.numpy().tobytes()


def as_torch_export(network: Trained, facts: Facts) -> tuple[bytes, str]:
    """A program of torch.export, for any number of images."""
    program = torch.export.export(network.model, (_images(network, 2),), dynamic_shapes=_ANY_NUMBER)
    buffer = io.BytesIO()
    torch.export.save(program, buffer, extra_files=dict(facts))
    found: dict[str, Any] = dict.fromkeys(facts, "")
    again = torch.export.load(io.BytesIO(buffer.getvalue()), extra_files=found).module()
    if found != facts:
        raise ExportError("torch.export did not keep what was to be stored beside the network; nothing was written")
    return buffer.getvalue(), _compared(network, again, "torch.export")


def as_onnx(network: Trained, facts: Facts) -> tuple[bytes, str]:
    """An ONNX model from `images` (N, 3, H, W) to `logits` (N, C)."""
    onnx = needed("onnx", "--onnx")
    needed("onnxscript", "--onnx")
    program = torch.onnx.export(
        network.model,
        (_images(network, 2),),
        dynamic_shapes=_ANY_NUMBER,
        input_names=["images"],
        output_names=["logits"],
        dynamo=True,
        verbose=False,
    )
    assert program is not None
    model = program.model_proto
    onnx.helper.set_model_props(model, facts)
    onnx.checker.check_model(model)
    data: bytes = model.SerializeToString()
    try:
        runtime = needed("onnxruntime", "the comparison")
    except ConfigError:
        return data, "not compared with the network, since onnxruntime is not installed"
    session = runtime.InferenceSession(data, providers=["CPUExecutionProvider"])
    return data, _compared(network, lambda images: _run(session, images), "onnxruntime")


def _run(session: Any, images: Tensor) -> Tensor:
    (logits,) = session.run(["logits"], {"images": images.numpy()})
    return torch.from_numpy(logits)


#: From a network to the bytes of a file, and what the check of them found.
Format = Callable[[Trained, Facts], tuple[bytes, str]]

#: Suffix -> format, the fastest first.
FORMATS: dict[str, Format] = {".safetensors": as_safetensors, ".pt2": as_torch_export, ".onnx": as_onnx}


def export(network: Trained, facts: Facts, suffix: str) -> tuple[bytes, str]:
    """The bytes of a file in the format of `suffix`, and what the check of them found.

    Raises:
        ConfigError: a library is missing.
        ExportError: the network cannot be exported, or the check failed.
    """
    with errors_as(ExportError, suffix, "the network cannot be exported"), _quiet():
        try:
            return FORMATS[suffix](network, facts)
        except UserError:
            raise
        except Exception as error:
            raise _first_cause(error) from error


def _first_cause(error: BaseException) -> BaseException:
    """The innermost error, which says why; those around it say which step of the exporter failed."""
    while error.__cause__ is not None:
        error = error.__cause__
    return error


def is_ours(data: bytes) -> bool:
    """Whether `data` are the ends of an exported file. All formats hold texts as they are, beside the weights."""
    return _PRODUCER.encode() in data


@contextmanager
def _quiet() -> Iterator[None]:
    """Suppress what exporters warn of and log, most of which is about themselves."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings(action="ignore"):
            yield
    finally:
        logging.disable(before)


def _images(network: Trained, count: int) -> Tensor:
    """Random images, (count, 3, H, W), in the range of a run's."""
    size = (3, *network.preprocess.image_size)
    stream = generator(0, "images for an export", count)
    pixels = [torch.randint(0, 256, size, dtype=torch.uint8, generator=stream).numpy() for _ in range(count)]
    return network.preprocess.batch(pixels, torch.device("cpu"))


def _compared(network: Trained, exported: Callable[[Tensor], Tensor], what: str) -> str:
    """Compare on batches of one and of several images. Raises ExportError."""
    difference = _difference(network, exported)
    said = f"differs from the network by {difference:.1e}"
    if difference <= TOLERANCE:
        return f"by {what} it {said}"
    exact = copy.deepcopy(network.model).double()
    rounding = _difference(network, lambda images: exact(images.double()))
    if math.isinf(difference) or difference > ROUNDINGS * rounding:
        limit = f"{TOLERANCE:.0e} and {ROUNDINGS} times the network's own rounding in float32, {rounding:.1e}"
        raise ExportError(f"{what} {said}, more than {limit}; nothing was written")
    return f"by {what} it {said}, and that from itself in float64 by {rounding:.1e}"


@torch.no_grad()
def _difference(network: Trained, other: Callable[[Tensor], Tensor]) -> float:
    """The largest difference of a logit, relative to the largest logit or to 1; infinite for NaN or another shape."""
    largest = 0.0
    for count in (5, 1):
        images = _images(network, count)
        own, theirs = network.model(images), other(images)
        scale = max(1.0, float(own.abs().max()))
        difference = float((theirs - own).abs().max()) / scale if theirs.shape == own.shape else math.inf
        largest = max(largest, math.inf if math.isnan(difference) else difference)
    return largest
