"""Losses of ten training steps of every arm, to be unchanged by a rewrite.

`python -m tests.golden_losses NORM` adds a new norm to tests/data/golden_losses.json. Without NORM it writes all of
them anew: only after a change that is meant to change what the arms compute. The file was first made with the torch.fft
form of the layer. float64, since in float32 ten steps with BatchNorm on random images amplify rounding a
hundred-thousand-fold: there the fft form differs from itself by 1e-2 when one weight is changed by 1e-6.
"""

import json
import sys
from pathlib import Path

import torch
import torch.nn.functional as F

from models.norms import NORMS
from models.resnet import resnet18

FILE = Path(__file__).parent / "data" / "golden_losses.json"


def losses(norm: str, steps: int = 10) -> list[float]:
    torch.manual_seed(12)
    model = resnet18(norm, num_classes=10, width=8).double()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.025, momentum=0.9, weight_decay=1e-4)
    draws = torch.Generator().manual_seed(7)
    found = []
    for _ in range(steps):
        images = torch.randn(16, 3, 32, 32, generator=draws, dtype=torch.float64)
        targets = torch.randint(10, (16,), generator=draws)
        loss = F.cross_entropy(model(images), targets)
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        found.append(loss.item())
    return found


if __name__ == "__main__":
    pinned = json.loads(FILE.read_text())
    FILE.write_text(json.dumps(pinned | {norm: losses(norm) for norm in sys.argv[1:] or NORMS}, indent=1) + "\n")
