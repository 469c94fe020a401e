"""Damaged configs, datasets and checkpoints by the thousand: python -m tests.fuzz [--seconds 300] [--seed N]

Each target takes bytes, mutations of real ones, and holds the program to its word: a result, or one line of the right
kind of error, in bounded time and memory. With atheris installed the mutations follow the code that they reach; without
it they are drawn at random. A find is written to saved/fuzz/, and the exit code is 1. `tests/test_fuzz.py` runs each
target for a moment, and on every find so far.
"""

import argparse
import hashlib
import importlib.util
import io
import json
import os
import pickle
import random
import re
import resource
import shutil
import signal
import struct
import subprocess
import sys
import tempfile
import time
import zipfile
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from types import FrameType

import numpy as np
import torch
from PIL import Image

from data_loader.image_folder import load_image_folder
from data_loader.label_file import read_labels
from data_loader.pictures import decode
from data_loader.tiny_coco import load_tiny_coco
from grids.plan import load_grid
from parse_config import Config, load_config
from reporting.render.markdown import markdown
from reporting.render.writing import read_results
from reporting.text.document import document
from reporting.text.summary import as_csv, as_latex
from tests.conftest import ROOT, make_pixels
from tests.made_runs import config as config_of_run
from tests.made_runs import write_run
from tests.states import made_state
from trainer.checkpoint_file import pack, unpack
from trainer.restore import check_progress, check_tensors, load_optimizer
from trainer.resume import saved_config
from trainer.state import RunState, checked
from utils.errors import CheckpointError, ConfigError, DataError

SECONDS = 10.0  # that one case may take
MEMORY = 400 << 10  # KiB by which the process may grow
PLACE = Path(tempfile.gettempdir())
INTERESTING = (
    b"\0",
    b"\xff",
    b"\xff\xff\xff\xff",
    b"\x7f\xff\xff\xff",
    b"(",
    b".",
    b"R",
    b"b",
    b"\x93",
    b"]",
    b"}",
    b"t",
)


class Find(Exception):
    """The program did not keep its word."""


class TooLong(BaseException):
    """Not to be taken for an error of the case."""


@dataclass(frozen=True)
class Target:
    seeds: Callable[[], list[bytes]]
    run: Callable[[bytes], str]  # the outcome in a word


# --- targets -------------------------------------------------------------------------------------------------------


def one_line(error: Exception) -> str:
    if "\n" in str(error) or not str(error):
        raise Find(f"not one line: {error!r}")
    return "refused"


def _file(data: bytes, suffix: str) -> Path:
    path = PLACE / f"fuzz-{os.getpid()}{suffix}"
    path.write_bytes(data)
    return path


def config(data: bytes) -> str:
    try:
        found = load_config(_file(data, ".json"))
    except ConfigError as error:
        return one_line(error)
    if not isinstance(found, Config) or Config.model_validate(found.model_dump()) != found:
        raise Find("a config that does not validate")
    return "accepted"


def config_seeds() -> list[bytes]:
    whole = [load_config(path).model_dump() for path in sorted((ROOT / "configs").glob("*_bncn_10noise.json"))]
    return [json.dumps(values).encode() for values in whole]


def dataset(data: bytes, suffix: str) -> str:
    try:
        found = load_tiny_coco(_file(data, suffix))
    except DataError as error:
        return one_line(error)
    images, labels = found.images, found.labels
    side = images.shape[-1]
    square = images.shape[1:] == (3, side, side) and 8 <= side <= 256
    if images.dtype != torch.uint8 or not square or labels.shape != images.shape[:1]:
        raise Find("a dataset of another form")
    if not 0 <= int(labels.min()) <= int(labels.max()) < len(found.classes):
        raise Find("a label of no class")
    return "accepted"


def pickle_seeds() -> list[bytes]:
    images, labels = make_pixels(4, 4)
    kinds = (images, images / 255.0, np.asfortranarray(images.astype(">f4")))
    values: list[dict[str, object]] = [{"images": kind, "labels": labels} for kind in kinds]
    values.append({"images": images, "labels": labels, "classes": ["a", "b", "c", "d"]})
    return [pickle.dumps(each, protocol) for each in values for protocol in (2, 4, 5)]


