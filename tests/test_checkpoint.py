import io
import os
import pickle
import zipfile
from pathlib import Path

import pytest
import torch

from tests.faults import Call
from tests.states import made_state
from trainer.checkpoint import CheckpointStore, checkpoint_name, position, read
from trainer.checkpoint_file import foreign_global, pack, unpack
from trainer.restore import check_tensors
from trainer.state import FORMAT_VERSION, RunState, checked
from utils.errors import CheckpointError, FileSystemError
from utils.files import write_atomically


def test_what_is_packed_comes_back_and_torch_reads_it_too(tmp_path: Path) -> None:
    original = made_state()
    path = tmp_path / "c.pth"
    path.write_bytes(pack(original))
    for got in (read(path), torch.load(path, weights_only=True)):
        assert torch.equal(got["model"]["0.weight"], original["model"]["0.weight"])
        assert got["classes"] == ["a", "b"]


def test_any_flipped_bit_is_noticed() -> None:
    data = pack(made_state())
    generator = torch.Generator().manual_seed(0)
    places = torch.randint(len(data) * 8, (300,), generator=generator).tolist()
    ends = [*range(8 * 4), *range((len(data) - 80) * 8, len(data) * 8, 5)]
    for bit in [*places, *ends]:
        damaged = bytearray(data)
        damaged[bit // 8] ^= 1 << bit % 8
        with pytest.raises(CheckpointError, match="checksum mismatch"):
            unpack(bytes(damaged), "file")


def test_truncated_and_foreign_files_are_no_checkpoints(tmp_path: Path) -> None:
    data = pack(made_state())
    torch.save({"model": {}}, tmp_path / "foreign.pth")
    others = [b"some text", bytes(1000), (tmp_path / "foreign.pth").read_bytes()]
    for bad in [data[:n] for n in (0, 1, 4, len(data) // 2, len(data) - 22, len(data) - 1)] + others:
        with pytest.raises(CheckpointError, match="not a checkpoint"):
            unpack(bad, "file")


class Payload:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple:
        return os.system, (f"touch {self.path}",)


def test_a_payload_with_a_true_checksum_is_named_and_does_not_run(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"names posix\.system, which was not run"):
        unpack(pack(made_state(config={"x": Payload(tmp_path / "ran")})), "file")
    assert not (tmp_path / "ran").exists()


def test_a_foreign_payload_is_named_and_does_not_run(tmp_path: Path) -> None:
    torch.save({"x": Payload(tmp_path / "ran")}, tmp_path / "zip.pth")
    for data in ((tmp_path / "zip.pth").read_bytes(), *(pickle.dumps(Payload(tmp_path / "ran"), n) for n in range(6))):
        with pytest.raises(CheckpointError, match=r"names posix\.system, which was not run"):
            unpack(data, "file")
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize(
    ("changes", "part"),
    [
        (
            {"format_version": FORMAT_VERSION + 1},
            f"format version {FORMAT_VERSION + 1}, but this program reads {FORMAT_VERSION}; --allow-inexact",
        ),
        ({"format_version": 0}, f"format version 0, but this program reads {FORMAT_VERSION}"),
        ({"format_version": True}, "no format_version"),
        ({"format_version": "1"}, "no format_version"),
        ({"epoch": 1.5}, "missing or of another type: epoch"),
        ({"model": [], "history": None}, "missing or of another type: model, history"),
        ({"model": {"w": torch.tensor([0.0, float("nan")])}}, "model.w has NaN or infinite values"),
        ({"optimizer": {"state": {0: {"m": torch.tensor([float("inf")])}}}}, "optimizer.state.0.m has NaN or infinite"),
        ({"model": {"w": torch.zeros(2).to_sparse()}}, "model.w is no plain tensor (torch.sparse_coo"),
        ({"model": {"w": torch.zeros(2, device="meta")}}, "model.w is no plain tensor (torch.strided, meta)"),
        ({"model": {"w": torch.zeros(1).expand(1 << 40)}}, "model.w is no plain tensor"),
        ({"rng": None}, "lacks the state of random generators (rng); --allow-inexact"),
        ({"rng": {}}, "lacks the state of random generators (rng); --allow-inexact"),
    ],
)
def test_fields_of_the_wrong_form(changes: dict, part: str) -> None:
    with pytest.raises(CheckpointError) as caught:
        checked(unpack(pack({**made_state(), **changes}), "file"), "file")
    assert part in str(caught.value)


def test_a_missing_field_is_named() -> None:
    for name in RunState.__required_keys__ - {"format_version", "rng"}:
        short = {key: value for key, value in made_state().items() if key != name}
        with pytest.raises(CheckpointError, match=f"missing or of another type: {name}$"):
            checked(short, "file")


def test_a_state_as_a_run_writes_it_is_accepted_with_every_field_in_its_place() -> None:
    for state in (made_state(), made_state(2, 5), made_state(0, best=None)):
        assert checked(unpack(pack(state), "file"), "file").keys() == RunState.__required_keys__


@pytest.mark.parametrize(
    ("found", "part"),
    [
        ({}, "missing w; unexpected none"),
        ({"w": torch.zeros(2), "x": torch.zeros(1)}, "missing none; unexpected x"),
        ({"w": torch.zeros(2, dtype=torch.float64)}, "w is torch.float64"),
        ({"w": torch.zeros(2).to_sparse()}, "torch.sparse_coo"),
        ({"w": 3}, "w is int"),
    ],
)
def test_weights_that_do_not_fit(found: dict, part: str) -> None:
    with pytest.raises(CheckpointError) as caught:
        check_tensors({"w": torch.zeros(2)}, found, "file")
    assert part in str(caught.value)


def test_names_and_positions_agree(tmp_path: Path) -> None:
    for epoch, batch in ((0, 5), (3, 0), (12, 7)):
        assert position(tmp_path / checkpoint_name(epoch, batch)) == (epoch, batch)
    assert checkpoint_name(3, 0) == "checkpoint-epoch3.pth"
    assert position(tmp_path / "model_best.pth") is None


def names(store: CheckpointStore) -> list[str]:
    return [path.name for path in store.newest_first()]


def test_the_newest_two_and_the_best_are_kept(tmp_path: Path) -> None:
    store = CheckpointStore(tmp_path)
    (tmp_path / "checkpoint-epochX.pth").write_text("not mine")
    for epoch in range(1, 5):
        store.save(made_state(epoch), newest=True, best=epoch == 2)
    store.save(made_state(4, 9), newest=True, best=False)
    assert names(store) == ["checkpoint-epoch5-batch9.pth", "checkpoint-epoch4.pth"]
    store.save(made_state(5), newest=True, best=False)
    assert names(store) == ["checkpoint-epoch5.pth", "checkpoint-epoch4.pth"]
    assert read(tmp_path / "model_best.pth")["epoch"] == 2
    assert (tmp_path / "checkpoint-epochX.pth").exists()


def test_order_is_by_epoch_not_by_name(tmp_path: Path) -> None:
    store = CheckpointStore(tmp_path, keep=9)
    for epoch, batch in ((2, 0), (10, 0), (9, 30), (9, 4)):
        store.save(made_state(epoch, batch), newest=True, best=False)
    assert names(store)[0] == "checkpoint-epoch10.pth"


def test_a_write_that_fails_leaves_the_old_file_and_no_other(tmp_path: Path) -> None:
    path = tmp_path / "f"
    write_atomically(path, b"old")
    resource = pytest.importorskip("resource")
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    import signal

    previous = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (1000, limits[1]))
        with pytest.raises(FileSystemError, match=r"cannot write .*f \(5,000 bytes needed\): File too large"):
            write_atomically(path, bytes(5000))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, previous)
    assert path.read_bytes() == b"old"
    assert os.listdir(tmp_path) == ["f"]


@pytest.mark.parametrize("method", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
def test_what_a_file_would_import_is_found_whether_it_is_packed_or_not(method: int) -> None:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", method) as archive:
        archive.writestr("archive/data.pkl", pickle.dumps(Call(os.system, "true")))
    assert foreign_global(buffer.getvalue()) == f"{os.name}.system"
