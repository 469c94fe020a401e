"""Replaces the convolutions of any network by ConvNorm.

    report = convert_conv_norm(torchvision.models.resnet18())
    print(report)

A convolution that ConvNorm cannot replace stays as it is, and the report says why. docs/layer.md lists networks.
"""

import copy
import inspect
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from typing import cast

import torch
from torch import Tensor, fx, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.conv import _ConvNd
from torch.nn.utils import parametrize

from .pointwise import Conv2d
from .preconv import PreConv2d
from .preconv_running import RunningPreconditioner

Skip = str | Iterable[str] | Callable[[str, nn.Module], bool]


@dataclass(frozen=True)
class Conversion:
    """What `convert_conv_norm` did. `print` it for a table.

    converted: the name of each convolution that is a PreConv2d now, and the name of the BatchNorm that went from behind
        it, or None. A convolution with several names has an entry for each.
    left: the name of each convolution that stays, and why.
    """

    converted: dict[str, str | None] = field(default_factory=dict)
    left: dict[str, str] = field(default_factory=dict)

    def __str__(self) -> str:
        rows = [(name, f"converted, without {norm}" if norm else "converted") for name, norm in self.converted.items()]
        rows += [(name or "(the model)", f"left: {reason}") for name, reason in self.left.items()]
        width = max((len(name) for name, _ in rows), default=0)
        lines = [f"{name:{width}}  {what}" for name, what in rows]
        return "\n".join([*lines, f"{len(self.converted)} converted, {len(self.left)} left"])


def convert_conv_norm(model: nn.Module, *, keep_batch_norm: bool = True, skip: Skip = ()) -> Conversion:
    """Replace each Conv2d of `model` by a PreConv2d with the same kernels, in place.

    The kernels are the same Parameters, so an optimizer, tied weights and `requires_grad` keep them. The affine part is
    new: it starts as the identity, takes over the convolution's bias, and must be given to an optimizer. Device, dtype
    and training mode are those of the convolution.

    Args:
        keep_batch_norm: if False, the BatchNorm behind a converted convolution becomes an Identity, or the activation
            that was part of it. Its scale and shift go into the affine part, its running statistics are lost. The
            network is traced by torch.fx to find it.
        skip: names of modules that stay, with all that is in them: exact or with the wildcards of fnmatch; or a
            function from a convolution's name and the convolution to whether it stays.

    Raises:
        ValueError: `model` is wrapped in DistributedDataParallel, which would not know the new parameters.
    """
    if any(isinstance(module, nn.parallel.DistributedDataParallel) for module in model.modules()):
        raise ValueError(
            "convert a network before DistributedDataParallel wraps it, which knows its parameters by then"
        )
    report = Conversion()
    places: dict[nn.Module, list[str]] = {}  # a module may have several names
    for name, module in model.named_modules(remove_duplicate=False):
        scripted = isinstance(module, torch.jit.ScriptModule) and module.original_name.startswith("Conv")
        if isinstance(module, _ConvNd) or scripted:
            places.setdefault(module, []).append(name)
    affine_parts = {
        part for layer in model.modules() if isinstance(layer, RunningPreconditioner) for part in layer.children()
    }
    flow = None if keep_batch_norm else _Flow(model)
    for conv, names in places.items():
        if conv in affine_parts:
            continue
        reason = "skip names it" if _skipped(skip, names, conv) else _obstacle(conv, names)
        norm = None
        if reason is None and flow is not None:
            norm, reason = flow.norm_behind(conv)
        if reason is not None:
            report.left.update(dict.fromkeys(names, reason))
            continue
        assert isinstance(conv, nn.Conv2d)
        _put(model, names, _converted(conv, norm))
        gone = [name for name, module in model.named_modules(remove_duplicate=False) if module is norm]
        if norm is not None and (rest := _remainder(norm)) is not None:
            _put(model, gone, rest)
        report.converted.update(dict.fromkeys(names, gone[0] if gone else None))
    return report


