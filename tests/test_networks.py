"""The networks beside the ResNets: our own, and those of torchvision and timm."""

import json
import sys
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode

from base.base_model import BaseModel
from config_schema import Config
from models.build import MODELS, build_model, outline_model
from models.library import Stem, build_library
from models.norms import NORMS
from models.preconv import PreConv2d
from models.simple_cnn import simple_cnn
from models.singular_values import find_layers
from models.vgg import vgg16
from parse_config import json_schema, load_config, validate
from predict import load
from reporting.runs.run import Run
from reporting.statistics import paper
from tests.conftest import ROOT, check_that_it_trains
from tests.fake_backward import backward
from tests.made_runs import config as made_config
from tests.runs import call, coco, one_line, run, same_run
from tests.test_config import problems
from trainer.batch_statistics import share_statistics
from trainer.checkpoint import read
from trainer.diagnostics import Diagnostics
from utils.errors import ConfigError
from utils.world import World

#: Small networks: of torchvision without BatchNorm and with it, and of timm.
SQUEEZE, SHUFFLE, LC = "torchvision/squeezenet1_1", "torchvision/shufflenet_v2_x0_5", "timm/lcnet_035"


def config(kind: str, norm: str = "bn", **more: Any) -> Config:
    return validate({"name": "x", "arch": {"type": kind, "args": {"norm": norm, **more}}}, "test")


def built(kind: str, norm: str = "bn", classes: int = 5, size: int = 32, **more: Any) -> BaseModel:
    return build_model(config(kind, norm, **more), classes, (size, size))


def kinds(model: nn.Module) -> tuple[int, int]:
    """How many ConvNorms and BatchNorms there are."""
    modules = list(model.modules())
    norms = sum(isinstance(each, nn.modules.batchnorm._BatchNorm) for each in modules)
    return sum(isinstance(each, PreConv2d) for each in modules), norms


# --- our own -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("build", [vgg16, simple_cnn])
def test_every_arm_of_our_networks_trains_and_evaluates(build: Any, norm: str) -> None:
    model = build(norm, num_classes=7, width=4, activation="srelu")
    check_that_it_trains(model, outputs=7)
    per_layer = {"bn": (0, 1), "conv": (1, 0), "bncn": (1, 1)}
    if norm in per_layer:
        convolutions = {vgg16: 13, simple_cnn: 4}[build]
        assert kinds(model) == tuple(count * convolutions for count in per_layer[norm])


@pytest.mark.parametrize("size", [8, 9, 28, 64, 224])
@pytest.mark.parametrize("build", [vgg16, simple_cnn])
def test_our_networks_take_images_of_any_size(build: Any, size: int) -> None:
    model = build("bncn", num_classes=3, width=2).eval()
    assert model(torch.randn(2, 3, size, size + 1)).shape == (2, 3)


def test_our_networks_have_the_known_numbers_of_parameters() -> None:
    # 13 convolutions, 14,710,464 weights; 4,224 channels with two of BatchNorm each; 512 x 10 + 10 of the head
    assert vgg16().parameter_count() == 14_724_042
    assert simple_cnn(width=8).parameter_count() == 27 * 8 + 9 * (8 * 16 + 16 * 32 + 32 * 64) + 2 * 120 + 650


@pytest.mark.parametrize("kind", MODELS)
def test_weights_of_our_networks_have_the_same_head(kind: str) -> None:
    model = outline_model(config(kind, width=4), 5)
    assert model.head_paths == ("head",)
    assert isinstance(model.get_submodule("head"), nn.Linear)


# --- of libraries --------------------------------------------------------------------------------------------------


