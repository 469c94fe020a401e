"""Checkpoints and array files from strangers. The numbers are those of docs/faults.md."""

import io
import os
import pickle
import runpy
import shutil
import struct
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from data_loader.cifar10 import load_cifar10
from data_loader.label_file import read_labels
from data_loader.tiny_coco import load_tiny_coco
from tests.conftest import ROOT, make_pixels, write_image_folder, write_pickle
from tests.faults import limit_more_memory, no_network
from tests.fuzz import sign
from tests.runs import coco, contents, evaluate, launch, one_line, rows, run
from trainer.checkpoint import CheckpointStore, read
from trainer.checkpoint_file import pack, unpack
from trainer.state import RunState, checked, stored
from utils.cli import run_program
from utils.columns import DIAGNOSTIC_COLUMNS
from utils.errors import CheckpointError, DataError, Stopped
from utils.reading import errors_as

NEWEST = "checkpoint-epoch3.pth"
IMAGES, LABELS = make_pixels(40, 10)


def evaluate_here(*arguments: object) -> int:
    """test.py in this process."""
    before, sys.argv = sys.argv, ["test.py", *map(str, arguments)]
    try:
        program = runpy.run_path(str(ROOT / "test.py"))
        return run_program(lambda: program["test"](program["parse_args"]()), sys.argv[1:])
    finally:
        sys.argv = before


def tree(place: Path) -> set[str]:
    return {path.relative_to(place).as_posix() for path in place.rglob("*") if "process" not in path.parts}


# --- 51: what a checkpoint may lead to before it is accepted -------------------------------------------------------


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A folder of images without a cache, and a run on it."""
    place = tmp_path_factory.mktemp("pictures")
    folder = write_image_folder(place / "images", each=20)
    options = ("data_loader.type=ImageFolder", "trainer.epochs=1", "data_loader.args.subset=0.9")
    assert run(*coco(folder, place / "run", *options)) == 0
    for cache in place.glob("images.*.npz"):
        cache.unlink()
    return folder, place / "run" / "checkpoint-epoch1.pth"


def test_51_nothing_is_made_or_fetched_for_a_received_checkpoint(finished: Path, tmp_path: Path) -> None:
    state = read(finished / NEWEST)
    state["config"]["data_loader"]["type"] = "CIFAR10"
    state["config"]["data_loader"]["args"]["data_dir"] = str(tmp_path / "victim")
    state["config"]["trainer"]["save_dir"] = str(tmp_path / "saved")
    path = tmp_path / "received.pth"
    path.write_bytes(pack(state))
    log, before = tmp_path / "network.txt", tree(tmp_path)
    for program in (evaluate, launch):
        ended = program(tmp_path, "-r", path, prepare=[no_network(log)])
        one_line(
            ended, 3, f"CIFAR10 is not in {tmp_path / 'victim'} and nothing is downloaded for a checkpoint", "=DIR"
        )
        assert tree(tmp_path) == before
    ended = evaluate(tmp_path, "-r", path, "--data-dir", tmp_path / "mine", prepare=[no_network(log)])
    one_line(ended, 3, f"CIFAR10 is not in {tmp_path / 'mine'} and could not be downloaded")
    assert "www.cs.toronto.edu" in log.read_text()


def test_51_no_folder_is_made_for_a_checkpoint_that_does_not_fit(finished: Path, tmp_path: Path, capsys) -> None:
    state = read(finished / NEWEST)
    state["config"]["trainer"]["save_dir"] = str(tmp_path / "saved")
    path = tmp_path / "received.pth"
    path.write_bytes(pack({**state, "given_labels": state["given_labels"].flip(0)}))
    before = tree(tmp_path)
    assert run("-r", path, "trainer.epochs=4") == 4
    assert "the label noise would not be the same" in capsys.readouterr().err
    assert tree(tmp_path) == before


def test_51_a_cache_is_written_only_where_the_user_says_and_for_data_that_fit(
    pictures: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    folder = shutil.copytree(pictures[0], tmp_path / "place" / "images")
    state = read(pictures[1])
    state["config"]["data_loader"]["args"]["data_dir"] = str(folder)
    received = tmp_path / "received.pth"
    received.write_bytes(pack(state))

    def cached() -> bool:
        return bool([*folder.parent.glob("images.*"), *tmp_path.glob("cache")])

    assert evaluate_here("-r", received) == 0
    assert run("-r", received, "--run-dir", tmp_path / "new") == 0
    assert not cached()
    other = tmp_path / "other.pth"
    other.write_bytes(pack({**state, "dataset_sha256": "0" * 64}))
    assert evaluate_here("-r", other, "--data-dir", folder) == 4
    assert not cached()
    assert evaluate_here("-r", received, "--data-dir", folder) == 0
    assert cached()
    assert "wrote" in capsys.readouterr().out


def test_51_a_run_s_own_checkpoint_may_be_cached_for_once_it_is_accepted(
    pictures: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    folder, checkpoint = pictures
    own = shutil.copytree(checkpoint.parent, tmp_path / "run")
    whole = (own / checkpoint.name).read_bytes()
    (own / checkpoint.name).write_bytes(pack({**unpack(whole, "it"), "dataset_sha256": "0" * 64}))
    assert run("-r", own / checkpoint.name) == 4
    assert not [*folder.parent.glob("images.*"), *tmp_path.glob("cache")]
    (own / checkpoint.name).write_bytes(whole)
    assert run("-r", own / checkpoint.name) == 0
    caches = [*folder.parent.glob("images.*")]
    assert caches
    for cache in caches:
        cache.unlink()


# --- 53: bounds before work ----------------------------------------------------------------------------------------


def in_checkpoint(inner: bytes, *more: tuple[str, bytes]) -> bytes:
    """A signed zip around a pickle."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, data in (("archive/data.pkl", inner), *more):
            archive.writestr(name, data)
    return sign(buffer.getvalue())


