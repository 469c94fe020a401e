"""Row 54: small widths, at which a strided 1x1 convolution of torch 2.14.1 can take the process with it."""

from pathlib import Path

import pytest
import torch

from models.norms import NORMS
from models.pointwise import Conv2d
from tests.runs import Started, launch, rows

SWEEP = """
import torch
from models.norms import NORMS

torch.set_num_threads(1)
arm, widths, batches, sizes = {arguments!r}
for width in widths:
    for batch in batches:
        for size in sizes:
            pair = NORMS[arm](width, 2 * width, 1, 2, 0).to(memory_format=torch.channels_last)
            images = torch.randn(batch, width, size, size).to(memory_format=torch.channels_last).requires_grad_()
            pair(images).square().sum().backward()
            assert torch.isfinite(images.grad).all(), (width, batch, size)
"""
NETWORK = """
import torch
from models.build import MODELS

torch.set_num_threads(1)
for width in range(1, 17):
    for name, batch, size in (("resnet18", 3, 33), ("resnet18", 64, 16), ("resnet50", 2, 32)):
        net = MODELS[name](norm={arguments!r}, width=width).to(memory_format=torch.channels_last)
        images = torch.randn(batch, 3, size, size).to(memory_format=torch.channels_last)
        net(images).square().sum().backward()
"""


def child(place: Path, script: str, arguments: object) -> None:
    """Run `script` in a process of its own, which memory corruption would end by a signal."""
    program = place / "script.py"
    program.write_text(script.format(arguments=arguments))
    ended = Started([], place, program=str(program)).end(900)
    assert (ended.code, ended.err) == (0, ""), arguments


def test_54_the_demo_at_a_width_of_4(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    arguments = ("-c", "configs/demo.json", "arch.args.width=4", "trainer.epochs=1", "--run-dir", folder)
    ended = launch(tmp_path, *arguments, "data_loader.args.subset=150", "data_loader.args.test_subset=50")
    assert ended.code == 0, ended.err
    assert len(rows(folder)) == 1


@pytest.mark.parametrize("arm", ["bn", "bncn_published"])
def test_54_strided_1x1_convolutions_of_few_channels(tmp_path: Path, arm: str) -> None:
    child(tmp_path, SWEEP, (arm, (1, 3, 8, 15), (2, 33), (5, 16)))


@pytest.mark.slow
@pytest.mark.parametrize("arm", NORMS)
def test_54_every_arm_at_widths_1_to_16(tmp_path: Path, arm: str) -> None:
    batches = (2, 3, 4, 7, 8, 15, 16, 17, 32, 33, 64, 65, 127, 128, 129, 130)
    child(tmp_path, SWEEP, (arm, tuple(range(1, 17)), batches, (4, 5, 6, 8, 9, 15, 16, 17, 31, 32, 33)))
    child(tmp_path, NETWORK, arm)


@pytest.mark.parametrize("stride", [1, 2, 3, (2, 1)])
def test_54_a_slice_and_a_stride_are_the_same_function(stride: int | tuple[int, int]) -> None:
    ours = Conv2d(5, 6, 1, stride, bias=True, dtype=torch.float64)
    theirs = torch.nn.Conv2d(5, 6, 1, stride, bias=True, dtype=torch.float64)
    theirs.load_state_dict(ours.state_dict())
    images = torch.randn(2, 5, 9, 8, dtype=torch.float64)
    torch.testing.assert_close(ours(images), theirs(images), rtol=1e-12, atol=1e-12)
