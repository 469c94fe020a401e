import json
import math
import re
import subprocess
import sys
import time
from functools import cache
from pathlib import Path
from typing import get_args

import jsonschema
import pytest
import torch
from pydantic import BeforeValidator

from config_schema import NULL_IS_UNSET, Config, MetricName, name_of, types_of
from models.loss import build_loss
from parse_config import json_schema, load_config, merge, parse_overrides, validate
from tests.conftest import ROOT, fresh_program
from tests.runs import call, one_line
from trainer.optim import OPTIMIZERS, Step, schedule_of
from utils import strict_json
from utils.errors import ConfigError

CONFIGS = sorted((ROOT / "configs").glob("*.json"))
RUNS = [path for path in CONFIGS if path.name != "schema.json"]


def write(path: Path, value: object) -> Path:
    path.write_text(value if isinstance(value, str) else json.dumps(value))
    return path


def problems(values: dict) -> str:
    with pytest.raises(ConfigError) as caught:
        validate(values, "test.json")
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_shipped_configs_are_the_paper_s_grid() -> None:
    names = {path.stem for path in RUNS}
    grid = {
        f"{data}_{arm}_{noise}noise"
        for data in ("cifar10", "coco", "exdark")
        for arm in ("bn", "conv", "bncn")
        for noise in (0, 10, 20)
    }
    assert grid | {"demo"} <= names


@pytest.mark.parametrize("path", RUNS, ids=lambda path: path.stem)
def test_shipped_configs_say_what_their_name_says(path: Path) -> None:
    config = load_config(path)
    assert config.name == path.stem
    assert config.model_dump() == validate(json.loads(config.model_dump_json()), "again").model_dump()
    if path.stem == "demo" or path.stem.startswith("small"):
        return
    data, arm, noise = path.stem.split("_")
    optimizer = config.optimizer.args
    assert (config.arch.type, config.arch.args.norm, config.arch.args.width) == ("resnet18", arm, 64)
    assert (config.label_noise.type, config.label_noise.rate) == ("symmetric", int(noise.removesuffix("noise")) / 100)
    assert (config.optimizer.type, optimizer.momentum, optimizer.weight_decay) == ("SGD", 0.9, 1e-4)
    assert (config.seed, config.data_loader.args.batch_size, config.loss.type) == (12, 128, "cross_entropy")
    assert config.data_loader.args.validation_split == 0.1
    schedule = config.lr_scheduler.args
    assert schedule.gamma == 0.1
    assert config.trainer.clip_grad_norm == (1.0 if arm == "conv" else None)
    kind, rate, milestones, epochs = {
        "cifar10": ("CIFAR10", 0.1, [40, 80], 100),
        "coco": ("TinyCOCO", 0.025, [50, 100, 150], 200),
        "exdark": ("TinyExDark", 0.025, [50, 100, 150], 200),
    }[data]
    assert config.data_loader.type == kind
    assert (optimizer.lr, schedule.milestones, config.trainer.epochs) == (rate, milestones, epochs)


def test_schema_file_is_the_schema() -> None:
    shipped = json.loads((ROOT / "configs" / "schema.json").read_text())
    assert shipped == json_schema(), "run `make schema`"


@cache
def schema_validator() -> jsonschema.Draft202012Validator:
    jsonschema.Draft202012Validator.check_schema(json_schema())
    return jsonschema.Draft202012Validator(json_schema())


@pytest.mark.parametrize("path", [*RUNS, *(ROOT / "configs" / "_base_").glob("*.json")], ids=lambda path: path.stem)
def test_shipped_files_follow_the_schema(path: Path) -> None:
    values = json.loads(path.read_text())
    schema_validator().validate(values)
    assert (path.parent / values["$schema"]).resolve() == ROOT / "configs" / "schema.json"


def every_key(block: dict, path: tuple[str, ...] = ()) -> list[tuple[str, ...]]:
    found = []
    for key, value in block.items():
        found.append((*path, key))
        if isinstance(value, dict):
            found += every_key(value, (*path, key))
    return found


RESOLVED = load_config(ROOT / "configs" / "coco_bncn_10noise.json").model_dump()