def npz_seeds() -> list[bytes]:
    images, labels = make_pixels(4, 4)
    seeds = []
    for save in (np.savez, np.savez_compressed):
        buffer = io.BytesIO()
        save(buffer, images=images, labels=labels, classes=np.array(["a", "b", "c", "d"]))
        seeds.append(buffer.getvalue())
    return seeds


@cache
def state() -> RunState:
    return made_state()


def checkpoint(data: bytes) -> str:
    try:
        found = checked(unpack(data, "file"), "file")
    except CheckpointError as error:
        return one_line(error)
    try:
        check_tensors(state()["model"], found["model"], "file")
    except CheckpointError as error:
        return one_line(error)
    for key, value in found["model"].items():
        if not bool(torch.isfinite(value).all()):
            raise Find(f"{key} is not finite")
    return "accepted"


@cache
def whole_seeds() -> list[bytes]:
    return [pack(state())]


def damaged(data: bytes) -> str:
    outcome = checkpoint(data)
    if outcome == "accepted" and data not in whole_seeds():
        raise Find("a damaged checkpoint was accepted")
    return outcome


def sign(data: bytes) -> bytes:
    """`data`, which ends as a zip without a comment does, with the digest that makes it ours."""
    label = b"sha256:" + hashlib.sha256(data[:-2] + b"\0\0").hexdigest().encode()
    return data[:-2] + struct.pack("<H", len(label)) + label


def resigned(data: bytes) -> str:
    return checkpoint(sign(data))


@cache
def unsigned_seeds() -> list[bytes]:
    buffer = io.BytesIO()
    torch.save(dict(state()), buffer)
    return [buffer.getvalue()]


def repickled(data: bytes) -> str:
    """`data` as the pickle in an otherwise whole checkpoint: it takes the checks furthest."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(unsigned_seeds()[0])) as old, zipfile.ZipFile(buffer, "w") as new:
        for entry in old.infolist():
            new.writestr(entry.filename, data if entry.filename.endswith("data.pkl") else old.read(entry))
    return checkpoint(sign(buffer.getvalue()))


def inner_seeds() -> list[bytes]:
    with zipfile.ZipFile(io.BytesIO(unsigned_seeds()[0])) as archive:
        return [archive.read(next(name for name in archive.namelist() if name.endswith("data.pkl")))]


def fields(data: bytes) -> str:
    """`data` as JSON of fields that take the place of a whole checkpoint's, signed as ours: what is beyond its form."""
    try:
        changed = json.loads(data)
    except (ValueError, RecursionError):
        return "refused"
    if not isinstance(changed, dict):
        return "refused"
    model = torch.nn.Sequential(torch.nn.Linear(4, 3), torch.nn.BatchNorm1d(3))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    try:
        try:
            packed = pack({**state(), **changed})
        except (OverflowError, RecursionError, UnicodeEncodeError):
            return "refused"  # no file can hold it
        found = checked(unpack(packed, "file"), "file")
        check_tensors(model.state_dict(), found["model"], "file")
        check_progress(found, 7, "file")
        load_optimizer(optimizer, found, "file")
        saved_config(found, "file", [])
    except (CheckpointError, ConfigError) as error:
        return one_line(error)
    return "accepted"


def fields_seeds() -> list[bytes]:
    plain = {key: value for key, value in state().items() if isinstance(value, int | float | str | list | dict)}
    kept = {key: plain[key] for key in ("epoch", "batch", "global_step", "classes", "best", "history", "seconds")}
    config = load_config(ROOT / "configs" / "demo.json").model_dump()
    return [json.dumps(kept).encode(), json.dumps({"config": config, "optimizer_type": "SGD"}).encode()]


def labels(data: bytes, suffix: str) -> str:
    try:
        found = read_labels(_file(data, suffix), None, ("cat", "dog"))
    except (ConfigError, DataError) as error:
        return one_line(error)
    if found.given.dtype != torch.int64 or found.given.dim() != 1:
        raise Find(f"labels of {found.given.dtype}, {tuple(found.given.shape)}")
    return "accepted"


def labels_seeds(suffix: str) -> list[bytes]:
    array, buffer = np.arange(40) % 10, io.BytesIO()
    if suffix == ".csv":
        return [b"index,label\n7,1\n2,9\n", b"1\n2\n3\n", b"index,label,split\n7,cat,train\n2,dog,val\n"]
    if suffix == ".npy":
        other = io.BytesIO()
        np.save(buffer, array)
        np.save(other, {"clean_label": array, "label": array, "split": ["val"] * 40})
        return [buffer.getvalue(), other.getvalue()]
    torch.save({"clean_label": array, "label": torch.from_numpy(array)}, buffer)
    return [buffer.getvalue()]


