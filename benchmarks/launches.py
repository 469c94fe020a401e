"""What a training step would start on a GPU, counted without one: python -m benchmarks.launches [-o FILE]

A step runs on torch's meta device, whose tensors have shapes and no values, and for which ConvNorm takes the paths of
CUDA. (Autograd refuses fake CUDA tensors where there is no GPU.) The table has the step's kernels, the bytes that they
read and write, and their floating-point operations. A roofline makes an estimate of the step's time on three GPUs: for
each kernel the longest of its bytes at the memory's bandwidth, its operations at the arithmetic's peak, and the time to
launch it. These are estimates; where there is a GPU, a last column has the ratio that was measured on it.

"Compiled" follows one rule: an elementwise kernel that reads what an elementwise kernel or a BatchNorm has written
joins it. ConvNorm's operators are opaque to the compiler, so what is within them is not joined.
"""

import argparse
import json
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple
from unittest.mock import patch

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import flop_registry

from benchmarks.harness import interleaved, medians
from benchmarks.speed import Training
from models import preconv_filter, preconv_kept, preconv_matmul, preconv_operators
from models.preconv import PreConv2d

ARMS = ("bn", "conv", "bncn", "bncn:matmul", "bncn:filter", "conv_published")
LAUNCH = 5e-6  # seconds from one small kernel to the next, of eager PyTorch on current hosts
# What one operator of aten starts, if not one kernel: views and allocations none, and these:
KERNELS = {"convolution_backward": 2, "_fft_r2c": 2, "_fft_c2r": 2, "native_batch_norm": 2}
NONE = {"empty", "new_empty", "empty_like", "empty_strided", "new_empty_strided", "detach", "_unsafe_view"}
NORMS = {"native_batch_norm", "cudnn_batch_norm", "native_batch_norm_backward", "cudnn_batch_norm_backward"}


class GPU(NamedTuple):
    """Peaks of the data sheets: bytes and float32 operations a second, and those of a convolution (TF32 if it has)."""

    bandwidth: float
    float32: float
    convolution: float


GPUS = {
    "H100 SXM": GPU(3.35e12, 67e12, 494e12),
    "T4": GPU(0.32e12, 8.1e12, 8.1e12),
    "RTX 4090": GPU(1.01e12, 82.6e12, 82.6e12),
}


@dataclass
class Kernel:
    """One operator of aten: its kernels, bytes and operations; `joins` another when compiled, which saves `read`."""

    name: str
    count: int
    bytes: int
    operations: int
    joins: bool
    read: int

    def seconds(self, gpu: GPU, compiled: bool) -> float:
        peak = gpu.convolution if self.name.startswith("convolution") else gpu.float32
        joins = compiled and self.joins
        moved = self.bytes - self.read if joins else self.bytes
        launch = 0.0 if joins else self.count * LAUNCH
        return max(launch, moved / gpu.bandwidth, self.operations / peak)


@dataclass
class Recorder(TorchDispatchMode):
    """Collects the kernels of all operators on meta tensors that run within it."""

    kernels: list[Kernel] = field(default_factory=list)
    opaque: int = 0  # how many of ConvNorm's operators are running

    def __post_init__(self) -> None:
        super().__init__()
        self._joinable: set[int] = set()  # storages that an elementwise kernel or a norm has written

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        result = func(*args, **kwargs)
        inputs = [t for t in tree_leaves((args, {k: v for k, v in kwargs.items() if k != "out"})) if _on_meta(t)]
        outputs = [t for t in tree_leaves(result) if _on_meta(t)]
        name = func.overloadpacket.__name__
        view = any(r.alias_info is not None and not r.alias_info.is_write for r in func._schema.returns)
        if not inputs or view or name in NONE:  # constants are made on the CPU, once
            return result
        formula = flop_registry.get(func.overloadpacket)
        operations = formula(*args, **kwargs, out_val=result) if formula else 0
        elementwise = torch.Tag.pointwise in func.tags
        joined = [_size(t) for t in inputs if _storage(t) in self._joinable]
        joins = elementwise and bool(joined) and not self.opaque
        moved = sum(map(_size, inputs)) + sum(map(_size, outputs))
        self.kernels.append(Kernel(name, KERNELS.get(name, 1), moved, operations, joins, max(joined, default=0)))
        for tensor in outputs:
            change = (
                self._joinable.add if (elementwise or name in NORMS) and not self.opaque else self._joinable.discard
            )
            change(_storage(tensor))
        return result

    def totals(self) -> dict[str, float]:
        return {
            "kernels": sum(kernel.count for kernel in self.kernels),
            "compiled": sum(kernel.count for kernel in self.kernels if not kernel.joins),
            "bytes": sum(kernel.bytes for kernel in self.kernels),
            "operations": sum(kernel.operations for kernel in self.kernels),
        }

    def seconds(self, gpu: GPU, compiled: bool) -> float:
        return sum(kernel.seconds(gpu, compiled) for kernel in self.kernels)