@pytest.mark.parametrize("path", every_key(RESOLVED), ids=".".join)
def test_each_misspelt_key_is_found_and_its_name_guessed(path: tuple[str, ...]) -> None:
    values = json.loads(json.dumps(RESOLVED))
    block = values
    for key in path[:-1]:
        block = block[key]
    wrong = path[-1][:1] + path[-1][2:] if len(path[-1]) > 3 else path[-1] + "_"
    block[wrong] = block.pop(path[-1])
    message = problems(values)
    assert f"unknown key '{'.'.join((*path[:-1], wrong))}'" in message
    assert f"did you mean '{path[-1]}'?" in message


def test_every_field_has_a_sentence() -> None:
    schema = json_schema()
    for block in (schema, *schema["$defs"].values()):
        for name, field in block.get("properties", {}).items():
            assert field.get("description", "").endswith("."), name


def test_all_problems_are_reported_at_once_in_one_line() -> None:
    message = problems(
        {
            "name": "x",
            "sede": 1,
            "arch": {"args": {"norm": "bm", "width": True}},
            "data_loader": {"args": {"batch_size": 0, "augment": 3}},
            "optimizer": {"args": {"lr": "0.1"}},
            "label_noise": {"rate": 1.5},
            "trainer": {"epochs": -1, "amp": "fp8"},
        }
    )
    for part in (
        "test.json: 9 problems",
        "unknown key 'sede'; did you mean 'seed'?",
        "arch.args.norm: unknown choice 'bm'; did you mean 'bn'?; choose from bn, conv, bncn",
        "arch.args.width: should be a valid integer, got true",
        "data_loader.args.batch_size: should be greater than 0, got 0",
        "data_loader.args.augment: must be an object {...}, got 3",
        'optimizer.args.lr: should be a valid number, got "0.1"',
        "label_noise.rate: should be less than or equal to 1, got 1.5",
        "trainer.epochs: should be greater than 0, got -1",
        "trainer.amp: unknown choice 'fp8'",
    ):
        assert part in message, (part, message)


@pytest.mark.parametrize(
    ("values", "part"),
    [
        ({}, "name: missing"),
        ({"name": "../up"}, "name: "),
        ({"name": "x", "loss": "os.system"}, "loss: unknown choice 'os.system'; choose from cross_entropy"),
        ({"name": "x", "data_loader": {"args": {"subset": 0}}}, "data_loader.args.subset: must be a number of images"),
        ({"name": "x", "data_loader": {"args": {"subset": True}}}, "data_loader.args.subset: should be a valid number"),
        ({"name": "x", "data_loader": {"args": {"subset": 10.5}}}, "data_loader.args.subset: must be"),
        ({"name": "x", "trainer": {"monitor": "max val_acc"}}, "trainer.monitor: must be 'off'"),
        ({"name": "x", "trainer": {"monitor": "max val_acuracy"}}, "; did you mean 'max val_accuracy'?"),
        ({"name": "x", "trainer": {"monitor": "val_accuracy"}}, "; did you mean 'max val_accuracy'?"),
        ({"name": "x", "trainer": {"monitor": "val_loss"}}, "; did you mean 'min val_loss'?"),
        ({"name": "x", "trainer": {"monitor": "max val_ece"}, "metrics": ["accuracy"]}, "'ece' is not among metrics"),
        ({"name": "x", "epochs": 3}, "unknown key 'epochs'; did you mean 'trainer.epochs'?"),
        ({"name": "x", "trainer": {"lr": 3}}, "unknown key 'trainer.lr'; did you mean 'optimizer.args.lr'?"),
        ({"name": "x", "loss": {"type": "mae", "args": {"x": 1}}}, "unknown key 'loss.args.x'; keys here: none"),
        ({"name": "x", "label_noise": {"type": "asymmetric", "map": {"a": "a"}}}, "gives 'a' as the wrong class of it"),
        ({"name": "x", "trainer": {"monitor": "max test_top5_accuracy"}, "metrics": ["accuracy"]}, "trainer.monitor"),
        ({"name": "x", "trainer": {"monitor": "off", "early_stop": 3}}, "trainer.early_stop: needs"),
        ({"name": "x", "metrics": []}, "metrics: "),
        ({"name": "x", "metrics": ["top5_accuracy"]}, "metrics: must begin with 'accuracy'"),
        ({"name": "x", "metrics": ["accuracy", "accuracy"]}, "metrics: must begin"),
        ({"name": "x", "optimizer": {"args": {"betas": [0.9, 0.99]}}}, "optimizer.args.betas: SGD does not take it"),
        ({"name": "x", "optimizer": {"args": {"nesterov": True}}}, "optimizer.args.nesterov: needs a momentum"),
        ({"name": "x", "optimizer": {"args": {"lr": 0}}}, "optimizer.args.lr: should be greater than 0"),
        ({"name": "x", "lr_scheduler": {"type": "MultiStepLR"}}, "lr_scheduler.args.milestones: MultiStepLR needs it"),
        (
            {"name": "x", "lr_scheduler": {"type": "MultiStepLR", "args": {"milestones": [8, 4]}}},
            "milestones: must increase",
        ),
        (
            {"name": "x", "lr_scheduler": {"args": {"gamma": 0.5}}},
            "ConstantLR does not take it; it takes warmup_epochs, warmup_factor",
        ),
        ({"name": "x", "label_noise": {"type": "file"}}, "label_noise.path: file needs it; An .npz with"),
        (
            {"name": "x", "label_noise": {"path": "a.npz"}},
            "label_noise.path: symmetric does not take it; it takes rate, include_true_class, on_validation",
        ),
        (
            {"name": "x", "label_noise": {"type": "asymmetric", "include_true_class": True}},
            "label_noise.include_true_class: asymmetric does not take it; it takes rate, on_validation, map",
        ),
    ],
)
def test_bad_values(values: dict, part: str) -> None:
    assert part in problems(values)