def test_the_arms_of_a_library_s_network_are_what_they_say() -> None:
    """ResNet18 has 20 convolutions with a BatchNorm each. SqueezeNet has none, and its head is a convolution."""
    models = {norm: outline_model(config("torchvision/resnet18", norm), 5) for norm in ("bn", "conv", "bncn")}
    assert {norm: kinds(model) for norm, model in models.items()} == {"bn": (0, 20), "conv": (20, 0), "bncn": (20, 20)}
    for norm, model in models.items():
        assert model.head_paths == ("network.fc",)
        assert [line.partition(":")[0] for line in model.remarks] == ["stem", f"norm {norm}"][: 1 + (norm != "bn")]
    assert models["bncn"].remarks[1] == "norm bncn: 20 of 20 convolutions are ConvNorm"
    assert models["conv"].remarks[1].endswith("; 0 of 20 BatchNorms are left")
    plain, bncn = built(SQUEEZE), built(SQUEEZE, "bncn")
    assert kinds(bncn) == (25, 0)
    assert bncn.head_paths == ("network.classifier.1",)
    assert bncn.remarks[1] == (
        "norm bncn: 25 of 26 convolutions are ConvNorm; left: classifier.1 (it is the head); the network has no "
        "BatchNorm, so conv and bncn are the same"
    )
    for name, weight in plain.named_parameters():  # the same kernels in each arm
        if name.endswith("weight"):
            assert torch.equal(bncn.get_parameter(name), weight)


def test_a_stem_is_found_by_its_structure() -> None:
    own, small = (outline_model(config("torchvision/resnet18", stem=stem), 5).network for stem in ("own", "small"))
    assert (own.conv1.kernel_size, own.conv1.stride, type(own.maxpool)) == ((7, 7), (2, 2), nn.MaxPool2d)
    assert (small.conv1.kernel_size, small.conv1.stride, small.conv1.padding) == ((3, 3), (1, 1), (1, 1))
    assert type(small.maxpool) is nn.Identity
    assert small.conv1.weight.shape == (64, 3, 3, 3)
    conv, x = nn.Conv2d(3, 64, 7, 2, 3), torch.randn(16, 3, 32, 32)
    before = conv(x).std().item()
    assert Stem("0", None).put(nn.Sequential(conv)) == "0 is 3x3 with stride 1 in place of 7x7 with stride 2"
    assert conv(x).shape == (16, 64, 32, 32)
    assert conv(x).std().item() == pytest.approx(before, rel=0.15), "but for the border they vary as much"
    networks = (SQUEEZE, SHUFFLE, LC, "torchvision/vgg11")
    said = {kind: outline_model(config(kind, stem="small"), 5).remarks[0] for kind in networks}
    assert said == {
        SQUEEZE: "stem: features.0 is 3x3 with stride 1 in place of 3x3 with stride 2, and features.2, a max-pooling, "
        "is gone",
        SHUFFLE: "stem: conv1.0 is 3x3 with stride 1 in place of 3x3 with stride 2, and maxpool, a max-pooling, is "
        "gone",
        LC: "stem: conv_stem is 3x3 with stride 1 in place of 3x3 with stride 2",
        "torchvision/vgg11": "stem: it does not stride, so it stays as it is",
    }


def test_the_stem_is_decided_by_the_size_of_the_images() -> None:
    def stem(size: int | None, **args: Any) -> str:
        loader = {} if size is None else {"data_loader": {"args": {"image_size": size}}}
        values = {"name": "x", "arch": {"type": SQUEEZE, "args": args}, **loader}
        return str(Config._stem_by_size(values)["arch"]["args"]["stem"])

    assert [stem(size) for size in (None, 8, 32, 64, 65, 224)] == ["small"] * 4 + ["own"] * 2
    assert stem(224, stem="small") == "small"
    assert stem(224, stem=None) == "own"
    assert config(SQUEEZE).arch.model_dump() == {
        "type": SQUEEZE,
        "args": {"norm": "bn", "num_classes": None, "stem": "small"},
    }


