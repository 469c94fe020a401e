import copy
from collections.abc import Callable
from typing import Any, get_args

import pytest
import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.nn.utils import prune
from torch.profiler import ProfilerActivity, profile
from torch.utils.checkpoint import checkpoint

import config_schema
from models.activations import ACTIVATIONS, SReLU
from models.build import MODELS, build_model
from models.loss import build_loss
from models.metric import METRICS
from models.norms import NORMS
from models.preconv import PreConv2d
from models.preconv_batchnorm import ConvNormBatchNorm
from models.resnet import resnet18, resnet34, resnet50
from parse_config import validate
from tests.conftest import check_that_it_trains
from tests.fake_backward import backward
from tests.test_preconv_methods import one_block
from utils.errors import ConfigError


def doubled() -> nn.Module:
    """A BatchNorm with a hook that keeps an image of its own for the backward pass."""
    norm = nn.BatchNorm2d(4)
    norm.register_forward_hook(lambda module, inputs, output: output.relu() * output)
    return norm


NORMS_BEHIND: dict[str, Callable[[], nn.Module]] = {
    "BatchNorm": lambda: nn.BatchNorm2d(4),
    "BatchNorm, ReLU": lambda: nn.Sequential(nn.BatchNorm2d(4), nn.ReLU()),
    "ReLU in place, BatchNorm": lambda: nn.Sequential(nn.ReLU(inplace=True), nn.BatchNorm2d(4)),
    "BatchNorm with a hook": doubled,
    "InstanceNorm": lambda: nn.InstanceNorm2d(4, affine=True),
    "GroupNorm": lambda: nn.GroupNorm(2, 4),
}
CONV_NORM_ARMS = ("conv", "bncn")


def batch_norms(model: nn.Module) -> int:
    return sum(isinstance(module, nn.modules.batchnorm._BatchNorm) for module in model.modules())


def test_config_names_are_the_registries() -> None:
    assert list(get_args(config_schema.ArchName)) == list(MODELS)
    assert list(get_args(config_schema.NormName)) == list(NORMS)
    assert list(get_args(config_schema.ActivationName)) == list(ACTIVATIONS)
    assert list(get_args(config_schema.MetricName)) == list(METRICS)


@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("norm", NORMS)
def test_every_arm_trains_and_evaluates(norm: str, activation: str) -> None:
    model = resnet18(norm, num_classes=7, width=4, activation=activation)
    check_that_it_trains(model, outputs=7)


@pytest.mark.parametrize("build", [resnet34, resnet50])
def test_deeper_networks(build) -> None:
    model = build("bncn", num_classes=5, width=4)
    assert model(torch.randn(2, 3, 16, 16)).shape == (2, 5)


def test_resnet18_has_the_known_number_of_parameters() -> None:
    # the CIFAR form of ResNet18 with BatchNorm, e.g. github.com/kuangliu/pytorch-cifar: 11,173,962
    assert resnet18().parameter_count() == 11_173_962


def held_bytes(run) -> tuple[int, torch.Tensor]:
    """What `run` leaves allocated, and what it returns."""
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as recorded:
        result = run()
    events = recorded.profiler.kineto_results.events()
    return sum(event.nbytes() for event in events if event.name() == "[memory]"), result


@pytest.mark.parametrize("kind", NORMS_BEHIND)
def test_any_norm_may_stand_behind_conv_norm(kind: str) -> None:
    """Only the norm's own input is recomputed, whatever else the norm keeps for the backward pass."""
    found = []
    for pair in (ConvNormBatchNorm, nn.Sequential):
        torch.manual_seed(1)
        layer = pair(PreConv2d(3, 4, 3, padding=1), NORMS_BEHIND[kind]())
        x = torch.randn(4, 3, 8, 8).requires_grad_()
        y = layer(x)
        (y**2).sum().backward()
        found.append([y, x.grad, *(parameter.grad for parameter in layer.parameters())])
    torch.testing.assert_close(found[0], found[1])


