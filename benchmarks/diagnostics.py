"""What trainer.diagnostics costs: python -m benchmarks.diagnostics --threads 1

For ResNet18, a training step, the gradient norms of a step and the rows of an epoch, and from these the share that
diagnostics add to the training of an epoch of 2,720 images (TinyCOCO's training set, 22 batches of 128).
"""

import argparse
from pathlib import Path

import torch

from base.base_data_loader import Batch
from benchmarks.harness import interleaved, machine, medians, set_up
from data_loader.build import build_data
from models.build import build_model
from parse_config import validate
from trainer.optim import build_optimizer
from trainer.trainer import Trainer
from utils.device import choose_device

STEPS = 22
BATCH = 128


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--widths", type=int, nargs="+", default=[16, 64])
    parser.add_argument("--arms", nargs="+", default=["bn", "conv", "bncn", "conv_published"])
    args = parser.parse_args()
    set_up(args.threads)
    print(machine())
    print("| width | arm | training step, s | gradient norms of a step, ms | rows of an epoch, s | added to an epoch |")
    print("|---|---|---|---|---|---|")
    for width in args.widths:
        for arm in args.arms:
            print(measured(arm, width, args.rounds), flush=True)


def measured(arm: str, width: int, rounds: int) -> str:
    """A row of the table."""
    trainer = make_trainer(arm, width)
    diagnostics = trainer.diagnostics
    assert diagnostics is not None
    size = trainer.data.dataset.images.shape[2:]
    images = torch.randn(BATCH, 3, *size, device=trainer.device)
    if trainer.device.type == "cpu":  # as the loaders have it there
        images = images.contiguous(memory_format=torch.channels_last)
    labels = torch.arange(BATCH, device=trainer.device) % 10
    batch = Batch(images, labels, labels, labels)
    work = {
        "step": lambda: trainer.train_step(batch),  # its gradient norms are in it
        "norms": diagnostics.add_gradients,
        "rows": lambda: diagnostics.rows(1),
    }
    step, norms, rows = medians(interleaved(work, rounds)).values()
    plain = step - norms
    added = (STEPS * norms + rows) / (STEPS * plain)
    return f"| {width} | {arm} | {plain:.3f} | {1000 * norms:.2f} | {rows:.2f} | {100 * added:.1f} % |"


def make_trainer(arm: str, width: int) -> Trainer:
    """On digits, for want of images that are at hand everywhere; a step is given noise in their size."""
    config = validate(
        {
            "name": "diagnostics",
            "arch": {"args": {"norm": arm, "width": width}},
            "data_loader": {"type": "Digits"},
            "trainer": {"diagnostics": True, "tensorboard": False},
        },
        "benchmarks/diagnostics.py",
    )
    device = choose_device(None)
    data = build_data(config, device)
    model = build_model(config, 10).to(device)
    trainer = Trainer(config, model, *build_optimizer(config, model), data, device, Path("unused"))
    trainer.model.train()
    return trainer


if __name__ == "__main__":
    main()
