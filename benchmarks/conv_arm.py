"""What lets ConvNorm alone train at a rate of 0.1: python -m benchmarks.conv_arm data/cifar10-images.zip identity clip

A deliberately small experiment (ResNet18 at width 16, 5,000 training and 2,000 test images, six epochs, one thread)
that compares initialisations and gradient clipping for the `conv` arm, with `bn` beside them. docs/design.md has the
figures and what was concluded.
"""

import argparse
import time
from collections.abc import Callable
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import nn

from data_loader.image_folder import load_image_folder
from models.preconv import PreConv2d
from models.resnet import BasicBlock, ResNet, resnet18

IMAGES, TEST_IMAGES, BATCH, RATE = 5000, 2000, 128, 0.1
Change = Callable[[ResNet], None]


def layers(net: nn.Module) -> list[PreConv2d]:
    return [module for module in net.modules() if isinstance(module, PreConv2d)]


def reference_affine(net: ResNet) -> None:
    """The reference's affine part: Conv2d's random default."""
    for layer in layers(net):
        assert layer.affine is not None
        layer.affine.reset_parameters()


def scaled_affine(factor: float, last_only: bool = False) -> Change:
    """The identity times `factor`, in every layer or in the last one of each residual branch."""

    def change(net: ResNet) -> None:
        last = [layers(block.branch)[-1] for block in net.modules() if isinstance(block, BasicBlock)]
        for layer in last if last_only else layers(net):
            assert layer.affine is not None
            layer.affine.weight.data.mul_(factor)

    return change


def scaled_kernels(factor: float) -> Change:
    """Larger kernels: the same function, with a smaller relative step."""

    def change(net: ResNet) -> None:
        for layer in layers(net):
            layer.weight.data.mul_(factor)

    return change


def without_radial_gradient(net: ResNet) -> None:
    """Drop the part of a kernel's gradient along the kernel, which a BatchNorm behind the layer would cancel."""

    def project(weight: torch.Tensor) -> None:
        assert weight.grad is not None
        kernel = weight.detach()
        share = (weight.grad * kernel).sum((1, 2, 3), keepdim=True) / kernel.square().sum((1, 2, 3), keepdim=True)
        weight.grad = weight.grad - share * kernel

    for layer in layers(net):
        layer.weight.register_post_accumulate_grad_hook(project)


def unchanged(net: ResNet) -> None:
    pass


#: name -> (norm, activation, change of the fresh network, norm that gradients are clipped to)
VARIANTS: dict[str, tuple[str, str, Change, float | None]] = {
    "bn": ("bn", "relu", unchanged, None),
    "identity": ("conv", "relu", unchanged, None),
    "reference": ("conv", "relu", reference_affine, None),
    "gain": ("conv", "relu", scaled_affine(2**0.5), None),
    "zero-branch": ("conv", "relu", scaled_affine(0.0, last_only=True), None),
    "kernels-x3": ("conv", "relu", scaled_kernels(3.0), None),
    "srelu": ("conv", "srelu", unchanged, None),
    "no-radial": ("conv", "relu", without_radial_gradient, None),
    "clip": ("conv", "relu", unchanged, 1.0),
    "clip-kernels-x3": ("conv", "relu", scaled_kernels(3.0), 1.0),
    "clip-reference": ("conv", "relu", reference_affine, 1.0),
    "clip-bn": ("bn", "relu", unchanged, 1.0),
}


def run(name: str, pixels: dict[str, torch.Tensor], seed: int, epochs: int) -> None:
    norm, activation, change, clip = VARIANTS[name]
    torch.manual_seed(seed)
    stream = torch.Generator().manual_seed(seed)
    chosen = torch.randperm(len(pixels["train_labels"]), generator=stream)[:IMAGES]
    images, labels = pixels["train"][chosen].float() / 255, pixels["train_labels"][chosen]
    mean, std = images.mean((0, 2, 3)).view(1, 3, 1, 1), images.std((0, 2, 3)).view(1, 3, 1, 1)
    images = (images - mean) / std
    chosen = torch.randperm(len(pixels["test_labels"]), generator=stream)[:TEST_IMAGES]
    test, test_labels = (pixels["test"][chosen].float() / 255 - mean) / std, pixels["test_labels"][chosen]
    net = resnet18(norm, 10, 16, activation)
    change(net)
    optimizer = torch.optim.SGD(net.parameters(), lr=RATE, momentum=0.9, weight_decay=1e-4)
    start, history = time.perf_counter(), []
    for _ in range(epochs):
        loss = train_epoch(net.train(), optimizer, images, labels, stream, clip)
        with torch.no_grad():
            right = sum(
                int((net.eval()(test[at : at + 500]).argmax(1) == test_labels[at : at + 500]).sum())
                for at in range(0, TEST_IMAGES, 500)
            )
        history.append(f"{loss:.2f}/{100 * right / TEST_IMAGES:.1f}")
        if loss != loss:
            break
    seconds = time.perf_counter() - start
    print(f"{name:<16} seed {seed}  train loss/test %: {'  '.join(history)}  ({seconds:.0f} s)", flush=True)


def train_epoch(
    net: ResNet,
    optimizer: torch.optim.Optimizer,
    images: torch.Tensor,
    labels: torch.Tensor,
    stream: torch.Generator,
    clip: float | None,
) -> float:
    """One epoch of whole batches with a flip for each image and one crop for each batch; returns the mean loss."""
    order = torch.randperm(IMAGES, generator=stream)
    total = 0.0
    for first in range(0, IMAGES - BATCH + 1, BATCH):
        rows = order[first : first + BATCH]
        batch = images[rows]
        flip = torch.rand(BATCH, generator=stream) < 0.5
        batch = F.pad(torch.where(flip.view(-1, 1, 1, 1), batch.flip(3), batch), (4,) * 4)
        top, left = torch.randint(0, 9, (2,), generator=stream).tolist()
        loss = F.cross_entropy(net(batch[:, :, top : top + 32, left : left + 32]), labels[rows])
        optimizer.zero_grad()
        loss.backward()
        if clip is not None:
            nn.utils.clip_grad_norm_(net.parameters(), clip)
        optimizer.step()
        total += loss.item()
    return total / (IMAGES // BATCH)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "data", type=Path, help="folder or .zip of CIFAR10's images, train/<class>/* and test/<class>/*"
    )
    parser.add_argument("variants", nargs="+", choices=VARIANTS)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--epochs", type=int, default=6)
    args = parser.parse_args()
    torch.set_num_threads(1)
    dataset = load_image_folder(args.data)
    assert dataset.own_test is not None
    train = len(dataset) - len(dataset.own_test)
    pixels = {
        "train": dataset.images[:train],
        "train_labels": dataset.labels[:train],
        "test": dataset.images[train:],
        "test_labels": dataset.labels[train:],
    }
    for name in args.variants:
        run(name, pixels, args.seed, args.epochs)


if __name__ == "__main__":
    main()
