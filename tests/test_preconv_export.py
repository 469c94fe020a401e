"""Saved programs of the layer: they load without this package, hold real numbers alone, and take any batch."""

import subprocess
import sys
import warnings
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from models import convert_conv_norm
from models.preconv import PreConv2d
from models.resnet import resnet18

BATCH = ({0: torch.export.Dim("batch")},)


def layer_of(*case: int, trained: bool = True, **options: object) -> PreConv2d:
    torch.manual_seed(0)
    layer = PreConv2d(*case, **options)
    if trained:
        layer(torch.randn(2, case[0], 13, 12))
    return layer.eval()


LAYERS = {
    "plain": lambda: layer_of(4, 6, 3, 2, 1),
    "never trained": lambda: layer_of(4, 6, 3, 2, 1, trained=False),
    "groups and dilation": lambda: layer_of(4, 6, 3, 1, 2, 2, 2),
    "untracked depthwise": lambda: layer_of(4, 4, 5, 1, 2, groups=4, track_running_stats=False, affine=False),
    "one pixel": lambda: layer_of(4, 6, 1, 2),
}


def small_resnet(norm: str) -> nn.Module:
    torch.manual_seed(0)
    model = resnet18(norm, width=8)
    with torch.no_grad():
        for _ in range(2):
            model(torch.randn(4, 3, 32, 32))
    return model.eval()


def converted_resnet() -> nn.Module:
    torchvision = pytest.importorskip("torchvision.models")
    torch.manual_seed(0)
    model = torchvision.resnet18(weights=None, num_classes=5)
    convert_conv_norm(model)
    with torch.no_grad():
        model(torch.randn(4, 3, 32, 32))
    return model.eval()


@pytest.mark.parametrize("strict", [False, pytest.param(True, marks=pytest.mark.slow)])
@pytest.mark.parametrize("name", LAYERS)
def test_a_program_holds_real_products_of_constants(name: str, strict: bool) -> None:
    layer = LAYERS[name]()
    program = torch.export.export(layer, (torch.randn(2, 4, 13, 12),), dynamic_shapes=BATCH, strict=strict)
    graphs = [part for part in program.graph_module.modules() if isinstance(part, torch.fx.GraphModule)]
    nodes = [node for graph in graphs for node in graph.graph.nodes if node.op == "call_function"]
    targets = {str(node.target) for node in nodes}
    assert any("conv2d" in target for target in targets)
    refused = ["filter", "preconditioner", "fft", "complex"]
    if not strict:  # dynamo traces how the constants are made
        refused += ["arange", "cos"]
    assert not any(word in target for target in targets for word in refused), targets
    values = [node.meta.get("val") for node in nodes]
    assert not any(isinstance(value, Tensor) and value.is_complex() for value in values)
    for batch in (1, 5):
        x = torch.randn(batch, 4, 13, 12)
        torch.testing.assert_close(program.module()(x), layer(x), rtol=1e-4, atol=1e-5)


def test_a_program_of_any_image_size_takes_the_fft() -> None:
    layer = layer_of(4, 6, 3, 1, 1, track_running_stats=False)
    sizes = ({0: torch.export.Dim("batch"), 2: torch.export.Dim("rows"), 3: torch.export.Dim("columns")},)
    program = torch.export.export(layer, (torch.randn(2, 4, 13, 12),), dynamic_shapes=sizes)
    x = torch.randn(3, 4, 9, 17)
    torch.testing.assert_close(program.module()(x), layer(x), rtol=1e-4, atol=1e-5)


def test_auto_is_fft_where_it_is_traced_or_transformed() -> None:
    layer, seen = layer_of(4, 4, 3, 1, 1), []
    original = layer._pick_method
    layer._pick_method = lambda x: seen.append(original(x)) or seen[-1]
    x = torch.randn(2, 4, 13, 12)
    torch.func.grad(lambda x: layer(x).sum())(x)
    torch.func.vmap(layer)(x.unsqueeze(1))
    torch.jit.trace(layer, (x,), check_trace=False)
    torch.export.export(layer, (x,), strict=False)
    assert {method.name for method in seen} == {"fft"}


LOAD = """
import sys
sys.modules["models"] = sys.modules["convnorm"] = None
import torch
x, wanted = torch.load("cases.pt")
for run in (torch.export.load("program.pt2").module(), torch.jit.load("traced.pt")):
    with torch.no_grad():
        for images, outputs in zip(x, wanted):
            torch.testing.assert_close(run(images), outputs, rtol=1e-4, atol=1e-5)
print("done")
"""


@pytest.mark.slow
def test_saved_programs_load_in_a_process_without_the_package(tmp_path: Path) -> None:
    model = small_resnet("bncn")
    x = torch.randn(2, 3, 32, 32)
    torch.export.save(torch.export.export(model, (x,), dynamic_shapes=BATCH), tmp_path / "program.pt2")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", torch.jit.TracerWarning)
        torch.jit.trace(model, (x,)).save(tmp_path / "traced.pt")
    cases = [torch.randn(batch, 3, 32, 32) for batch in (1, 3)]
    with torch.no_grad():
        torch.save((cases, [model(images) for images in cases]), tmp_path / "cases.pt")
    command = [sys.executable, "-I", "-c", LOAD]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=300)
    assert done.stdout == "done\n", done.stderr


@pytest.mark.slow
@pytest.mark.parametrize("name", [*LAYERS, "conv", "bncn", "converted"])
def test_an_onnx_file_runs_in_onnxruntime(name: str, tmp_path: Path) -> None:
    runtime = pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    model = LAYERS[name]() if name in LAYERS else converted_resnet() if name == "converted" else small_resnet(name)
    shape = (4, 13, 12) if name in LAYERS else (3, 32, 32)
    path = tmp_path / "model.onnx"
    torch.onnx.export(model, (torch.randn(2, *shape),), path, dynamo=True, dynamic_shapes=BATCH, verbose=False)
    session = runtime.InferenceSession(path)
    for batch in (1, 2, 5):
        x = torch.randn(batch, *shape)
        with torch.no_grad():
            wanted = model(x)
        (got,) = session.run(None, {session.get_inputs()[0].name: x.numpy()})
        assert (torch.from_numpy(got) - wanted).abs().max() <= 1e-5 * wanted.abs().max().clamp_min(1)
