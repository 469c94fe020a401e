"""When a run has had enough."""

import math

import pytest

from utils.monitor import Monitor


@pytest.mark.parametrize(
    ("scores", "monitor", "patience", "stopped"),
    [
        ([0.1, 0.3, 0.2, 0.2], "max val_accuracy", 2, True),
        ([0.1, 0.3, 0.2], "max val_accuracy", 2, False),
        ([0.1, 0.3, 0.2, 0.2], "min val_loss", 3, True),
        ([0.3, 0.3, 0.3], "max val_accuracy", 2, True),  # as good is not better
        ([math.nan, 0.3, math.nan, None, 0.2], "max val_accuracy", 2, True),
        ([math.nan, math.nan], "max val_accuracy", 2, True),
        ([0.3, 0.2, 0.1], "max val_accuracy", None, False),
        ([], "max val_accuracy", 1, False),
        ([0.3, 0.2], "max val_accuracy", 0, False),  # no config of ours, but a report may meet it
    ],
)
def test_stopped_early(scores: list, monitor: str, patience: int | None, stopped: bool) -> None:
    assert Monitor(monitor, patience).add_all(scores).has_had_enough == stopped