def overrides(data: bytes) -> str:
    try:
        load_config(ROOT / "configs" / "demo.json", data.decode("utf-8", "surrogateescape").splitlines())
    except ConfigError as error:
        return one_line(error)
    return "accepted"


def overrides_seeds() -> list[bytes]:
    return [b"optimizer.args.lr=0.05\nname=abc", b'seed=3\ndata_loader.args={"batch_size": 32}', b"trainer.amp=null"]


def grid(data: bytes) -> str:
    path = _file(data.replace(b"configs/", str(ROOT / "configs").encode() + b"/"), ".json")
    try:
        load_grid(path)
    except ConfigError as error:
        return one_line(error)
    return "accepted"


def grid_seeds() -> list[bytes]:
    files = [json.loads((ROOT / "configs" / "grids" / name).read_text()) for name in ("cpu.json", "seeds.json")]
    for values in files:
        values["config"] = "configs/" + values["config"].removeprefix("../")
        values["seeds"] = values["seeds"][:1]
    return [json.dumps(values).encode() for values in files]


def picture(data: bytes) -> str:
    try:
        pixels = decode(data, "file").pixels
    except DataError as error:
        return one_line(error)
    if pixels.shape != (3, 32, 32) or pixels.dtype != np.uint8:
        raise Find(f"a picture of {pixels.shape}, {pixels.dtype}")
    return "accepted"


@cache
def picture_seeds() -> list[bytes]:
    pixels = np.random.default_rng(0).integers(0, 256, (20, 24, 3), dtype=np.uint8)
    seeds = []
    for kind, mode in (("PNG", "RGB"), ("PNG", "P"), ("PNG", "I;16"), ("JPEG", "L"), ("GIF", "P"), ("TIFF", "RGB")):
        picture = Image.fromarray(pixels[..., 0].astype(np.uint16) * 257) if mode == "I;16" else Image.fromarray(pixels)
        buffer = io.BytesIO()
        (picture if mode == "I;16" else picture.convert(mode)).save(buffer, kind)
        seeds.append(buffer.getvalue())
    return seeds


def pictures(data: bytes) -> str:
    """A zip of classes: names, headers, compression."""
    folder = PLACE / f"fuzz-{os.getpid()}-pictures"
    folder.mkdir(exist_ok=True)
    (folder / "pictures.zip").write_bytes(data)
    try:
        found = load_image_folder(folder / "pictures.zip")
    except DataError as error:
        return one_line(error)
    finally:
        for cached in folder.glob("*.npz"):
            cached.unlink()
    if found.images.shape[1:] != (3, 32, 32) or len(found.labels) != len(found.images):
        raise Find("a dataset of another form")
    return "accepted"


@cache
def zip_seeds() -> list[bytes]:
    seeds = []
    for method in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_LZMA, zipfile.ZIP_BZIP2):
        buffer = io.BytesIO()
        with zipfile.ZipFile(buffer, "w", method) as archive:
            for name in ("train/cat/1.png", "train/caf\u00e9/2.png", "test/cat/3.png"):
                archive.writestr(name, picture_seeds()[0])
        seeds.append(buffer.getvalue())
    return seeds


_BREAK = b"\n--- "


def run_folder(data: bytes) -> str:
    """A folder of one run, all its small files in one piece, read and written up by the report."""
    folder = PLACE / f"fuzz-{os.getpid()}-runs"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    for name, part in zip(_RUN_FILES, data.split(_BREAK), strict=False):
        (folder / name).write_bytes(part)
    try:
        results = read_results([folder])
        markdown(document(results), "results")
        as_csv(results)
        as_latex(results)
    except DataError as error:
        return one_line(error)
    return "accepted"


_RUN_FILES = ("config.json", "metrics.csv", "data.json", "diverged.json", "diagnostics.csv", "grid.json")