def text(value: str) -> bytes:
    return b"X" + struct.pack("<I", len(value)) + value.encode()


def tensor(count: int, size: bytes, stride: bytes = b"K\x01\x85") -> bytes:
    """A dict of one tensor of float32, of which `count` numbers are said to be stored."""
    stored = (
        b"(" + text("storage") + b"ctorch\nFloatStorage\n" + text("0") + text("cpu") + b"J" + struct.pack("<i", count)
    )
    made = b"ctorch._utils\n_rebuild_tensor_v2\n(" + stored + b"tQK\x00" + size + stride + b"\x89Nt"
    return b"\x80\x02}" + text("x") + made + b"Rs."


TOO_MANY = "it is made of more than 1,048,576 parts"
KEYS = "a dict whose keys are not plain"
HOSTILE = {
    "16 million opcodes": (b"\x80\x02(" + b"}" * (1 << 21) + b"t.", TOO_MANY),
    "one giant key": (b"\x80\x02}" + text("a" * 9_000_000) + b"Ns.", "a key of 9,000,000 characters"),
    "a million keys": (
        b"\x80\x02}(" + b"".join(b"J" + struct.pack("<i", key) + b"N" for key in range(1 << 20)) + b"u.",
        TOO_MANY,
    ),
    "dicts in dicts": (
        b"\x80\x02}" + text("format_version") + b"K\x02s" + text("rng") + b"}" * 1 + b"s.",
        "it lacks the state of random generators",
    ),
    "a deep tuple for a key": (b"\x80\x02})" + b"\x85" * 200_000 + b"K\x01s.", KEYS),
    "a tuple doubled sixty times for a key": (b"\x80\x02})" + b"q\x00h\x00\x86" * 60 + b"K\x01s.", KEYS),
    "a number of a million digits": (
        b"\x80\x02\x8b" + struct.pack("<i", 400_000) + b"\x7f" * 400_000 + b".",
        "an opcode",
    ),
    "more numbers than are stored": (tensor(1 << 20, b"K\x03\x85"), "1,048,576 torch.float32 of which 3"),
    "a tensor beyond what is stored": (tensor(3, b"K\x04\x85"), "out of bounds"),
    "a tensor of 2^80 numbers": (
        tensor(3, b"\x8a\x06" + b"\0" * 5 + b"\x01" + b"\x8a\x06" + b"\0" * 5 + b"\x01" + b"\x86", b"K\x00K\x00\x86"),
        "",
    ),
    "a call of a type": (b"\x80\x02ctorch\nFloatStorage\nK\x05\x85R.", "a call of what is no function"),
    "a tensor made by its size": (
        b"\x80\x02ctorch\nTensor\nJ\xff\xff\xff\x7f\x85R.",
        "it names torch.Tensor, which was not run",
    ),
}


