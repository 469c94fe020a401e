"""The layer under torch.func, and what is compiled, traced or exported of it."""

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.func import functional_call, grad, jacrev, stack_module_state, vmap

from models.preconv import METHODS, PreConv2d
from models.preconv_batchnorm import ConvNormBatchNorm

Weights = dict[str, Tensor]


def evaluated(method: str = "matmul", **options: Any) -> tuple[PreConv2d, Tensor]:
    """A layer in evaluation with a running estimate, and images too large for one dense matrix, (2, 2, 12, 11)."""
    torch.manual_seed(0)
    layer = PreConv2d(2, 3, 3, stride=2, padding=1, method=method, **options).double()
    x = torch.randn(2, 2, 12, 11, dtype=torch.float64)
    layer(x)
    return layer.eval(), x


def parameters(layer: torch.nn.Module) -> Weights:
    return {name: parameter.detach() for name, parameter in layer.named_parameters()}


def loss_of(layer: torch.nn.Module) -> Callable[[Weights, Tensor], Tensor]:
    return lambda weights, x: functional_call(layer, weights, (x,)).sin().sum()


@pytest.mark.parametrize("method", METHODS)
def test_gradients_per_sample(method: str) -> None:
    layer, x = evaluated(method)
    each = vmap(grad(loss_of(layer)), in_dims=(None, 0))(parameters(layer), x.unsqueeze(1))
    for i in range(len(x)):
        layer.zero_grad()
        loss_of(layer)(dict(layer.named_parameters()), x[i : i + 1]).backward()
        for name, parameter in layer.named_parameters():
            torch.testing.assert_close(each[name][i], parameter.grad)


def test_gradients_per_sample_of_a_layer_with_batchnorm() -> None:
    conv, x = evaluated()
    layer = ConvNormBatchNorm(conv, torch.nn.BatchNorm2d(3)).double().eval()
    each = vmap(grad(loss_of(layer)), in_dims=(None, 0))(parameters(layer), x.unsqueeze(1))
    together = grad(loss_of(layer))(parameters(layer), x)
    for name, gradient in together.items():
        torch.testing.assert_close(each[name].sum(0), gradient)


def test_other_parameters_are_those_of_the_backward_pass_as_well() -> None:
    """functional_call puts the layer's own parameters back before the backward pass."""
    conv, x = evaluated()
    norm = torch.nn.BatchNorm2d(3).double()
    found = []
    for layer in (ConvNormBatchNorm(conv, norm), torch.nn.Sequential(conv, norm)):
        torch.manual_seed(1)
        others = {name: torch.randn_like(p).requires_grad_() for name, p in layer.train().named_parameters()}
        loss = functional_call(layer, others, (x,)).sin().sum()
        found.append(torch.autograd.grad(loss, list(others.values())))
    torch.testing.assert_close(found[0], found[1])


TRANSFORMS: dict[str, Callable[[Callable], Callable]] = {
    "the Jacobian of the kernels": lambda run: jacrev(run, 0),
    "the Jacobian of the images": lambda run: jacrev(run, 1),
    "images one by one": lambda run: vmap(lambda weight, x: run(weight, x[None]), in_dims=(None, 0)),
    "a Jacobian for each image": lambda run: vmap(jacrev(lambda weight, x: run(weight, x[None]), 0), in_dims=(None, 0)),
    "a gradient's gradient": lambda run: grad(
        lambda weight, x: grad(lambda weight, x: run(weight, x).sin().sum(), 1)(weight, x).square().sum()
    ),
    "kernels one by one": lambda run: (
        lambda weight, x: vmap(run, in_dims=(0, None))(torch.stack([weight, 2 * weight.flip(0)]), x)
    ),
}


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("transform", TRANSFORMS)
def test_transforms_of_the_products_are_those_of_the_oracle(transform: str, training: bool) -> None:
    layer, x = evaluated(affine=False, track_running_stats=not training)
    layer.train(training)
    results = []
    for method in METHODS:
        kind = copy.deepcopy(layer)
        kind.method = method

        def run(weight: Tensor, x: Tensor, kind: PreConv2d = kind) -> Tensor:
            return functional_call(kind, {"weight": weight}, (x,))

        results.append(TRANSFORMS[transform](run)(layer.weight.detach(), x))
    oracle, *others = results
    for got in others:
        torch.testing.assert_close(got, oracle)


def test_an_ensemble_of_layers_trains_and_evaluates_at_once() -> None:
    layers = [evaluated()[0].train() for _ in range(3)]
    x = evaluated()[1]
    with torch.no_grad():
        for i, layer in enumerate(layers):
            layer.weight.add_(i * torch.randn_like(layer.weight))
    frame = copy.deepcopy(layers[0])
    for training in (True, False):
        stacked = stack_module_state([layer.train(training) for layer in layers])
        frame.train(training)
        together = vmap(lambda state, x: functional_call(frame, state, (x,)), in_dims=(0, None))(stacked, x)
        torch.testing.assert_close(together, torch.stack([layer(x) for layer in layers]))
        for name, buffer in stacked[1].items():
            torch.testing.assert_close(buffer, torch.stack([dict(layer.named_buffers())[name] for layer in layers]))


def test_nothing_of_a_transform_stays_in_the_layer() -> None:
    layer, x = evaluated()
    with torch.no_grad():
        vmap(lambda weight: functional_call(layer, {"weight": weight}, (x,)))(layer.weight.detach().unsqueeze(0))
        assert layer._kept is None
        y = layer(x)
        assert layer._kept is not None
        per_image = vmap(lambda image: layer(image[None])[0])(x)
    torch.testing.assert_close(per_image, y)
    fresh = PreConv2d(2, 3, 3, padding=1, momentum=0.1).double()
    state = (dict(fresh.named_parameters()), dict(fresh.named_buffers()))
    grad(lambda weights, buffers: functional_call(fresh, (weights, buffers), (x,)).sum())(*state)
    assert torch.equal(fresh.eval()(x), copy.deepcopy(fresh).train()(x))


def test_training_with_the_layer_s_own_buffers_under_grad_is_refused_as_batchnorm_s_is() -> None:
    layer, x = evaluated()
    with pytest.raises(RuntimeError, match="captured Tensor"):
        grad(loss_of(layer.train()))(parameters(layer), x)


def test_a_compiled_layer_is_one_graph_with_the_products_in_it() -> None:
    layer, x = evaluated()
    layer.train()
    plain, results, graphs = copy.deepcopy(layer), [], []

    def backend(graph: torch.fx.GraphModule, inputs: list[Tensor]) -> Callable:
        graphs.append(graph)
        return graph.forward

    torch._dynamo.reset()
    for run, kind in ((torch.compile(layer, backend=backend, fullgraph=True), layer), (plain, plain)):
        images = x.clone().requires_grad_()
        y = run(images)
        y.sin().sum().backward()
        results.append([y, images.grad, kind.weight.grad, kind.running_preconditioner])
    torch.testing.assert_close(*results)
    assert len(graphs) == 1


def test_an_exported_program_holds_no_operator_of_ours() -> None:
    layer, x = evaluated("auto")
    program = torch.export.export(layer, (x,))
    graphs = [module for module in program.graph_module.modules() if isinstance(module, torch.fx.GraphModule)]
    targets = {str(node.target) for graph in graphs for node in graph.graph.nodes if node.op == "call_function"}
    assert any(target.startswith("aten.") for target in targets)
    assert not any("filtered_conv" in target or "preconditioner" in target for target in targets), targets
    torch.testing.assert_close(program.module()(x), layer(x))
