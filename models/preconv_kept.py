"""What ConvNorm keeps from call to call, and when nothing may be kept.

Two things are made once and used many times: the constant matrices of a geometry, and in evaluation a layer's
preconditioned spectra. Neither may outlive what it was made of, and neither may be made of tensors that are none: those
of a mode such as FakeTensorMode, of torch.func, or of a compiler.
"""

import functools
from collections.abc import Callable, Hashable, Sequence
from typing import Any, NamedTuple, TypeVar

import torch
from torch import Tensor
from torch.utils._python_dispatch import _get_current_dispatch_mode

T = TypeVar("T")


def under_a_mode() -> bool:
    """Whether something like FakeTensorMode stands between this code and torch's operators."""
    return _get_current_dispatch_mode() is not None


def under_a_transform() -> bool:
    """Whether torch.func is at work (`vmap`, `grad` and the like), for which torch has no public question."""
    return torch._C._are_functorch_transforms_active()


def kept(build: Callable[..., T]) -> Callable[..., T]:
    """`build`, its newest results kept for all layers, but none that were made under a mode."""
    remembered = functools.lru_cache(maxsize=32)(build)  # a ResNet has at most a dozen geometries

    @functools.wraps(build)
    def find(*key: Hashable) -> T:
        return build(*key) if under_a_mode() else remembered(*key)

    find.cache_info, find.cache_clear = remembered.cache_info, remembered.cache_clear  # type: ignore[attr-defined]
    return find


class KeptSpectra(NamedTuple):
    """A filter made for evaluation, and what tells whether it still is that of the weights.

    run: x -> the filtered convolution; None where its spectra would take too much memory.
    """

    key: tuple[Any, ...]
    sources: list[tuple[Tensor, int]]
    run: Callable[[Tensor], Tensor] | None

    @classmethod
    def of(
        cls, sources: Sequence[Tensor], key: tuple[Any, ...], run: Callable[[Tensor], Tensor] | None
    ) -> "KeptSpectra":
        """`run`, made of the tensors `sources` and whatever else `key` tells apart."""
        # On a CPU a copy to compare with, since a write through `.data` leaves no trace in the version counter; on a
        # device, where comparing would wait for it, the storage (kept alive, so that its address is not used again).
        held = [source.detach().clone() if source.is_cpu else source.detach() for source in sources]
        return cls(key, [(h, _version(s)) for h, s in zip(held, sources, strict=True)], run)

    @staticmethod
    def allowed() -> bool:
        """Whether the tensors at hand are those that the next call will see too."""
        return not (torch.compiler.is_compiling() or under_a_transform() or under_a_mode())

    def is_of(self, sources: Sequence[Tensor], key: tuple[Any, ...]) -> bool:
        if self.key != key or len(sources) != len(self.sources):
            return False
        return all(
            torch.equal(held, now) if now.is_cpu else held.data_ptr() == now.data_ptr() and version == _version(now)
            for (held, version), now in zip(self.sources, sources, strict=True)
        )


def _version(tensor: Tensor) -> int:
    return -1 if tensor.is_inference() else tensor._version
