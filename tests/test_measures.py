"""Losses and metrics against the formulas of their papers, written out once more in numpy."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from scipy.special import softmax
from sklearn.metrics import balanced_accuracy_score, top_k_accuracy_score
from sklearn.utils.class_weight import compute_class_weight

from models.loss import build_loss
from models.metric import METRICS
from parse_config import validate
from tests.runs import coco, launch, rows, run, same_run
from tests.states import made_state
from tests.test_faults_processes import start_two
from tests.test_train import StoppingTrainer, Waits
from trainer.meter import Meter
from trainer.state import checked
from trainer.trainer import Trainer
from utils.columns import SPLITS
from utils.errors import CheckpointError, ConfigError

CPU = torch.device("cpu")


def batch(count: int = 64, classes: int = 7, scale: float = 3.0, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    draw = torch.Generator().manual_seed(seed)
    logits = scale * torch.randn(count, classes, dtype=torch.float64, generator=draw)
    return logits, torch.randint(0, classes, (count,), generator=draw)


# --- losses ----------------------------------------------------------------------------------------------------------


def of(loss: Any, logits: torch.Tensor, targets: torch.Tensor, *more: Any) -> torch.Tensor:
    return build_loss(validate({"name": "x", "loss": loss}, "test").loss, *more)(logits, targets)


def distributions(logits: torch.Tensor, targets: torch.Tensor) -> tuple[np.ndarray, np.ndarray]:
    """(N, C) each: the network's probabilities, and the targets'."""
    return softmax(logits.numpy(), axis=1), np.eye(logits.shape[1])[targets.numpy()]


def box_cox(p: np.ndarray, target: np.ndarray, q: float) -> float:
    return ((1 - (p * target).sum(1) ** q) / q).mean()


def symmetric(p: np.ndarray, target: np.ndarray, alpha: float, beta: float, A: float) -> float:
    log_target = np.where(target == 1, 0.0, A)
    ce, rce = -(target * np.log(p)).sum(1), -(p * log_target).sum(1)
    return (alpha * ce + beta * rce).mean()


def test_robust_losses_are_those_of_the_papers() -> None:
    logits, targets = batch()
    p, target = distributions(logits, targets)
    for q in (0.01, 0.3, 0.7, 1.0):
        assert of({"type": "gce", "args": {"q": q}}, logits, targets) == pytest.approx(box_cox(p, target, q))
    for alpha, beta, A in ((0.1, 1.0, -4.0), (6.0, 0.1, -6.5), (0.0, 1.0, -1.0)):
        args = {"alpha": alpha, "beta": beta, "A": A}
        expected = symmetric(p, target, alpha, beta, A)
        assert of({"type": "sce", "args": args}, logits, targets) == pytest.approx(expected)
    assert of("mae", logits, targets) == pytest.approx(np.abs(p - target).sum(1).mean())
    assert of("gce", logits, targets) == pytest.approx(box_cox(p, target, 0.7))
    assert of("sce", logits, targets) == pytest.approx(symmetric(p, target, 0.1, 1.0, -4.0))


def test_gce_lies_between_cross_entropy_and_half_of_mae() -> None:
    logits, targets = batch()
    near_zero = of({"type": "gce", "args": {"q": 1e-7}}, logits, targets)
    torch.testing.assert_close(near_zero, F.cross_entropy(logits, targets), atol=1e-5, rtol=0)
    torch.testing.assert_close(of({"type": "gce", "args": {"q": 1}}, logits, targets), of("mae", logits, targets) / 2)


@pytest.mark.parametrize("loss", ["gce", "sce", "mae"])
def test_robust_losses_have_finite_gradients_where_probabilities_vanish(loss: str) -> None:
    logits = torch.tensor([[500.0, -500.0], [-500.0, 500.0], [0.0, 1e-4]], requires_grad=True)
    targets = torch.zeros(3, dtype=torch.int64)
    of(loss, logits, targets).backward()
    assert logits.grad is not None
    assert torch.isfinite(logits.grad).all()
    exact = torch.randn(3, 4, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda given: of(loss, given, targets), exact)


def test_cross_entropy_is_torch_s_with_smoothing_and_weights() -> None:
    logits, targets = batch()
    weights = [1.0, 2.0, 0.5, 3.0, 1.0, 0.1, 7.0]
    for smoothing in (0.0, 0.2):
        args = {"label_smoothing": smoothing, "class_weights": weights}
        expected = torch.nn.CrossEntropyLoss(torch.tensor(weights).double(), label_smoothing=smoothing)
        torch.testing.assert_close(
            of({"args": args}, logits, targets).double(), expected(logits, targets), atol=1e-6, rtol=0
        )
    assert of({"args": {"label_smoothing": 0.2}}, logits, targets) == of(
        {"type": "smoothed_cross_entropy", "args": {"smoothing": 0.2}}, logits, targets
    )
    assert torch.equal(of("cross_entropy", logits, targets), F.cross_entropy(logits, targets))


def test_balanced_weights_are_inverse_to_the_training_labels() -> None:
    labels = torch.tensor([0] * 60 + [1] * 30 + [3] * 10)  # none of class 2
    logits, targets = batch(classes=4)
    targets = targets[targets != 2]
    logits = logits[: len(targets)]
    weights = np.zeros(4)
    weights[[0, 1, 3]] = compute_class_weight("balanced", classes=np.array([0, 1, 3]), y=labels.numpy())
    expected = F.cross_entropy(logits, targets, torch.tensor(weights))
    found = of({"args": {"class_weights": "balanced"}}, logits, targets, labels, 4)
    torch.testing.assert_close(found, expected, atol=1e-6, rtol=1e-6)


def test_weights_must_be_one_for_each_class() -> None:
    with pytest.raises(ConfigError, match=r"loss.args.class_weights: 2 weights for 7 classes"):
        of({"args": {"class_weights": [1, 2]}}, *batch(), None, 7)
    with pytest.raises(ConfigError, match="no training labels"):
        of({"args": {"class_weights": "balanced"}}, *batch())


# --- metrics ---------------------------------------------------------------------------------------------------------


def calibration_error(logits: torch.Tensor, targets: torch.Tensor) -> float:
    """Guo et al. 2017, equation 5, bin by bin."""
    p = softmax(logits.numpy(), axis=1)
    confidence, right = p.max(1), p.argmax(1) == targets.numpy()
    error = 0.0
    for m in range(15):
        within = (confidence > m / 15) & (confidence <= (m + 1) / 15)
        if within.any():
            error += within.mean() * abs(right[within].mean() - confidence[within].mean())
    return error


REFERENCES = {
    "accuracy": lambda logits, targets: (logits.argmax(1) == targets).double().mean().item(),
    "top5_accuracy": lambda logits, targets: (
        top_k_accuracy_score(targets, logits, k=5, labels=range(logits.shape[1])) if logits.shape[1] > 5 else 1.0
    ),
    "ece": calibration_error,
    "balanced_accuracy": lambda logits, targets: balanced_accuracy_score(targets, logits.argmax(1)),
}


@pytest.mark.parametrize("name", METRICS)
@pytest.mark.parametrize(("classes", "scale"), [(2, 0.5), (7, 3.0), (40, 0.1)])
def test_a_metric_of_batches_is_that_of_all_images(name: str, classes: int, scale: float) -> None:
    logits, targets = batch(500, classes, scale)
    if classes == 7:
        targets[targets == 4] = 3  # a class without images
        logits[torch.arange(0, 500, 2), targets[::2]] += 5.0
    expected = REFERENCES[name](logits, targets)
    meter = Meter(CPU)
    for part in torch.arange(500).split(64):
        state = METRICS[name].update(logits[part], targets[part])
        assert state.shape == (METRICS[name].size(classes),)
        meter.add_state(name, state)
    assert meter.figures()[name] == pytest.approx(expected, abs=1e-12)
    again = Meter(CPU)
    again.load_state_dict(meter.state_dict())
    assert again.figures() == meter.figures()


def test_states_of_processes_are_added() -> None:
    """What is saved by two processes goes on in one."""
    logits, targets = batch(100)
    saved = {}
    for rank, part in enumerate(torch.arange(100).split(60)):
        own = Meter(CPU)
        for name, metric in METRICS.items():
            own.add_state(name, metric.update(logits[part], targets[part]))
        saved[str(rank)] = own.state_dict()["0"]
    together = Meter(CPU)
    together.load_state_dict(saved)
    for name, figure in together.figures().items():
        assert figure == pytest.approx(REFERENCES[name](logits, targets), abs=1e-12)


@pytest.mark.parametrize("name", METRICS)
def test_a_metric_of_no_image_is_nan(name: str) -> None:
    assert np.isnan(METRICS[name].compute(torch.zeros(METRICS[name].size(3), dtype=torch.float64)))


def test_confidence_of_one_and_of_the_edges_has_a_bin() -> None:
    logits = torch.tensor([[200.0, 0.0], [0.0, 0.0]])  # confidences of 1 and 1/2
    state = METRICS["ece"].update(logits, torch.tensor([0, 1])).view(3, 15)
    assert state[2].nonzero().flatten().tolist() == [7, 14]
    assert METRICS["ece"].compute(state.flatten().double()) == pytest.approx(0.25)
    half = METRICS["ece"].update(logits.bfloat16(), torch.tensor([0, 1]))
    assert torch.equal(half, state.flatten())


def test_no_metric_and_no_loss_waits_for_the_device() -> None:
    logits, targets = batch()
    losses = ["gce", "sce", "mae", {"args": {"class_weights": "balanced"}}]
    built = [build_loss(validate({"name": "x", "loss": loss}, "test").loss, targets, 7) for loss in losses]
    with Waits() as waits:
        for function in (*(metric.update for metric in METRICS.values()), *built):
            function(logits, targets)
    assert waits.found == []
    assert {"bucketize", "topk", "gather", "expm1"} < waits.seen


# --- in runs ---------------------------------------------------------------------------------------------------------

MEASURED = ('metrics=["accuracy","balanced_accuracy","ece"]', "trainer.epochs=2", "trainer.monitor=min val_ece")


def test_a_run_stopped_within_an_epoch_has_the_figures_of_one_never_stopped(
    coco_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    options = (*MEASURED, "loss.args.class_weights=balanced")
    assert run(*coco(coco_dir, tmp_path / "straight", *options)) == 0
    original = Trainer.__init__

    def stopping(self: Trainer, *args: Any) -> None:
        original(self, *args)
        self.train_step = StoppingTrainer(self, 8)

    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "__init__", stopping)
        assert run(*coco(coco_dir, tmp_path / "part", *options)) == 143
    assert run("-r", "auto", "--run-dir", tmp_path / "part") == 0
    same_run(tmp_path / "part", tmp_path / "straight", 2)
    for row in rows(tmp_path / "part"):
        assert all(0 <= float(row[f"{split}_{name}"]) <= 1 for split in SPLITS for name in ("ece", "balanced_accuracy"))


@pytest.mark.parametrize(
    ("name", "state"), [("ece", [0.5] * 44), ("balanced_accuracy", [0.5] * 5), ("ece", [0.0] * 45)]
)
def test_a_state_of_another_size_or_of_no_image_is_refused(name: str, state: list[float]) -> None:
    sums = {"loss": [1.0, 8.0], "accuracy": [1.0, 8.0], "ece": [0.5] * 45, "balanced_accuracy": [0.5] * 4}
    config = made_state()["config"] | {"metrics": list(sums)[1:]}
    checked(made_state(batch=1, config=config, partial_sums={"0": sums}), "x.pth")
    with pytest.raises(CheckpointError, match="partial_sums is not as a run writes it"):
        checked(made_state(batch=1, config=config, partial_sums={"0": {**sums, name: state}}), "x.pth")


@pytest.mark.slow
def test_two_processes_measure_what_one_does(coco_dir: Path, tmp_path: Path) -> None:
    def arguments(folder: Path) -> list[str]:
        """Classes of very unlike weights, so that those of two shares of a batch differ."""
        more = ("optimizer.args.lr=0.01", "arch.args.norm=gn", "data_loader.args.batch_size=15")
        return coco(coco_dir, folder, *MEASURED, *more, f"loss.args.class_weights={[2**n for n in range(10)]}")

    assert launch(tmp_path, *arguments(tmp_path / "one")).code == 0
    ended = [process.end() for process in start_two(arguments(tmp_path / "two"), tmp_path)]
    assert [each.code for each in ended] == [0, 0], ended[0].err
    for one, two in zip(rows(tmp_path / "one"), rows(tmp_path / "two"), strict=True):
        for key in one:
            assert float(one[key]) == pytest.approx(float(two[key]), rel=1e-5, abs=1e-5), key


def test_check_shows_how_uneven_the_classes_are(coco_dir: Path, tmp_path: Path, capsys: Any) -> None:
    assert run(*coco(coco_dir, tmp_path / "run", "loss.args.class_weights=balanced", "--check", noise=0)) == 0
    assert "training labels of a class, wrong ones included: 4 to 4\n" in capsys.readouterr().out
    assert run(*coco(coco_dir, tmp_path / "run", "loss.args.class_weights=[1,2]", "--check")) == 2
    assert "2 weights for 10 classes" in capsys.readouterr().err
