"""Singular values against dense matrices, and runs that are not changed by being looked at."""

import csv
import math
import signal
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode

from models import singular_values as module
from models.normed import Normed
from models.norms import NORMS
from models.preconv import PreConv2d
from models.preconv_published import PublishedPreConv2d
from models.resnet import resnet18
from models.singular_values import Convolution, count_convolutions, find_layers, singular_values, weight_norm
from tests.conftest import same_tree
from tests.runs import coco, curves, final_state, rows, run
from tests.test_train import Waits, make_trainer
from trainer.checkpoint import read
from trainer.checkpoint_file import pack
from trainer.state import checked
from trainer.trainer import Trainer
from utils.errors import CheckpointError

COLUMNS = ["epoch", "layer", "largest_singular_value", "smallest_singular_value", "gradient_norm", "weight_norm"]

# --- singular values -----------------------------------------------------------------------------------------------


def dense(layer: Convolution, grid: tuple[int, int]) -> np.ndarray:
    """The real matrix (C_out * P1 * P2, C_in * P1 * P2) of the circular map on a grid, an impulse at a time.

    The kernels act by shifted sums; only the preconditioner, as its definition has it, is applied in numpy's FFT.
    """
    weight = layer.weight.detach().numpy()
    c_out, c_in, k, _ = weight.shape
    columns = []
    for place in np.ndindex(c_in, *grid):
        x = np.zeros((c_in, *grid))
        x[place] = 1.0
        y = np.zeros((c_out, *grid))
        for i, j in np.ndindex(k, k):
            y += np.einsum("oi,ipq->opq", weight[:, :, i, j], np.roll(x, (-i, -j), (1, 2)))
        if not isinstance(layer, nn.Conv2d):
            assert layer.running_preconditioner is not None
            v = layer.running_preconditioner.numpy()
            if isinstance(layer, PreConv2d) or k == 1:
                y = np.fft.irfft2(np.fft.rfft2(y) * v, s=grid)
            else:
                y = np.fft.irfft2(np.fft.rfft2(y)[:, :, :2] * (v @ [1, 1j])[:, :, None], s=grid)
        columns.append(y.ravel())
    return np.stack(columns, 1)


