"""ConvNorm: a convolution whose output channels are preconditioned in the Fourier domain.

S. Liu et al., "Convolutional Normalization: Improving Deep Convolutional Network Robustness and Training",
NeurIPS 2021, https://arxiv.org/abs/2103.00673. In that paper's words a layer is conv, then P_k, then an affine part:

    1. c = a (*) x              full cross-correlation, padding k-1, on a (P1, P2) = (H+k-1, W+k-1) grid
    2. V_o(f) = (sum_j |A_oj(f)|^2)^(-1/2)      P_k of section 3, one real number per channel o and frequency f
    3. y = IDFT(DFT(c) * V)     every output channel's transfer matrix becomes a unit row at every frequency
    4. crop k-1-p on each side, keep every s-th row and column
    5. a learned depthwise k x k convolution, the affine part

On the (P1, P2) grid the linear convolution equals the circular one, so the DFT diagonalises it. V is a constant of the
step: training computes it without a gradient from the current weights, and evaluation uses its running estimate.
With groups, j runs over the inputs of o's group. With a dilation d, the kernel is the one with d - 1 zeros between
neighbouring taps, so k is k' = d (k - 1) + 1 in steps 1 to 4; the affine part stays k x k, without a dilation.

This file has the layer's parameters and chooses the method that computes the steps above. An image passes through
`PreConv2d.forward`: `split`, `_filter` (which calls a method's `filtered_conv`) and `AffinePart`. preconv_running.py
has the running estimate. Method "fft" (preconv_fft.py) is the direct form and the reference of the tests. "matmul"
(preconv_matmul.py) has neither a convolution nor an FFT, and is the fastest for large batches; "filter"
(preconv_filter.py), a convolution and then products, is the fastest for small ones. preconv_export.py is for saved
programs. These files import only each other and torch, so that they can be installed or copied alone.
"""

import math
import operator
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from . import preconv_cost, preconv_export, preconv_fft, preconv_filter, preconv_operators
from .preconv_constants import Geometry
from .preconv_kept import KeptFilter, KeptSpectra, has_hooks, under_a_transform
from .preconv_running import RunningPreconditioner, under_autocast, without_autocast


class Method(NamedTuple):
    """A way to compute steps 1, 3 and 4 of the layer for kernels larger than one pixel.

    name: that of the layer's argument.
    preconditioner: (kernels (C_out, C_in / groups, k, k), a grid (P1, P2), dilation) -> V (C_out, P1, P2 // 2 + 1), no
        gradient.
    filtered_conv: (x, weight, V, stride, padding, dilation, groups) -> y, with gradients to x and weight.
    prepare: the same arguments, for many evaluations. Returns (x, weight) -> y for weights of the same values, or None
        if that would keep too much memory.
    keeps_kernels: what `prepare` makes depends on the weight, beside V.
    narrow: the products run in bfloat16 under bfloat16 autocast.
    any_convolution: groups and dilation cost nothing, since they are left to torch's convolution; without it there is
        one group.
    """

    name: str
    preconditioner: Callable[[Tensor, tuple[int, int], int], Tensor]
    filtered_conv: Callable[[Tensor, Tensor, Tensor, int, int, int, int], Tensor]
    prepare: Callable[[Tensor, Tensor, Tensor, int, int, int, int], KeptFilter | None] | None = None
    keeps_kernels: bool = False
    narrow: bool = False
    any_convolution: bool = True


FFT = Method("fft", preconv_fft.preconditioner, preconv_fft.filtered_conv)
METHODS = {
    method.name: method
    for method in (
        FFT,
        Method(
            "matmul",
            preconv_operators.preconditioner,
            preconv_operators.filtered_conv,
            preconv_operators.prepare,
            keeps_kernels=True,
            narrow=True,
            any_convolution=False,
        ),
        Method("filter", preconv_operators.preconditioner, preconv_operators.conv_then_filter, preconv_filter.prepare),
    )
}
# "auto" computes V by the shorter way whatever the method.
AUTO = {name: method._replace(preconditioner=preconv_operators.preconditioner) for name, method in METHODS.items()}
EXPORT = Method("fft", preconv_export.preconditioner, preconv_export.filtered_conv)
ANY_CONVOLUTION = tuple(method.name for method in METHODS.values() if method.any_convolution)
LARGEST_MATMUL_GRID = 130  # where costs are not known: a DFT by products grows with the cube of the grid's side