def test_what_a_library_cannot_give_is_refused_in_one_line() -> None:
    def refused(part: str, size: int = 32, **arch: Any) -> None:
        with pytest.raises(ConfigError) as caught:
            build_model(validate({"name": "x", "arch": arch}, "test"), 5, (size, size))
        assert part in str(caught.value)
        assert "\n" not in str(caught.value)

    refused("torchvision has no network 'resnet81' for classification; did you mean", type="torchvision/resnet81")
    refused("torchvision has no network 'fcn_resnet50'", type="torchvision/fcn_resnet50")
    refused("torchvision has no network 'raft_large'", type="torchvision/raft_large")
    refused("timm has no network 'resnet81' for classification; did you mean", type="timm/resnet81")
    refused("does not take images of 32x32: ", type="torchvision/vit_b_32", args={"stem": "own"})
    refused("does not take images of 32x32: ", type="torchvision/alexnet", args={"stem": "own"})
    refused("timm/vitamin_small_224: the network cannot be built (", type="timm/vitamin_small_224")
    refused(f"{SQUEEZE}: the network cannot be built (", type=SQUEEZE, args={"num_classes": 10**18})
    vit: dict[str, Any] = {"type": "timm/vit_tiny_patch16_224", "args": {"norm": "bncn", "stem": "own"}}
    refused("bncn changes nothing in timm/vit_tiny_patch16_224, since ConvNorm can replace none", size=224, **vit)


@pytest.mark.parametrize(
    ("arch", "said"),
    [
        (
            {"type": "resnet81"},
            f"choose from {', '.join(MODELS)}, torchvision/NAME, timm/NAME",
        ),
        (
            {"type": "torchvison/resnet18"},
            "arch.type: must be torchvision/NAME or timm/NAME, got 'torchvison/resnet18'; ",
        ),
        ({"type": "torchvison/resnet18"}, "did you mean 'torchvision/resnet18'?"),
        ({"type": "os/path"}, "arch.type: must be torchvision/NAME or timm/NAME"),
        ({"type": "timm/hf-hub:someone/evil"}, "arch.type: must be torchvision/NAME or timm/NAME"),
        ({"type": "timm/../x"}, "arch.type: must be torchvision/NAME or timm/NAME"),
        ({"type": "timm/resnet18.a1_in1k"}, "networks are untrained, so without a tag: timm/resnet18"),
        ({"type": SQUEEZE, "args": {"norm": "gn"}}, f"arch.args.norm: unknown choice 'gn' for {SQUEEZE}; "),
        ({"type": SQUEEZE, "args": {"norm": "gn"}}, "choose from bn, conv, bncn"),
        (
            {"type": SQUEEZE, "args": {"width": 4}},
            f"arch.args.width: {SQUEEZE} does not take it; it takes norm, num_classes, stem",
        ),
        (
            {"type": "vgg16", "args": {"stem": "own"}},
            "arch.args.stem: vgg16 does not take it; it takes norm, activation, ",
        ),
        ({"type": SQUEEZE, "args": {"stem": "big"}}, "choose from small, own"),
        (3, "arch: must be an object {...}, got 3"),
        ({"type": 3}, "arch.type: unknown choice 3"),
    ],
)
def test_a_wrong_network_is_said_in_one_line(arch: Any, said: str) -> None:
    assert said in problems({"name": "x", "arch": arch})


@pytest.mark.parametrize(
    ("arch", "fits"),
    [
        ({"type": SQUEEZE, "args": {"stem": "small"}}, True),
        ({"type": SQUEEZE, "args": {"width": 4}}, False),
        ({"type": SQUEEZE, "args": {"norm": "gn"}}, False),
        ({"type": "vgg16", "args": {"norm": "gn", "width": 4}}, True),
        ({"type": "vgg16", "args": {"stem": "small"}}, False),
        ({"type": "keras/resnet18"}, False),
        ({"args": {"width": 4}}, True),
    ],
)
def test_editors_know_what_a_network_takes(arch: dict[str, Any], fits: bool) -> None:
    assert jsonschema.Draft202012Validator(json_schema()).is_valid({"name": "x", "arch": arch}) == fits


