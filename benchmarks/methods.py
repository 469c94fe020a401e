"""The methods of ConvNorm side by side, and what `auto` takes: python -m benchmarks.methods [-o FILE] [--seconds 240]

It measures one layer at shapes drawn at random (size 4 to 224, 3 to 512 channels, batch 1 to 128, stride 1 and 2; a
step forward and backward, or an evaluation), as many as fit the time, and prints how much longer the method that `auto`
takes is than the fastest. `-o` adds the measurements to a file. `--fit FILE` reads such a file, and prints the seconds
of models/preconv_cost.py that fit it best, and how well.
"""

import argparse
import json
import random
import statistics
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from scipy.optimize import nnls

from benchmarks.harness import set_up
from models import preconv_cost, preconv_fft
from models.preconv import METHODS, PreConv2d
from models.preconv_constants import Geometry
from models.preconv_cost import Task

Measured = dict[str, float]
CHANNELS = ((3, 16), (3, 64), (16, 16), (16, 32), (32, 32), (64, 64), (64, 128), (128, 128), (256, 256), (512, 512))
SIZES = (4, 7, 8, 14, 16, 28, 32, 56, 64, 112, 128, 224)
BATCHES = (1, 2, 4, 8, 16, 32, 64, 128)
ROUNDS = 4


def tasks(seed: int) -> list[Task]:
    """Shapes of networks that people train, in random order: neither trivial nor longer than a second or so."""
    found = [
        Task(batch, *channels, Geometry(size, size, 3, stride, 1), training)
        for batch in BATCHES
        for channels in CHANNELS
        for size in SIZES
        for stride in (1, 2)
        for training in (True, False)
        if 2e3 < batch * max(channels) * size**2 < 3e7
        and batch * channels[0] * channels[1] * 9 * size**2 < 1.2e9
        and max(channels) * size < 9000
    ]
    random.Random(seed).shuffle(found)
    return found


def measure(task: Task) -> Measured:
    """The shortest of a few interleaved runs of each method, in seconds, and of a plain convolution ("conv")."""
    geometry = task.geometry
    torch.manual_seed(0)
    x = torch.randn(task.batch, task.c_in, geometry.height, geometry.width).relu()
    x = x.contiguous(memory_format=torch.channels_last).requires_grad_(task.training)
    weight = torch.randn(task.c_out, task.c_in, 3, 3).div_(task.c_in**0.5).requires_grad_(task.training)
    v = preconv_fft.preconditioner(weight, geometry.grid)
    rest = (geometry.stride, geometry.padding)
    runs = {"conv": lambda x: F.conv2d(x, weight, stride=geometry.stride, padding=geometry.padding)}
    for name, method in METHODS.items():
        if task.training:
            runs[name] = lambda x, method=method: method.filtered_conv(x, weight, v, *rest)
        else:  # as a layer, since what it keeps, it compares with the weights
            layer = PreConv2d(task.c_in, task.c_out, 3, *rest, affine=False, method=name)
            layer.load_state_dict({"weight": weight}, strict=False)
            layer(x[:1])  # a training step, for the running estimate
            runs[name] = layer.eval()
    grad = torch.randn(task.batch, task.c_out, *geometry.out).contiguous(memory_format=torch.channels_last)
    found: Measured = dict.fromkeys(runs, float("inf"))
    for turn in range(ROUNDS):
        for name, run in runs.items():
            start = time.perf_counter()
            with torch.set_grad_enabled(task.training):
                y = run(x)
            if task.training:
                y.backward(grad)
            if turn:
                found[name] = min(found[name], time.perf_counter() - start)
            x.grad = weight.grad = None
    return found


def written(task: Task, found: Measured) -> str:
    return json.dumps([task[:3], *vars(task.geometry).values(), task.training, found])


def read(path: Path) -> Iterator[tuple[Task, Measured]]:
    for line in path.read_text().splitlines():
        shape, *geometry, training, found = json.loads(line)
        yield Task(*shape, Geometry(*geometry), training), found


def fit(results: list[tuple[Task, Measured]]) -> None:
    """Print the seconds of each count with the least relative error, none of them negative."""
    for method, counts in preconv_cost.COUNTS.items():
        measured = np.array([found[method] for _, found in results])
        rows = np.array([counts(task) for task, _ in results], dtype=float) / measured[:, None]
        seconds, _ = nnls(rows, np.ones(len(rows)))
        errors = np.abs(np.log(rows @ seconds))
        print(
            f'"{method}": ({", ".join(f"{value:.2g}" for value in seconds)}),  # wrong by a factor of '
            f"{np.exp(np.median(errors)):.2f} in the median, {np.exp(np.quantile(errors, 0.9)):.2f} in the worst tenth"
        )


def judge(results: list[tuple[Task, Measured]]) -> None:
    """Print a table of how much longer `auto` takes than the fastest method, and every method likewise."""
    print("| | shapes | " + " | ".join(("auto", *METHODS)) + " | auto, 95 % of shapes within | auto, worst |")
    print("|---|---|" + "---|" * (len(METHODS) + 3))
    for training, what in ((True, "forward and backward"), (False, "evaluation")):
        of_kind = [(task, found) for task, found in results if task.training == training]
        ratios: dict[str, list[float]] = {name: [] for name in ("auto", *METHODS)}
        for task, found in of_kind:
            best = min(found[name] for name in METHODS)
            for name in METHODS:
                ratios[name].append(found[name] / best)
            ratios["auto"].append(found[preconv_cost.fastest(task)] / best)
        means = [f"{statistics.mean(ratios[name]):.2f}" for name in ratios]
        worst = [f"{np.quantile(ratios['auto'], 0.95):.2f}", f"{max(ratios['auto']):.2f}"]
        print(f"| {what} | {len(of_kind)} | " + " | ".join(means + worst) + " |")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("-o", "--output", type=Path)
    parser.add_argument("--seconds", type=float, default=240)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--fit", type=Path)
    arguments = parser.parse_args()
    if arguments.fit:
        results = list(read(arguments.fit))
        fit(results)
    else:
        set_up(arguments.threads)
        results, end = [], time.monotonic() + arguments.seconds
        for task in tasks(arguments.seed):
            if time.monotonic() > end:
                break
            results.append((task, measure(task)))
            if arguments.output:
                with arguments.output.open("a") as file:
                    file.write(written(*results[-1]) + "\n")
    judge(results)


if __name__ == "__main__":
    main()
