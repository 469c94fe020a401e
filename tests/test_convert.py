"""convert_conv_norm: what it replaces, what it leaves, and networks of torchvision and timm."""

import copy
import pickle
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import parametrizations, prune

from models import Conversion, PreConv2d, convert_conv_norm
from models.preconv_batchnorm import ConvNormBatchNorm
from models.resnet import resnet18


class Block(nn.Module):
    """A residual block with its BatchNorms registered away from their convolutions."""

    def __init__(self, channels: int = 4) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=2, dilation=2, groups=2)
        self.bn1, self.bn2 = nn.BatchNorm2d(channels), nn.BatchNorm2d(channels)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.bn2(self.conv2(self.bn1(self.conv1(x)).relu()))


def network() -> nn.Sequential:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.BatchNorm2d(4), Block())
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.normal_(module.weight)
            nn.init.normal_(module.bias)
    return model


def torchvision(name: str, **options: Any) -> Callable[[], nn.Module]:
    def make() -> nn.Module:
        from torchvision import models

        return getattr(models, name)(weights=None, num_classes=5, **options)

    return make


def timm(name: str, **options: Any) -> Callable[[], nn.Module]:
    return lambda: pytest.importorskip("timm").create_model(name, pretrained=False, num_classes=5, **options)


#: how it is made, and how many convolutions are converted and left
NETWORKS: dict[str, tuple[Callable[[], nn.Module], int, int]] = {
    "torchvision resnet18": (torchvision("resnet18"), 20, 0),
    "torchvision resnext50": (torchvision("resnext50_32x4d"), 53, 0),
    "torchvision vgg16_bn": (torchvision("vgg16_bn"), 13, 0),
    "torchvision mobilenet_v2": (torchvision("mobilenet_v2"), 52, 0),
    "torchvision efficientnet_b0": (torchvision("efficientnet_b0"), 81, 0),
    "torchvision convnext_tiny": (torchvision("convnext_tiny"), 18, 4),
    "torchvision dilated resnet50": (torchvision("resnet50", replace_stride_with_dilation=[False, True, True]), 53, 0),
    "timm resnet18": (timm("resnet18"), 20, 0),
    "timm resnext50": (timm("resnext50_32x4d"), 53, 0),
    "timm vgg16_bn": (timm("vgg16_bn"), 13, 2),
    "timm mobilenetv2_100": (timm("mobilenetv2_100"), 52, 0),
    "timm efficientnet_b0": (timm("efficientnet_b0"), 81, 0),
    "timm convnext_tiny": (timm("convnext_tiny"), 18, 4),
    "timm dilated resnet50": (timm("resnet50", output_stride=8), 53, 0),
}

NAMES = ["0", "3.conv1", "3.conv2"]


def test_every_convolution_is_replaced_with_its_own_kernels() -> None:
    model = network()
    before = {name: model.get_submodule(name) for name in NAMES}
    norms = [module for module in model.modules() if isinstance(module, nn.BatchNorm2d)]
    report = convert_conv_norm(model)
    assert list(report.converted) == NAMES
    assert not report.left
    for name, conv in before.items():
        layer = model.get_submodule(name)
        assert type(layer) is PreConv2d
        assert layer.weight is conv.weight
        alone = PreConv2d(
            conv.in_channels, conv.out_channels, 3, 1, conv.padding, conv.dilation, conv.groups, affine=False
        )
        alone.weight = conv.weight
        x = torch.randn(2, conv.in_channels, 9, 8)
        bias = 0 if conv.bias is None else conv.bias.detach().view(-1, 1, 1)
        torch.testing.assert_close(layer(x), alone(x) + bias)
    assert [module for module in model.modules() if isinstance(module, nn.BatchNorm2d)] == norms
    assert convert_conv_norm(model) == Conversion(), "what is converted has nothing left to convert"