def _put(model: nn.Module, names: list[str], module: nn.Module) -> None:
    for name in names:
        model.set_submodule(name, module)


def _skipped(skip: Skip, names: list[str], conv: nn.Module) -> bool:
    if callable(skip):
        return any(skip(name, conv) for name in names)
    patterns = [skip] if isinstance(skip, str) else list(skip)
    around = [name[:end] for name in names for end in range(1, len(name) + 1) if name[end : end + 1] in ("", ".")]
    return any(fnmatchcase(name, pattern) for name in around for pattern in patterns)


def _obstacle(conv: nn.Module, names: list[str]) -> str | None:
    """Why ConvNorm cannot replace `conv`, or None."""
    if not isinstance(conv, nn.Conv2d):
        return f"ConvNorm is defined for Conv2d, not for {type(conv).__name__}"
    checks = {
        "the model is itself a convolution, and nothing holds it": "" in names,
        "its size is not known before a first batch": isinstance(conv, nn.LazyConv2d),
        "its weight is parametrized": parametrize.is_parametrized(conv),
        "its weight is not its own Parameter, as under weight_norm, spectral_norm and pruning": (
            conv._parameters.get("weight") is None
        ),
        f"{type(conv).__name__} has a forward pass of its own": not _is_plain(conv),
        "it has hooks": _has_hooks(conv),
        "its kernel is even, and the affine part needs an odd one": conv.kernel_size[0] % 2 == 0,
    }
    for reason, applies in checks.items():
        if applies:
            return reason
    if type(conv.weight.data) is not Tensor or not conv.weight.is_floating_point():
        return f"its weight is a {type(conv.weight.data).__name__} of {conv.weight.dtype}"
    try:
        _arguments(conv)
    except ValueError as error:
        return str(error)
    return None


def _is_plain(conv: nn.Conv2d) -> bool:
    """Whether `conv` computes what Conv2d computes, with no forward pass of a subclass or of its own."""
    kind = type(conv)
    own = kind is not Conv2d and kind.forward is not nn.Conv2d.forward
    return not (own or kind._conv_forward is not nn.Conv2d._conv_forward or "forward" in vars(conv))


def _has_hooks(module: nn.Module) -> bool:
    return any(value for name, value in vars(module).items() if name.endswith("_hooks") and isinstance(value, dict))


def _arguments(conv: nn.Conv2d) -> PreConv2d:
    """The PreConv2d of the convolution's shape, on torch's meta device. Raises ValueError if there is none."""
    return PreConv2d(
        conv.in_channels,
        conv.out_channels,
        conv.kernel_size,  # type: ignore[arg-type]
        conv.stride,  # type: ignore[arg-type]
        conv.padding,  # type: ignore[arg-type]
        conv.dilation,  # type: ignore[arg-type]
        conv.groups,
        padding_mode=conv.padding_mode,
        device="meta",
        dtype=conv.weight.dtype,
    )


@torch.no_grad()
def _converted(conv: nn.Conv2d, norm: _BatchNorm | None) -> PreConv2d:
    """A PreConv2d with the convolution's own Parameter, and in its affine part the bias and what `norm` learned."""
    layer = _arguments(conv).to_empty(device=conv.weight.device)
    affine = layer.affine
    assert affine is not None
    assert affine.bias is not None
    nn.init.dirac_(affine.weight, groups=conv.out_channels)
    nn.init.zeros_(affine.bias)
    for buffer in layer.buffers():
        buffer.zero_()
    if conv.bias is not None:
        affine.bias.copy_(conv.bias)
    scale, shift = (None, None) if norm is None else (norm.weight, norm.bias)
    if scale is not None:
        affine.weight.mul_(scale.to(affine.weight).view(-1, 1, 1, 1))
        affine.bias.mul_(scale.to(affine.bias))
    if shift is not None:
        affine.bias.add_(shift.to(affine.bias))
    # what was frozen stays frozen
    affine.weight.requires_grad_((conv.weight if scale is None else scale).requires_grad)
    affine.bias.requires_grad_(next(p for p in (shift, conv.bias, conv.weight) if p is not None).requires_grad)
    layer.weight = cast(nn.Parameter, conv.weight)
    return layer.train(conv.training)