def test_another_network_keeps_the_arguments_that_it_takes() -> None:
    path = ROOT / "configs" / "demo.json"
    resolved = {"norm": "bncn", "num_classes": None, "stem": "small"}
    assert load_config(path, ["arch.type=torchvision/resnet18"]).arch.args.model_dump() == resolved
    assert load_config(path, ["arch.type=vgg16"]).arch.args.model_dump() == {
        "norm": "bncn",
        "activation": "relu",
        "num_classes": None,
        "width": 16,
    }
    with pytest.raises(ConfigError, match=r"arch\.args\.width: torchvision/resnet18 does not take it"):
        load_config(path, ["arch.type=torchvision/resnet18", "arch.args.width=8"])


def test_timm_is_named_where_it_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "timm", None)
    with pytest.raises(ConfigError, match="pip install timm"):
        built(LC)


@pytest.mark.parametrize(("kind", "norm"), [(SQUEEZE, "bncn"), pytest.param(LC, "conv", marks=pytest.mark.slow)])
def test_a_library_s_network_stays_on_cuda(kind: str, norm: str) -> None:
    """FakeTensorMode raises on any mix of devices, so this needs no GPU."""
    model = outline_model(config(kind, norm), 5)
    with FakeTensorMode(), torch.device("cuda"):
        for module in model.modules():
            for tensors, make in ((module._parameters, nn.Parameter), (module._buffers, torch.Tensor.detach)):
                tensors.update(
                    {k: make(torch.zeros(v.shape, dtype=v.dtype)) for k, v in tensors.items() if v is not None}
                )
        loss = model(torch.randn(4, 3, 32, 32)).square().mean()
        gradients = backward(loss)
        assert {id(parameter) for parameter in model.parameters()} == gradients.keys()
        assert {gradient.device.type for gradient in gradients.values()} == {"cuda"}
        assert model.eval()(torch.randn(4, 3, 32, 32)).device.type == "cuda"


def test_weight_decay_of_a_timm_network_is_its_own() -> None:
    """timm's networks name by a method, in paths, what gets none."""
    model = outline_model(validate({"name": "x", "arch": {"type": "timm/vit_tiny_patch16_224"}}, "test"), 5)
    decayed, plain = model.parameter_groups(1e-4)
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    assert {names[id(each)] for each in plain["params"]} == {"network.pos_embed", "network.cls_token"}
    assert (decayed["weight_decay"], plain["weight_decay"]) == (1e-4, 0.0)


def test_sync_batch_norm_keeps_the_activation_in_timm_s_batchnorm() -> None:
    model = built("timm/mobilenetv3_small_050")
    activations = sum(isinstance(module, nn.Hardswish | nn.ReLU) for module in model.modules())
    keys = list(model.state_dict())
    assert share_statistics(model, True, torch.device("cuda"), 2) == []
    assert list(model.state_dict()) == keys
    assert sum(isinstance(module, nn.SyncBatchNorm) for module in model.modules()) > 20
    assert sum(isinstance(module, nn.Hardswish | nn.ReLU) for module in model.modules()) == activations > 10


def test_diagnostics_measure_the_convolutions_of_a_library_s_network() -> None:
    for norm in ("bn", "bncn"):
        layers = find_layers(built(SQUEEZE, norm), (32, 32))
        assert [layers[0].name, layers[0].grid] == ["network.features.0", (34, 34)]
        assert len(layers) == 26