def test_the_batchnorm_behind_a_convolution_goes_and_leaves_its_scale_and_shift() -> None:
    model = network()
    old = copy.deepcopy(model[3])
    report = convert_conv_norm(model, keep_batch_norm=False)
    assert report.converted == {"0": None, "3.conv1": "3.bn1", "3.conv2": "3.bn2"}
    assert type(model[2]) is nn.BatchNorm2d, "it normalises what the ReLU gives"
    assert type(model[3].bn1) is type(model[3].bn2) is nn.Identity
    x = torch.randn(2, 4, 9, 8)
    plain = PreConv2d(4, 4, 3, padding=2, dilation=2, groups=2, affine=False)
    plain.weight = old.conv2.weight
    scale, shift, bias = (p.view(-1, 1, 1) for p in (old.bn2.weight, old.bn2.bias, old.conv2.bias))
    torch.testing.assert_close(model[3].conv2(x), (plain(x) + bias) * scale + shift)
    assert str(report).splitlines()[1:] == [
        "3.conv1  converted, without 3.bn1",
        "3.conv2  converted, without 3.bn2",
        "3 converted, 0 left",
    ]


def test_a_converted_resnet_is_the_arm_of_that_name() -> None:
    for keep, norm in ((True, "bncn"), (False, "conv")):
        torch.manual_seed(0)
        model, arm = resnet18("bn", width=4), resnet18(norm, width=4)
        assert not convert_conv_norm(model, keep_batch_norm=keep).left
        renamed = {
            name.replace(".0.weight", ".weight").replace(".0.running", ".running").replace(".0.num", ".num")
            if not keep
            else name: value
            for name, value in model.state_dict().items()
        }
        x = torch.randn(2, 3, 16, 16)
        assert sorted(map(str, (v.shape for v in renamed.values()))) == sorted(
            map(str, (v.shape for v in arm.state_dict().values()))
        )
        if keep:
            arm.load_state_dict(renamed)
        else:
            for source, target in zip(model.parameters(), arm.parameters(), strict=True):
                target.data.copy_(source)
        torch.testing.assert_close(model(x), arm(x), rtol=1e-4, atol=1e-5)
        assert any(isinstance(module, ConvNormBatchNorm) for module in arm.modules()) == keep


def hooked(conv: nn.Conv2d) -> nn.Conv2d:
    conv.register_forward_hook(lambda *_: None)
    return conv


def own_forward(conv: nn.Conv2d) -> nn.Conv2d:
    conv.forward = lambda x: x
    return conv


class Other(nn.Conv2d):
    def forward(self, x: Tensor) -> Tensor:
        return -super().forward(x)


LEFT: dict[str, tuple[Callable[[], nn.Module], str]] = {
    "1d": (lambda: nn.Conv1d(3, 4, 3), "not for Conv1d"),
    "3d": (lambda: nn.Conv3d(3, 4, 3), "not for Conv3d"),
    "transposed": (lambda: nn.ConvTranspose2d(3, 4, 3), "not for ConvTranspose2d"),
    "reflect": (lambda: nn.Conv2d(3, 4, 3, padding=1, padding_mode="reflect"), "padding_mode"),
    "not square": (lambda: nn.Conv2d(3, 4, (1, 7)), "kernel_size"),
    "strides": (lambda: nn.Conv2d(3, 4, 3, (1, 2)), "stride"),
    "even": (lambda: nn.Conv2d(3, 4, 2), "even"),
    "padding": (lambda: nn.Conv2d(3, 4, 3, padding=3), "padding"),
    "paddings": (lambda: nn.Conv2d(3, 4, 3, padding=(0, 1)), "padding"),
    "weight_norm": (lambda: parametrizations.weight_norm(nn.Conv2d(3, 4, 3)), "parametrized"),
    "old weight_norm": (lambda: nn.utils.weight_norm(nn.Conv2d(3, 4, 3)), "weight_norm"),
    "pruned": (lambda: prune.random_unstructured(nn.Conv2d(3, 4, 3), "weight", 0.5), "pruning"),
    "hooks": (lambda: hooked(nn.Conv2d(3, 4, 3)), "hooks"),
    "subclass": (lambda: Other(3, 4, 3), "Other has a forward pass of its own"),
    "own forward": (lambda: own_forward(nn.Conv2d(3, 4, 3)), "forward pass of its own"),
    "scripted": (lambda: torch.jit.script(nn.Conv2d(3, 4, 3)), "not for RecursiveScriptModule"),
    "lazy": (lambda: nn.LazyConv2d(4, 3), "size"),
    "complex": (lambda: nn.Conv2d(3, 4, 3, dtype=torch.complex64), "complex64"),
}


@pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::DeprecationWarning", "ignore:Lazy modules")
def test_what_cannot_be_replaced_stays_with_a_reason() -> None:
    model = nn.ModuleDict({name: make() for name, (make, _) in LEFT.items()})
    before = dict(model.items())
    report = convert_conv_norm(model)
    assert report.converted == {}
    assert report.left.keys() == LEFT.keys()
    for name, (_, reason) in LEFT.items():
        assert reason in report.left[name]
        assert model[name] is before[name]
        assert f"{name} " in str(report)
    alone = nn.Conv2d(3, 4, 3)
    assert "itself" in convert_conv_norm(alone).left[""]
    assert type(alone) is nn.Conv2d
    assert str(convert_conv_norm(nn.Linear(2, 2))) == "0 converted, 0 left"


@pytest.mark.parametrize(
    ("skip", "left"),
    [
        ("0", ["0"]),
        (["3.conv2", "nothing"], ["3.conv2"]),
        (["*conv?"], ["3.conv1", "3.conv2"]),
        (["3"], ["3.conv1", "3.conv2"]),  # and all in it
        (["conv1"], []),
        (lambda name, module: module.groups == 2, ["3.conv2"]),
    ],
)
def test_skip(skip: Any, left: list[str]) -> None:
    report = convert_conv_norm(network(), keep_batch_norm=False, skip=skip)
    assert list(report.left) == left
    assert set(report.left.values()) <= {"skip names it"}
    assert sorted([*report.converted, *left]) == NAMES


def test_a_shared_convolution_is_one_layer_afterwards() -> None:
    conv, norm = nn.Conv2d(4, 4, 3, padding=1), nn.BatchNorm2d(4)
    model = nn.Sequential(conv, norm, nn.Sequential(conv, norm), conv, nn.BatchNorm2d(4))
    pair = copy.deepcopy(model[:3])
    report = convert_conv_norm(pair, keep_batch_norm=False)
    assert report.converted == {"0": "1", "2.0": "1"}
    assert pair[0] is pair[2][0]
    assert type(pair[1]) is type(pair[2][1]) is nn.Identity
    assert "several places" in convert_conv_norm(model, keep_batch_norm=False).left["0"]
    convert_conv_norm(model)
    assert model[0] is model[2][0] is model[3]
    twice = nn.Sequential(nn.Conv2d(4, 4, 3), norm, nn.Conv2d(4, 4, 3), norm)
    assert "others too" in convert_conv_norm(twice, keep_batch_norm=False).left["0"]
    tied = nn.Sequential(nn.Conv2d(4, 4, 3), nn.Conv2d(4, 4, 3))
    tied[1].weight = tied[0].weight
    convert_conv_norm(tied)
    assert tied[0].weight is tied[1].weight


class Untraceable(nn.Module):
    """A block that torch.fx cannot trace, around one that it can."""

    def __init__(self) -> None:
        super().__init__()
        self.block, self.conv, self.norm = Block(), nn.Conv2d(4, 4, 3), nn.BatchNorm2d(4)

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(self.conv(self.block(x))) if x.sum() > 0 else x


def test_a_batchnorm_goes_only_if_it_is_known_to_be_behind() -> None:
    model = Untraceable()
    report = convert_conv_norm(model, keep_batch_norm=False)
    assert report.converted == {"block.conv1": "block.bn1", "block.conv2": "block.bn2"}
    assert "torch.fx" in report.left["conv"]
    assert convert_conv_norm(model).converted == {"conv": None}
    hooked_norm = network()
    hooked_norm[3].bn1.register_forward_hook(lambda *_: None)
    assert "hooks" in convert_conv_norm(hooked_norm, keep_batch_norm=False).left["3.conv1"]


