"""What a checkpoint costs beside a plain torch.save, and of an epoch: python -m benchmarks.saving [--threads N]

A save is serialised, hashed, written, synced, read back, put in place, and the folder synced; beside it stands
torch.save to a file, flushed and synced. Both take turns. An epoch's time is that of its steps and evaluations, each
measured alone and multiplied by how many there are, for whole epochs of the full network would take too long.
docs/faults.md has the figures.
"""

import argparse
import hashlib
import json
import os
import statistics
import tempfile
from collections.abc import Callable
from pathlib import Path

import torch

from benchmarks.harness import interleaved, machine, medians, ratio, set_up
from benchmarks.speed import Training, quiet_trainer
from trainer.checkpoint import CheckpointStore
from trainer.checkpoint_file import serialise
from trainer.state import RunState
from utils.files import _check_written

TRAIN, HELD_OUT, BATCH = 2720, 680, 128  # TinyCOCO's images: 80 % train, 10 % validate, 10 % test


def plain_save(state: RunState, path: Path) -> None:
    with open(path, "wb") as file:
        torch.save(state, file)
        file.flush()
        os.fsync(file.fileno())


def parts(state: RunState, folder: Path, rounds: int) -> dict[str, float]:
    """Median seconds of what a save consists of."""
    data = memoryview(serialise(state))
    path = folder / "part"

    def write() -> None:
        with open(path, "wb", buffering=0) as file:
            file.write(data)
            os.fsync(file.fileno())

    def read_back() -> None:
        with open(path, "rb", buffering=0) as file:
            _check_written(file, data)

    pieces: dict[str, Callable[[], object]] = {
        "serialise": lambda: serialise(state),
        "SHA-256": lambda: hashlib.sha256(data).digest(),
        "write and sync": write,
        "read back and compare": read_back,
    }
    found = medians(interleaved(pieces, rounds))
    path.unlink()
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--folder", type=Path, help="where to save; it should lie on the disk that runs are saved to")
    args = parser.parse_args()
    set_up(args.threads)
    training = Training("bn", 64, BATCH, 32)
    with quiet_trainer(TRAIN + HELD_OUT) as trainer, tempfile.TemporaryDirectory(dir=args.folder) as name:
        trainer.train_step(next(iter(trainer.data.train.batches(1))))  # the optimizer makes its state
        folder = Path(name)
        store = CheckpointStore(folder)
        state = trainer.state_dict()
        saves = {
            "plain": lambda: plain_save(state, folder / "plain.pth"),
            "ours": lambda: store.save(state, newest=True, best=False),
        }
        seconds = interleaved(saves, args.rounds)
        both = interleaved({"ours": lambda: store.save(state, newest=True, best=True)}, args.rounds // 3)
        size = (folder / "plain.pth").stat().st_size
        pieces = parts(state, folder, args.rounds // 3)
    steps = medians(interleaved({"step": training.step, "evaluate": training.evaluate}, 4))
    typical = medians(seconds)
    epoch = steps["step"] * TRAIN / BATCH + steps["evaluate"] * HELD_OUT / BATCH
    middle, low, high = ratio(seconds, "ours", "plain")
    twice = statistics.median(both["ours"])
    print(json.dumps(machine()))
    print(f"a checkpoint of {size / 1e6:.1f} MB, median of {args.rounds} turns")
    print(f"  torch.save, flush, fsync   {1e3 * typical['plain']:7.1f} ms")
    print(f"  CheckpointStore.save       {1e3 * typical['ours']:7.1f} ms")
    print(f"  ratio of medians           {typical['ours'] / typical['plain']:7.2f}")
    print(f"  turn by turn               {middle:7.2f}  ({low:.2f} to {high:.2f})")
    for part, value in pieces.items():
        print(f"    {part:<24} {1e3 * value:7.1f} ms")
    print(f"an epoch of {TRAIN:,} images: {epoch:.1f} s ({1e3 * steps['step']:.0f} ms a step)")
    print(f"  a save an epoch: {typical['ours'] / (epoch + typical['ours']):.2%}; as the best as well: ", end="")
    print(f"{twice / (epoch + twice):.2%}")


if __name__ == "__main__":
    main()