def test_inheritance_merges_deeply_and_later_wins(tmp_path: Path) -> None:
    (tmp_path / "sub").mkdir()
    write(tmp_path / "a.json", {"name": "a", "seed": 1, "trainer": {"epochs": 5, "save_period": 2}})
    write(tmp_path / "b.json", {"seed": 2, "trainer": {"epochs": 6}})
    write(
        tmp_path / "sub" / "c.json", {"_base_": ["../a.json", "../b.json"], "name": "c", "arch": {"type": "resnet34"}}
    )
    config = load_config(tmp_path / "sub" / "c.json", ["trainer.epochs=7", "arch.args.norm=conv"])
    assert (config.name, config.seed, config.arch.type, config.arch.args.norm) == ("c", 2, "resnet34", "conv")
    assert (config.trainer.epochs, config.trainer.save_period) == (7, 2)


def test_another_optimizer_does_not_inherit_the_first_one_s_arguments() -> None:
    config = load_config(
        ROOT / "configs" / "cifar10_bn_0noise.json", ["optimizer.type=AdamW", "optimizer.args.lr=1e-3"]
    )
    assert config.optimizer.args.lr == 1e-3
    assert "optimizer.args.momentum" not in config.settings()
    same = load_config(ROOT / "configs" / "cifar10_bn_0noise.json", ["optimizer.type=SGD", "optimizer.args.lr=1"])
    assert (same.optimizer.args.lr, same.optimizer.args.momentum) == (1.0, 0.9)


@pytest.mark.parametrize("order", [1, -1])
def test_the_order_of_overrides_does_not_matter(order: int) -> None:
    overrides = ["optimizer.args.lr=0.01", "optimizer.type=Adam"][::order]
    config = load_config(ROOT / "configs" / "cifar10_bn_0noise.json", overrides)
    assert (config.optimizer.type, config.optimizer.args.lr) == ("Adam", 0.01)


def test_of_two_overrides_of_a_type_the_last_one_counts_and_drops_no_other_override() -> None:
    overrides = ["optimizer.type=Adam", "optimizer.args.lr=0.01", "optimizer.type=AdamW"]
    config = load_config(ROOT / "configs" / "cifar10_bn_0noise.json", overrides)
    assert (config.optimizer.type, config.optimizer.args.lr) == ("AdamW", 0.01)


def test_keys_that_look_like_types_are_named() -> None:
    assert "unknown key 'list'" in problems({"name": "x", "list": 1})
    assert "unknown key 'a(b)'" in problems({"name": "x", "a(b)": 1})
    assert "unknown key 'trainer.int'" in problems({"name": "x", "trainer": {"int": 1}})


def test_overrides_are_json_or_strings() -> None:
    layer = parse_overrides(["a.b=1", "a.c=true", "d=[1, 2]", "e=text", 'f="1"', "g=null", "h=a=b", "i=NaN"])
    assert layer == {"a": {"b": 1, "c": True}, "d": [1, 2], "e": "text", "f": "1", "g": None, "h": "a=b", "i": "NaN"}


