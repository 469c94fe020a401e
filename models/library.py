"""Networks of torchvision and timm: untrained, for any number of classes, with ConvNorm put in by `convert_conv_norm`.

What these networks are is found in the networks themselves, not in lists of names. A sketch of a network, without
memory for its weights, is run once to find its stem, and compared with one for more classes to find its head.
"""

import contextlib
import warnings
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.overrides import TorchFunctionMode

from base.base_model import BaseModel
from config_schema import LibraryArch
from models.convert import Conversion, convert_conv_norm
from utils.errors import ConfigError
from utils.optional import needed
from utils.reading import errors_as, reason_of
from utils.text import did_you_mean

_INNER = "network"  # the attribute that holds the library's network
_MOST_BETWEEN = 2  # convolutions between a stem's first one and its pooling; three begin a "deep stem"
_MOST_NAMED = 4


class LibraryNetwork(BaseModel):
    """(N, 3, H, W) images -> (N, num_classes) logits, by a network of torchvision's or timm's."""

    def __init__(self, network: nn.Module, head: tuple[str, ...], remarks: tuple[str, ...]) -> None:
        super().__init__()
        self.network = network
        self.head_paths = tuple(f"{_INNER}.{path}" for path in head)
        self.remarks = remarks

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = self.network(images)
        return logits


def check_name(kind: str) -> None:
    """Raise ConfigError unless `kind`, torchvision/NAME or timm/NAME, is a network for classification, and its library
    is installed."""
    library, _, name = kind.partition("/")
    names = _names(library)
    if name not in names:
        listed = "timm.list_models()" if library == "timm" else "torchvision.models.list_models(torchvision.models)"
        raise ConfigError(
            f"arch.type: {library} has no network {name!r} for classification{did_you_mean(name, names)}; "
            f"{listed} names all"
        )


def _names(library: str) -> list[str]:
    if library == "timm":
        found: list[str] = needed("timm", "a network of timm's").list_models()
        return found
    from torchvision import models

    return models.list_models(models)  # without those for detection, segmentation and videos, and the quantized ones


def build_library(
    arch: LibraryArch,
    outputs: int,
    prepare: Callable[[nn.Module], object] | None,
    size: tuple[int, int] | None = None,
) -> LibraryNetwork:
    """The network of `arch`, on the CPU.

    Args:
        prepare: called with a sketch of the network before its weights are drawn. None makes the network itself on
            torch's meta device, without values.
        size: height and width of the images, if they are known.

    Raises:
        ConfigError: there is no such network, or `arch.args` cannot be had in it, or it does not take such images.
    """
    check_name(arch.type)
    sketch = network = _sketch(arch.type, outputs)
    head = _head(sketch, _sketch(arch.type, outputs + 1))
    remarks, stem = [], None
    if arch.args.stem == "small":
        stem = _find_stem(sketch)
        remarks.append(f"stem: {stem.put(sketch) if stem else 'it does not stride, so it stays as it is'}")
    if size is not None:
        _check_size(sketch, arch.type, outputs, size)
    if prepare is not None:
        prepare(sketch)
        network = _make(arch.type, outputs)
        if stem is not None:
            stem.put(network)
    if arch.args.norm != "bn":
        remarks.append(_convert(network, head, arch))
    return LibraryNetwork(network, head, tuple(remarks))


def _check_size(sketch: nn.Module, kind: str, outputs: int, size: tuple[int, int]) -> None:
    """Raise ConfigError unless the network makes logits of images of `size` (H, W)."""
    reason = "it does not give logits"
    try:
        logits: Any = sketch.train()(torch.zeros(2, 3, *size, device="meta"))
    except Exception as error:  # of any type, for an image that is too small or of another size than the one it is for
        logits, reason = None, reason_of(error)
    if not isinstance(logits, Tensor) or logits.shape != (2, outputs):
        raise ConfigError(
            f"arch.type: {kind}, built as arch.args say, does not take images of {size[0]}x{size[1]}: {reason}; "
            "take other images, another arch.args.stem or another network"
        )


def _make(kind: str, outputs: int) -> nn.Module:
    library, _, name = kind.partition("/")
    with warnings.catch_warnings(action="ignore"):  # some announce what will change in later versions
        if library == "timm":
            network: nn.Module = needed("timm", "a network of timm's").create_model(
                name, pretrained=False, num_classes=outputs
            )
            return network
        from torchvision import models

        network = models.get_model(name, weights=None, num_classes=outputs)
        if getattr(network, "aux_logits", False):  # further heads, whose logits come along in training
            network = models.get_model(name, weights=None, num_classes=outputs, aux_logits=False)
        return network


class _WithoutMemory(TorchFunctionMode):
    """Weights are made on the meta device, but what is computed with while a network is built is not."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return func(*args, **{**(kwargs or {}), **({"device": "meta"} if func is torch.empty else {})})


def _sketch(kind: str, outputs: int) -> nn.Module:
    """The library's network without memory for its weights. Raises ConfigError: it cannot be built so."""
    with errors_as(ConfigError, f"arch.type: {kind}", "the network cannot be built"):
        with torch.random.fork_rng(devices=[]), _WithoutMemory():
            network = _make(kind, outputs)
        return network.to("meta")