def make(kind: type, c_in: int, c_out: int, k: int, stride: int, size: tuple[int, int]) -> Convolution:
    """A layer in float64 that has seen two batches, between which its weights moved; then they move once more."""
    torch.manual_seed(0)
    layer = kind(c_in, c_out, k, stride, k // 2, **({} if kind is nn.Conv2d else {"momentum": 0.7})).double()
    for _ in range(2):
        layer(torch.randn(3, c_in, *size, dtype=torch.float64))
        layer.weight.data += 0.1 * torch.randn_like(layer.weight)
    return layer


@pytest.mark.parametrize("size", [(4, 4), (5, 3), (3, 6), (3, 1)])
@pytest.mark.parametrize(
    ("k", "stride", "c_in", "c_out"), [(3, 1, 2, 3), (3, 2, 3, 2), (1, 1, 2, 3), (1, 2, 3, 3), (2, 1, 2, 2)]
)
@pytest.mark.parametrize("kind", [nn.Conv2d, PreConv2d, PublishedPreConv2d])
def test_singular_values_are_those_of_the_dense_matrix(
    kind: type, k: int, stride: int, c_in: int, c_out: int, size: tuple[int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    if k == 2 and kind is not nn.Conv2d:
        kind_of = kind
        kind = lambda *args, **options: kind_of(*args, affine=False, **options)  # noqa: E731
    monkeypatch.setattr(module, "_CHUNK", 5 * c_in * c_out)
    layer = make(kind, c_in, c_out, k, stride, size)
    grid = (size[0] + k - 1, size[1] + k - 1)
    largest, smallest = singular_values(layer, (1, 1) if k == 1 else grid)
    # The dense matrix has min(C_out, C_in) singular values for each frequency, and where C_out != C_in zeros besides.
    values = np.linalg.svd(dense(layer, grid), compute_uv=False)
    assert largest == pytest.approx(values[0], abs=1e-10)
    assert smallest == pytest.approx(values[min(c_in, c_out) * grid[0] * grid[1] - 1], abs=1e-10)


@pytest.mark.parametrize("kind", [nn.Conv2d, PreConv2d, PublishedPreConv2d])
def test_no_image_is_stretched_by_more_than_the_largest(kind: type) -> None:
    """The layer itself, on an image that the grid holds whole: its Jacobian's norm comes near the bound."""
    torch.manual_seed(0)
    options = {"bias": False} if kind is nn.Conv2d else {"affine": False}
    options |= {"batch_norm": False} if kind is PublishedPreConv2d else {}
    layer = kind(2, 3, 3, 1, 2, **options).double()
    x = torch.randn(4, 2, 6, 5, dtype=torch.float64)
    layer(x)
    layer.eval()
    jacobian = torch.autograd.functional.jacobian(layer, x[:1]).reshape(-1, 2 * 6 * 5)
    stretch = float(torch.linalg.matrix_norm(jacobian, 2))
    largest, _ = singular_values(layer, (8, 7))
    assert 0.8 * largest < stretch < (1 + 1e-12) * largest


@pytest.mark.parametrize(("c_in", "c_out"), [(3, 5), (5, 3), (1, 4)])
@pytest.mark.parametrize("k", [1, 3])
def test_unit_rows_bound_a_convnorm(k: int, c_in: int, c_out: int) -> None:
    """With V that of the weights each of the C_out rows of T(f) has norm 1, so 1 <= largest <= sqrt(C_out)."""
    torch.manual_seed(0)
    layer = PreConv2d(c_in, c_out, k, momentum=1.0)
    layer(torch.randn(2, c_in, 7, 8))
    largest, smallest = singular_values(layer, (1, 1) if k == 1 else (7 + k - 1, 8 + k - 1))
    assert 1.0 - 1e-6 <= largest <= math.sqrt(c_out) * (1 + 1e-6)
    assert smallest <= max(1.0, math.sqrt(c_out / c_in)) * (1 + 1e-6)
    if c_in == 1:
        assert (largest, smallest) == pytest.approx((2.0, 2.0), rel=1e-6)


def test_an_orthogonal_convnorm_is_an_isometry() -> None:
    layer = PreConv2d(3, 3, 3)
    with torch.no_grad():
        layer.weight.copy_(7.0 * nn.init.dirac_(torch.empty(3, 3, 3, 3)))
    assert singular_values(layer, (8, 8)) == pytest.approx((1.0, 1.0), rel=1e-6)


def test_weights_that_are_not_finite_give_nan() -> None:
    layer = nn.Conv2d(2, 2, 3)
    layer.weight.data[0, 0, 0, 0] = math.inf
    assert all(map(math.isnan, singular_values(layer, (6, 6))))


def test_a_dead_layer_gives_zero() -> None:
    layer = nn.Conv2d(2, 2, 3)
    nn.init.zeros_(layer.weight)
    assert singular_values(layer, (6, 6)) == (0.0, 0.0)
    assert weight_norm(layer) == 0.0


# --- layers of a network -------------------------------------------------------------------------------------------

RESNET18 = [
    "stem.0",
    *("stages.0.0.branch.0", "stages.0.0.branch.2", "stages.0.1.branch.0", "stages.0.1.branch.2"),
    *(
        f"stages.{stage}.{part}"
        for stage in (1, 2, 3)
        for part in ("0.branch.0", "0.branch.2", "0.shortcut", "1.branch.0", "1.branch.2")
    ),
]


@pytest.mark.parametrize("norm", NORMS)
def test_layers_are_the_pairs_of_every_arm(norm: str) -> None:
    model = resnet18(norm, 10, 4)
    state = {name: value.clone() for name, value in model.state_dict().items()}
    layers = find_layers(model, (32, 24))
    assert [layer.name for layer in layers] == RESNET18
    assert count_convolutions(model) == len(layers)
    owned = [id(parameter) for layer in layers for parameter in layer.module.parameters()]
    head = [id(parameter) for parameter in model.head.parameters()]
    assert sorted(owned + head) == sorted(map(id, model.parameters()))  # each in one layer
    grids = {layer.name: layer.grid for layer in layers}
    assert grids["stem.0"] == grids["stages.1.0.branch.0"] == (34, 26)  # stride 2, from 32 x 24
    assert grids["stages.1.0.branch.2"] == (18, 14)
    assert grids["stages.3.1.branch.2"] == (6, 5)
    assert grids["stages.1.0.shortcut"] == (1, 1)
    assert model.training
    assert same_tree(dict(model.state_dict()), state) == []
    assert not any(module._forward_pre_hooks for module in model.modules())


@pytest.mark.parametrize("k", [1, 3])
@pytest.mark.parametrize("kind", [nn.Conv2d, PreConv2d, PublishedPreConv2d])
def test_everything_stays_on_one_device(kind: type, k: int) -> None:
    """FakeTensorMode raises on any mix of devices, so this needs no GPU."""
    with FakeTensorMode(), torch.device("cuda"):
        layer, grid = kind(2, 3, k), (1, 1) if k == 1 else (9, 8)
        frequency = torch.zeros(7, 2, dtype=torch.int64)  # choosing them has a shape that depends on values
        chosen = module._gain(layer, grid).double()[:, frequency[:, 0], frequency[:, 1]].T
        (matrices,) = module._transfer_matrices(layer.weight.double(), chosen, frequency, grid)
        values = torch.linalg.eigvalsh(matrices.mH @ matrices)
    assert (values.device.type, values.dtype, values.shape) == ("cuda", torch.float64, (7, 2))


# --- runs ----------------------------------------------------------------------------------------------------------

ON = "trainer.diagnostics=true"
TWO = "trainer.epochs=2"
ONE_STEP, THREE_STEPS = (f"data_loader.args.batch_size={size}" for size in (40, 14))  # an epoch


def table(folder: Path) -> list[dict[str, str]]:
    with open(folder / "diagnostics.csv") as file:
        return list(csv.DictReader(file))


@pytest.mark.parametrize(
    ("arm", "amp"),
    [
        ("conv", "null"),
        *(
            pytest.param(*case, marks=pytest.mark.slow)
            for case in (("conv_published", "null"), ("bn", "fp16"), ("bncn", "bf16"))
        ),
    ],
)
def test_looking_at_a_run_changes_nothing_in_it(coco_dir: Path, tmp_path: Path, arm: str, amp: str) -> None:
    off, on = tmp_path / "off", tmp_path / "on"
    options = (TWO, ONE_STEP, f"trainer.amp={amp}", f"arch.args.norm={arm}")
    assert run(*coco(coco_dir, off, *options)) == 0
    assert run(*coco(coco_dir, on, *options, ON)) == 0
    assert rows(on) == rows(off)
    looked_at, plain = final_state(on, 2), final_state(off, 2)
    assert len(looked_at.pop("diagnostics")) == 2 * len(RESNET18)
    assert plain.pop("diagnostics") == []
    for state in (looked_at, plain):
        del state["config"], state["seconds"]
    assert same_tree(looked_at, plain) == []
    assert not (off / "diagnostics.csv").exists()
    assert curves(off).items() <= curves(on).items()


@pytest.fixture(scope="module", params=["bn", pytest.param("bncn", marks=pytest.mark.slow)])
def arm(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture(scope="module")
def straight(coco_dir: Path, tmp_path_factory: pytest.TempPathFactory, arm: str) -> Path:
    """A run of two epochs with diagnostics; read only."""
    folder = tmp_path_factory.mktemp("straight") / "run"
    assert run(*coco(coco_dir, folder, TWO, THREE_STEPS, ON, arm=arm)) == 0
    return folder


def test_a_run_leaves_a_row_for_each_epoch_and_layer(straight: Path) -> None:
    found = table(straight)
    assert (straight / "diagnostics.csv").read_text().splitlines()[0] == ",".join(COLUMNS)
    assert [(row["epoch"], row["layer"]) for row in found] == [(e, name) for e in ("1", "2") for name in RESNET18]
    shown = curves(straight)
    for row in found:
        assert float(row["largest_singular_value"]) >= float(row["smallest_singular_value"]) >= 0.0
        for column in COLUMNS[2:]:
            value = dict(shown[f"diagnostics/{row['layer']}/{column}"])[int(row["epoch"])]
            assert value == pytest.approx(float(row[column]), rel=1e-6)
            assert value > 0.0
    weights = final_state(straight, 2)["model"]
    last = {row["layer"]: float(row["weight_norm"]) for row in found[-len(RESNET18) :]}
    assert last["stem.0"] == pytest.approx(float(weights["stem.0.0.weight"].norm()), rel=1e-6)


def test_the_gradient_norm_is_the_mean_over_the_steps_before_clipping(coco_dir: Path, tmp_path: Path) -> None:
    trainer = make_trainer(coco_dir, tmp_path, ON, "trainer.clip_grad_norm=1e-3")
    assert trainer.diagnostics is not None
    norms = []
    reference = make_trainer(coco_dir, tmp_path)
    for batch in trainer.data.train.batches(1):
        reference.model.load_state_dict(trainer.model.state_dict())
        reference.train_step(batch)
        pair = reference.model.get_submodule("stages.1.0.shortcut")
        norms.append(math.sqrt(sum(float(p.grad.double().square().sum()) for p in pair.parameters())))
        trainer.train_step(batch)
    means = trainer.diagnostics.gradients.figures({})
    assert means["stages.1.0.shortcut"] == pytest.approx(np.mean(norms), rel=1e-5)


def test_gradient_norms_do_not_wait_for_the_device(coco_dir: Path, tmp_path: Path) -> None:
    trainer = make_trainer(coco_dir, tmp_path, ON, arm="bncn")
    batches = trainer.data.train.batches(1)
    trainer.train_step(next(batches))
    with Waits() as waits:
        trainer.train_step(next(batches))
    assert waits.found == []


@pytest.mark.parametrize("after", [2, 6, "evaluation"])
def test_a_run_stopped_within_an_epoch_has_the_same_rows(
    straight: Path, coco_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, after: int | str, arm: str
) -> None:
    """Within the first epoch, at the last step of the second, and while the second is evaluated."""
    original = Trainer.between_batches

    def stopping(self: Trainer) -> None:
        evaluating = not self.model.training and self.global_step == 6
        if evaluating if after == "evaluation" else self.global_step == after:
            self.stop.signal = signal.SIGTERM
        original(self)

    folder = tmp_path / "part"
    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "between_batches", stopping)
        assert run(*coco(coco_dir, folder, TWO, THREE_STEPS, ON, arm=arm)) == 143
    assert run("-r", "auto", "--run-dir", folder) == 0
    assert (folder / "diagnostics.csv").read_bytes() == (straight / "diagnostics.csv").read_bytes()
    assert rows(folder) == rows(straight)
    assert same_tree(final_state(folder, 2), final_state(straight, 2)) == []
    assert curves(folder) == curves(straight)


def test_a_checkpoint_without_diagnostics_is_gone_on_from(coco_dir: Path, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    assert run(*coco(coco_dir, folder, "trainer.epochs=1")) == 0
    path = folder / "checkpoint-epoch1.pth"
    state = read(path)
    del state["diagnostics"], state["gradient_norms"]
    path.write_bytes(pack(state))
    assert run("-r", path, TWO, ON) == 0
    assert {row["epoch"] for row in table(folder)} == {"2"}
    assert run("-r", folder / "checkpoint-epoch2.pth", "trainer.epochs=3", "trainer.diagnostics=false") == 0
    assert len(final_state(folder, 3)["diagnostics"]) == len(RESNET18)  # kept, though none are added


@pytest.mark.parametrize("change", ["column", "epoch", "figure", "list"])
def test_rows_that_are_none_are_refused(straight: Path, change: str) -> None:
    state = read(straight / "checkpoint-epoch2.pth")
    assert len(state["diagnostics"]) == 2 * len(RESNET18)
    row = state["diagnostics"][3]
    changed = {
        "column": [{**row, "more": 1.0}],
        "epoch": [{**row, "epoch": 3}],
        "figure": [{**row, "weight_norm": "large"}],
        "list": {"0": row},
    }
    with pytest.raises(CheckpointError, match="its diagnostics are no rows of epoch, layer"):
        checked({**state, "diagnostics": changed[change]}, "it")


def test_a_norm_of_ones_own_is_measured_with_its_convolution() -> None:
    class Centred(nn.Module):
        """A norm that torch does not have, with a parameter of its own."""

        def __init__(self) -> None:
            super().__init__()
            self.scale = nn.Parameter(torch.ones(()))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.scale * (x - x.mean((2, 3), keepdim=True))

    model = nn.Sequential(Normed(nn.Conv2d(3, 4, 3, padding=1), Centred()), nn.Conv2d(4, 2, 1))
    pair, bare = find_layers(model, (8, 8))
    assert (pair.name, bare.name) == ("0", "1")
    assert [name for name, _ in pair.module.named_parameters()] == ["0.weight", "0.bias", "1.scale"]