@pytest.mark.parametrize("override", ["lr", "=1", "a..b=1", ".a=1"])
def test_overrides_that_are_none_raise(override: str) -> None:
    with pytest.raises(ConfigError, match="KEY=VALUE"):
        parse_overrides([override])


def test_an_unknown_override_is_an_error() -> None:
    with pytest.raises(ConfigError, match=r"unknown key 'optimizer.args.Lr'; did you mean 'lr'"):
        load_config(ROOT / "configs" / "demo.json", ["optimizer.args.Lr=1"])


@pytest.mark.parametrize(
    ("text", "part"),
    [
        ('{"name": "x",\n  "seed": }', "line 2 column 11"),
        ('{"seed": 1,\n "seed": 2}', "duplicate key 'seed': line 2 column 2"),
        ('{"seed": NaN}', "line 1 column 10"),
        ('{"a": [1, -Infinity]}', "NaN and Infinity are not JSON: line 1 column 11"),
        ("[1]", "line 1 column 1: a config is a JSON object {...}, not list"),
        ("", "line 1 column 1"),
        ("[" * 100_000, "nested too deeply"),
        ('{"seed": ' + "1" * 5000 + "}", "not valid JSON"),
    ],
)
def test_what_is_not_json_is_refused_with_its_place(tmp_path: Path, text: str, part: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load_config(write(tmp_path / "c.json", text))
    assert part in str(caught.value)


@pytest.mark.parametrize(
    "text",
    ['{"a": [1, 2.5e3, null, true, {"b": "\\u00e9"}]}', '{"a": 1, "b": {"c": 1, "c": 1}}', "[1, NaN]", "{", '"x'],
)
def test_json_of_few_and_of_many_objects_is_read_alike(text: str) -> None:
    """Many are read by another decoder."""
    many = f"[{'[], ' * 200}{text}]"
    try:
        value = strict_json.loads(text)
    except json.JSONDecodeError as few:
        with pytest.raises(json.JSONDecodeError, match=re.escape(few.msg)):
            strict_json.loads(many)
    else:
        assert strict_json.loads(many)[-1] == value


def test_what_is_not_text_is_refused(tmp_path: Path) -> None:
    (tmp_path / "c.json").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ConfigError, match="UTF-8"):
        load_config(tmp_path / "c.json")


def test_inheritance_that_cannot_be_followed(tmp_path: Path) -> None:
    write(tmp_path / "a.json", {"_base_": "b.json", "name": "a"})
    write(tmp_path / "b.json", {"_base_": ["a.json"]})
    with pytest.raises(ConfigError, match=r"circle: .*a\.json -> .*b\.json -> .*a\.json"):
        load_config(tmp_path / "a.json")
    write(tmp_path / "b.json", {"_base_": "missing.json"})
    with pytest.raises(ConfigError, match=r"missing\.json', inherited by .*b\.json, inherited by .*a\.json"):
        load_config(tmp_path / "a.json")
    write(tmp_path / "b.json", {"_base_": 3})
    with pytest.raises(ConfigError, match="_base_ must be"):
        load_config(tmp_path / "a.json")


# --- blocks with a class for each type -----------------------------------------------------------------------------

