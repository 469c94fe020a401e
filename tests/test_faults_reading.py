"""Damaged, foreign and hostile checkpoints. The numbers are those of docs/faults.md."""

import collections
import io
import json
import os
import pickle
import random
import shutil
import zipfile
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest
import torch

from tests.conftest import make_pixels
from tests.faults import Call
from tests.runs import Ended, call, contents, final_state, launch, one_line, rows, same_run
from trainer.checkpoint import read
from trainer.checkpoint_file import pack, unpack
from trainer.state import FORMAT_VERSION
from utils.errors import CheckpointError

NEWEST = "checkpoint-epoch3.pth"


@pytest.fixture
def folder(finished: Path, tmp_path: Path) -> Path:
    """A copy of a finished run that lacks an epoch."""
    folder = shutil.copytree(finished, tmp_path / "run")
    config = json.loads((folder / "config.json").read_text())
    config["trainer"]["epochs"] = 4
    (folder / "config.json").write_text(json.dumps(config))
    return folder


def refused(folder: Path, *parts: str) -> None:
    """Both programs refuse the newest checkpoint with 4 and one line, and leave the run folder as it is."""
    before = contents(folder)
    path = folder / NEWEST
    for ended in (call("train.py", "-r", path), call("test.py", "-r", path)):
        one_line(ended, 4, f"error: {path}: ", *parts)
    assert contents(folder) == before


def auto_falls_back(folder: Path, finished: Path) -> Ended:
    """`-r auto` warns, goes on from the checkpoint before, and ends as the run that was not hurt."""
    earlier = contents(folder)["checkpoint-epoch2.pth"]
    ended = launch(folder.parent, "-r", "auto", "--run-dir", folder, "trainer.epochs=3")
    assert ended.code == 0, ended.err
    assert f"WARNING: {folder / NEWEST}: " in ended.err
    assert "trying an older one" in ended.err
    assert contents(folder)["checkpoint-epoch2.pth"] == earlier
    same_run(folder, finished, 3)
    return ended


# --- damage --------------------------------------------------------------------------------------------------------