def run_folder_seeds() -> list[bytes]:
    with tempfile.TemporaryDirectory() as place:
        columns = {"test_accuracy": [0.2, 0.4], "train_mislabelled_given_accuracy": [0.1, 0.1]}
        folder = write_run(Path(place) / "run", config_of_run("cifar10_bn_20noise", "bn", 0.2, 12, 2), columns)
        parts = [(folder / name).read_bytes() for name in _RUN_FILES[:2]]
    parts.append(b'{"images": {"train": 90, "val": 10, "test": 20}, "wrong_labels": {"train": 18}}')
    parts.append(b'{"epoch": 2, "step": 7}')
    header = "epoch,layer,largest_singular_value,smallest_singular_value,gradient_norm,weight_norm"
    parts.append(f"{header}\n1,stem,2.0,0.5,3.0,6.0\n2,stem,2.0,,3.0,6.0\n".encode())
    cell = {"dataset": "cifar10", "arm": "bn", "noise": 20, "seed": 12, "folder": "."}
    parts.append(json.dumps({"name": "x", "cells": [cell, {**cell, "seed": 13}]}).encode())
    return [_BREAK.join(parts)]


TARGETS = {
    "overrides": Target(overrides_seeds, overrides),
    "grid": Target(grid_seeds, grid),
    "picture": Target(picture_seeds, picture),
    "zip of pictures": Target(zip_seeds, pictures),
    "run folder": Target(run_folder_seeds, run_folder),
    "checkpoint's fields": Target(fields_seeds, fields),
    "config": Target(config_seeds, config),
    "pickle": Target(pickle_seeds, lambda data: dataset(data, ".pkl")),
    "npz": Target(npz_seeds, lambda data: dataset(data, ".npz")),
    "npy of labels": Target(lambda: labels_seeds(".npy"), lambda data: labels(data, ".npy")),
    "csv of labels": Target(lambda: labels_seeds(".csv"), lambda data: labels(data, ".csv")),
    "pt of labels": Target(lambda: labels_seeds(".pt"), lambda data: labels(data, ".pt")),
    "checkpoint": Target(whole_seeds, damaged),
    "checkpoint signed anew": Target(unsigned_seeds, resigned),
    "checkpoint's pickle": Target(inner_seeds, repickled),
}


# --- one case ------------------------------------------------------------------------------------------------------


def _too_long(number: int, frame: FrameType | None) -> None:
    raise TooLong


def try_case(target: Target, data: bytes) -> str:
    """The outcome. Raises Find where the target's word is not kept."""
    grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    previous = signal.signal(signal.SIGALRM, _too_long)
    signal.setitimer(signal.ITIMER_REAL, SECONDS)
    try:
        outcome = target.run(data)
    except Find:
        raise
    except TooLong:
        raise Find(f"it took more than {SECONDS:g} s") from None
    except BaseException as error:
        raise Find(f"{type(error).__name__}: {error}") from error
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0.0)
        signal.signal(signal.SIGALRM, previous)
    grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - grown
    if grown > MEMORY:
        raise Find(f"it took {grown >> 10} MiB")
    return outcome


def mutate(draw: random.Random, data: bytes, others: Sequence[bytes]) -> bytes:
    """`data` with one to eight changes, half of them near its ends, where headers and directories are."""
    changed = bytearray(data)
    for _ in range(draw.choice((1, 1, 1, 2, 3, 8))):
        size = len(changed)
        near = draw.choice((min(size, 400), size))
        at = draw.randrange(near + 1) if draw.random() < 0.6 else size - draw.randrange(near + 1)
        length = draw.choice((1, 2, 4, 8, 30))
        kind = draw.randrange(7)
        if kind == 0 and at < size:
            changed[at] ^= 1 << draw.randrange(8)
        elif kind == 1 and at < size:
            changed[at] = draw.randrange(256)
        elif kind == 2:
            del changed[at : at + length]
        elif kind == 3:
            changed[at:at] = changed[at : at + length]
        elif kind == 4:
            piece = draw.choice(INTERESTING)
            changed[at : at + len(piece) * draw.randrange(2)] = piece
        elif kind == 5:
            other = draw.choice(others)
            start = draw.randrange(len(other) + 1)
            changed[at : at + length] = other[start : start + length]
        elif draw.random() < 0.2:
            del changed[at:]
        else:
            changed[at : at + 1] = draw.choice((b"0", b"9" * 20, b"-1", b"1e999", b"null", b'"', b"true", b"[", b"{}"))
    return bytes(changed)