TYPED = ("label_noise", "optimizer", "lr_scheduler", "loss")
ADAM = {"lr": 0.1, "weight_decay": 0.0, "betas": [0.9, 0.999], "eps": 1e-8}
NOISE = {"rate": 0.0, "on_validation": True}
COLD = {"warmup_epochs": 0.0, "warmup_factor": 1 / 3}
ONE_CYCLE = {"max_lr": 0.5, "pct_start": 0.3, "anneal_strategy": "cos", "div_factor": 25.0, "final_div_factor": 1e4} | {
    "cycle_momentum": True,
    "base_momentum": 0.85,
    "max_momentum": 0.95,
}
#: By block and type what must be said, and what a config.json has where no more is said.
RESOLVES: dict[tuple[str, str], tuple[dict, dict]] = {
    ("label_noise", "symmetric"): ({}, {**NOISE, "include_true_class": None}),
    ("label_noise", "asymmetric"): ({}, {**NOISE, "map": None}),
    ("label_noise", "pair_flip"): ({}, NOISE),
    ("label_noise", "instance"): ({}, NOISE),
    ("label_noise", "file"): ({"path": "a.npz"}, {**NOISE, "path": "a.npz", "key": None}),
    ("optimizer", "SGD"): ({}, {"args": {"lr": 0.1, "momentum": 0.0, "weight_decay": 0.0, "nesterov": False}}),
    ("optimizer", "Adam"): ({}, {"args": ADAM}),
    ("optimizer", "AdamW"): ({}, {"args": ADAM}),
    ("lr_scheduler", "MultiStepLR"): (
        {"args": {"milestones": [4, 8]}},
        {"args": {**COLD, "milestones": [4, 8], "gamma": 0.1}},
    ),
    ("lr_scheduler", "StepLR"): ({"args": {"step_size": 3}}, {"args": {**COLD, "step_size": 3, "gamma": 0.1}}),
    ("lr_scheduler", "CosineAnnealingLR"): ({}, {"args": {**COLD, "T_max": None, "eta_min": 0.0, "by": "epoch"}}),
    ("lr_scheduler", "ConstantLR"): ({}, {"args": COLD}),
    ("lr_scheduler", "OneCycleLR"): ({"args": {"max_lr": 0.5}}, {"args": {**COLD, **ONE_CYCLE}}),
    ("loss", "cross_entropy"): ({}, {"args": {"label_smoothing": 0.0, "class_weights": None}}),
    ("loss", "smoothed_cross_entropy"): ({}, {"args": {"smoothing": 0.1}}),
    ("loss", "gce"): ({}, {"args": {"q": 0.7}}),
    ("loss", "sce"): ({}, {"args": {"alpha": 0.1, "beta": 1.0, "A": -4.0}}),
    ("loss", "mae"): ({}, {"args": {}}),
}
LEFT_OPEN = {
    "T_max",
    "include_true_class",
    "map",
    "key",
    "class_weights",
}  # which say in their description what null is


@pytest.mark.parametrize("block", TYPED)
def test_every_setting_of_every_type_is_resolved(block: str) -> None:
    choices = types_of(Config.model_fields[block].annotation)
    assert {(block, name_of(choice)) for choice in choices} == {key for key in RESOLVES if key[0] == block}
    for choice in choices:
        name = name_of(choice)
        given, expected = RESOLVES[block, name]
        resolved = validate({"name": "x", block: {"type": name, **given}}, "test").model_dump()[block]
        assert resolved == {"type": name, **expected}
        below = choice.model_fields.get("args")
        fields = choice.model_fields if below is None else types_of(below.annotation)[0].model_fields
        leaves = resolved.get("args", resolved)
        assert leaves.keys() == fields.keys()
        assert {key for key, value in leaves.items() if value is None} <= LEFT_OPEN
        for key in LEFT_OPEN & leaves.keys():
            assert "null is " in str(fields[key].description)


@pytest.mark.parametrize("block", TYPED)
def test_no_field_needs_two_validators_of_a_kind(block: str) -> None:
    """pydantic 2.7 keeps one of each kind."""
    kinds = [type(each) for each in Config.model_fields[block].metadata]
    assert kinds.count(BeforeValidator) == len(kinds) == 1


def test_every_type_has_its_implementation() -> None:
    """Each kind of noise: tests/test_data.py."""
    assert OPTIMIZERS.keys() == {name for block, name in RESOLVES if block == "optimizer"}
    for block, name in RESOLVES:
        config = validate({"name": "x", block: {"type": name, **RESOLVES[block, name][0]}}, "test")
        if block == "optimizer":
            OPTIMIZERS[name]([torch.zeros(1)], **config.optimizer.args.model_dump())
        elif block == "lr_scheduler":
            assert math.isfinite(schedule_of(config)(Step(0))["lr"])
        elif block == "loss":
            assert build_loss(config.loss)(torch.zeros(1, 2), torch.zeros(1, dtype=torch.int64)) > 0


@pytest.mark.parametrize("name", ["SGD", "Adam", "AdamW"])
def test_what_was_torch_s_default_is_the_same(name: str) -> None:
    """All but the rate and the decay of AdamW, which the config has always had defaults of its own for."""
    made = OPTIMIZERS[name]([torch.zeros(1)]).defaults
    ours = RESOLVES["optimizer", name][1]["args"]
    for key in ours.keys() - {"lr", "weight_decay"}:
        assert (list(made[key]) if key == "betas" else made[key]) == ours[key]


