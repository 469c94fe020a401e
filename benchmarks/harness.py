"""Timing side by side: what is compared takes turns in one process, and the median of each is quoted."""

import os
import platform
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import torch

from utils.memory import keep_freed_memory

Timings = dict[str, list[float]]


def interleaved(functions: Mapping[str, Callable[[], object]], rounds: int, warm_up: int = 1) -> Timings:
    """Seconds of each call of each function: A B C A B C ..., the first `warm_up` rounds not counted."""
    seconds: Timings = {name: [] for name in functions}
    for turn in range(warm_up + rounds):
        for name, function in functions.items():
            start = time.perf_counter()
            function()
            if torch.cuda.is_available():
                torch.cuda.synchronize()
            if turn >= warm_up:
                seconds[name].append(time.perf_counter() - start)
    return seconds


def medians(seconds: Timings) -> dict[str, float]:
    return {name: statistics.median(values) for name, values in seconds.items()}


def spread_of(values: Sequence[float]) -> str:
    """Median, lowest and highest, to read."""
    return f"{statistics.median(values):.3f} ({min(values):.3f} to {max(values):.3f})"


def ratio(seconds: Timings, name: str, baseline: str) -> tuple[float, float, float]:
    """Median, lowest and highest of the turn-by-turn ratios of `name` to `baseline`."""
    ratios = [a / b for a, b in zip(seconds[name], seconds[baseline], strict=True)]
    return statistics.median(ratios), min(ratios), max(ratios)


def set_up(threads: int, *, keep: bool = True) -> None:
    """Keep freed memory, as train.py does by default. Threads are given, so that runs can be compared."""
    if keep:
        keep_freed_memory()
    torch.set_num_threads(threads)


def machine() -> dict[str, object]:
    """Where a figure was measured."""
    names = [
        line.split(":")[1].strip() for line in _read("/proc/cpuinfo").splitlines() if line.startswith("model name")
    ]
    return {
        "processor": names[0] if names else platform.processor(),
        "flags": sorted({"avx2", "avx512f", "avx512_bf16", "amx_bf16"} & set(_read("/proc/cpuinfo").split())),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "python": platform.python_version(),
        "device": torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu",
    }


def resident_megabytes(field: str) -> float:
    """VmRSS (now) or VmHWM (the peak since `forget_peak`) of this process, in MB of 2^20 bytes. Linux only."""
    (line,) = [line for line in _read("/proc/self/status").splitlines() if line.startswith(field)]
    return int(line.split()[1]) / 1024


def forget_peak() -> None:
    Path("/proc/self/clear_refs").write_text("5")


def _read(path: str) -> str:
    try:
        return Path(path).read_text()
    except OSError:
        return ""