# No NamedTuple: torch 2.10's compiler cannot call one.
@dataclass(frozen=True, eq=False)
class AffinePart:
    """The affine part of a forward pass: from y (N, C_out, H', W') to the layer's output, of that shape.

    It holds the parameters of that pass, since those of the layer may be others in the backward pass
    (torch.func.functional_call): weight (C_out, 1, k, k) and bias (C_out,), or none if there is no affine part, if it
    is in the kernels already, or if it is to be called as a `module`, for its hooks. The output has `dtype`, and is
    contiguous if it is to be `dense`.
    """

    parameters: tuple[Tensor, ...]
    dtype: torch.dtype
    dense: bool
    module: nn.Conv2d | None = None

    def __call__(self, y: Tensor) -> Tensor:
        if self.module is not None:
            y = self.module(y.to(self.module.weight.dtype))
        elif self.parameters:
            weight, bias = (parameter.to(y.dtype) for parameter in self.parameters)
            with without_autocast(y):
                y = F.conv2d(y, weight, bias, padding=weight.shape[-1] // 2, groups=weight.shape[0])
        # The output has the input's memory format, as Conv2d's has; the products are fastest on channels_last.
        return (y.contiguous() if self.dense else y).to(self.dtype)


class PreConv2d(RunningPreconditioner):
    """ConvNorm, a drop-in for a Conv2d and its norm: (N, C_in, H, W) -> (N, C_out, H', W').

    H' = (H + 2 * padding - k') // stride + 1 with k' = dilation * (kernel_size - 1) + 1, as for Conv2d; W' likewise. It
    takes every input size that Conv2d takes. It computes float32 and float64 in their own precision, and narrower types
    in float32. Under bfloat16 autocast the products of "matmul" run in bfloat16, the rest in float32. It holds no
    BatchNorm.

    Args:
        kernel_size: one number (or two equal ones); odd, unless `affine` is off.
        stride: one number (or two equal ones).
        padding: zeros added on each side, at most k' - 1; or "valid" for 0; or "same" for an output of the input's
            size, if k' is odd and stride is 1.
        dilation: one number (or two equal ones).
        groups: as for Conv2d; a divisor of in_channels and of out_channels.
        bias: must be False, as for a Conv2d with a norm behind it. The affine part has the bias.
        affine: end with a depthwise kernel_size x kernel_size convolution with bias, starting as the identity.
        momentum: share of the newest preconditioner in the running estimate, in (0, 1]; None for the reference's
            schedule, `cosine_momentum`.
        track_running_stats: keep the running estimate that evaluation uses. Without it, evaluation uses the
            preconditioner of the weights.
        method: "fft", "matmul" (one group only) or "filter" (the same function, see their files), or "auto": the
            fastest one for the shape of the input, as preconv_cost.py estimates it, but "fft" for torch.func,
            torch.jit.trace, torch.export and ONNX, whose programs load without our operators. For exports it computes
            the DFT as products of real numbers (preconv_export.py), if the size of the images is fixed.
        padding_mode: must be "zeros".
        input_size: (H, W), to give the running estimate its final shape at once, as zeros with no batch counted.
            It changes nothing else.
        device, dtype: of parameters and buffers, as for Conv2d.

    State: `weight` (C_out, C_in / groups, k, k); `affine.weight` (C_out, 1, k, k) and `affine.bias` (C_out,); the
    buffers `running_preconditioner` (C_out, P1, P2 // 2 + 1), which is empty until the first training batch unless
    `input_size` is given, and `num_batches_tracked`. The estimate is never narrower than float32. The state dict's
    metadata records the grid, since the half spectrum does not tell an even width from an odd one. Without metadata the
    estimate takes the first input size that its shape allows.

    Evaluation without gradients keeps the preconditioned spectra of "matmul" from batch to batch, until a weight or the
    running estimate changes or `train()` or `eval()` is called. On a GPU torch's version counters show a change, but
    not a write through `.data`: call `eval()` after such a write.

    The running estimate belongs to one input size. At another size evaluation uses the preconditioner of the weights,
    and training restarts the estimate from the preconditioner of that batch.

    Raises:
        ValueError: an argument is out of its range, or an input is not (N, C_in, H, W) or smaller than the kernel.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int | tuple[int, int],
        stride: int | tuple[int, int] = 1,
        padding: int | tuple[int, int] | str = 0,
        dilation: int | tuple[int, int] = 1,
        groups: int = 1,
        bias: bool = False,
        *,
        padding_mode: str = "zeros",
        affine: bool = True,
        momentum: float | None = None,
        track_running_stats: bool = True,
        method: str = "auto",
        input_size: tuple[int, int] | None = None,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        self.in_channels = _positive("in_channels", in_channels)
        self.out_channels = _positive("out_channels", out_channels)
        self.kernel_size = k = _positive("kernel_size", _single("kernel_size", kernel_size))
        self.stride = _positive("stride", _single("stride", stride))
        self.dilation = _positive("dilation", _single("dilation", dilation))
        self.groups = _positive("groups", groups)
        if self.in_channels % self.groups or self.out_channels % self.groups:
            raise ValueError(f"groups must divide {in_channels} input and {out_channels} output channels, got {groups}")
        self.padding = _padding(padding, self._reach + 1, self.stride)
        if padding_mode != "zeros":
            raise ValueError(f'padding_mode must be "zeros", as ConvNorm is defined, got {padding_mode!r}')
        if bias:
            raise ValueError("bias must be False: the layer's affine part (affine=True) has a bias")
        if affine and k % 2 == 0:
            raise ValueError(f"an affine part needs an odd kernel_size, got {kernel_size}; pass affine=False")
        if momentum is not None and (type(momentum) not in (int, float) or not 0.0 < momentum <= 1.0):
            raise ValueError(f"momentum must be None or in (0, 1], got {momentum!r}")
        self.momentum = momentum
        self.track_running_stats = track_running_stats
        if method not in ("auto", *METHODS):
            raise ValueError(f"method must be one of auto, {', '.join(METHODS)}, got {method!r}")
        if method == "matmul" and self.groups > 1:
            raise ValueError(f'method "matmul" needs groups=1, got {groups}; use "fft", "filter" or "auto"')
        self.method = method

        shape = (self.out_channels, self.in_channels // self.groups, k, k)
        self.weight = nn.Parameter(torch.empty(shape, device=device, dtype=dtype))
        self.affine: nn.Conv2d | None = None
        if affine:
            c = self.out_channels
            self.affine = nn.Conv2d(c, c, k, padding=(k - 1) // 2, groups=c, device=device, dtype=dtype)
        self._kept: KeptSpectra | None = None
        grid = None if input_size is None else self._grid_of(input_size)
        size = (0, 0) if grid is None else self.estimate_shape(grid)
        self._make_estimate(size if track_running_stats else None, _wide(self.weight.dtype), device)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Initialise the kernels as Conv2d does, and the affine part as the identity. Forget the running estimate.

        The reference leaves the affine part at Conv2d's random default, which scales each channel by about 0.33 and
        blurs it at random. With the identity the layer starts as the channel-wise isometry that the paper describes
        (docs/design.md has the comparison).
        """
        nn.init.kaiming_uniform_(self.weight, a=math.sqrt(5))
        if self.affine is not None:
            assert self.affine.bias is not None
            nn.init.dirac_(self.affine.weight, groups=self.out_channels)
            nn.init.zeros_(self.affine.bias)
        self._kept = None
        self._forget_estimate()

    def forward(self, x: Tensor) -> Tensor:
        y, finish = self.split(x)
        return finish(y)

    def split(self, x: Tensor) -> tuple[Tensor, AffinePart]:
        """The result y of steps 1 to 4, and the affine part as a function from y to the output, cheap to repeat."""
        self._check_input(x)
        method = self._pick_method(x)
        dtype = _wide(self.weight.dtype)  # V spans orders of magnitude
        autocast = under_autocast(x)
        narrow = (
            autocast
            and method.narrow
            and dtype is torch.float32
            and torch.get_autocast_dtype(x.device.type) is torch.bfloat16
        )
        with without_autocast(x):
            y = self._filter(method, x.to(torch.bfloat16 if narrow else dtype), self.weight.to(dtype))
        parameters = self._affine_parameters() if self.kernel_size > 1 else ()
        module = self.affine if self.affine is not None and has_hooks(self.affine) else None
        return y, AffinePart(parameters, y.dtype if autocast else self.weight.dtype, x.is_contiguous(), module)

    def _filter(self, method: Method, x: Tensor, weight: Tensor) -> Tensor:
        grid = (x.shape[2] + self._reach, x.shape[3] + self._reach)
        if self.kernel_size == 1:  # V is one number per channel, so V and the affine part only scale the kernel
            weight = weight * self._current_preconditioner(method, weight, (1, 1)).unsqueeze(1)
            scale, bias = self._affine_parameters() or (None, None)
            # A strided 1x1 convolution reads only these pixels. Slicing is cheaper, and safe: with a stride, torch
            # 2.14.1's backward pass writes outside its memory for few channels in channels_last.
            x = x[:, :, :: self.stride, :: self.stride]
            if scale is not None and bias is not None:
                weight, bias = weight * scale.to(x.dtype), bias.to(x.dtype)
            return F.conv2d(x, weight.to(x.dtype), bias, groups=self.groups)
        if self._can_keep(method, x) and (kept := self._kept_filter(method, x, weight, grid)) is not None:
            return kept(x, weight)
        v = self._current_preconditioner(method, weight, grid)
        return method.filtered_conv(x, weight, v, self.stride, self.padding, self.dilation, self.groups)

    def _affine_parameters(self) -> tuple[Tensor, Tensor] | tuple[()]:
        if self.affine is None or has_hooks(self.affine):
            return ()
        assert self.affine.bias is not None
        return self.affine.weight, self.affine.bias

    def _pick_method(self, x: Tensor) -> Method:
        if self.method != "auto":
            return METHODS[self.method]
        if torch.compiler.is_exporting() or torch.onnx.is_in_onnx_export():
            return EXPORT if all(type(side) is int for side in x.shape[2:]) else FFT
        if torch.jit.is_tracing() or under_a_transform():  # type: ignore[attr-defined, no-untyped-call]
            return FFT
        if self.kernel_size == 1:
            return AUTO["matmul"]  # it decides only whether bfloat16 autocast applies
        if not x.is_cpu:
            return AUTO["fft"]  # the fewest kernels and bytes, and the fastest on an H200 (docs/performance.md)
        among = tuple(AUTO) if self.groups == self.dilation == 1 else ANY_CONVOLUTION
        if under_autocast(x):  # the costs are those of float32
            fits = "matmul" in among and max(x.shape[2:]) + self._reach <= LARGEST_MATMUL_GRID
            return AUTO["matmul" if fits else "fft"]
        geometry = Geometry(x.shape[2], x.shape[3], self._reach + 1, self.stride, self.padding)
        c_in = self.in_channels // self.groups
        task = preconv_cost.Task(x.shape[0], c_in, self.out_channels, geometry, self.training, self.dilation)
        return AUTO[preconv_cost.fastest(task, among)]

    def _current_preconditioner(self, method: Method, weight: Tensor, grid: tuple[int, int]) -> Tensor:
        """V for this batch: training computes it from the weights and averages it, evaluation takes the estimate."""
        if self.training or not self._is_estimated_at(grid):
            v = method.preconditioner(weight, grid, self.dilation)
            if self.training and self.track_running_stats:
                self._update_running(v, grid)
            return v
        assert self.running_preconditioner is not None
        return self.running_preconditioner.to(weight.dtype)

    @torch.no_grad()
    def evaluation_gain(self, grid: tuple[int, int]) -> Tensor:
        """The V (C_out, P1, P2 // 2 + 1) of evaluation on `grid`; give (1, 1) for k = 1. It updates nothing."""
        if not self._is_estimated_at(grid):
            return preconv_fft.preconditioner(self.weight.to(_wide(self.weight.dtype)), grid, self.dilation)
        assert self.running_preconditioner is not None
        return self.running_preconditioner

    def _can_keep(self, method: Method, x: Tensor) -> bool:
        """Whether spectra may be kept: in an evaluation that is not differentiated, traced or transformed."""
        return (
            method.prepare is not None
            and not self.training
            and not (torch.is_grad_enabled() and (x.requires_grad or self.weight.requires_grad))
            and KeptSpectra.allowed()
        )

    def _kept_filter(self, method: Method, x: Tensor, weight: Tensor, grid: tuple[int, int]) -> KeptFilter | None:
        """The filtered convolution with spectra kept from an earlier batch, or None if they would be too large."""
        assert method.prepare is not None
        estimated = self._is_estimated_at(grid)
        sources: list[Tensor] = []
        if method.keeps_kernels or not estimated:  # to compare kernels takes a tenth of the evaluation of one image
            sources.append(self.weight)
        if estimated:
            assert self.running_preconditioner is not None
            sources.append(self.running_preconditioner)
        key = (x.shape[2:], x.dtype, x.device, method)
        kept = self._kept  # read once: another thread may replace it
        if kept is None or not kept.is_of(sources, key):
            v = self._current_preconditioner(method, weight, grid)
            run = method.prepare(x, weight, v, self.stride, self.padding, self.dilation, self.groups)
            kept = self._kept = KeptSpectra.of(sources, key, run)
        return kept.run

    def train(self, mode: bool = True) -> "PreConv2d":
        self._kept = None
        if not mode:
            self._look_for_batches()
        return super().train(mode)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> "PreConv2d":
        self._kept = None  # .to(), .double() and the like
        before = self.running_preconditioner
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        after = self.running_preconditioner
        if before is not None and after is not None and _wide(after.dtype) != after.dtype:
            self.running_preconditioner = before.to(after.device)  # V spans orders of magnitude, the weights do not
        return self

    def _state(self) -> dict[str, Any]:
        return {**super()._state(), "_kept": None}  # a copy makes its own

    def estimate_shape(self, grid: tuple[int, int]) -> tuple[int, int]:
        """(P1, P2 // 2 + 1), the half spectrum of rfft2."""
        return (1, 1) if self.kernel_size == 1 else (grid[0], grid[1] // 2 + 1)

    @property
    def _reach(self) -> int:
        """k' - 1, by which the grid is larger than the images."""
        return self.dilation * (self.kernel_size - 1)

    def _grid_of(self, input_size: tuple[int, int]) -> tuple[int, int]:
        if not isinstance(input_size, tuple | list | torch.Size) or len(input_size) != 2:
            raise ValueError(f"input_size must be two whole numbers (H, W), got {input_size!r}")
        height, width = (_positive("input_size", side) for side in input_size)
        if min(height, width) + 2 * self.padding <= self._reach:
            raise ValueError(f"input_size {input_size} is smaller than the {self._reach + 1}-wide kernel")
        return height + self._reach, width + self._reach

    def _check_input(self, x: Tensor) -> None:
        if x.dim() != 4 or x.shape[1] != self.in_channels:
            raise ValueError(f"expected an input (N, {self.in_channels}, H, W), got {tuple(x.shape)}")
        if min(x.shape[2:]) + 2 * self.padding <= self._reach:
            raise ValueError(f"input {tuple(x.shape)} is smaller than the {self._reach + 1}-wide kernel")

    def _load_from_state_dict(
        self, state_dict: Any, prefix: str, local_metadata: Any, strict: bool, *args: Any
    ) -> None:
        self._kept = None
        super()._load_from_state_dict(state_dict, prefix, local_metadata, strict, *args)

    def extra_repr(self) -> str:
        return (
            f"{self.in_channels}, {self.out_channels}, kernel_size={self.kernel_size}, stride={self.stride}, "
            f"padding={self.padding}, dilation={self.dilation}, groups={self.groups}, momentum={self.momentum}, "
            f"track_running_stats={self.track_running_stats}"
        )


def _wide(dtype: torch.dtype) -> torch.dtype:
    return torch.promote_types(dtype, torch.float32)


def _single(name: str, value: int | str | tuple[int, int]) -> int:
    values = value if isinstance(value, tuple | list) else (value, value)
    if len(values) != 2 or values[0] != values[1]:
        raise ValueError(f"{name} must be one whole number or two equal ones, got {value!r}")
    return _whole(name, values[0])


def _padding(value: int | tuple[int, int] | str, kernel: int, stride: int) -> int:
    if value == "valid":
        return 0
    if value == "same":
        if kernel % 2 == 0 or stride != 1:
            raise ValueError('padding="same" needs an odd kernel_size or an even dilation, and a stride of 1')
        return (kernel - 1) // 2
    padding = _single("padding", value)
    if not 0 <= padding < kernel:
        raise ValueError(f"padding must be from 0 to dilation * (kernel_size - 1) = {kernel - 1}, got {padding}")
    return padding


def _positive(name: str, value: int) -> int:
    if _whole(name, value) < 1:
        raise ValueError(f"{name} must be a positive whole number, got {value!r}")
    return int(value)


def _whole(name: str, value: Any) -> int:
    try:
        if isinstance(value, bool):
            raise TypeError
        return operator.index(value)  # numpy's integers too
    except TypeError as error:
        raise ValueError(f"{name} must be a whole number, got {value!r}") from error