@pytest.mark.parametrize("norm", ["bn", "bncn"])
def test_a_run_says_which_convolutions_its_diagnostics_leave_out(norm: str, coco_dir: Path, tmp_path: Path) -> None:
    for kind, told in (("torchvision/mobilenet_v2", ["rows for 35 of 52 convolutions"]), (SQUEEZE, [])):
        diagnostics = Diagnostics(built(kind, norm), (32, 32), torch.device("cpu"), World())
        assert len(diagnostics.rows(1)) == (35 if told else 26)
        assert [part for line in diagnostics.remarks for part in told if part in line] == told
        assert len(diagnostics.remarks) == len(told)
    folder = tmp_path / "run"
    assert run(*arguments(coco_dir, folder, LC, *ONE, "trainer.diagnostics=true", arm=norm)) == 0
    assert (folder / "train.log").read_text().count("the others have groups or a dilation") == 1


# --- the programs --------------------------------------------------------------------------------------------------

ONE = ("trainer.epochs=1",)


def arguments(coco_dir: Path, folder: Path, kind: str, *more: str, arm: str = "bncn") -> list[str]:
    """A small run of a library's network, which has no width."""
    found = coco(coco_dir, folder, f"arch.type={kind}", *more, arm=arm)
    return [each for each in found if not each.startswith("arch.args.width")] if "/" in kind else found


def test_a_library_s_network_trains_resumes_and_is_loaded(coco_dir: Path, tmp_path: Path, capsys: Any) -> None:
    """It has a dropout, whose generator a checkpoint has."""
    folder, again, stem = tmp_path / "run", tmp_path / "again", "arch.args.stem=own"  # which is fast
    assert run(*arguments(coco_dir, folder, SQUEEZE, stem, "trainer.epochs=2")) == 0
    assert "norm bncn: 25 of 26 convolutions are ConvNorm" in (folder / "train.log").read_text()
    assert run(*arguments(coco_dir, again, SQUEEZE, stem, *ONE)) == 0
    assert run("-r", "auto", "--run-dir", again, "trainer.epochs=2") == 0
    same_run(again, folder, 2)
    capsys.readouterr()
    assert run("-r", "auto", "--run-dir", folder, "arch.args.stem=null", "trainer.epochs=3") == 4
    assert 'arch.args.stem "own" -> "small"' in capsys.readouterr().err
    model, preprocess, classes = load(folder)
    assert model(preprocess(ROOT / "docs" / "tensorboard.png").unsqueeze(0)).shape == (1, len(classes))


@pytest.mark.slow
def test_a_library_s_network_in_all_programs(coco_dir: Path, exdark_dir: Path, tmp_path: Path, capsys: Any) -> None:
    folder, exported = tmp_path / "run", tmp_path / "x.safetensors"
    given = arguments(coco_dir, folder, SHUFFLE, *ONE, "trainer.diagnostics=true")
    assert run(*given, "--check") == 0
    said = capsys.readouterr().out
    assert f"model: {SHUFFLE}, norm bncn, " in said
    assert "stem: conv1.0 is 3x3 with stride 1" in said
    assert "norm bncn: 56 of 56 convolutions are ConvNorm" in said
    assert run(*given) == 0
    assert json.loads((folder / "config.json").read_text())["arch"]["args"]["stem"] == "small"
    assert call("test.py", "-r", folder / "model_best.pth").code == 0
    assert call("predict.py", "-r", folder, ROOT / "docs" / "tensorboard.png").code == 0
    assert call("export.py", "-r", folder, "--safetensors", exported).code == 0
    exdark = ("data_loader.type=TinyExDark", f"data_loader.args.data_dir={exdark_dir}", *ONE)
    capsys.readouterr()
    assert run(*arguments(coco_dir, tmp_path / "other", SHUFFLE, *exdark), "--weights", exported) == 0
    assert "the head is new: the weights are for 10 classes" in capsys.readouterr().out
    weights = read(tmp_path / "other" / "checkpoint-epoch1.pth")["model"]
    assert weights["network.fc.weight"].shape[0] == 12