def _on_meta(value: Any) -> bool:
    return isinstance(value, Tensor) and value.device.type == "meta"


def _storage(tensor: Tensor) -> int:
    return tensor.untyped_storage()._cdata


def _size(tensor: Tensor) -> int:
    """Bytes that are read or written: those of an expanded tensor once."""
    return min(tensor.numel() * tensor.element_size(), tensor.untyped_storage().nbytes())


@contextmanager
def recorded() -> Iterator[Recorder]:
    """A recorder that looks into ConvNorm's operators, of which meta tensors otherwise need the shapes alone."""
    recorder = Recorder()
    within = {
        "forward_operator": preconv_matmul.forward,
        "backward_operator": preconv_matmul.backward,
        "filter_operator": preconv_filter.spectral_filter,
        "preconditioner_operator": preconv_matmul.inverse_root_of_gram,
    }

    def opaque(function: Callable[..., Any]) -> Callable[..., Any]:
        def run(*args: Any) -> Any:
            recorder.opaque += 1
            try:
                return function(*args)
            finally:
                recorder.opaque -= 1

        return run

    with ExitStack() as stack:
        for name, function in within.items():
            stack.enter_context(patch.object(preconv_operators, name, opaque(function)))
        # What is kept is made before the steps that are counted; the recorder is no mode that forbids to use it.
        stack.enter_context(patch.object(preconv_kept, "under_a_mode", lambda: False))
        yield stack.enter_context(recorder)


def step_of(arm: str, width: int, batch: int) -> Recorder:
    """The kernels of a training step of ResNet18 on 32x32 images."""
    training = Training(arm, width, batch, device="meta")
    training.step()  # the optimizer makes its state, and a running estimate its shape
    with recorded() as recorder:
        training.step()
    return recorder


def layer_of(method: str) -> tuple[int, int]:
    """Kernels of one layer's forward and backward pass."""
    layer = PreConv2d(64, 64, 3, padding=1, method=method, device="meta")
    x = torch.randn(128, 64, 32, 32, device="meta").to(memory_format=torch.channels_last)
    x.requires_grad_()
    layer(x)
    with recorded() as forward:
        y = layer(x)
    grad = torch.empty_like(y)
    with recorded() as backward:
        y.backward(grad)
    return tuple(int(recorder.totals()["kernels"]) for recorder in (forward, backward))


def measured(arms: Iterable[str], width: int, batch: int, rounds: int) -> dict[str, float]:
    """The median seconds of a training step of each arm on this machine's GPU, by turns."""
    trainings = {arm: Training(arm, width, batch, device="cuda") for arm in arms}
    return medians(interleaved({arm: training.step for arm, training in trainings.items()}, rounds, warm_up=5))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("-o", "--output", type=Path, help="write every kernel of every step to this JSON file")
    parser.add_argument("--rounds", type=int, default=30, help="turns of the steps that are measured on a GPU")
    arguments = parser.parse_args()
    name = torch.cuda.get_device_name() if torch.cuda.is_available() else None
    columns = [*GPUS, *([f"measured, {name}"] if name else [])]
    written: dict[str, list[dict[str, Any]]] = {}
    for width, batch in ((64, 128), (16, 64)):
        print(f"\nResNet18 of width {width}, batch {batch}, 32x32, float32; estimates / bn's, eager and compiled\n")
        print("| arm | kernels | compiled | GB | TFLOP | " + " | ".join(columns) + " |")
        print("|---|---|---|---|---|" + "---|" * len(columns))
        baseline = step_of("bn", width, batch)
        seconds = measured(ARMS, width, batch, arguments.rounds) if name else {}
        for arm in ARMS:
            recorder = baseline if arm == "bn" else step_of(arm, width, batch)
            totals = recorder.totals()
            cells = [f"{totals['kernels']}", f"{totals['compiled']}"]
            cells += [f"{totals['bytes'] / 1e9:.2f}", f"{totals['operations'] / 1e12:.2f}"]
            for gpu in GPUS.values():
                ratios = (recorder.seconds(gpu, how) / baseline.seconds(gpu, how) for how in (False, True))
                cells.append(", ".join(f"{ratio:.2f}" for ratio in ratios))
            if name:
                cells.append(f"{seconds[arm] / seconds['bn']:.2f} ({1e3 * seconds[arm]:.1f} ms)")
            print(f"| {arm.replace(':', ' by ')} | " + " | ".join(cells) + " |", flush=True)
            written[f"{arm}, width {width}, batch {batch}"] = [vars(kernel) for kernel in recorder.kernels]
    print("\nKernels of one layer, forward and backward:")
    for method in ("auto", "fft", "matmul", "filter"):
        print(f"{method}: {' + '.join(map(str, layer_of(method)))}")
    if arguments.output:
        arguments.output.write_text(json.dumps(written, indent=1) + "\n")


if __name__ == "__main__":
    main()