CUTS: dict[str, Callable[[int], int]] = {
    **{str(size): lambda n, size=size: size for size in (0, 1, 4)},
    **{"half": lambda n: n // 2, "n-22": lambda n: n - 22, "n-1": lambda n: n - 1},
}


@pytest.mark.parametrize("cut", CUTS)
def test_11_a_truncated_checkpoint(folder: Path, finished: Path, cut: str) -> None:
    path = folder / NEWEST
    path.write_bytes(path.read_bytes()[: CUTS[cut](path.stat().st_size)])
    refused(folder, "not a checkpoint of this program, or truncated")
    if cut in ("0", "n-1"):
        auto_falls_back(folder, finished)


def test_11_no_checkpoint_is_left_whole(folder: Path) -> None:
    for path in folder.glob("*.pth"):
        path.write_bytes(path.read_bytes()[:1000])
    before = contents(folder)
    ended = call("train.py", "-r", "auto", "--run-dir", folder)
    assert ended.code == 4
    assert ended.err.count("trying an older one") == 3
    assert ended.err.splitlines()[-1].endswith("none of its 3 checkpoints can be read; not starting over")
    assert contents(folder) == before


def accepted_after_flips(data: bytes, count: int, seed: int) -> list[int]:
    """The bits, of `count` drawn at random, without which `data` is still accepted."""
    draw, damaged, accepted = random.Random(seed), bytearray(data), []
    for _ in range(count):
        bit = draw.randrange(8 * len(data))
        damaged[bit // 8] ^= 1 << bit % 8
        try:
            unpack(bytes(damaged), "file")
            accepted.append(bit)
        except CheckpointError as error:
            assert "checksum mismatch" in str(error)  # noqa: PT017
        damaged[bit // 8] ^= 1 << bit % 8
    assert damaged == data
    return accepted


def test_12_no_flipped_bit_is_accepted(finished: Path) -> None:
    data = (finished / NEWEST).read_bytes()
    assert accepted_after_flips(data, 400, seed=0) == []
    for part in (data[:2000], data[-2000:]):  # where a zip keeps what it is about
        start = data.index(part)
        for place in range(start, start + len(part), 11):
            damaged = bytearray(data)
            damaged[place] ^= 1 << place % 8
            with pytest.raises(CheckpointError, match="checksum mismatch"):
                unpack(bytes(damaged), "file")


@pytest.mark.slow
def test_12_none_of_20000_flipped_bits_is_accepted(finished: Path) -> None:
    assert accepted_after_flips((finished / NEWEST).read_bytes(), 20_000, seed=1) == []


@pytest.mark.parametrize("share", [0.0, 0.31, 0.77, 1.0])
def test_12_a_flipped_bit_in_a_file(folder: Path, finished: Path, share: float) -> None:
    path = folder / NEWEST
    damaged = bytearray(path.read_bytes())
    damaged[int(share * (len(damaged) - 1))] ^= 16
    path.write_bytes(damaged)
    refused(folder, "checksum mismatch: the file is damaged; resume from another checkpoint")
    if share == 0.31:
        auto_falls_back(folder, finished)


def zipped(name: str, data: bytes) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr(name, data)
    return buffer.getvalue()


def saved(value: object, **options: bool) -> bytes:
    buffer = io.BytesIO()
    torch.save(value, buffer, **options)
    return buffer.getvalue()


FOREIGN = {
    "text": b"epoch: 3\n" * 50,
    "zeros": bytes(100_000),
    "a zip without data.pkl": zipped("archive/version", b"3\n"),
    "an empty zip": b"PK\x05\x06" + bytes(18),
    "weights of another program": saved({"model": {"w": torch.ones(3)}}),
    "an old form of torch.save": saved({"model": {"w": torch.ones(3)}}, _use_new_zipfile_serialization=False),
    "a pickle": pickle.dumps({"epoch": 3}),
}


@pytest.mark.parametrize("kind", FOREIGN)
def test_13_another_kind_of_file(folder: Path, finished: Path, kind: str) -> None:
    (folder / NEWEST).write_bytes(FOREIGN[kind])
    refused(folder, "not a checkpoint of this program")
    if kind == "a zip without data.pkl":
        auto_falls_back(folder, finished)


# --- hostile ones --------------------------------------------------------------------------------------------------


def make_payload(path: Path) -> Call:
    return Call(os.system, f"touch {path}")


HOSTILE = {
    "signed zip": lambda state, payload: pack({**state, "config": payload}),
    "signed zip, in the weights": lambda state, payload: pack({**state, "model": {**state["model"], "x": payload}}),
    "zip": lambda state, payload: saved({**state, "config": payload}),
    "old form of torch.save": lambda state, payload: saved(payload, _use_new_zipfile_serialization=False),
    **{f"pickle, protocol {n}": lambda state, payload, n=n: pickle.dumps(payload, n) for n in (0, 2, 4, 5)},
}


@pytest.mark.parametrize("form", HOSTILE)
def test_14_a_payload(folder: Path, finished: Path, tmp_path: Path, form: str) -> None:
    ran = tmp_path / "ran"
    path = folder / NEWEST
    path.write_bytes(HOSTILE[form](read(path), make_payload(ran)))
    refused(folder, "it names posix.system, which was not run")
    if form in ("signed zip", "pickle, protocol 0"):
        auto_falls_back(folder, finished)
    assert not ran.exists()


@pytest.mark.parametrize(
    ("function", "name"),
    [
        (eval, "__builtin__.eval"),  # as protocol 2 calls what is in builtins
        (getattr, "__builtin__.getattr"),
        (torch.hub.load, "torch.hub.load"),
        (torch.load, "torch.serialization.load"),
        (collections.namedtuple, "collections.namedtuple"),
    ],
)
def test_14_other_calls(folder: Path, function: Callable, name: str) -> None:
    path = folder / NEWEST
    path.write_bytes(pack({**read(path), "config": Call(function, "x", "y")}))
    refused(folder, f"it names {name}, which was not run")


@pytest.mark.parametrize(
    ("change", "part"),
    [
        (lambda w: w.to_sparse(), "is no plain tensor (torch.sparse_coo"),
        (lambda w: w.double(), "is torch.float64, torch.strided, expected torch.float32"),
        (lambda w: torch.full_like(w, float("nan")), "has NaN or infinite values"),
        (lambda w: torch.full_like(w, float("-inf")), "has NaN or infinite values"),
        (lambda w: w.to("meta"), "is no plain tensor (torch.strided, meta)"),
        (lambda w: torch.zeros(1).expand(1 << 20, 1 << 20), "is no plain tensor"),
        (lambda w: torch.quantize_per_tensor(w, 0.1, 0, torch.qint8), ""),
        (lambda w: w.tolist(), "is list"),
    ],
    ids=["sparse", "float64", "nan", "inf", "meta", "expanded", "quantised", "list"],
)
def test_15_tensors_of_another_kind(folder: Path, change: Callable, part: str) -> None:
    path, key = folder / NEWEST, "stem.0.0.weight"
    state = read(path)
    state["model"][key] = change(state["model"][key])
    path.write_bytes(pack(state))
    refused(folder, key if part else "", part)


def test_15_a_checkpoint_that_asks_for_any_amount_of_memory(folder: Path) -> None:
    """A deflated gigabyte of zeros where torch.save only ever stores."""
    path = folder / NEWEST
    buffer = io.BytesIO()
    with (
        zipfile.ZipFile(io.BytesIO(saved(read(path)))) as archive,
        zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as bomb,
    ):
        for entry in archive.infolist():
            data = bytes(1 << 28) if entry.filename.endswith("data/0") else archive.read(entry)
            bomb.writestr(entry.filename, data)
    data = buffer.getvalue()
    path.write_bytes(signed(data))
    refused(folder, "it is compressed, as torch.save never writes it")


def signed(data: bytes) -> bytes:
    """A zip without a comment, with the digest that makes it ours."""
    import hashlib
    import struct

    label = b"sha256:" + hashlib.sha256(data).hexdigest().encode()
    return data[:-2] + struct.pack("<H", len(label)) + label


# --- what does not fit the run -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("block", "change", "parts"),
    [
        ("arch", {"args": {"width": 8}}, ["of another architecture: stem.0.0.weight is (4, 3, 3, 3) there, (8, 3, 3"]),
        ("arch", {"args": {"width": 4, "norm": "conv"}}, ["missing stages.0.0.branch.0.affine.bias", "unexpected "]),
        ("arch", {"type": "resnet34", "args": {"width": 4}}, ["of another architecture: missing stages.0.2."]),
    ],
    ids=["shapes", "arm", "depth"],
)
def test_16_another_architecture(folder: Path, block: str, change: dict, parts: list[str]) -> None:
    edit_config(folder, block, change)
    before = contents(folder)
    one_line(call("train.py", "-r", folder / NEWEST), 4, f"error: {folder / NEWEST}: ", *parts)
    one_line(call("train.py", "-r", "auto", "--run-dir", folder), 4, *parts)
    assert contents(folder) == before


def edit_config(folder: Path, block: str, change: dict) -> None:
    config = json.loads((folder / "config.json").read_text())
    config[block] = change
    (folder / "config.json").write_text(json.dumps(config))


@pytest.mark.parametrize(("there", "here"), [("SGD", "Adam"), ("Adam", "SGD")])
def test_17_another_optimizer(folder: Path, there: str, here: str) -> None:
    """torch's SGD loads Adam's state without a word."""
    path = folder / NEWEST
    if there == "Adam":
        parameters = [w for w in read(path)["model"].values() if w.is_floating_point()]
        adam = torch.optim.Adam([w.requires_grad_() for w in parameters])
        sum(w.sum() for w in parameters).backward()
        adam.step()
        path.write_bytes(pack({**read(path), "optimizer_type": "Adam", "optimizer": adam.state_dict()}))
    edit_config(folder, "optimizer", {"type": here, "args": {"lr": 0.01}})
    before = contents(folder)
    ended = call("train.py", "-r", path)
    one_line(ended, 4, f"saved with the optimizer {there}, but the config says {here}; set optimizer.type back")
    assert contents(folder) == before


NO_RNG = "lacks the state of random generators (rng); --allow-inexact goes on"


@pytest.mark.parametrize(
    ("change", "part"),
    [
        (lambda state: state.pop("rng"), NO_RNG),
        (
            lambda state: state["rng"].pop("numpy"),
            NO_RNG,
        ),
        (
            lambda state: state.update(format_version=FORMAT_VERSION + 1, news=1),
            f"format version {FORMAT_VERSION + 1}, but this program reads {FORMAT_VERSION}; --allow-inexact reads",
        ),
    ],
    ids=["no rng", "half an rng", "newer format"],
)
def test_18_what_an_exact_resume_needs_is_missing(folder: Path, change: Callable, part: str) -> None:
    path = folder / NEWEST
    state = read(path)
    change(state)
    path.write_bytes(pack(state))
    refused(folder, part)
    ended = call("train.py", "-r", path, "--allow-inexact")
    assert ended.code == 0, ended.err
    assert ("resume not bit-exact: it holds no state of the generators" in ended.err) == ("rng" in part)
    assert len(rows(folder)) == 4
    assert call("test.py", "-r", path, "--allow-inexact").code == 0


@pytest.mark.parametrize(
    ("change", "part"),
    [
        ({"format_version": FORMAT_VERSION - 1}, f"format version {FORMAT_VERSION - 1}, but this program reads"),
        ({"epoch": "3"}, "missing or of another type: epoch"),
        ({"optimizer": {"state": {}, "param_groups": []}}, "the optimizer's state does not fit"),
    ],
)
def test_18_no_option_makes_up_for_the_rest(folder: Path, change: dict, part: str) -> None:
    path = folder / NEWEST
    path.write_bytes(pack({**read(path), **change}))
    one_line(call("train.py", "-r", path, "--allow-inexact"), 4, part)


def test_19_another_number_of_threads(folder: Path) -> None:
    ended = launch(folder.parent, "-r", folder / NEWEST, prepare=[partial(torch.set_num_threads, 2)])
    one_line(ended, 0, "WARNING: resume not bit-exact: threads was 1, is 2\n")
    assert final_state(folder, 4)["environment"]["threads"] == 2
    environments = json.loads((folder / "data.json").read_text())["environments"]
    assert [here["threads"] for here in environments] == [1, 2]


@pytest.mark.parametrize(("key", "value"), [("torch", "2.5.1"), ("device", "NVIDIA H100"), ("world_size", 2)])
def test_19_another_environment(folder: Path, key: str, value: object) -> None:
    path = folder / NEWEST
    state = read(path)
    here = state["environment"][key]
    state["environment"][key] = value
    path.write_bytes(pack(state))
    one_line(call("train.py", "-r", path), 0, f"WARNING: resume not bit-exact: {key} was {value}, is {here}\n")


def test_other_data_and_other_splits_are_refused(folder: Path, tmp_path: Path) -> None:
    """Which would otherwise let test images into training."""
    images, labels = make_pixels(200, 10, seed=9)
    (tmp_path / "other.pkl").write_bytes(pickle.dumps({"images": images, "labels": labels}))
    before = contents(folder)
    data = f"data_loader.args.data_dir={tmp_path / 'other.pkl'}"
    for program in ("train.py", "test.py"):
        one_line(call(program, "-r", folder / NEWEST, data), 4, "trained on other data")
        one_line(call(program, "-r", folder / NEWEST, "seed=13"), 4, "would not be the same")
    assert contents(folder) == before