#: As config.json had them before there was a class for each type: with null for what was not set, whatever the type.
EARLIER: dict[tuple[str, str], dict] = {
    ("optimizer", name): {
        "lr": 0.1,
        "momentum": None,
        "weight_decay": 0.0,
        "nesterov": None,
        "betas": None,
        "eps": None,
    }
    for name in ("SGD", "Adam", "AdamW")
} | {
    ("lr_scheduler", name): dict.fromkeys(("milestones", "gamma", "step_size", "T_max", "eta_min"))
    for name in ("MultiStepLR", "StepLR", "CosineAnnealingLR", "ConstantLR")
}


@pytest.mark.parametrize(("block", "name"), RESOLVES, ids=".".join)
def test_null_means_unset_where_earlier_code_wrote_it(block: str, name: str) -> None:
    given, expected = RESOLVES[block, name]
    earlier: object = {"type": name, "args": EARLIER.get((block, name), {}) | given.get("args", {})}
    if block == "label_noise":
        unset = {"include_true_class": None, "path": None, "map": None, "key": None}
        earlier = {"type": name, "rate": 0.0, "on_validation": True, **unset, **given}
    elif block == "loss":
        earlier = {"type": name, **given} if given else name
    resolved = validate({"name": "x", block: earlier}, "test").model_dump()[block]
    assert resolved == {"type": name, **expected}


def test_null_is_not_taken_where_it_never_was() -> None:
    found = problems({"name": "x", "optimizer": {"args": {"lr": None, "weight_decay": None}}})
    assert "optimizer.args.lr: should be a valid number, got null" in found
    assert "optimizer.args.weight_decay: should be a valid number, got null" in found
    found = problems({"name": "x", "loss": {"type": "smoothed_cross_entropy", "args": {"smoothing": None}}})
    assert "loss.args.smoothing: should be a valid number, got null" in found
    given = {key for args in EARLIER.values() for key, value in args.items() if value is None}
    assert given | {"include_true_class", "path", "map", "key"} == NULL_IS_UNSET


def test_false_was_taken_for_noise_that_is_never_drawn_over_all_classes() -> None:
    noise = {"type": "asymmetric", "include_true_class": False}
    assert "include_true_class" not in validate({"name": "x", "label_noise": noise}, "test").model_dump()["label_noise"]
    noise = {"type": "symmetric", "include_true_class": False}
    resolved = validate({"name": "x", "label_noise": noise}, "test").model_dump()["label_noise"]
    assert resolved["include_true_class"] is False


