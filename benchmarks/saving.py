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
from benchmarks.speed import Training
from parse_config import load_config
from trainer.checkpoint import CheckpointStore
from trainer.checkpoint_file import serialise
from trainer.environment import environment
from trainer.state import FORMAT_VERSION, RunState
from utils.columns import FIRST_COLUMNS, LAST_COLUMN, columns_of
from utils.files import _check_written
from utils.seeding import rng_state

TRAIN, HELD_OUT, BATCH = 2720, 680, 128  # TinyCOCO's images: 80 % train, 10 % validate, 10 % test


def full_state(training: Training, epoch: int) -> RunState:
    """What Trainer.state_dict has, of the whole ResNet18 with SGD's momenta, after a run of some length."""
    half = torch.arange(HELD_OUT // 2)
    row = dict.fromkeys((*FIRST_COLUMNS, *columns_of(["top5_accuracy"]), LAST_COLUMN), 0.5)
    return {
        "format_version": FORMAT_VERSION,
        "environment": environment(torch.device("cpu"), 1),
        "config": load_config("configs/coco_bn_0noise.json").model_dump(),
        "dataset_sha256": "0" * 64,
        "classes": ["a"] * 10,
        "splits": {"train": torch.arange(TRAIN), "val": half, "test": half},
        "given_labels": torch.zeros(TRAIN + HELD_OUT, dtype=torch.int64),
        "epoch": epoch,
        "batch": 0,
        "global_step": 22 * epoch,
        "model": training.model.state_dict(),
        "optimizer_type": "SGD",
        "optimizer": training.optimizer.state_dict(),
        "scheduler": {"last_epoch": epoch},
        "scaler": {},
        "best": 0.5,
        "epochs_since_best": 0,
        "partial_sums": {},
        "history": [{**row, "epoch": i} for i in range(1, epoch + 1)],
        "seconds": 0.0,
        "rng": rng_state(),
    }


def plain_save(state: RunState, path: Path) -> None:
    with open(path, "wb") as file:
        torch.save(state, file)
        file.flush()
        os.fsync(file.fileno())


def parts(state: RunState, folder: Path, rounds: int) -> dict[str, float]:
    """Median seconds of what a save consists of."""
    data = serialise(state)
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
    training.step()
    with tempfile.TemporaryDirectory(dir=args.folder) as name:
        folder = Path(name)
        store = CheckpointStore(folder)
        state = full_state(training, 1)
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