def pruned(pair: type[nn.Sequential], kernel: int, part: str) -> nn.Sequential:
    layer = pair(PreConv2d(3, 4, kernel, padding=kernel // 2), nn.BatchNorm2d(4))
    prune.l1_unstructured(layer.get_submodule(part), "weight", 0.5)
    return layer


@pytest.mark.parametrize("part", ["0", "0.affine"])
@pytest.mark.parametrize("kernel", [1, 3])
def test_hooks_of_a_layer_s_parts_are_called(kernel: int, part: str) -> None:
    """Pruning computes the weight in such a hook, from what a state dict holds."""
    x, found = torch.randn(4, 3, 8, 8), []
    for pair in (ConvNormBatchNorm, nn.Sequential):
        torch.manual_seed(1)
        layer, other = pruned(pair, kernel, part), pruned(pair, kernel, part)
        optimizer = torch.optim.SGD(layer.parameters(), lr=0.1)
        for _ in range(3):
            layer(x).square().mean().backward()
            optimizer.step()
        other.load_state_dict(layer.state_dict())
        found.append([layer.eval()(x), *layer.parameters()])
        torch.testing.assert_close(other.eval()(x), found[-1][0])
        assert (layer.get_submodule(part).weight == 0).sum() == layer.get_submodule(part).weight.numel() // 2
    torch.testing.assert_close(found[0], found[1])


def test_a_checkpointed_layer_keeps_its_input_alone() -> None:
    x, held, gradients = torch.randn(4, 3, 16, 16).requires_grad_(), [], []
    for pair in (ConvNormBatchNorm, nn.Sequential):
        torch.manual_seed(1)
        layer = pair(PreConv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8))
        layer(x)  # what is made once is not counted
        size, y = held_bytes(lambda layer=layer: checkpoint(layer, x, use_reentrant=False))
        held.append(size)
        gradients.append(torch.autograd.grad(y.square().sum(), [x, *layer.parameters()]))
    assert held[0] == held[1]
    torch.testing.assert_close(gradients[0], gradients[1])


@pytest.mark.parametrize("groups", [1, 8])
def test_large_kernels_take_no_more_memory_than_by_fft(groups: int) -> None:
    torch.manual_seed(0)
    by_fft = PreConv2d(8, 8, 21, padding=10, groups=groups, method="fft")
    layer = PreConv2d(8, 8, 21, padding=10, groups=groups)
    layer.load_state_dict(by_fft.state_dict())
    x = torch.randn(2, 8, 16, 16)
    held, outputs = zip(*(held_bytes(lambda each=each: each(x)) for each in (layer, by_fft)), strict=True)
    torch.testing.assert_close(outputs[0], outputs[1], rtol=1e-4, atol=1e-5)
    assert held[0] < 2 * held[1] + (1 << 20)


@pytest.mark.parametrize("amp", [False, True])
@pytest.mark.parametrize("kernel", [1, 3])
def test_convnorm_with_batchnorm_is_the_two_in_less_memory(kernel: int, amp: bool) -> None:
    torch.manual_seed(0)
    joined = NORMS["bncn"](3, 8, kernel, 1, kernel // 2)
    apart = nn.Sequential(*copy.deepcopy(list(joined)))
    assert list(joined.state_dict()) == list(apart.state_dict())
    images = torch.randn(4, 3, 16, 16).to(memory_format=torch.channels_last)
    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=amp):  # what is made once is not counted
        apart(images)
        joined(images)
    results, held = [], []
    for layer in (joined, apart):
        x = images.clone().requires_grad_()
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=amp):
            size, y = held_bytes(lambda layer=layer, x=x: layer(x))
        y.float().square().sum().backward()
        held.append(size)
        results.append([y, x.grad, *(parameter.grad for parameter in layer.parameters()), *layer.buffers()])
    for ours, theirs in zip(*results, strict=True):
        assert torch.equal(ours, theirs)
    image = 4 * 8 * 16 * 16 * (2 if amp else 4)
    saved = held[1] - held[0]
    assert abs(saved - (image if kernel > 1 else 0)) <= 256, "BatchNorm's input is kept"


@pytest.mark.parametrize("name", ["weight", "bias"])  # autograd itself keeps the weight, and so watches that alone
def test_an_affine_part_changed_before_the_backward_pass_is_noticed(name: str) -> None:
    layer = NORMS["bncn"](3, 8, 3, 1, 1)
    y = layer(torch.randn(2, 3, 8, 8))
    with torch.no_grad():
        getattr(layer[0].affine, name).add_(1)
    with pytest.raises(RuntimeError, match=r"changed between" + "|modified by an inplace" * (name == "weight")):
        y.sum().backward()


def test_arms_hold_the_norms_they_name() -> None:
    convolutions = 20  # stem, 16 in blocks, 3 shortcuts
    counts = {}
    for norm in ("bn", "conv", "bncn"):
        model = resnet18(norm, width=4)
        counts[norm] = (sum(isinstance(m, PreConv2d) for m in model.modules()), batch_norms(model))
    assert counts == {"bn": (0, convolutions), "conv": (convolutions, 0), "bncn": (convolutions, convolutions)}


def test_unknown_names_are_refused_with_the_choices() -> None:
    with pytest.raises(ValueError, match="bn, conv, bncn"):
        resnet18("bm")
    with pytest.raises(ValueError, match="relu, srelu"):
        resnet18(activation="gelu")


def test_srelu_is_max_with_a_threshold_that_learns() -> None:
    layer = SReLU(2)
    x = torch.tensor([[-3.0, 0.5], [2.0, -0.5]]).view(2, 2, 1, 1)
    torch.testing.assert_close(layer(x), x.clamp(min=-1.0))
    layer(x).sum().backward()
    assert layer.threshold.grad.flatten().tolist() == [1.0, 0.0]