CHOOSE = {
    block: f"choose from {', '.join(map(name_of, types_of(Config.model_fields[block].annotation)))}" for block in TYPED
}


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (
            {"optimizer": {"type": "Adam", "args": {"momentum": 0.9}}},
            "optimizer.args.momentum: Adam does not take it; it takes lr, weight_decay, betas, eps",
        ),
        (
            {"optimizer": {"args": {"betas": [0.9, 0.99]}}},
            "optimizer.args.betas: SGD does not take it; it takes lr, momentum, weight_decay, nesterov",
        ),
        (
            {"optimizer": {"type": "AdamW", "args": {"ep": 1e-3}}},
            "unknown key 'optimizer.args.ep'; did you mean 'eps'?; keys here: lr, weight_decay, betas, eps",
        ),
        (
            {"optimizer": {"SGD": 1}},
            "unknown key 'optimizer.SGD'; keys here: type, args; arguments go to optimizer.args",
        ),
        (
            {"optimizer": {"lr": 1}},
            "unknown key 'optimizer.lr'; did you mean 'optimizer.args.lr'?; keys here: type, args",
        ),
        (
            {"loss": {"focus": 1}},
            "unknown key 'loss.focus'; keys here: type, args; arguments go to loss.args",
        ),
        (
            {"metrics": "confidence"},
            f"metrics.0: unknown choice 'confidence'; choose from {', '.join(get_args(MetricName))}; "
            'the default is ["accuracy", "top5_accuracy"]',
        ),
        (
            {"metrics": "top5_accuracy"},
            "metrics: must begin with 'accuracy' and name nothing twice; "
            'the default is ["accuracy", "top5_accuracy"]',
        ),
        ({"trainer": {"epochs": "0"}}, "trainer.epochs: should be greater than 0, got 0; the default is 100"),
        (
            {"optimizer": {"type": "Adm"}},
            f"optimizer.type: unknown choice 'Adm'; did you mean 'Adam'?; {CHOOSE['optimizer']}",
        ),
        ({"optimizer": {"type": [{}]}}, f"optimizer.type: unknown choice [{{}}]; {CHOOSE['optimizer']}"),
        ({"optimizer": 3}, "optimizer: must be an object {...}, got 3"),
        ({"optimizer": {"args": 3}}, "optimizer.args: must be an object {...}, got 3"),
        (
            {"optimizer": {"type": "Adam", "args": {"betas": [0.9, 1]}}},
            "optimizer.args.betas.1: should be less than 1, got 1",
        ),
        (
            {"lr_scheduler": {"type": "MultiStepLR", "args": {"gamma": 0.5}}},
            "lr_scheduler.args.milestones: MultiStepLR needs it; Epochs after which the rate is multiplied.",
        ),
        (
            {"lr_scheduler": {"type": "MultiStepLR", "args": {"milestones": []}}},
            "lr_scheduler.args.milestones: MultiStepLR needs it",
        ),
        (
            {"lr_scheduler": {"type": "StepLR", "args": {"step_size": None}}},
            "lr_scheduler.args.step_size: StepLR needs it; Epochs between two multiplications.",
        ),
        (
            {"lr_scheduler": {"args": {"gamma": 0.5}}},
            "lr_scheduler.args.gamma: ConstantLR does not take it; it takes warmup_epochs, warmup_factor",
        ),
        (
            {"loss": "crossentropy"},
            f"loss: unknown choice 'crossentropy'; did you mean 'cross_entropy'?; {CHOOSE['loss']}",
        ),
        (
            {"loss": {"type": "smoothed"}},
            f"loss.type: unknown choice 'smoothed'; did you mean 'smoothed_cross_entropy'?; {CHOOSE['loss']}",
        ),
        ({"loss": None}, f"loss: unknown choice None; {CHOOSE['loss']}"),
        (
            {"loss": {"type": "smoothed_cross_entropy", "args": {"smothing": 0.2}}},
            "unknown key 'loss.args.smothing'; did you mean 'smoothing'?; keys here: smoothing",
        ),
        (
            {"loss": {"args": {"smoothing": 0.2}}},
            "loss.args.smoothing: cross_entropy does not take it; it takes label_smoothing, class_weights",
        ),
        (
            {"loss": {"args": {"class_weights": "balance"}}},
            "loss.args.class_weights: must be null, \"balanced\" or a list of numbers above 0, got 'balance'; "
            "did you mean 'balanced'?",
        ),
        (
            {"loss": {"args": {"class_weights": [1, -2]}}},
            'loss.args.class_weights: must be null, "balanced" or a list of numbers above 0, got [1, -2]',
        ),
        ({"loss": {"type": "gce", "args": {"q": 0}}}, "loss.args.q: should be greater than 0, got 0"),
        (
            {"label_noise": {"type": "asymmetric", "map": {"cat": 3}}},
            'label_noise.map.cat: should be a valid string, got 3; write "3"',
        ),
        (
            {"label_noise": {"type": "asymmetric", "map": {"cat": "dog\n"}}},
            "label_noise.map.cat: must not hold the control character \\n",
        ),
        (
            {"label_noise": {"type": "asymetric"}},
            f"label_noise.type: unknown choice 'asymetric'; did you mean 'asymmetric'?; {CHOOSE['label_noise']}",
        ),
        (
            {"label_noise": {"rte": 0.1}},
            "unknown key 'label_noise.rte'; did you mean 'rate'?; keys here: type, rate, include_true_class, "
            "on_validation",
        ),
    ],
)
def test_a_problem_is_told_in_the_words_of_its_type(values: dict, message: str) -> None:
    assert problems({"name": "x", **values}) == f"test.json: 1 problem: {message}"


def test_another_label_noise_keeps_the_settings_that_it_takes(tmp_path: Path) -> None:
    path = write(tmp_path / "c.json", {"name": "x", "label_noise": {"type": "file", "path": "a.npz", "rate": 0.3}})
    config = load_config(path, ["label_noise.type=pair_flip", "label_noise.on_validation=false"])
    assert config.model_dump()["label_noise"] == {"type": "pair_flip", "rate": 0.3, "on_validation": False}
    with pytest.raises(ConfigError, match=r"label_noise\.map: pair_flip does not take it"):
        load_config(path, ["label_noise.map.cat=dog", "label_noise.type=pair_flip"])