def _head(network: nn.Module, larger: nn.Module) -> tuple[str, ...]:
    """The paths of the layers that have other shapes in a network for more classes."""
    shapes = {key: value.shape for key, value in larger.state_dict().items()}
    changed = (key.rpartition(".")[0] for key, value in network.state_dict().items() if shapes[key] != value.shape)
    return tuple(dict.fromkeys(changed))


@dataclass(frozen=True)
class Stem:
    """The paths of a network's first convolution, which strides, and of the max-pooling behind it, if there is one."""

    convolution: str
    pooling: str | None

    def put(self, network: nn.Module) -> str:
        """Adapt the stem of `network` to small images, and say how.

        A larger kernel becomes 3x3: a part of the drawn one, scaled so that its outputs keep their variance.
        """
        conv = network.get_submodule(self.convolution)
        assert isinstance(conv, nn.Conv2d)
        before, size = _form(conv), conv.kernel_size
        conv.stride = (1, 1)
        if max(size) > 3:
            with torch.no_grad():
                kernels = conv.weight[:, :, :3, :3] * (size[0] * size[1] / 9) ** 0.5
            conv.weight = nn.Parameter(kernels.contiguous())
            conv.kernel_size, conv.padding = (3, 3), (1, 1)
        line = f"{self.convolution} is {_form(conv)} in place of {before}"
        if self.pooling is None:
            return line
        network.set_submodule(self.pooling, nn.Identity())
        return f"{line}, and {self.pooling}, a max-pooling, is gone"


def _form(conv: nn.Conv2d) -> str:
    (rows, columns), (down, across) = conv.kernel_size, conv.stride
    return f"{rows}x{columns} with stride {down}" if down == across else f"{rows}x{columns} with stride {down}x{across}"


def _find_stem(sketch: nn.Module) -> Stem | None:
    """The stem of a network, or None if its first convolution does not stride."""
    calls = _calls(sketch)
    convolution = next((name for name, module in calls if isinstance(module, nn.Conv2d)), None)
    if convolution is None or not _strides(sketch.get_submodule(convolution)):
        return None
    between = 0
    for name, module in calls[[name for name, _ in calls].index(convolution) + 1 :]:
        if isinstance(module, nn.MaxPool2d) and _strides(module):
            return Stem(convolution, name)
        if isinstance(module, nn.Conv2d):
            between += 1
            if _strides(module) or between > _MOST_BETWEEN:
                break
    return Stem(convolution, None)


def _strides(module: nn.Module) -> bool:
    stride: Any = module.stride
    return any(step > 1 for step in (stride if isinstance(stride, tuple) else (stride,)))


def _calls(sketch: nn.Module) -> list[tuple[str, nn.Module]]:
    """The first convolutions and max-poolings that an image passes, in that order, as many as a stem may have."""
    calls: list[tuple[str, nn.Module]] = []

    def note(name: str, module: nn.Module) -> None:
        calls.append((name, module))
        if len(calls) == _MOST_BETWEEN + 2:
            raise StopIteration  # the rest takes time

    hooks = [
        module.register_forward_pre_hook(lambda module, _, name=name: note(name, module))
        for name, module in sketch.named_modules()
        if isinstance(module, nn.Conv2d | nn.MaxPool2d)
    ]
    size: tuple[int, ...] = getattr(sketch, "default_cfg", {}).get("input_size", (3, 224, 224))
    with contextlib.suppress(Exception):  # of any type, where the network does not take such an image
        sketch.eval()(torch.zeros(1, *size, device="meta"))
    for hook in hooks:
        hook.remove()
    sketch.train()
    return calls


def _convert(network: nn.Module, head: tuple[str, ...], arch: LibraryArch) -> str:
    """Put ConvNorm into `network`, but not into its head, and say where. Raises ConfigError if it can be nowhere."""
    norm, before = arch.args.norm, _batch_norms(network)
    report = convert_conv_norm(network, keep_batch_norm=norm == "bncn", skip=head)
    report.left.update({name: "it is the head" for name in head if name in report.left})
    if not report.converted:
        raise ConfigError(
            f"arch.args.norm: {norm} changes nothing in {arch.type}, since ConvNorm can replace none of its "
            f"convolutions{_left(report)}; bn is the network as it is"
        )
    line = (
        f"norm {norm}: {len(report.converted)} of {len(report.converted) + len(report.left)} convolutions are ConvNorm"
    )
    line += _left(report)
    after = _batch_norms(network)
    if before == 0:
        return f"{line}; the network has no BatchNorm, so conv and bncn are the same"
    return f"{line}; {after} of {before} BatchNorms are left" if norm == "conv" else line


def _batch_norms(network: nn.Module) -> int:
    return sum(isinstance(module, _BatchNorm) for module in network.modules())


def _left(report: Conversion) -> str:
    by_reason: dict[str, list[str]] = defaultdict(list)
    for name, reason in report.left.items():
        by_reason[reason].append(name)
    return "".join(f"; left: {_some(names)} ({reason})" for reason, names in by_reason.items())


def _some(names: list[str]) -> str:
    more = len(names) - _MOST_NAMED
    return ", ".join(names[:_MOST_NAMED]) + (f" and {more} more" if more > 0 else "")
