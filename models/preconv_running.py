"""The running estimate of a preconditioner: its average over training batches, which evaluation uses."""

import copy
import math
import weakref
from abc import ABC, abstractmethod
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn

from .preconv_kept import KeptSpectra, kept, under_a_mode, under_a_transform

RAMP_BATCHES = 40_000  # length of the cosine ramp of the running estimate's momentum, in training batches
RAMP_FLOOR = 0.01
ESTIMATE = ("running_preconditioner", "num_batches_tracked")  # the buffers of a running estimate


def under_autocast(x: Tensor) -> bool:
    """Whether autocast is enabled for x's device. The meta device has none."""
    return x.device.type != "meta" and torch.is_autocast_enabled(x.device.type)


def without_autocast(x: Tensor) -> AbstractContextManager[object]:
    """A context in which operators compute in the dtype of their operands."""
    return torch.autocast(x.device.type, enabled=False) if under_autocast(x) else nullcontext()


class RunningPreconditioner(nn.Module, ABC):
    """A layer with a running estimate.

    The buffers `running_preconditioner`, real (C_out, ...), and `num_batches_tracked` hold it; both are None in a layer
    that keeps no estimate. The estimate belongs to one grid (P1, P2). The state dict's metadata records the grid, which
    the estimate's shape does not determine. Without metadata the estimate takes the first grid that its shape allows.

    A layer that averages another's state, as torch's AveragedModel and timm's ModelEmaV3 do, is a deep copy that never
    sees a batch. It cannot average into an estimate without a size, nor into zeros that stand for no estimate. So the
    first estimate of a layer is also given to its deep copies that have none; they use it once a batch is counted.
    """

    running_preconditioner: Tensor | None
    num_batches_tracked: Tensor | None
    out_channels: int
    kernel_size: int
    momentum: float | None  # share of the newest preconditioner; None for `cosine_momentum`

    @abstractmethod
    def estimate_shape(self, grid: tuple[int, int]) -> tuple[int, int]:
        """The shape of a channel's estimate on `grid`; (1, 1) for a kernel of one pixel."""

    def _make_estimate(self, shape: tuple[int, int] | None, dtype: torch.dtype, device: Any) -> None:
        """Register the buffers: an estimate (C_out, *shape) of zeros and a count of 0, or None if `shape` is None."""
        self._grid: tuple[int, int] | None = None  # the grid of the estimate, if it is known
        self._counted = False  # whether a batch was seen; reading num_batches_tracked would wait for the device
        self._copies: list[weakref.ref[RunningPreconditioner]] = []  # deep copies made before the first batch
        running = count = None
        if shape is not None:
            running = torch.zeros(self.out_channels, *shape, dtype=dtype, device=device)
            count = torch.zeros((), dtype=torch.long, device=device)
        self.register_buffer("running_preconditioner", running)
        self.register_buffer("num_batches_tracked", count)

    def _forget_estimate(self) -> None:
        """Set the estimate to none, of whatever shape it has."""
        self._grid, self._counted = None, False
        for buffer in (self.running_preconditioner, self.num_batches_tracked):
            if buffer is not None:
                buffer.zero_()

    def _is_estimated_at(self, grid: tuple[int, int]) -> bool:
        """Whether there is an estimate that belongs to `grid`."""
        running = self.running_preconditioner
        if running is None or running.shape[1:] != self.estimate_shape(grid):
            return False
        if not self.training:
            self._look_for_batches()
        if not self._counted:
            return False
        if self._grid is None:
            self._grid = grid  # from a state dict without metadata: the first grid that its shape allows
        return self._grid == grid

    def _look_for_batches(self) -> None:
        """Find out whether a batch was counted by a write into the buffers, as of an average of models."""
        count = self.num_batches_tracked
        if not self._counted and count is not None and not count.is_meta and KeptSpectra.allowed():
            self._counted = bool(count)

    @torch.no_grad()
    def _update_running(self, v: Tensor, grid: tuple[int, int]) -> None:
        """Add `v`, a training batch's preconditioner on `grid`, to the running average."""
        running, count = self.running_preconditioner, self.num_batches_tracked
        assert running is not None
        assert count is not None
        count += 1
        if not self._is_estimated_at(grid):
            # By definition the average starts from 0 at the first batch. At a later change of size, momentum is small,
            # and an average from 0 would be far too small, so it starts from this batch's preconditioner.
            if self._counted and running.numel() > 0:
                running = v
            elif running.shape != v.shape:
                running = torch.zeros_like(v)
            else:
                running.mul_(count > 1)  # another layer's first estimate does not count
            self._grid, self._counted = grid, True
        momentum = self.momentum if self.momentum is not None else _momentum(count, v.dtype)
        if running is not self.running_preconditioner or running.dtype != v.dtype:
            self.running_preconditioner = _ordinary(torch.lerp(running.to(v), v, momentum))
        elif under_a_transform():  # vmap has no rule for lerp_
            running.copy_(torch.lerp(running, v, momentum))
        else:
            running.lerp_(v, momentum)
        self._give_to_copies()

    @torch.no_grad()
    def _give_to_copies(self) -> None:
        estimate = self.running_preconditioner
        if not self._copies or not self._counted or estimate is None or not KeptSpectra.allowed():
            return
        for reference in self._copies:
            other = reference()
            if other is None or other._counted or (running := other.running_preconditioner) is None:
                continue
            if running.shape == estimate.shape:
                running.copy_(estimate)
            else:
                other.running_preconditioner = _ordinary(estimate.to(running, copy=True))
            other._grid = self._grid
        self._copies = []

    def _state(self) -> dict[str, Any]:
        """The attributes of a copy."""
        return {**self.__dict__, "_copies": []}

    def __getstate__(self) -> dict[str, Any]:
        return self._state()

    def __deepcopy__(self, memo: dict[int, Any]) -> "RunningPreconditioner":
        copied = memo[id(self)] = self.__class__.__new__(self.__class__)
        copied.__dict__.update(copy.deepcopy(self._state(), memo))  # parametrizations forbid only __getstate__
        if not self._counted:
            self._copies.append(weakref.ref(copied))
        return copied

    def _save_to_state_dict(self, destination: Any, prefix: str, keep_vars: bool) -> None:
        self._give_to_copies()  # unless the first batch did, which a compiler does not
        super()._save_to_state_dict(destination, prefix, keep_vars)
        metadata = getattr(destination, "_metadata", None)
        if metadata is not None and self._grid is not None:
            metadata[prefix[:-1]]["grid"] = self._grid

    def _load_from_state_dict(
        self, state_dict: Any, prefix: str, local_metadata: Any, strict: bool, *args: Any
    ) -> None:
        # Training data determine the shape of the estimate, so the module takes the shape of the incoming one.
        incoming = state_dict.get(prefix + "running_preconditioner")
        running = self.running_preconditioner
        if incoming is not None and running is not None and self._accepts(incoming):
            if running.shape != incoming.shape:
                self.running_preconditioner = incoming.new_zeros(
                    incoming.shape, dtype=running.dtype, device=running.device
                )
            self._grid = local_metadata.get("grid")
            self._counted = incoming.numel() > 0 and not _is_zero(state_dict.get(prefix + "num_batches_tracked"))
        super()._load_from_state_dict(state_dict, prefix, local_metadata, strict, *args)

    def _accepts(self, running: Tensor) -> bool:
        if running.dim() != 3 or running.shape[0] != self.out_channels:
            return False  # the generic loader reports the mismatch
        return self.kernel_size > 1 or running.numel() in (0, self.out_channels)