def test_a_map_of_labels_takes_the_place_of_an_earlier_one(tmp_path: Path) -> None:
    noise = {"type": "asymmetric", "map": {"cat": "dog"}}
    path = write(tmp_path / "c.json", {"name": "x", "label_noise": noise})
    for overrides, pairs in (
        (['label_noise.map={"dog": "car"}'], {"dog": "car"}),
        (["label_noise.map.dog=car", "label_noise.map.car=cat"], {"dog": "car", "car": "cat"}),
        (["label_noise.map=null"], None),
        ([], {"cat": "dog"}),
    ):
        assert load_config(path, overrides).model_dump()["label_noise"]["map"] == pairs


def test_conv_without_clipping_is_told() -> None:
    path = ROOT / "configs" / "demo.json"
    (remark,) = load_config(path, ["arch.args.norm=conv"]).remarks
    assert remark.startswith("arch.args.norm is conv, without any BatchNorm, and gradients are not clipped")
    assert load_config(path, ["arch.args.norm=conv", "trainer.clip_grad_norm=1"]).remarks == ()


def test_an_override_finds_its_setting_whatever_the_type(tmp_path: Path) -> None:
    path = write(tmp_path / "c.json", {"name": "x"})
    config = load_config(path, ["label_noise.path=2024", "label_noise.type=file"])
    assert config.settings()["label_noise.path"] == "2024"
    for text, weights in (("balanced", "balanced"), ("[1, 2]", [1.0, 2.0]), ("null", None)):
        assert load_config(path, [f"loss.args.class_weights={text}"]).settings()["loss.args.class_weights"] == weights
    config = load_config(path, ["label_noise.type=asymmetric", "label_noise.map.cat=dog"])
    assert config.model_dump()["label_noise"]["map"] == {"cat": "dog"}
    with pytest.raises(ConfigError, match=r"optimizer\.args\.eps: .*; write 1e-08"):
        load_config(path, ["optimizer.args.eps='1e-8'", "optimizer.type=Adam"])


def test_a_loss_is_its_name_or_a_block(tmp_path: Path) -> None:
    smoothed = {"type": "smoothed_cross_entropy", "args": {"smoothing": 0.3}}
    plain = {"type": "cross_entropy", **RESOLVES["loss", "cross_entropy"][1]}
    path = write(tmp_path / "c.json", {"name": "x", "loss": smoothed})
    bare = write(tmp_path / "bare.json", {"_base_": "c.json", "loss": "smoothed_cross_entropy"})
    another = write(tmp_path / "another.json", {"_base_": "c.json", "loss": "cross_entropy"})
    dumped = {each.stem: load_config(each).model_dump()["loss"] for each in (path, bare, another)}
    assert dumped == {"c": smoothed, "bare": smoothed, "another": plain}
    (remark,) = load_config(another, ["loss=smoothed_cross_entropy"]).remarks
    assert remark.endswith("loss.args.smoothing 0.3 is not inherited, it is now 0.1")
    for overrides in (["loss=smoothed_cross_entropy", "loss.args.smoothing=0.2"], ["loss.args.smoothing=0.2"]):
        for order in (1, -1):
            assert load_config(bare, overrides[::order]).settings()["loss.args.smoothing"] == 0.2
    schema = json_schema()
    for loss, fits in (("cross_entropy", True), (smoothed, True), ({"args": {}}, True), ("cross_entorpy", False)):
        assert jsonschema.Draft202012Validator(schema).is_valid({"loss": loss}) is fits
    assert merge({"loss": "cross_entropy"}, {}) == {"loss": "cross_entropy"}


def test_a_config_error_is_one_line_and_needs_no_torch() -> None:
    start = time.perf_counter()
    done = fresh_program("train.py", "-c", "configs/demo.json", "loss=cross_entorpy")
    elapsed = time.perf_counter() - start
    assert done.returncode == 2
    assert done.stdout == ""
    assert done.stderr.count("\n") == 1
    assert "did you mean 'cross_entropy'?" in done.stderr
    check = "import sys, parse_config; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", check], cwd=ROOT).returncode == 0
    assert elapsed < 20, "far more than it takes even on a busy machine"


@pytest.mark.parametrize("arguments", [["-x"], ["-c"], []])
def test_a_wrong_command_line_exits_2(arguments: list[str]) -> None:
    one_line(call("train.py", *arguments), 2)