def random_cases(name: str, seed: int, count: int | None = None, seconds: float = float("inf")) -> Counter[str]:
    """Outcomes of `count` mutations, or of those that `seconds` allow. Raises Find, which has the `data`."""
    target, draw, outcomes = TARGETS[name], random.Random(f"{name} {seed}"), Counter[str]()
    seeds = target.seeds()
    for data in seeds:
        outcomes[try_case(target, data)] += 1
    end = time.monotonic() + seconds
    while (count is None or outcomes.total() < count) and time.monotonic() < end:
        data = mutate(draw, draw.choice(seeds), seeds)
        try:
            outcomes[try_case(target, data)] += 1
        except Find as find:
            find.add_note(str(keep(name, data)))
            raise
    return outcomes


def keep(name: str, data: bytes) -> Path:
    folder = ROOT / "saved" / "fuzz"
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{re.sub('[^a-z]', '-', name)}-{hashlib.sha256(data).hexdigest()[:12]}"
    path.write_bytes(data)
    return path


# --- the program ---------------------------------------------------------------------------------------------------


def guided(name: str, seed: int, seconds: float) -> None:
    """Atheris, which never returns."""
    import atheris

    target = TARGETS[name]
    corpus = Path(tempfile.mkdtemp(prefix="fuzz-corpus-"))
    for number, data in enumerate(target.seeds()):
        (corpus / str(number)).write_bytes(data)
    finds = ROOT / "saved" / "fuzz"
    finds.mkdir(parents=True, exist_ok=True)
    import config_messages
    import config_schema
    import data_loader.array_file as array_file
    import data_loader.label_file as label_file
    import data_loader.npz as npz
    import data_loader.restricted_pickle as restricted_pickle
    import parse_config
    import trainer.checkpoint as checkpoint_module
    import utils.strict_json as strict_json

    ours = (
        array_file,
        label_file,
        npz,
        restricted_pickle,
        parse_config,
        config_schema,
        config_messages,
        checkpoint_module,
    )
    for module in (*ours, strict_json, pickle, zipfile):
        for value in list(vars(module).values()):
            if callable(value) and getattr(value, "__module__", None) == module.__name__ and hasattr(value, "__code__"):
                atheris.instrument_func(value)
    for method in [m for m in vars(pickle._Unpickler).values() if hasattr(m, "__code__")]:
        atheris.instrument_func(method)

    def case(data: bytes) -> None:
        try_case(target, data)

    options = [f"-max_total_time={int(seconds)}", f"-seed={seed + 1}", f"-artifact_prefix={finds}/{name[:6]}-"]
    limits = ["-max_len=60000", "-rss_limit_mb=4096", f"-timeout={int(2 * SECONDS)}", "-print_final_stats=1"]
    atheris.Setup([sys.argv[0], *options, *limits, str(corpus)], case)
    atheris.Fuzz()


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=float, default=300.0, help="in all, shared by the targets")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--target", choices=TARGETS, action="append", help="these only")
    parser.add_argument("--guided", action="store_true", help=argparse.SUPPRESS)
    args = parser.parse_args()
    names = args.target or list(TARGETS)
    torch.set_num_threads(1)
    if args.guided:
        guided(names[0], args.seed, args.seconds)
    with_atheris = importlib.util.find_spec("atheris") is not None
    print(f"seed {args.seed}, {args.seconds:g} s, {'guided by atheris' if with_atheris else 'random mutations'}")
    failed = False
    for name in names:
        share = args.seconds / len(names)
        if with_atheris:
            failed |= run_guided(name, args.seed, share / 2)
            share /= 2
        try:
            outcomes = random_cases(name, args.seed, seconds=share)
            print(f"{name}: {outcomes.total():,} random cases: {dict(sorted(outcomes.items()))}", flush=True)
        except Find as find:
            failed = True
            print(f"{name}: FOUND {find}: {', '.join(getattr(find, '__notes__', []))}", flush=True)
    return int(failed)


def run_guided(name: str, seed: int, seconds: float) -> bool:
    command = [
        sys.executable,
        "-m",
        "tests.fuzz",
        "--guided",
        "--target",
        name,
        f"--seconds={seconds}",
        f"--seed={seed}",
    ]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    runs = re.search(r"number_of_executed_units: (\d+)", done.stderr)
    coverage = re.findall(r"cov: (\d+)", done.stderr)
    print(f"{name}: {int(runs[1]) if runs else 0:,} guided cases, {coverage[-1] if coverage else 0} places reached")
    if done.returncode:
        print(done.stderr[-3000:])
    return done.returncode != 0


if __name__ == "__main__":
    sys.exit(main())
