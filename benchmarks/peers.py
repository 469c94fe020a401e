"""A whole short run beside the same job in Lightning, and in a loop of timm's parts: python -m benchmarks.peers

Two epochs of ResNet18 (`bn`, width 16, batch 64) on 5,000 JPEG files of 32x32 in folders, 80 % to train on and 10 %
each to validate and to test, with crops and flips, SGD, a validation after each epoch, checkpoints, and a test at the
end. Each is a process of its own with its defaults, from the start of Python to its end; they take turns. The peers
have the same network and torchvision's or timm's own pipeline, with two workers. Needs `pip install lightning timm`.

timm's train.py is not in its package, so its job is made of the parts that it calls: datasets, loaders, optimizer,
saver.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.harness import medians, ratio

ROOT = Path(__file__).resolve().parent.parent
MEAN, STD = (0.5,) * 3, (0.25,) * 3
EPOCHS, BATCH, WIDTH, RATE, CLASSES = 2, 64, 16, 0.1, 10
SPLITS = {"train": 0.8, "val": 0.1, "test": 0.1}


def make_images(folder: Path, count: int) -> None:
    """Smooth random pictures, in `folder`/images/<split>/<class>/."""
    from PIL import Image

    random = np.random.default_rng(0)
    ends = np.cumsum(list(SPLITS.values()))
    for number in range(count):
        rough = random.integers(256, size=(8, 8, 3), dtype=np.uint8)
        split = list(SPLITS)[int(np.searchsorted(ends, number / count, side="right"))]
        path = folder / "images" / split / f"{number % CLASSES}" / f"{number:05}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(rough).resize((32, 32), Image.Resampling.BICUBIC).save(path, quality=90)


def _network() -> Any:
    from models.resnet import resnet18

    return resnet18("bn", num_classes=CLASSES, width=WIDTH)


def ours(folder: Path, out: Path) -> list[str]:
    config = {
        "_base_": str(ROOT / "configs" / "_base_" / "paper.json"),
        "name": "peers",
        "arch": {"type": "resnet18", "args": {"norm": "bn", "width": WIDTH}},
        "data_loader": {
            "type": "ImageFolder",
            "args": {"data_dir": str(folder / "images"), "batch_size": BATCH},
        },
        "optimizer": {"args": {"lr": RATE}},
        "lr_scheduler": {"type": "CosineAnnealingLR"},
        "trainer": {"epochs": EPOCHS, "save_dir": str(out)},
    }
    (out / "config.json").write_text(json.dumps(config))
    for cache in folder.glob("*.npz"):
        cache.unlink()  # decoded by an earlier turn
    return ["train.py", "-c", str(out / "config.json")]


def lightning(folder: Path, out: Path) -> None:
    import torch
    import torch.nn.functional as F
    from lightning.pytorch import LightningModule, Trainer, seed_everything
    from lightning.pytorch.loggers import TensorBoardLogger
    from torch.utils.data import DataLoader
    from torchvision import datasets, transforms

    class Module(LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.network = _network()

        def training_step(self, batch: Any, number: int) -> Any:
            return self._measure(batch, "train")

        def validation_step(self, batch: Any, number: int) -> None:
            self._measure(batch, "val")

        def test_step(self, batch: Any, number: int) -> None:
            self._measure(batch, "test")

        def _measure(self, batch: Any, split: str) -> Any:
            images, targets = batch
            logits = self.network(images)
            loss = F.cross_entropy(logits, targets)
            accuracy = (logits.argmax(1) == targets).float().mean()
            self.log_dict({f"{split}_loss": loss, f"{split}_accuracy": accuracy}, on_step=False, on_epoch=True)
            return loss

        def configure_optimizers(self) -> Any:
            optimizer = torch.optim.SGD(self.parameters(), lr=RATE, momentum=0.9, weight_decay=1e-4)
            return [optimizer], [torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, EPOCHS)]

    seed_everything(0)
    plain = [transforms.ToTensor(), transforms.Normalize(MEAN, STD)]
    augmented = [transforms.RandomCrop(32, padding=4), transforms.RandomHorizontalFlip(), *plain]
    loaders = {}
    for split in SPLITS:
        chosen = transforms.Compose(augmented if split == "train" else plain)
        images = datasets.ImageFolder(folder / "images" / split, chosen)
        loaders[split] = DataLoader(
            images, BATCH, shuffle=split == "train", num_workers=2, persistent_workers=split != "test"
        )
    trainer = Trainer(
        max_epochs=EPOCHS, accelerator="cpu", default_root_dir=out, logger=TensorBoardLogger(out), log_every_n_steps=10
    )
    module = Module()
    trainer.fit(module, loaders["train"], loaders["val"])
    trainer.test(module, loaders["test"], verbose=False)


def timm(folder: Path, out: Path) -> None:
    import torch
    from timm.data import create_dataset, create_loader
    from timm.optim import create_optimizer_v2
    from timm.scheduler import CosineLRScheduler
    from timm.utils import AverageMeter, CheckpointSaver, accuracy

    torch.manual_seed(0)
    model = _network()
    optimizer = create_optimizer_v2(model, "momentum", lr=RATE, weight_decay=1e-4, momentum=0.9)
    schedule = CosineLRScheduler(optimizer, EPOCHS)
    device = torch.device("cpu")
    loaders = {}
    for split in SPLITS:
        training = split == "train"
        options = {"is_training": training, "use_prefetcher": False, "num_workers": 2, "mean": MEAN, "std": STD}
        crops = {"train_crop_mode": "rkrc", "scale": (1.0, 1.0), "ratio": (1.0, 1.0), "color_jitter": 0.0}
        images = create_dataset("", root=str(folder / "images" / split), split=split)
        loaders[split] = create_loader(
            images, (3, 32, 32), BATCH, **options, **(crops if training else {"crop_pct": 1.0}), device=device
        )
    saver = CheckpointSaver(model, optimizer, checkpoint_dir=str(out), recovery_dir=str(out))

    def evaluate(split: str) -> float:
        model.eval()
        top1 = AverageMeter()
        with torch.inference_mode():
            for images, targets in loaders[split]:
                top1.update(accuracy(model(images), targets)[0].item(), len(targets))
        return float(top1.avg)

    criterion = torch.nn.CrossEntropyLoss()
    for epoch in range(EPOCHS):
        model.train()
        losses = AverageMeter()
        for images, targets in loaders["train"]:
            loss = criterion(model(images), targets)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            losses.update(loss.item(), len(targets))
        schedule.step(epoch + 1)
        saver.save_checkpoint(epoch, evaluate("val"))
    evaluate("test")


PEERS: dict[str, Callable[[Path, Path], None]] = {"lightning": lightning, "timm": timm}


def _run(name: str, folder: Path) -> None:
    with tempfile.TemporaryDirectory() as out:
        own = ["-m", "benchmarks.peers", "--run", name, str(folder), out]
        command = ours(folder, Path(out)) if name == "ours" else own
        ended = subprocess.run([sys.executable, *command], cwd=ROOT, capture_output=True, text=True, check=False)
        if ended.returncode:
            sys.exit(f"{name} failed:\n{ended.stderr}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=5000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--run", nargs=3, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.run:
        PEERS[args.run[0]](Path(args.run[1]), Path(args.run[2]))
        return
    seconds: dict[str, list[float]] = {name: [] for name in ("ours", *PEERS)}
    with tempfile.TemporaryDirectory() as folder:
        make_images(Path(folder), args.images)
        for _ in range(args.rounds):
            for name, taken in seconds.items():
                start = time.perf_counter()
                _run(name, Path(folder))
                taken.append(time.perf_counter() - start)
    print("| peer | its seconds | ours | ours / peer | range |\n|---|---|---|---|---|")
    middle = medians(seconds)
    for name in PEERS:
        value, low, high = ratio(seconds, "ours", name)
        times = f"{middle[name]:.1f} | {middle['ours']:.1f}"
        print(f"| {name} {version(name)} | {times} | {value:.2f} | {low:.2f}-{high:.2f} |")


if __name__ == "__main__":
    main()
