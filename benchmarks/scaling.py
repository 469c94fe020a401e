"""How the layer's time and memory grow: python -m benchmarks.scaling [-o FOLDER]

One forward and backward of a 3x3 PreConv2d, by either method, against the image size, the channels and the batch. It
prints the exponents that a straight line fits to the larger half of each log-log curve, and draws the curves.
"""

import argparse
import json
import math
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.profiler import ProfilerActivity, profile

from benchmarks.harness import interleaved, machine, set_up
from models.preconv import PreConv2d

#: Which sizes are tried, primes among them, and what the other two are held at.
SWEEPS: dict[str, tuple[list[int], dict[str, int]]] = {
    "size": ([8, 9, 11, 15, 16, 17, 21, 27, 29, 31, 32, 33, 35, 45, 48, 59, 64, 65, 69, 95, 96, 97, 111, 128], {}),
    "channels": ([16, 32, 64, 128, 256, 512], {"size": 16, "batch": 32}),
    "batch": ([1, 2, 4, 8, 16, 32, 64, 128, 256, 512], {"size": 16, "channels": 64}),
}
DEFAULT = {"size": 16, "channels": 32, "batch": 16}
TICKS = {"size": [8, 16, 32, 64, 128], "channels": SWEEPS["channels"][0], "batch": [1, 4, 16, 64, 256]}
STYLE = {"fft": ("#d55e00", "s"), "matmul": ("#0072b2", "o")}


def make_step(method: str, size: int, channels: int, batch: int) -> Callable[[], None]:
    torch.manual_seed(0)
    layer = PreConv2d(channels, channels, 3, padding=1, method=method)
    x = torch.randn(batch, channels, size, size).to(memory_format=torch.channels_last).requires_grad_()
    grad = torch.randn_like(x)

    def step() -> None:
        y: Tensor = layer(x)
        nn.Module.zero_grad(layer)
        x.grad = None
        y.backward(grad)

    return step


def peak_megabytes(step: Callable[[], None]) -> float:
    """The most that tensors take at one time during `step` beyond what they took before, in MB of 2^20 bytes."""
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as recorded:
        step()
    events = [e for e in recorded.profiler.kineto_results.events() if e.name() == "[memory]"]
    sizes = [e.nbytes() for e in sorted(events, key=lambda e: e.start_ns())]
    return float(np.cumsum(sizes).max()) / 2**20


def exponent(points: list[tuple[int, float]]) -> float:
    """The slope of log(value) against log(x), over the larger half of the x."""
    half = points[len(points) // 2 :]
    return float(np.polyfit([math.log(x) for x, _ in half], [math.log(y) for _, y in half], 1)[0])


def sweep(name: str, rounds: int) -> dict[str, dict[str, list[tuple[int, float]]]]:
    """{"seconds" or "megabytes": {method: [(value of what is varied, figure)]}}"""
    values, others = SWEEPS[name]
    curves: dict[str, dict[str, list[tuple[int, float]]]] = {
        what: {method: [] for method in STYLE} for what in ("seconds", "megabytes")
    }
    for value in values:
        shape = {**DEFAULT, **others, name: value}
        steps = {method: make_step(method, **shape) for method in STYLE}
        seconds = interleaved(steps, rounds, warm_up=2)
        for method in STYLE:
            curves["seconds"][method].append((value, statistics.median(seconds[method])))
            curves["megabytes"][method].append((value, peak_megabytes(steps[method])))
    return curves


def draw(found: dict[str, dict[str, dict[str, list[tuple[int, float]]]]], path: Path) -> None:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(12, 7), layout="constrained")
    panels = figure.subplots(2, len(found), squeeze=False)
    for column, (name, curves) in enumerate(found.items()):
        for row, (what, by_method) in enumerate(curves.items()):
            axes = panels[row, column]
            for method, points in by_method.items():
                color, marker = STYLE[method]
                label = f"{method}, exponent {exponent(points):.1f}"
                axes.loglog(*zip(*points, strict=True), color=color, marker=marker, markersize=4, label=label)
            fixed = ", ".join(f"{key} {value}" for key, value in {**DEFAULT, **SWEEPS[name][1]}.items() if key != name)
            axes.set(xlabel=f"{name} ({fixed})", ylabel="seconds" if what == "seconds" else "MB at the peak")
            axes.set_xticks(TICKS[name], [str(tick) for tick in TICKS[name]])
            axes.minorticks_off()
            axes.legend(fontsize=8)
            axes.grid(alpha=0.3)
    figure.suptitle("Forward and backward of one 3x3 ConvNorm layer", fontsize=11)
    figure.savefig(path, dpi=120)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "-o", "--output", type=Path, default=Path("saved/bench"), help="folder for the JSON and the plot"
    )
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=2)
    args = parser.parse_args()
    set_up(args.threads)
    found = {name: sweep(name, args.rounds) for name in SWEEPS}
    args.output.mkdir(parents=True, exist_ok=True)
    stem = args.output / time.strftime("scaling_%Y%m%d_%H%M%S")
    stem.with_suffix(".json").write_text(json.dumps({"machine": machine(), "curves": found}, indent=1) + "\n")
    draw(found, stem.with_suffix(".png"))
    print("| against | time, fft | time, matmul | memory, fft | memory, matmul |\n|---|---|---|---|---|")
    for name, curves in found.items():
        fits = [exponent(curves[what][method]) for what in curves for method in STYLE]
        print(f"| {name} | " + " | ".join(f"{fit:.2f}" for fit in fits) + " |")
    print("\n| size | seconds, fft | seconds, matmul | fft / matmul |\n|---|---|---|---|")
    seconds = found["size"]["seconds"]
    for (size, fft), (_, matmul) in zip(seconds["fft"], seconds["matmul"], strict=True):
        print(f"| {size} | {fft:.4f} | {matmul:.4f} | {fft / matmul:.1f} |")
    print(f"wrote {stem}.json and {stem}.png")


if __name__ == "__main__":
    main()