@pytest.mark.parametrize("kind", HOSTILE)
def test_53_a_signed_checkpoint_is_bounded_before_work(kind: str) -> None:
    inner, part = HOSTILE[kind]
    with pytest.raises(CheckpointError) as caught:
        checked(unpack(in_checkpoint(inner, ("archive/data/0", bytes(12))), "file"), "file")
    assert part in str(caught.value)


def test_53_a_state_nested_deeper_than_a_run_s_is_refused(finished: Path) -> None:
    state = read(finished / NEWEST)
    deep: Any = {}
    for _ in range(300):
        deep = {"k" * 900: deep}
    data = pack({**state, "environment": deep})
    with pytest.raises(CheckpointError, match="is nested more than 12 deep") as caught:
        unpack(data, "file")
    assert len(str(caught.value)) < 2000


def test_53_a_run_of_any_length_saves_what_it_reads(finished: Path, tmp_path: Path) -> None:
    """As rows of plain values these would be two million parts."""
    epochs = 5_000
    state = read(finished / NEWEST)
    history = [{**state["history"][0], "epoch": epoch} for epoch in range(1, epochs + 1)]
    figures = (0.1, float("nan"), float("inf"), -0.0)
    layers = [
        dict(zip(DIAGNOSTIC_COLUMNS, (epoch, name, *figures), strict=True))
        for epoch in range(1, epochs + 1)
        for name in [f"layer{at}.conv" for at in range(20)]
    ]
    state.update(epoch=epochs, batch=0, history=history, diagnostics=layers)
    found = read(CheckpointStore(tmp_path).save(state, newest=True, best=False))
    assert repr(found["diagnostics"]) == repr(layers)
    assert found["history"] == history


@pytest.mark.parametrize(
    "change",
    [{"bits": torch.zeros(1 << 20, 0, dtype=torch.int64)}, {"bits": torch.zeros(1, 6)}, {"layers": []}],
)
def test_53_a_table_of_another_form(finished: Path, change: dict[str, Any]) -> None:
    row = dict(zip(DIAGNOSTIC_COLUMNS, (1, "stem.0", 0.1, 0.2, 0.3, 0.4), strict=True))
    whole = stored({**read(finished / NEWEST), "diagnostics": [row]})
    assert checked(whole, "it")["diagnostics"] == [row]
    with pytest.raises(CheckpointError, match="it: malformed: diagnostics is not as a run writes it"):
        checked({**whole, "diagnostics": {**whole["diagnostics"], **change}}, "it")


