"""The recorded cases of a layer: what is held against them, for the correct layer and for the published one."""

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

TOLERANCE = {torch.float64: 1e-10, torch.float32: 1e-4}


def load_cases(name: str) -> tuple[np.lib.npyio.NpzFile, list[str]]:
    """A file of tests/data and the tags of its cases."""
    cases = np.load(Path(__file__).parent / "data" / name)
    return cases, sorted({key.split("/")[0] for key in cases.files})


def relative_error(got: torch.Tensor, want: torch.Tensor) -> float:
    return ((got - want).abs().max() / want.abs().max()).item()


def case_errors(
    cases: np.lib.npyio.NpzFile, tag: str, dtype: torch.dtype, make: Callable[..., Any]
) -> dict[str, float]:
    """How far the layer that `make` makes is from a case: outputs, gradients, running estimate, evaluation."""

    def case(field: str) -> torch.Tensor:
        values = torch.from_numpy(cases[f"{tag}/{field}"])
        return values if values.is_complex() else values.to(dtype)

    c_in, c_out, k, stride, padding, _, _, affine, _, steps = (int(v) for v in cases[f"{tag}/config"])
    momentum = float(cases[f"{tag}/momentum"])
    options = {"affine": bool(affine), "momentum": None if math.isnan(momentum) else momentum}
    layer = make(c_in, c_out, k, stride, padding, **options).to(dtype)
    with torch.no_grad():
        layer.weight.copy_(case("weight"))
        if layer.affine is not None:
            layer.affine.weight.copy_(case("affine_weight"))
            layer.affine.bias.copy_(case("affine_bias"))
    x = case("x").requires_grad_()
    y = layer(x)
    (y * case("grad_out")).sum().backward()
    pairs = {"y_train": y, "grad_x": x.grad, "grad_weight": layer.weight.grad}
    if layer.affine is not None:
        pairs |= {"grad_affine_weight": layer.affine.weight.grad, "grad_affine_bias": layer.affine.bias.grad}
    for step in range(steps):
        if step > 0:
            layer(torch.randn_like(x))
        with torch.no_grad():
            layer.weight.mul_(1 + 0.1 * (step + 1))
    running = layer.running_preconditioner
    if case("running_after").is_complex():
        running = torch.view_as_complex(running)
    pairs |= {"running_after": running, "weight_after": layer.weight}
    pairs["y_eval"] = layer.eval()(case("x_eval"))
    return {field: relative_error(got, case(field)) for field, got in pairs.items()}
