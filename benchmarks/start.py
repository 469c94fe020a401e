"""The time from `python train.py` to the end of its first step, of this folder or of several versions of it in turn:

    python -m benchmarks.start [FOLDER ...] [--rounds 5] [--config configs/demo.json]

Prints the median, lowest and highest seconds of each folder, and what of the slow libraries was imported on the way.
`python -X importtime train.py -c configs/demo.json` shows what an import costs.
"""

import argparse
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from benchmarks.harness import spread_of

#: Loaded by the interpreter before anything else: ends the program after its first step.
_HOOK = """
import importlib.machinery, os, sys, time

class Finder:
    def find_spec(self, name, path=None, target=None):
        if name != "trainer.trainer":
            return None
        sys.meta_path.remove(self)
        spec = importlib.machinery.PathFinder.find_spec(name, path)
        execute = spec.loader.exec_module

        def exec_module(module):
            execute(module)
            step = module.Trainer.train_step

            def first(*arguments, **options):
                step(*arguments, **options)
                slow = ("sklearn", "scipy", "sympy", "torch._dynamo", "torchvision", "matplotlib", "pandas")
                found = " ".join(name for name in slow if name in sys.modules)
                os.write(2, f"\\nFIRST {time.time()} {found}\\n".encode())
                os._exit(0)

            module.Trainer.train_step = first

        spec.loader.exec_module = exec_module
        return spec

sys.meta_path.insert(0, Finder())
"""


def first_step(folder: Path, config: str) -> tuple[float, str]:
    """Seconds to the first step of a fresh process, and the slow libraries that it imported."""
    with tempfile.TemporaryDirectory() as place:
        (Path(place) / "sitecustomize.py").write_text(_HOOK)
        environment = {**os.environ, "PYTHONPATH": place}
        command = [sys.executable, "train.py", "-c", config, "--run-dir", str(Path(place) / "run")]
        start = time.time()
        done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=300)
        lines = [line for line in done.stderr.splitlines() if line.startswith("FIRST ")]
        if done.returncode != 0 or not lines:
            raise RuntimeError(done.stderr[-2000:])
        _, moment, *slow = lines[0].split()
        return float(moment) - start, " ".join(slow) or "none"


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folders", nargs="*", type=Path, default=[Path(__file__).resolve().parent.parent])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--config", default="configs/demo.json")
    args = parser.parse_args(argv)
    seconds: dict[Path, list[float]] = {folder: [] for folder in args.folders}
    imported: dict[Path, str] = {}
    for turn in range(args.rounds + 1):  # the first round warms the file system
        for folder in args.folders:
            taken, imported[folder] = first_step(folder, args.config)
            if turn:
                seconds[folder].append(taken)
    for folder, values in seconds.items():
        print(f"{folder}: {spread_of(values)} s to the first step; imported: {imported[folder]}")


if __name__ == "__main__":
    main()
