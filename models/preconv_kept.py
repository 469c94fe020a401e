"""Caches of ConvNorm, and the conditions under which they may be used.

Two results are cached: the constant matrices of a geometry, and in evaluation a layer's preconditioned spectra. A
cached result must not outlive its sources, and must not be computed from tensors without values: those of a mode such
as FakeTensorMode, of torch.func, or of a compiler.
"""

import functools
from collections.abc import Callable, Hashable, Sequence
from typing import Any, NamedTuple, TypeVar

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import _disable_current_modes, _get_current_dispatch_mode

T = TypeVar("T")
KeptFilter = Callable[[Tensor, Tensor], Tensor]  # (x, weight) -> the filtered convolution


def under_a_mode() -> bool:
    """Whether a dispatch mode such as FakeTensorMode is active."""
    return _get_current_dispatch_mode() is not None


def under_a_transform() -> bool:
    """Whether a transform of torch.func (`vmap`, `grad`, ...) is active; torch has no public function for this."""
    return torch._C._are_functorch_transforms_active()


def under_saved_tensor_hooks() -> bool:
    """Whether hooks on saved tensors are active, as of torch.utils.checkpoint; torch has no public function for this.
    Hooks inside them would take their place."""
    return torch._C._autograd._top_saved_tensors_default_hooks(False) is not None


def has_hooks(module: nn.Module) -> bool:
    """Whether a call of `module` does more than its `forward`: pruning, weight_norm and FSDP hook into it."""
    return bool(
        module._forward_hooks or module._forward_pre_hooks or module._backward_hooks or module._backward_pre_hooks
    )


def kept(build: Callable[..., T]) -> Callable[..., T]:
    """`build` with a cache of its newest results, for all layers.

    Nothing is cached under a dispatch mode, a transform of torch.func or a compiler, nor where a part of the key is a
    size that is not known yet.

    An exported program gets the results as constants, so that it does not make them anew in each run.
    """

    @functools.lru_cache(maxsize=32)  # a ResNet has at most a dozen geometries
    def remembered(*key: Hashable) -> T:
        with torch.inference_mode(mode=False):  # autograd could not save a tensor made in inference mode
            return build(*key)

    @functools.wraps(build)
    def find(*key: Hashable) -> T:
        if any(isinstance(part, (torch.SymInt, Tensor)) for part in key):  # of an exporter, of torch.jit.trace
            return build(*key)
        if torch.compiler.is_exporting() and not torch.compiler.is_dynamo_compiling():
            with _disable_current_modes():
                return remembered(*key)
        return remembered(*key) if KeptSpectra.allowed() else build(*key)

    find.cache_info, find.cache_clear = remembered.cache_info, remembered.cache_clear  # type: ignore[attr-defined]
    return find


class KeptSpectra(NamedTuple):
    """A filter made for evaluation, with the tensors and the key that it was made from.

    run: the filter; None if its spectra would take too much memory.
    """

    key: tuple[Any, ...]
    sources: list[tuple[Tensor, int]]
    run: KeptFilter | None

    @classmethod
    def of(cls, sources: Sequence[Tensor], key: tuple[Any, ...], run: KeptFilter | None) -> "KeptSpectra":
        """`run`, made from the tensors `sources`; `key` holds everything else that it depends on."""
        # A CPU source is copied and compared later, since a write through `.data` does not change the version counter.
        # On other devices comparing would wait, so the storage is kept alive, and its address is not used again.
        held = [source.detach().clone() if source.is_cpu else source.detach() for source in sources]
        return cls(key, [(h, _version(s)) for h, s in zip(held, sources, strict=True)], run)

    @staticmethod
    def allowed() -> bool:
        """Whether tensors have values now: not under a compiler, a transform or a dispatch mode."""
        return not (torch.compiler.is_compiling() or under_a_transform() or under_a_mode())

    def is_of(self, sources: Sequence[Tensor], key: tuple[Any, ...]) -> bool:
        """Whether the filter was made from these sources, as they are now, and this key."""
        if self.key != key or len(sources) != len(self.sources):
            return False
        return all(
            torch.equal(held, now) if now.is_cpu else held.data_ptr() == now.data_ptr() and version == _version(now)
            for (held, version), now in zip(self.sources, sources, strict=True)
        )


def _version(tensor: Tensor) -> int:
    return -1 if tensor.is_inference() else tensor._version