def test_srelu_thresholds_take_no_weight_decay() -> None:
    model = resnet18("bn", width=4, activation="srelu")
    decayed, plain = model.parameter_groups(1e-4)
    thresholds = [m.threshold for m in model.modules() if isinstance(m, SReLU)]
    assert {id(p) for p in plain["params"]} == {id(p) for p in thresholds}
    assert (decayed["weight_decay"], plain["weight_decay"]) == (1e-4, 0.0)
    assert len(decayed["params"]) + len(plain["params"]) == len(list(model.parameters()))


@pytest.mark.parametrize("norm", NORMS)
def test_forward_and_backward_stay_on_cuda(norm: str) -> None:
    """FakeTensorMode raises on any mix of devices, so this needs no GPU."""
    with FakeTensorMode(), torch.device("cuda"):
        model = one_block(norm)
        loss = model(torch.randn(4, 3, 32, 32)).square().mean()
        gradients = backward(loss)
        assert loss.device.type == "cuda"
        assert {id(parameter) for parameter in model.parameters()} == gradients.keys()
        assert {gradient.device.type for gradient in gradients.values()} == {"cuda"}
        assert {buffer.device.type for buffer in model.buffers()} <= {"cuda"}
        assert model.eval()(torch.randn(4, 3, 32, 32)).device.type == "cuda"


def test_walking_the_graph_by_hand_gives_autograd_s_gradients() -> None:
    torch.manual_seed(0)
    model = resnet18("bncn", width=4).double()
    x = torch.randn(4, 3, 16, 16, dtype=torch.float64)
    by_hand = backward(model(x).square().mean())
    model(x).square().mean().backward()
    for parameter in model.parameters():
        torch.testing.assert_close(by_hand[id(parameter)], parameter.grad)


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("norm", CONV_NORM_ARMS)
def test_cuda_agrees_with_the_cpu(norm: str) -> None:
    torch.manual_seed(0)
    model, x = resnet18(norm, width=8).double(), torch.randn(4, 3, 32, 32, dtype=torch.float64)
    want = model(x)
    torch.testing.assert_close(model.cuda()(x.cuda()).cpu(), want)


def config(**values):
    return validate({"name": "x", **values}, "test")


def test_a_model_is_a_function_of_its_seed() -> None:
    def weights(seed: int) -> Any:
        torch.randn(seed)  # whatever was drawn before
        return build_model(config(seed=seed, arch={"args": {"width": 4}}), 10).head.weight

    assert torch.equal(weights(3), weights(3))
    assert not torch.equal(weights(3), weights(4))


def test_building_a_model_leaves_the_global_generator_alone() -> None:
    torch.manual_seed(5)
    before = torch.get_rng_state()
    build_model(config(arch={"args": {"width": 4}}), 10)
    assert torch.equal(torch.get_rng_state(), before)


def test_outputs_follow_the_dataset_or_the_config() -> None:
    assert build_model(config(arch={"args": {"width": 4}}), 12).head.out_features == 12
    assert build_model(config(arch={"args": {"width": 4, "num_classes": 20}}), 12).head.out_features == 20
    with pytest.raises(ConfigError, match="12 classes"):
        build_model(config(arch={"args": {"width": 4, "num_classes": 10}}), 12)


def test_metrics_count_what_they_say() -> None:
    def counted(name: str, logits: torch.Tensor, targets: torch.Tensor) -> float:
        total, images = METRICS[name].update(logits, targets).tolist()
        assert images == len(targets)
        return total

    logits = torch.tensor([[9.0, 8, 7, 6, 5, 4], [0, 1, 2, 3, 4, 5], [5, 0, 0, 0, 0, 0]])
    assert counted("accuracy", logits, torch.tensor([0, 0, 0])) == 2
    assert counted("top5_accuracy", logits, torch.tensor([4, 0, 0])) == 2
    assert counted("top5_accuracy", logits[:, :3], torch.tensor([2, 2, 2])) == 3  # fewer than five classes


def test_losses() -> None:
    logits, targets = torch.tensor([[2.0, 0.0], [0.0, 2.0]]), torch.tensor([0, 0])
    log_sum = torch.log(torch.tensor(1 + torch.e**2))

    def value(loss: object) -> float:
        return build_loss(validate({"name": "x", "loss": loss}, "test").loss)(logits, targets).item()

    plain = (log_sum - 1.0).item()
    assert value("cross_entropy") == pytest.approx(plain)
    # one image of each kind: with two classes, smoothing moves half of its share of the target to the other
    assert value("smoothed_cross_entropy") == pytest.approx(plain)
    logits, targets = torch.tensor([[2.0, 0.0]]), torch.tensor([0])
    right, wrong = log_sum.item() - 2.0, log_sum.item()
    assert value("smoothed_cross_entropy") == pytest.approx(0.95 * right + 0.05 * wrong)
    smoother = {"type": "smoothed_cross_entropy", "args": {"smoothing": 0.4}}
    assert value(smoother) == pytest.approx(0.8 * right + 0.2 * wrong)