def test_53_what_could_not_be_read_is_not_saved(
    finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store, state = CheckpointStore(tmp_path, keep=1), read(finished / NEWEST)
    store.save(state, newest=True, best=True)
    before = contents(tmp_path)
    with pytest.raises(CheckpointError, match=f"nothing is saved, since .* be read again .{TOO_MANY}.; earlier ones"):
        store.save({**state, "epoch": 4, "environment": {"x": [None] * (1 << 20)}}, newest=True, best=True)
    monkeypatch.setattr("trainer.checkpoint.LARGEST_FILE", len(before[NEWEST]) - 1)
    with pytest.raises(CheckpointError, match=r"be read again .it would be [\d,]+ bytes"):
        store.save(state, newest=True, best=True)
    assert contents(tmp_path) == before


def test_53_a_hostile_checkpoint_in_real_processes(tmp_path: Path) -> None:
    path = tmp_path / "received.pth"
    path.write_bytes(in_checkpoint(HOSTILE["a million keys"][0]))
    for program in (evaluate, launch):
        one_line(program(tmp_path, "-r", path, prepare=[limit_more_memory(1 << 30)]), 4, str(path), TOO_MANY)


def test_53_entries_of_one_name_but_for_case(finished: Path) -> None:
    inner = pickle.dumps({}, 2)
    for name in ("archive/DATA.PKL", "archive/Data.pkl"):
        with pytest.raises(CheckpointError, match=r"two entries under one name, 'archive/data\.pkl', "):
            unpack(in_checkpoint(inner, (name, inner)), "file")


def npy(array: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, array)
    return buffer.getvalue()


def npz(**entries: bytes) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in entries.items():
            archive.writestr(name.replace("__", "."), data)
    return buffer.getvalue()


LONG_HEADER = b"\x93NUMPY\x02\x00" + struct.pack("<I", 20_000_000) + b" " * 20_000_000


@pytest.mark.parametrize(
    ("entries", "part"),
    [
        ({"images__npy": npy(IMAGES), "images": bytes(50 << 20)}, "two entries under one name, 'images.npy', 'images'"),
        ({"images__npy": npy(IMAGES), "Images__NPY": b""}, "two entries under one name"),
        ({"images__npy": LONG_HEADER}, "images.npy has a header of 20,000,012 bytes"),
        ({"images__npy": npy(IMAGES)[:128]}, "images.npy is said to be (40, 32, 32, 3) of uint8, and has 0 bytes"),
        ({f"{number:0500}": b"" for number in range(2_100)}, "its list of entries has more than 1,048,576 bytes"),
    ],
    ids=["npy or not", "case", "header", "claim", "entries"],
)
def test_53_an_npz_is_bounded_before_it_is_read(tmp_path: Path, entries: dict[str, bytes], part: str) -> None:
    (tmp_path / "tinycoco.npz").write_bytes(npz(labels__npy=npy(LABELS), **entries))
    with pytest.raises(DataError) as caught:
        load_tiny_coco(tmp_path)
    assert part in str(caught.value)


# --- 59: memory that runs out --------------------------------------------------------------------------------------


@pytest.mark.parametrize("suffix", ["npz", "pkl"])
def test_59_memory_that_runs_out_is_told_as_that(tmp_path: Path, suffix: str) -> None:
    images = np.zeros((20_000, 32, 32, 3), np.uint8)
    labels = np.arange(20_000) % 10
    data = (
        npz(images__npy=npy(images), labels__npy=npy(labels))
        if suffix == "npz"
        else pickle.dumps({"images": images, "labels": labels})
    )
    (tmp_path / f"tinycoco.{suffix}").write_bytes(data)
    ended = launch(tmp_path, *coco(tmp_path, tmp_path / "run"), prepare=[limit_more_memory(40 << 20)])
    one_line(ended, 3, "there is not enough memory")
    assert not (tmp_path / "run").exists()


# --- 71: what is harmless and plain is read, and the rest is told ----------------------------------------------------


def objects(values: np.ndarray) -> np.ndarray:
    array = np.empty(len(values), dtype=object)
    for row, value in enumerate(values):
        array[row] = value
    return array


PLAIN: dict[str, tuple[Callable[[], Any], Callable[[], Any]]] = {
    "labels of np.int64": (lambda: IMAGES, lambda: list(LABELS)),
    "a tuple of labels": (lambda: IMAGES, lambda: tuple(LABELS.tolist())),
    "an array of objects": (lambda: IMAGES, lambda: LABELS.astype(object)),
    "images as objects": (lambda: IMAGES.astype(object), lambda: LABELS),
    "an array of arrays": (lambda: objects(IMAGES), lambda: LABELS),
    "a list of arrays": (lambda: list(IMAGES), lambda: LABELS.tolist()),
    "nested lists": (lambda: IMAGES.tolist(), lambda: LABELS.tolist()),
    "nested tuples of floats": (
        lambda: [tuple(map(tuple, image.tolist())) for image in IMAGES / 255.0],
        lambda: LABELS,
    ),
}


def is_whole(path: Path) -> None:
    dataset = load_tiny_coco(path)
    assert torch.equal(dataset.images, torch.from_numpy(IMAGES.transpose(0, 3, 1, 2).copy()))
    assert dataset.labels.tolist() == LABELS.tolist()


@pytest.mark.parametrize("protocol", [2, 4])
@pytest.mark.parametrize("kind", PLAIN)
def test_71_plain_values_are_read(tmp_path: Path, kind: str, protocol: int) -> None:
    images, labels = PLAIN[kind]
    is_whole(write_pickle(tmp_path / "tinycoco.pkl", {"images": images(), "labels": labels()}, protocol))


def python_2(value: np.ndarray) -> bytes:
    """An array as Python 2 pickled it: its text is bytes."""

    def short(data: bytes) -> bytes:
        return b"T" + struct.pack("<i", len(data)) + data

    kind = value.dtype.str.encode()
    shape = b"(" + b"".join(b"J" + struct.pack("<i", size) for size in value.shape) + b"t"
    dtype = (
        b"cnumpy\ndtype\n("
        + short(kind[1:])
        + b"K\x00K\x01tR(K\x03"
        + short(kind[:1])
        + b"NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb"
    )
    return (
        b"cnumpy.core.multiarray\n_reconstruct\n(cnumpy\nndarray\n(K\x00t" + short(b"b") + b"tR"
        b"(K\x01" + shape + dtype + b"\x89" + short(value.tobytes()) + b"tb"
    )


def test_71_a_pickle_of_python_2_is_read(tmp_path: Path) -> None:
    data = b"\x80\x02}(U\x06images" + python_2(IMAGES) + b"U\x06labels" + python_2(LABELS) + b"u."
    (tmp_path / "tinycoco.pkl").write_bytes(data)
    is_whole(tmp_path)


def test_71_tensors_are_read_or_told(tmp_path: Path) -> None:
    tensors = {"images": torch.from_numpy(IMAGES), "labels": torch.from_numpy(LABELS)}
    torch.save(tensors, tmp_path / "tinycoco.pkl")
    is_whole(tmp_path)
    torch.save(tensors, tmp_path / "tinycoco.pkl", _use_new_zipfile_serialization=False)
    with pytest.raises(DataError, match=r"an old form of torch\.save"):
        load_tiny_coco(tmp_path)
    write_pickle(tmp_path / "tinycoco.pkl", tensors)
    with pytest.raises(DataError, match=r"it holds tensors of torch .*torch\.save\(.*or pickle images\.numpy\(\)"):
        load_tiny_coco(tmp_path)


@pytest.mark.parametrize("kind", ["lists", "arrays"])
def test_71_what_is_named_again_and_again_is_not_unfolded(tmp_path: Path, kind: str) -> None:
    images: Any = [IMAGES] * 100_000
    if kind == "lists":
        images = [1] * 900
        for _ in range(3):
            images = [images] * 900
    write_pickle(tmp_path / "tinycoco.pkl", {"images": images, "labels": LABELS})
    with pytest.raises(DataError, match="images must be an array of numbers, found list"):
        load_tiny_coco(tmp_path)


def test_71_a_file_of_other_keys_says_which(tmp_path: Path) -> None:
    np.savez(tmp_path / "tinycoco.npz", data=IMAGES, fine_labels=LABELS)
    with pytest.raises(DataError, match="expected the arrays 'images' and 'labels', found 'data', 'fine_labels'"):
        load_tiny_coco(tmp_path)
    np.savez(tmp_path / "noise.npz", true_label=LABELS)
    with pytest.raises(DataError, match="expected the arrays 'index' and 'given_label', found 'true_label'"):
        read_labels(tmp_path / "noise.npz", None)


def test_71_the_damaged_one_of_several_files_is_named(trusted_cifar10: Path, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setenv("https_proxy", "http://127.0.0.1:9")
    copy = shutil.copytree(trusted_cifar10, tmp_path / "cifar10")
    for name in ("data_batch_3", "test_batch"):
        (copy / "cifar-10-batches-py" / name).write_bytes(b"another")
    with pytest.raises(DataError, match="damaged: data_batch_3, test_batch in"):
        load_cifar10(copy)


# --- 72: what is no regular file -----------------------------------------------------------------------------------


def make_fifo(path: Path) -> None:
    os.mkfifo(path)


def make_loop(path: Path) -> None:
    path.symlink_to(path.name)


def make_large(path: Path) -> None:
    with open(path, "wb") as file:
        file.truncate(5 << 30)


PLACES: dict[str, tuple[Callable[[Path], object], str]] = {
    "a FIFO": (make_fifo, "no regular file"),
    "zeros without end": (lambda path: path.symlink_to("/dev/zero"), "no regular file"),
    "a folder": (Path.mkdir, "is a folder"),
    "a circle of links": (make_loop, "symbolic links"),
    "5 GB": (make_large, "not a checkpoint of this program, or truncated (5,368,709,120 bytes)"),
}


@pytest.mark.parametrize("kind", PLACES)
def test_72_what_is_no_checkpoint_is_not_read(tmp_path: Path, kind: str) -> None:
    make, part = PLACES[kind]
    path = tmp_path / "x.pth"
    make(path)
    for program in (evaluate, launch):
        one_line(program(tmp_path, "-r", path, prepare=[limit_more_memory(1 << 30)]), 4, str(path), part)


def test_72_data_that_are_no_file(finished: Path, tmp_path: Path) -> None:
    """Which the checkpoint names."""
    os.mkfifo(tmp_path / "fifo")
    state, path = read(finished / NEWEST), tmp_path / "received.pth"
    for kind in ("ImageFolder", "TinyCOCO"):
        state["config"]["data_loader"] |= {"type": kind, "args": {"data_dir": str(tmp_path / "fifo")}}
        path.write_bytes(pack(state))
        one_line(evaluate(tmp_path, "-r", path), 3, f"{tmp_path / 'fifo'} is neither a folder nor a regular file")


# --- 74: fields that no run wrote ------------------------------------------------------------------------------------


def set_in(*path: Any) -> Callable[[dict], None]:
    """A change: the last of `path` is put where the others lead."""
    *keys, last, value = path

    def change(state: dict) -> None:
        block = state
        for key in keys:
            block = block[key]
        block[last] = value

    return change


ODD: list[Any] = [None, True, -1, 2**62, 1.5, "", "x", b"x", [], [None], {}, {"x": [1]}, torch.zeros(3)]
FIELDS = sorted(RunState.__annotations__.keys() - {"format_version"})
#: What a run may well have written there.
HARMLESS = {
    "classes": [[]],  # these are held against the data
    "model": [{}, {"x": [1]}],  # and these against the network
    "environment": [{}],
    "best": [None, 1.5],
    "epochs_since_best": [],
    "scheduler": [{}],
    "scaler": [{}],
    "partial_sums": [{}],
    "diagnostics": [[]],
    "gradient_norms": [{}],
    "seconds": [1.5],
}


@pytest.fixture(scope="module")
def small(finished: Path) -> dict[str, Any]:
    """A state as a run writes it, but for the weights, which take long to pack."""
    state = read(finished / NEWEST)
    return {**state, "model": {"w": torch.zeros(1)}, "optimizer": {"state": {}, "param_groups": []}}


@pytest.mark.parametrize("field", FIELDS)
def test_74_every_field_of_every_wrong_type(small: dict[str, Any], tmp_path: Path, field: str) -> None:
    path = tmp_path / "received.pth"
    harmless = [repr(value) for value in HARMLESS.get(field, [])]
    for value in ODD:
        if repr(value) in harmless or (field == "optimizer_type" and isinstance(value, str)):
            continue
        path.write_bytes(pack({**small, field: value}))
        with pytest.raises(CheckpointError) as caught:
            read(path)
        assert "\n" not in str(caught.value)
        assert len(str(caught.value)) < 2000


#: Changes that no run makes, those that the data or the network tell, and those that only a resume looks at.
MEASURED = ("loss", "accuracy", "top5_accuracy")
FORM: dict[str, Callable[[dict], None]] = {
    "a class that is a number": set_in("classes", 0, 7),
    "a split of floats": lambda state: state["splits"].update(test=state["splits"]["val"].float()),
    "a split more": set_in("splits", "more", torch.arange(3)),
    "labels of another number": lambda state: state.update(given_labels=state["given_labels"][:-1]),
    "a row of other keys": set_in("history", 2, {"a": 1.0}),
    "a row of more keys": lambda state: state["history"][2].update({"=cmd": 1.0}),
    "a row with a text": lambda state: state["history"][2].update(test_accuracy="high"),
    "a row with a large number": lambda state: state["history"][2].update(test_accuracy=10**70),
    "python's generator": set_in("rng", "python", "state", [1, 2]),
    "python's generator, large": set_in("rng", "python", "state", [2**40] * 625),
    "numpy's generator": set_in("rng", "numpy", "keys", torch.zeros(3, dtype=torch.int64)),
    "numpy's generator, negative": set_in("rng", "numpy", "keys", torch.full((624,), -1)),
    "numpy's generator, position": set_in("rng", "numpy", "position", 10**9),
    "torch's generator": set_in("rng", "torch", torch.zeros(3, dtype=torch.uint8)),
    "torch's generator, numbers": set_in("rng", "torch", torch.zeros(5056)),
    "CUDA's generators": set_in("rng", "cuda", [3]),
    "a key that is a number": lambda state: state["model"].update({3: torch.zeros(1)}),
    "versions of nothing": lambda state: setattr(state["model"], "_metadata", {"": 3}),
    "sums without a process": set_in("partial_sums", {"0": {"loss": [1.0]}}),
    "sums of another figure": set_in("partial_sums", {"0": {"evil": [1.0, 1.0]}}),
    "a whole epoch without sums": lambda state: state.update(batch=5, global_step=20),
    "sums of no image": lambda state: state.update(
        batch=4, global_step=19, partial_sums={"0": {key: [0.0, 0.0] for key in MEASURED}}
    ),
}
FIT: dict[str, Callable[[dict], None]] = {
    "classes renamed": set_in("classes", 0, "\x1b[31mred"),
    "a class more": lambda state: state["classes"].append("more"),
    "a split out of range": set_in("splits", "train", torch.arange(10**6, 10**6 + 80)),
    "splits that overlap": lambda state: state["splits"].update(test=state["splits"]["val"]),
    "a width": set_in("config", "arch", "args", "width", 100_000),
    "an impossible width": set_in("config", "arch", "args", "width", 10**18),
    "outputs": set_in("config", "arch", "args", "num_classes", 10**9),
}
ONLY_TRAINING: dict[str, Callable[[dict], None]] = {
    "a momentum that is a number": lambda state: state["optimizer"]["state"][0].update(momentum_buffer=3),
    "a momentum of another shape": lambda state: state["optimizer"]["state"][0].update(momentum_buffer=torch.zeros(3)),
    "another buffer": lambda state: state["optimizer"]["state"][0].update(evil=torch.zeros(3)),
    "a parameter more": set_in("optimizer", "state", 10**6, {}),
    "too few steps": set_in("global_step", 2),
}


@pytest.mark.parametrize("kind", [*FORM, *FIT, *ONLY_TRAINING])
def test_74_a_signed_checkpoint_of_odd_values(finished: Path, tmp_path: Path, kind: str, capsys) -> None:
    """By both programs where they look at it; those that the form tells are told by what reads it for both."""
    state, path = read(finished / NEWEST), tmp_path / "received.pth"
    (FORM | FIT | ONLY_TRAINING)[kind](state)
    path.write_bytes(pack(state))
    if kind in FORM:
        with pytest.raises(CheckpointError, match=r"^[^\n]*: malformed: [^\n]*$"):
            read(path)
        return
    before = tree(tmp_path)
    assert run("-r", path, "trainer.epochs=4", f"trainer.save_dir={tmp_path}/saved") == 4
    if kind in FIT:
        assert evaluate_here("-r", path) == 4
    assert capsys.readouterr().err.count("\n") == 1 + (kind in FIT)
    assert tree(tmp_path) == before


@pytest.mark.parametrize(
    ("key", "value", "code"),
    [("subset", 1e9, 2), ("test_subset", 1e300, 2), ("validation_split", 1e-300, 3), ("data_dir", "x" * 5000, 3)],
)
def test_74_absurd_values_of_the_data(
    finished: Path, tmp_path: Path, key: str, value: object, code: int, capsys
) -> None:
    state, path = read(finished / NEWEST), tmp_path / "received.pth"
    state["config"]["data_loader"]["args"][key] = value
    path.write_bytes(pack(state))
    assert evaluate_here("-r", path) == code
    assert run("-r", path) == code
    assert capsys.readouterr().err.count("\n") == 2


def test_74_real_processes_and_auto(finished: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(finished, tmp_path / "run")
    state, path = read(folder / NEWEST), folder / NEWEST
    path.write_bytes(pack({**state, "classes": [7]}))
    before = contents(folder)
    for program in (evaluate, launch):
        one_line(program(tmp_path, "-r", path), 4, str(path), "malformed: classes is not as a run writes it")
    assert contents(folder) == before
    ended = launch(tmp_path, "-r", "auto", "--run-dir", folder)
    assert ended.code == 0, ended.err
    assert "trying an older one" in ended.err
    assert rows(folder) == rows(finished)


def test_74_every_reader_has_its_own_error() -> None:
    """Whatever a library raises; but a request to stop is none of its errors."""
    for error in (
        zipfile.BadZipFile("x"),
        NotImplementedError(),
        UnicodeDecodeError("a", b"", 0, 1, "x"),
        RecursionError(),
    ):
        with (
            pytest.raises(DataError, match=r"^file: malformed \(") as caught,
            errors_as(DataError, "file", "malformed"),
        ):
            raise error
        assert caught.value.__cause__ is error
    with pytest.raises(DataError, match="not enough memory"), errors_as(DataError, "file", "malformed"):
        raise MemoryError
    with pytest.raises(Stopped), errors_as(DataError, "file", "malformed"):
        raise Stopped(143, "stopped")