def cosine_momentum(batches: Tensor) -> Tensor:
    """Share of the newest preconditioner in the running estimate at the `batches`-th training batch (from 1).

    The reference's schedule max(0.5 * (1 + cos(pi * min(n, 40000) / 40000)), 0.01) starts at 1 and falls to 0.01.
    The share has the floating dtype of `batches`, because some devices lack float64.
    """
    ramp = batches.clamp(max=RAMP_BATCHES) * (math.pi / RAMP_BATCHES)
    return (0.5 * (1.0 + ramp.cos())).clamp(min=RAMP_FLOOR)


def _momentum(count: Tensor, dtype: torch.dtype) -> Tensor:
    """`cosine_momentum`, read off a table: two small kernels of a GPU instead of seven, in each layer and step."""
    if not KeptSpectra.allowed():  # a compiler makes one kernel of the formula
        return cosine_momentum(count.to(dtype))
    # A module's `type` changes that of the count too, and an average of models may give it any value.
    return _ramp(dtype, count.device).take(count.clamp(0, RAMP_BATCHES).long())


@kept
def _ramp(dtype: torch.dtype, device: torch.device) -> Tensor:
    """(RAMP_BATCHES + 1,): `cosine_momentum` by the number of batches."""
    return cosine_momentum(torch.arange(RAMP_BATCHES + 1, dtype=dtype, device=device))


def _is_zero(count: Any) -> bool:
    """Whether a state dict's count of batches is known to be 0; False for a tensor without values."""
    return type(count) is Tensor and not count.is_meta and not under_a_mode() and not bool(count)


def _ordinary(tensor: Tensor) -> Tensor:
    """`tensor`, or in inference mode a copy made outside it: autograd cannot use a buffer made in that mode."""
    if torch.compiler.is_compiling() or not torch.is_inference_mode_enabled():
        return tensor
    with torch.inference_mode(mode=False):
        return tensor.clone()