class Counting(nn.Module):
    """A network whose forward pass writes into itself and draws numbers."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm, self.seen = nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), 0
        self.register_buffer("steps", torch.zeros(()))

    def forward(self, x: Tensor, shift: Tensor | None = None) -> Tensor:
        self.seen += 1
        self.steps += 1
        self.last = x
        return self.norm(input=self.conv(x if shift is None else x + shift)) * torch.rand(())


def test_converting_runs_nothing_of_the_network_and_draws_nothing() -> None:
    model, state = Counting(), torch.get_rng_state()
    assert convert_conv_norm(model, keep_batch_norm=False).converted == {"conv": "norm"}
    assert (model.seen, model.steps.item(), hasattr(model, "last")) == (0, 0, False)
    assert torch.equal(torch.get_rng_state(), state)


def test_a_layer_is_as_its_convolution_was() -> None:
    model = network()
    model[0].requires_grad_(False)
    model[3].conv2.bias.requires_grad_(False)
    model[3].bn1.requires_grad_(False)
    model.eval().bfloat16()
    gone = copy.deepcopy(model)
    convert_conv_norm(model)
    for layer in (model[0], model[3].conv2):
        assert not layer.training
        assert not layer.affine.training
        assert {p.dtype for p in layer.parameters()} == {torch.bfloat16}
        assert layer.running_preconditioner.dtype == torch.float32
    assert [p.requires_grad for p in model[0].parameters()] == [False, False, False]
    assert [p.requires_grad for p in model[3].conv2.parameters()] == [True, True, False]
    assert model(torch.randn(2, 3, 9, 8).bfloat16()).isfinite().all()
    convert_conv_norm(gone, keep_batch_norm=False)
    assert [p.requires_grad for p in gone[3].conv1.parameters()] == [True, False, False]
    with torch.device("meta"):
        empty = network()
    convert_conv_norm(empty)
    assert {value.device.type for value in empty.state_dict().values()} == {"meta"}


def test_a_network_in_distributeddataparallel_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    class Wrapped(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.module = network()

    monkeypatch.setattr(nn.parallel, "DistributedDataParallel", Wrapped)
    with pytest.raises(ValueError, match="before DistributedDataParallel"):
        convert_conv_norm(Wrapped())


@pytest.mark.parametrize("keep", [True, False])
@pytest.mark.parametrize(
    "name",
    [name if name == "torchvision resnet18" else pytest.param(name, marks=pytest.mark.slow) for name in NETWORKS],
)
def test_networks(name: str, keep: bool) -> None:
    make, converted, left = NETWORKS[name]
    torch.manual_seed(0)
    model = make().double()
    weights = {name: m.weight for name, m in model.named_modules() if isinstance(m, nn.Conv2d)}
    report = convert_conv_norm(model, keep_batch_norm=keep, skip="pre_logits")  # the classifier of timm's VGG
    assert (len(report.converted), len(report.left)) == (converted, left)
    assert all(model.get_submodule(name).weight is weights[name] for name in report.converted)
    assert all(reason for reason in report.left.values())
    if not keep:
        assert not any(isinstance(module, nn.BatchNorm2d) for module in model.modules())
    direct = copy.deepcopy(model)  # the same by the direct form
    for module in direct.modules():
        if isinstance(module, PreConv2d):
            module.method = "fft"
    x = torch.randn(2, 3, 64, 64, dtype=torch.float64)
    outputs = []
    for network in (model, direct):
        torch.manual_seed(1)  # dropout
        outputs.append(network(x))
        outputs[-1].sin().sum().backward()
    torch.testing.assert_close(*outputs)
    pairs = zip(model.parameters(), direct.parameters(), strict=True)
    assert all(torch.allclose(a.grad, b.grad, rtol=1e-6, atol=1e-8) for a, b in pairs)
    fresh = make().double()
    convert_conv_norm(fresh, keep_batch_norm=keep, skip="pre_logits")
    fresh.load_state_dict(model.state_dict())
    with torch.no_grad():
        y = model.eval()(x)
        for other in (fresh.eval(), copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
            assert torch.equal(other(x), y)