def _remainder(norm: _BatchNorm) -> nn.Module | None:
    """What stays of a BatchNorm without its normalisation; None if that is not known."""
    if type(norm).forward in (_BatchNorm.forward, nn.SyncBatchNorm.forward):
        return nn.Identity()
    parts = dict(norm.named_children())
    if parts.keys() == {"drop", "act"}:  # timm's BatchNormAct2d
        return nn.Sequential(parts["drop"], parts["act"]).train(norm.training)
    return None


class _Tracer(fx.Tracer):
    def is_leaf_module(self, module: nn.Module, name: str) -> bool:
        kinds = (_ConvNd, _BatchNorm)
        return isinstance(module, (*kinds, RunningPreconditioner)) or not any(
            isinstance(part, kinds) for part in module.modules()
        )


class _Flow:
    """Which module's output goes into which BatchNorm, as torch.fx traces it.

    If the whole network cannot be traced, each module that holds a BatchNorm is traced alone.
    """

    def __init__(self, model: nn.Module) -> None:
        self.behind: dict[nn.Module, set[nn.Module | None]] = {}
        self.inputs: dict[nn.Module, set[nn.Module | None]] = {}
        self.near: set[nn.Module] = set()  # modules beside a BatchNorm
        holders = [holder for holder in model.modules() if any(isinstance(m, _BatchNorm) for m in holder.children())]
        for holder in holders:
            self.near.update(holder.children())
        if holders and not self._follow(model):
            for holder in holders:
                self._follow(holder)

    def norm_behind(self, conv: nn.Module) -> tuple[_BatchNorm | None, str | None]:
        """The BatchNorm that alone gets the convolution's output, or None; and why it cannot be removed, or None."""
        if conv not in self.behind:
            unknown = "torch.fx cannot trace it, so the layer behind it is not known"
            return None, unknown if conv in self.near else None
        norms = self.behind[conv]
        norm = next((norm for norm in norms if norm is not None), None)
        if norm is None:
            return None, None
        if len(norms) > 1:
            return None, "it is used in several places, with different layers behind it"
        if self.inputs[norm] != {conv}:
            return None, "the BatchNorm behind it normalises the output of others too"
        assert isinstance(norm, _BatchNorm)
        if _has_hooks(norm) or parametrize.is_parametrized(norm):
            return None, "the BatchNorm behind it has hooks or is parametrized"
        if _remainder(norm) is None:
            return None, f"the {type(norm).__name__} behind it does more than normalise"
        return norm, None

    def _follow(self, root: nn.Module) -> bool:
        """Trace a copy of `root`, which shares its parameters, since forward passes may write; whether that worked."""
        try:
            trial = copy.deepcopy(root, {id(parameter): parameter for parameter in root.parameters()})
            defaults = {
                name: parameter.default
                for name, parameter in inspect.signature(trial.forward).parameters.items()
                if parameter.default is not parameter.empty
            }
            with torch.random.fork_rng(devices=[]):
                graph = _Tracer().trace(trial, defaults)
        except Exception:  # whatever a forward pass makes of symbols
            return False
        called = {node: root.get_submodule(str(node.target)) for node in graph.nodes if node.op == "call_module"}
        for node, module in called.items():
            users = {called.get(user) for user in node.users}
            only = users.pop() if len(node.users) == 1 else None
            self.behind.setdefault(module, set()).add(only if isinstance(only, _BatchNorm) else None)
            if isinstance(module, _BatchNorm):
                self.inputs.setdefault(module, set()).update(called.get(source) for source in node.all_input_nodes)
        return True