@pytest.mark.slow
@pytest.mark.parametrize("norm", ["conv", "bncn"])
def test_every_network_of_torchvision_is_taken_or_refused_in_one_line(norm: str) -> None:
    from torchvision import models

    def refusal(name: str) -> str | None:
        try:
            build_library(config(f"torchvision/{name}", norm).arch, 5, None, (64, 64))
        except ConfigError as error:
            return str(error)
        return None

    refused = {name: said for name in models.list_models(models) if (said := refusal(name)) is not None}
    assert {name.partition("_")[0] for name in refused} == {"maxvit", "vit"}
    assert not any("\n" in said for said in refused.values())


def test_a_misspelt_network_is_refused_before_data_are_read(tmp_path: Path) -> None:
    place = ("--run-dir", tmp_path / "run", "data_loader.args.data_dir=/nowhere")
    ended = call("train.py", "-c", ROOT / "configs" / "demo.json", "arch.type=torchvision/resnet81", *place)
    one_line(ended, 2, "did you mean 'resnet")


def test_a_checkpoint_of_a_network_that_is_not_there(coco_dir: Path, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    assert run(*arguments(coco_dir, folder, "simple_cnn", *ONE)) == 0
    saved = torch.load(folder / "model_best.pth", weights_only=True)
    for arch in ({"type": "timm/nothing"}, {"type": "torchvision/vit_b_32"}):
        saved["config"]["arch"] = arch
        torch.save(saved, tmp_path / "evil.pth")
        one_line(call("predict.py", "-r", tmp_path / "evil.pth", ROOT / "docs" / "tensorboard.png"), 4, "evil.pth")


def test_a_report_holds_other_networks_apart() -> None:
    def of(arch: dict[str, Any]) -> Run:
        values = made_config("cifar10_bn_0noise", "bn", 0.0, 1, 4)
        return Run(0, "x", {**values, "arch": arch}, {}, None)

    args = {"norm": "bn", "num_classes": None}
    ours = of({"type": "resnet18", "args": {**args, "width": 64}})
    assert (ours.dataset, paper.dataset_of(ours)) == ("cifar10", "cifar10")
    for kind in ("resnet34", "vgg16", "torchvision/resnet18"):
        other = of({"type": kind, "args": args})
        assert (other.dataset, paper.dataset_of(other)) == (f"cifar10 ({kind})", None)


@pytest.mark.slow
@pytest.mark.parametrize("arm", ["bn", "conv", "bncn"])
@pytest.mark.parametrize("kind", ["vgg16", "simple_cnn", "torchvision/resnet18", "timm/convnext_atto"])
def test_a_stopped_run_of_any_network_ends_bit_for_bit_as_a_straight_one(
    kind: str, arm: str, coco_dir: Path, tmp_path: Path
) -> None:
    straight, folder = tmp_path / "straight", tmp_path / "stopped"
    assert run(*arguments(coco_dir, straight, kind, "trainer.epochs=2", arm=arm)) == 0
    assert run(*arguments(coco_dir, folder, kind, *ONE, arm=arm)) == 0
    assert run("-r", "auto", "--run-dir", folder, "trainer.epochs=2") == 0
    same_run(folder, straight, 2)


@pytest.mark.slow
@pytest.mark.parametrize("suffix", ["onnx", "pt2"])
@pytest.mark.parametrize("kind", ["vgg16", "simple_cnn", SHUFFLE, "timm/convnext_atto"])
def test_any_network_is_exported(kind: str, suffix: str, coco_dir: Path, tmp_path: Path) -> None:
    assert run(*arguments(coco_dir, tmp_path / "run", kind, *ONE)) == 0
    option = {"onnx": "--onnx", "pt2": "--torch-export"}[suffix]
    ended = call("export.py", "-r", tmp_path / "run", option, tmp_path / f"x.{suffix}")
    assert ended.code == 0, ended.err


@pytest.mark.slow
@pytest.mark.parametrize("kind", [SHUFFLE, "vgg16"])
def test_networks_compile(kind: str, coco_dir: Path, tmp_path: Path) -> None:
    assert run(*arguments(coco_dir, tmp_path / "run", kind, *ONE, "trainer.compile=true")) == 0
