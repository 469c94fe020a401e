"""export.py: files for other tools, which do what the network does."""

import io
import json
import os
import re
import shutil
import sys
from pathlib import Path
from typing import Any

import pytest
import safetensors
import torch
from torch import Tensor, nn

from data_loader.preprocess import Preprocess
from inference import export
from inference.loading import Trained
from models.norms import NORMS
from predict import load
from tests.conftest import same_tree
from tests.faults import file_system
from tests.runs import call, coco, contents, one_line, run
from trainer.checkpoint import read

FACTS = {"arch", "classes", "mean", "std", "image_size"}
SIZE = (8, 6)


class Tiny(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm, self.head = nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Linear(4, 3)

    def forward(self, images: Tensor) -> Tensor:
        return self.head(self.norm(self.conv(images)).relu().mean((2, 3)))


@pytest.fixture
def tiny() -> Trained:
    torch.manual_seed(0)
    return Trained(Tiny().eval(), Preprocess((0.5,) * 3, (0.25,) * 3, SIZE), ["a", "b", "c"])


TOLD = {"producer": json.dumps(export._PRODUCER), "classes": json.dumps(["ü", "=b", "c"])}


def test_the_weights_of_a_run(finished: Path, tmp_path: Path) -> None:
    out = tmp_path / "new" / "x.safetensors"
    ended = call("export.py", "-r", finished, "--safetensors", out)
    assert (ended.code, ended.err) == (0, "")
    assert ended.out.startswith(f"wrote {out}: ")
    state = read(finished / "model_best.pth")
    with safetensors.safe_open(out, "pt") as file:
        facts = {key: json.loads(text) for key, text in file.metadata().items()}
        found = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
    assert same_tree(found, dict(state["model"])) == []
    assert facts.keys() >= FACTS
    args = {"norm": "bn", "activation": "relu", "num_classes": 10, "width": 4}
    assert facts["arch"] == {"type": "resnet18", "args": args}
    assert facts["classes"] == state["classes"]
    assert {key: facts[key] for key in ("mean", "std", "image_size")} == state["preprocessing"]
    # What it wrote it may replace; another's file, and a link, it may not.
    assert call("export.py", "-r", out, "--safetensors", out).code == 0
    other = tmp_path / "other.safetensors"
    other.write_bytes(b"weights of years")
    (tmp_path / "link.safetensors").symlink_to(out)
    for name in ("other.safetensors", "link.safetensors"):
        before = contents(tmp_path)
        one_line(call("export.py", "-r", finished, "--safetensors", tmp_path / name), 5, name)
        assert contents(tmp_path) == before


def test_43_a_file_made_during_an_export_stays(finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out, plain = tmp_path / "x.safetensors", export.FORMATS[".safetensors"]

    def meanwhile(network: Trained, facts: export.Facts) -> tuple[bytes, str]:
        out.write_bytes(b"mine")
        return plain(network, facts)

    monkeypatch.setitem(export.FORMATS, ".safetensors", meanwhile)
    one_line(call("export.py", "-r", finished, "--safetensors", out), 5, f"{out} exists")
    assert contents(tmp_path) == {"x.safetensors": b"mine"}


@pytest.mark.slow
def test_a_weights_only_file_keeps_the_grid_of_running_estimates(coco_dir: Path, tmp_path: Path) -> None:
    assert run(*coco(coco_dir, tmp_path / "run", "trainer.epochs=1", arm="bncn")) == 0
    assert call("export.py", "-r", tmp_path / "run", "--safetensors", tmp_path / "x.safetensors").code == 0
    (one, _, _), (other, _, _) = load(tmp_path / "run"), load(tmp_path / "x.safetensors")
    for size in (33, 32):  # of 33 the half spectrum has the same shape
        images = torch.rand(2, 3, size, size)
        with torch.no_grad():
            assert torch.equal(one(images), other(images))


def test_a_weights_only_file_that_was_made_up(finished: Path, tmp_path: Path) -> None:
    whole = tmp_path / "x.safetensors"
    assert call("export.py", "-r", finished, "--safetensors", whole).code == 0
    data = whole.read_bytes()
    length = int.from_bytes(data[:8], "little")

    def of(change: dict[str, Any]) -> bytes:
        header = json.loads(data[8 : 8 + length])
        header["__metadata__"] |= {key: json.dumps(value) for key, value in change.items()}
        text = json.dumps(header).encode()
        return len(text).to_bytes(8, "little") + text + data[8 + length :]

    arch = {"type": "resnet18", "args": {"width": 100_000}}
    odd: dict[str, bytes] = {
        "classes": of({"classes": ["a"] * 11}),
        "no classes": of({"classes": []}),
        "names": of({"classes": [1] * 10}),
        "width": of({"arch": arch}),
        "no arch": of({"arch": 3}),
        "mean": of({"mean": [2.0, 0.5, 0.5]}),
        "versions": of({"versions": {"": 3}}),
        "grid": of({"versions": {"stem.0": {"grid": "x"}}, "classes": None}),
        "half": data[: len(data) // 2],
        "header": (1 << 40).to_bytes(8, "little") + data[8:],
        "nothing": b"",
        "no facts": len(b"{}").to_bytes(8, "little") + b"{}",
        "no object": len(b"[3]").to_bytes(8, "little") + b"[3]",
    }
    for wrong in odd.values():
        whole.write_bytes(wrong)
        ended = call("export.py", "-r", whole, "--safetensors", tmp_path / "y.safetensors")
        one_line(ended, 4, str(whole))
        assert not (tmp_path / "y.safetensors").exists()


def test_torch_export_takes_any_number_of_images(tiny: Trained) -> None:
    data, said = export.export(tiny, TOLD, ".pt2")
    assert said.startswith("by torch.export it differs")
    assert export.is_ours(data)
    found = dict.fromkeys(TOLD, "")
    program = torch.export.load(io.BytesIO(data), extra_files=found).module()
    assert found == TOLD
    for count in (1, 2, 7):
        images = torch.rand(count, 3, *SIZE)
        with torch.no_grad():
            assert torch.allclose(program(images), tiny.model(images), atol=1e-6)


@pytest.mark.slow
def test_onnx_takes_any_number_of_images(tiny: Trained, monkeypatch: pytest.MonkeyPatch) -> None:
    import onnx
    import onnxruntime

    data, said = export.export(tiny, TOLD, ".onnx")
    assert said.startswith("by onnxruntime it differs")
    assert export.is_ours(data)
    assert {entry.key: entry.value for entry in onnx.load_from_string(data).metadata_props} == TOLD
    session = onnxruntime.InferenceSession(data)
    for count in (1, 2, 7):
        images = torch.rand(count, 3, *SIZE)
        (logits,) = session.run(["logits"], {"images": images.numpy()})
        with torch.no_grad():
            assert torch.allclose(torch.from_numpy(logits), tiny.model(images), atol=1e-5)
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    assert "not compared" in export.export(tiny, TOLD, ".onnx")[1]


@pytest.mark.slow
def test_a_network_that_onnx_cannot_express_is_refused_with_the_reason(tiny: Trained) -> None:
    published = nn.Sequential(NORMS["conv_published"](3, 3, 3, 1, 1), tiny.model)
    published(torch.rand(2, 3, *SIZE))
    network = Trained(published.eval(), tiny.preprocess, tiny.classes)
    with pytest.raises(export.ExportError, match=r"No ONNX function found .* complex"):
        export.export(network, TOLD, ".onnx")


def test_what_differs_from_the_network_is_not_written(tiny: Trained, monkeypatch: pytest.MonkeyPatch) -> None:
    def wrong(images: Tensor) -> Tensor:
        return tiny.model(images) + 1e-3

    def of_one_image(images: Tensor) -> Tensor:
        return tiny.model(images)[:2]

    def none(images: Tensor) -> Tensor:
        return tiny.model(images) * torch.nan

    for other in (wrong, of_one_image, none):
        with torch.no_grad(), pytest.raises(export.ExportError, match="x differs from the network by") as caught:
            export._compared(tiny, other, "x")
        assert caught.value.exit_code == 4, "not a fault of the program"
    monkeypatch.setattr(torch.export, "export", lambda *_, **__: 1 / 0)
    with pytest.raises(export.ExportError, match="cannot be exported"):
        export.export(tiny, TOLD, ".pt2")


class Rounding(Tiny):
    """Float32 keeps few digits of its logits."""

    def forward(self, images: Tensor) -> Tensor:
        return super().forward(images) + 3000.0 - 3000.0


def test_a_difference_of_no_more_than_the_network_s_own_rounding_is_none(tiny: Trained) -> None:
    torch.manual_seed(0)
    network = tiny._replace(model=Rounding().eval())
    plain = Tiny().eval()
    plain.load_state_dict(network.model.state_dict())
    said = export._compared(network, plain, "x")
    numbers = re.fullmatch(r"by x it differs from the network by (\S+), and that from itself in float64 by (\S+)", said)
    assert numbers is not None, said
    difference, own = map(float, numbers.groups())
    assert export.TOLERANCE < difference < 2 * own
    with pytest.raises(export.ExportError, match=rf"more than 1e-05 and 10 times the network's own .*, {own:.1e}; no"):
        export._compared(network, lambda images: plain(images) + 0.01, "x")


def test_wrong_command_lines_and_a_full_disk(finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    one_line(call("export.py", "-r", finished), 2, "nothing to write")
    one_line(call("export.py", "-r", finished, "--onnx", "x.pt2"), 2, "--onnx x.pt2", "ends in .onnx")
    one_line(call("export.py", "-r", finished, "--safetensors", ".safetensors"), 2, "ends in .safetensors")
    one_line(call("export.py", "-r", tmp_path, "--safetensors", tmp_path / "x.safetensors"), 4, "without checkpoints")
    with monkeypatch.context() as patch:
        patch.setitem(sys.modules, "safetensors.torch", None)
        ended = call("export.py", "-r", finished, "--safetensors", tmp_path / "x.safetensors")
        one_line(ended, 2, "--safetensors needs safetensors", "pip install safetensors")
    with file_system(tmp_path / "disk", "40k") as disk:
        shutil.copy(finished / "config.json", disk / "kept")
        one_line(call("export.py", "-r", finished, "--safetensors", disk / "x.safetensors"), 5, "bytes needed")
        assert os.listdir(disk) == ["kept"]


@pytest.mark.slow
@pytest.mark.parametrize("arm", ["bn", "conv", "bncn", "gn"])
def test_every_format_of_a_whole_run(coco_dir: Path, tmp_path: Path, arm: str) -> None:
    arguments = coco(coco_dir, tmp_path / "run", "trainer.epochs=1", f"arch.args.norm={arm}")
    assert run(*arguments) == 0
    options = [
        f"--onnx={tmp_path}/x.onnx",
        f"--torch-export={tmp_path}/x.pt2",
        f"--safetensors={tmp_path}/x.safetensors",
    ]
    ended = call("export.py", "-r", tmp_path / "run", *options)
    assert ended.code == 0, ended.err
    assert ended.out.count("wrote ") == 3
    again = call("export.py", "-r", tmp_path / "x.safetensors", options[1])
    assert again.code == 0, again.err
