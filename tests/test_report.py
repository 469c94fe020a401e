"""The report, on run folders whose figures are known by construction, and on one that train.py made."""

import csv
import io
import json
import math
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest

import report as program
from config_schema import Config
from reporting.figures import curves
from reporting.figures.style import Look, looks, shortened
from reporting.render.markdown import markdown
from reporting.render.writing import read_results, report_files
from reporting.runs.run import Data, Key, Run
from reporting.statistics import measures, paper, statements
from reporting.statistics.differences import differing_data
from reporting.statistics.intervals import Interval, holm, interval, paired, smallest_error, spread
from reporting.statistics.measures import chance, classes
from reporting.statistics.numbers import number, with_interval, with_std
from reporting.statistics.results import Results
from reporting.statistics.robustness import drop, drop_less_than, kept
from reporting.statistics.statements import FAILS, HOLDS, OPEN, STATEMENTS, Finding, Level, Measured
from reporting.text import prose, summary
from reporting.text.blocks import Figure, Heading, Table
from reporting.text.document import document
from tests.conftest import ROOT
from tests.made_runs import config, write_cell, write_run, write_table
from tests.runs import coco, run
from utils.errors import DataError

T_2 = 4.302652729911275  # 0.975 quantile of Student's t with 2 degrees of freedom, from a table
SEEDS = (12, 13, 14)
ARMS = ("bn", "conv", "bncn", "conv_published", "bncn_published")


def seeds(*accuracies: float) -> dict[int, float]:
    return dict(zip(SEEDS, accuracies, strict=False))


def one_run(folder: Path, epochs: int | None = None, **columns: Sequence[object]) -> Run:
    """A run with these columns, read from disk."""
    length = len(columns["test_accuracy"])
    write_run(folder / "run", config("x_bn_0noise", "bn", 0.0, 12, epochs or length), columns)
    results = read_results([folder])
    return (results.finished or [run for cell in results.unfinished.values() for run in cell.values()])[0]


def run_report(*arguments: object) -> int:
    return program.main([str(argument) for argument in arguments])


def findings(root: Path) -> dict[tuple[str, str], Finding]:
    """By dataset and by what is measured."""
    return {(f.dataset, f.statement.measured): f for f in statements.examine(read_results([root]))}


def grid_of(root: Path, dataset: str = "cifar10", **changes: object) -> Path:
    """A whole grid: five arms, three noise levels, three seeds."""
    for index, arm in enumerate(ARMS):
        for noise in (0.0, 0.1, 0.2):
            top = 0.6 - 0.05 * index - noise * 0.2
            write_cell(root, arm, noise, seeds(top, top + 0.01, top + 0.015), dataset=dataset, **changes)
    return root


@pytest.fixture(scope="module")
def grid(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return grid_of(tmp_path_factory.mktemp("grid"))


@pytest.fixture(scope="module")
def files(grid: Path) -> dict[str, str]:
    """The report on `grid`."""
    return report_files(read_results([grid]))


def test_configs_that_differ_in_the_seed_only_are_validated_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    validated = []

    class Counted:
        @staticmethod
        def model_validate(values: Mapping) -> Config:
            validated.append(values)
            return Config.model_validate(values)

    monkeypatch.setattr("reporting.statistics.differences.Config", Counted)
    write_cell(tmp_path, "bn", 0.0, dict.fromkeys(range(30), 0.5))
    write_cell(tmp_path, "conv", 0.0, dict.fromkeys(range(30), 0.4))
    write_cell(tmp_path, "conv", 0.0, {30: 0.4}, optimizer={"type": "SGD", "args": {"lr": 0.2}})
    (warning,) = read_results([tmp_path]).warnings[:1]
    assert "differ in `optimizer.args.lr`" in warning
    assert len(validated) == 3


# --- numbers ---------------------------------------------------------------------------------------------------------


def test_an_interval_is_students() -> None:
    found = interval([1.0, 2.0, 3.0])
    half = T_2 * 1.0 / math.sqrt(3)
    assert found.mean == 2.0
    assert found.n == 3
    assert found.low == pytest.approx(2.0 - half, abs=1e-9)
    assert found.high == pytest.approx(2.0 + half, abs=1e-9)


def test_holm_stops_at_the_first_that_is_too_large() -> None:
    """Holm's own procedure on four errors: 0.05 / 4, 0.05 / 3, 0.05 / 2, 0.05."""
    assert holm([0.01, 0.04, 0.03, 0.005]) == [pytest.approx(0.05 / 3), None, None, pytest.approx(0.0125)]
    assert holm([0.02]) == [pytest.approx(0.05)]
    assert holm([]) == []


def test_the_smallest_error_is_students_p() -> None:
    """Of a paired t test of 1, 2, 3 and 5 against 0: t = 3.22047 with 3 degrees of freedom, p = 0.048567."""
    found = interval([1.0, 2.0, 3.0, 5.0])
    assert smallest_error(found, lambda value: value.above(0.0)) == pytest.approx(0.0485668566, abs=1e-9)
    assert smallest_error(found, lambda value: value.below(0.0)) == 1.0
    assert found.at(1.0 - 0.048567).above(0.0)
    assert not found.at(1.0 - 0.048566).above(0.0)


def test_one_seed_has_neither_deviation_nor_interval() -> None:
    assert spread([5.0]).std is None
    assert interval([5.0]) == Interval(5.0, None, None, 1)
    assert with_std(spread([5.0])) == "5.00"
    assert with_interval(interval([5.0])) == "+5.00 (1 seed)"


def test_the_deviation_is_the_samples() -> None:
    assert spread([2.0, 4.0]).std == pytest.approx(math.sqrt(2.0))


def test_differences_pair_the_seeds_that_both_have() -> None:
    found = paired({1: 10.0, 2: 20.0, 3: 33.0}, {2: 19.0, 3: 30.0, 4: 99.0})
    assert found is not None
    assert (found.mean, found.n) == (2.0, 2)
    assert paired({1: 1.0}, {2: 1.0}) is None


def test_numbers_have_no_negative_zero() -> None:
    assert number(-0.001, sign=True) == "+0.00"
    assert number(None) == "-"


def test_best_by_validation_takes_the_first_of_a_tie(tmp_path: Path) -> None:
    run = one_run(tmp_path, val_accuracy=[0.3, 0.5, 0.5, 0.4], test_accuracy=[0.1, 0.2, 0.9, 0.7])
    assert measures.best_epoch(run) == 2
    assert measures.best_test(run) == pytest.approx(20.0)
    assert measures.last_test(run) == pytest.approx(70.0)


def test_the_mean_of_the_last_ten(tmp_path: Path) -> None:
    assert measures.last_ten_test(one_run(tmp_path, test_accuracy=[0.9, *[0.25] * 5, *[0.75] * 5])) == 50.0


def test_the_mean_of_the_last_ten_of_fewer_epochs_is_that_of_all(tmp_path: Path) -> None:
    assert measures.last_ten_test(one_run(tmp_path, test_accuracy=[0.25, 0.5])) == pytest.approx(37.5)


def test_restlessness_leaves_out_steps_and_the_first_half(tmp_path: Path) -> None:
    accuracy = [0.0, 0.5, 0.5, 0.25, 0.75, 0.5, 0.5, 0.625]
    rates = [0.1, 0.1, 0.1, 0.1, 0.1, 0.1, 0.01, 0.01]
    run = one_run(tmp_path, test_accuracy=accuracy, lr=rates)
    assert measures.rate_steps(run) == [7]
    # the second half is epochs 5 to 8, its changes 5-6 (25 points), 6-7 (a step, left out) and 7-8 (12.5)
    assert measures.restlessness(run) == pytest.approx((25.0 + 12.5) / 2)
    assert measures.restlessness(run, second_half=False) == pytest.approx((50 + 0 + 25 + 50 + 25 + 12.5) / 6)


def test_a_short_run_whose_rate_changes_all_the_time_has_no_steps(tmp_path: Path) -> None:
    run = one_run(tmp_path, test_accuracy=[0.1, 0.2, 0.3, 0.4, 0.5, 0.6], lr=[0.1, 0.09, 0.07, 0.04, 0.02, 0.01])
    assert measures.rate_steps(run) == []
    assert measures.restlessness(run) == pytest.approx(10.0)


def test_a_rate_that_changes_all_the_time_has_no_steps(tmp_path: Path) -> None:
    run = one_run(tmp_path, test_accuracy=[0.1] * 20, lr=[0.1 / (epoch + 1) for epoch in range(20)])
    assert measures.rate_steps(run) == []


def test_drops_are_paired_over_seeds(tmp_path: Path) -> None:
    write_cell(tmp_path, "bn", 0.0, seeds(0.60, 0.62, 0.64))
    write_cell(tmp_path, "bn", 0.2, seeds(0.50, 0.50, 0.50))  # lost: 10, 12, 14
    write_cell(tmp_path, "conv", 0.0, seeds(0.50, 0.50, 0.50))
    write_cell(tmp_path, "conv", 0.2, seeds(0.45, 0.44, 0.43))  # lost: 5, 6, 7; less than bn by 5, 6, 7
    results = read_results([tmp_path])
    lost = drop(results, "cifar10", 0.2, "bn")
    assert lost is not None
    assert lost.mean == pytest.approx(12.0)
    assert lost.low == pytest.approx(12.0 - T_2 * 2.0 / math.sqrt(3), abs=1e-6)
    less = drop_less_than(results, "cifar10", 0.2, "conv", "bn")
    assert less is not None
    assert less.mean == pytest.approx(6.0)
    assert less.high == pytest.approx(6.0 + T_2 * 1.0 / math.sqrt(3), abs=1e-6)
    assert kept(results, "cifar10", 0.2, "conv") == pytest.approx((90 + 88 + 86) / 3)


def test_chance_counts_the_wrong_classes_only(tmp_path: Path) -> None:
    write_cell(tmp_path, "bn", 0.2, seeds(0.5))  # 40 % of its mislabelled images are answered with the true class
    assert chance(read_results([tmp_path]).finished[0]) == pytest.approx(60.0 / 9)


# --- cells -----------------------------------------------------------------------------------------------------------


def labelled(
    name: str, protocol: str | None = None, arm: str = "bn", kind: str = "TinyCOCO", **switches: bool | None
) -> str:
    settings = config(name, arm, 0.1, 1, 1, kind)
    settings["data_loader"]["args"] |= switches
    if protocol:
        settings["protocol"] = protocol
    return Run(0, "", settings, {}, None).dataset


def test_the_dataset_is_the_name_without_arm_and_noise() -> None:
    assert labelled("coco_bn_10noise") == "coco"
    assert labelled("coco_conv_published_10noise", arm="conv_published") == "coco"
    assert labelled("coco_conv_10noise", arm="gn") == "coco"  # a config of another arm, changed on the command line
    assert labelled("coco_mine_10noise", arm="mine") == "coco"
    assert labelled("coco_mine_10noise", arm="other") == "TinyCOCO"
    assert labelled("my experiment") == "TinyCOCO"


def test_a_grid_s_arms_have_the_names_that_it_gives_them(tmp_path: Path) -> None:
    arms = ("bn", "wide", "bn_lr0.05")
    planned(tmp_path, "cifar10", arms, (0,), SEEDS)
    for arm in arms:
        for seed in SEEDS:
            name = f"cifar10_{arm}_0noise"
            write_run(tmp_path / name / f"seed{seed}", config(name, "bn", 0.0, seed, 4), {"test_accuracy": [0.5] * 4})
    results = read_results([tmp_path])
    assert results.datasets == ["cifar10"]
    assert sorted(results.arms("cifar10", 0.0)) == sorted(arms)
    assert not results.missing


def of_data(config: dict[str, Any], **facts: Any) -> Run:
    return Run(0, "x", config, {}, None, Data((8, 1, 1), 0, **facts))


def test_what_is_not_the_paper_s_is_not_held_against_it() -> None:
    plain = config("cifar10_bn_0noise", "bn", 0.0, 1, 2)
    assert paper.dataset_of(of_data(plain)) == "cifar10"
    assert paper.dataset_of(of_data(config("tiny_coco_bn_0noise", "bn", 0.0, 1, 2, "ImageFolder"))) == "coco"
    for other in (
        of_data(config("cocoa_leaves_bn_0noise", "bn", 0.0, 1, 2, "ImageFolder")),
        of_data({**plain, "label_noise": {"type": "pair_flip", "rate": 0.0}}),
        of_data(plain, from_python=True),
    ):
        assert paper.dataset_of(other) is None
    assert of_data(plain, from_python=True).dataset == "cifar10 (from Python)"
    assert classes(of_data(plain, classes=3)) == 3


def test_runs_on_different_data_are_told_of() -> None:
    runs = [of_data(config("x_bn_0noise", "bn", 0.0, seed, 2), sha256=str(seed // 2)) for seed in (1, 2, 3)]
    (said,) = differing_data({runs[0].key: {run.seed: run for run in runs}})
    assert said.startswith("Runs of x were trained on 2 different sets of images and labels")
    assert not differing_data({runs[0].key: {run.seed: run for run in runs[1:]}})


def test_a_variant_of_an_arm_is_an_arm_of_its_own() -> None:
    named = {"cifar10_bn_clipped_0noise": "bn_clipped", "cifar10_bn_0noise": "bn", "mine": "bn"}
    for name, arm in named.items():
        run = Run(0, "x", config(name, "bn", 0.0, 1, 2), {}, None)
        assert (run.arm, run.dataset) == (arm, "CIFAR10" if name == "mine" else "cifar10")
    run = Run(0, "x", config("cifar10_conv_published_0noise", "conv_published", 0.0, 1, 2), {}, None)
    assert (run.arm, run.dataset) == ("conv_published", "cifar10")


def test_as_published_data_are_told_apart() -> None:
    assert labelled("coco_bn_10noise", "as_published") == "coco (as published)"
    assert labelled("coco_as_published_bn_10noise", "as_published") == "coco_as_published"
    assert labelled("coco_published_bn_10noise", "as_published") == "coco_published"
    assert labelled("coco_bn_10noise", "clean") == "coco"
    assert labelled("coco_bn_10noise", "as_published", overlapping_splits=None) == "coco (as published)"


def test_data_with_some_of_the_published_faults_are_not_taken_for_either(tmp_path: Path) -> None:
    partly = "coco (partly as published)"
    assert labelled("coco_bn_10noise", "as_published", float_bytes_as_pixels=False) == partly
    assert labelled("coco_bn_10noise", "clean", overlapping_splits=True) == partly
    assert labelled("coco_bn_10noise", "clean", overlapping_splits=False) == "coco"
    other = labelled("x_bn_10noise", "as_published", kind="CIFAR10", float_bytes_as_pixels=False)
    assert other == "x (as published)", "only TinyCOCO's floats were misread"
    noise = {"type": "symmetric", "rate": 0.1, "include_true_class": True}
    write_cell(tmp_path, "bn", 0.1, seeds(0.5), label_noise=noise)
    text = text_of(read_results([tmp_path]))
    assert "in part as published" in text
    assert "faults included" not in text


def test_the_newest_complete_run_of_a_seed_counts(tmp_path: Path) -> None:
    settings = config("x_bn_0noise", "bn", 0.0, 12, 2)
    for stamp, accuracy in (("20250101_000000", 0.1), ("20250101_000000-1", 0.2)):
        write_run(tmp_path / "x_bn_0noise" / stamp, settings, {"test_accuracy": [0.0, accuracy]})
    write_run(tmp_path / "x_bn_0noise" / "20260101_000000", settings, {"test_accuracy": [0.9]})  # not complete
    results = read_results([tmp_path])
    assert [measures.last_test(run) for run in results.finished] == [pytest.approx(20.0)]
    assert any("There are 3 runs of x, `bn`, 0 % noise, seed 12" in warning for warning in results.warnings)
    assert any("20250101_000000-1" in warning for warning in results.warnings)


def test_the_records_of_a_run_beside_its_folder_are_no_second_run(tmp_path: Path) -> None:
    """Nor are records made when it had fewer epochs."""
    write_cell(tmp_path / "runs", "bn", 0.0, seeds(0.5, 0.7))
    begun = tmp_path / "runs" / "cifar10_bn_0noise" / "seed14"
    settings = config("cifar10_bn_0noise", "bn", 0.0, 14, 3)
    write_run(begun, settings, {"test_accuracy": [0.1, 0.2]})
    records = tmp_path / "records.zip"
    assert run_report(tmp_path / "runs", "-o", tmp_path / "first", "--records", records) == 0
    shutil.rmtree(begun)
    write_run(begun, settings, {"test_accuracy": [0.1, 0.2, 0.3]})
    for sources in ([tmp_path / "runs"], [tmp_path / "runs", records]):
        assert run_report(*sources, "-o", tmp_path / "out") == 0
        text = (tmp_path / "out" / "results.md").read_text()
        assert "There are 2 runs" not in text
        assert "3 runs have finished" in text
    shutil.rmtree(begun)
    write_run(begun, settings, {"test_accuracy": [0.1, 0.25, 0.3]})
    assert run_report(tmp_path / "runs", records, "-o", tmp_path / "out") == 0
    assert "There are 2 runs of cifar10, `bn`, 0 % noise, seed 14" in (tmp_path / "out" / "results.md").read_text()


def test_unfinished_runs_are_shown_but_not_averaged(tmp_path: Path) -> None:
    write_cell(tmp_path, "bn", 0.0, seeds(0.5, 0.7))
    settings = config("cifar10_bn_0noise", "bn", 0.0, 14, 15)
    write_run(tmp_path / "late", settings, {"test_accuracy": [0.01] * 7})
    results = read_results([tmp_path])
    (row,) = summary.rows(results)
    assert row.seeds == 2
    assert row.readings[1].mean == pytest.approx(60.0)
    assert "seed 14: 7 of 15 epochs" in text_of(results)


def test_a_run_that_stopped_early_is_finished(tmp_path: Path) -> None:
    settings = config("x_bn_0noise", "bn", 0.0, 12, 50, early_stop=2)
    write_run(tmp_path / "run", settings, {"test_accuracy": [0.1, 0.4, 0.3, 0.2]})
    assert len(read_results([tmp_path]).finished) == 1


def test_holes_are_missing_where_no_grid_says_what_there_should_be(tmp_path: Path) -> None:
    write_cell(tmp_path, "bn", 0.0, seeds(0.5, 0.6))
    write_cell(tmp_path, "bn", 0.2, seeds(0.5))
    write_cell(tmp_path, "conv", 0.0, seeds(0.5, 0.6))
    missing = [(want.key.arm, want.key.noise, want.seed) for want in read_results([tmp_path]).missing]
    assert missing == [("bn", 0.2, 13), ("conv", 0.2, 12), ("conv", 0.2, 13)]


def test_a_grid_says_what_is_missing(tmp_path: Path) -> None:
    write_cell(tmp_path / "cpu", "bn", 0.1, seeds(0.5), protocol="as_published")
    cells = [
        {"dataset": "cifar10", "arm": "bn", "noise": 10, "seed": seed, "folder": f"cifar10_bn_10noise/seed{seed}"}
        for seed in SEEDS
    ]
    (tmp_path / "cpu" / "grid.json").write_text(json.dumps({"name": "cpu", "cells": cells}))
    missing = read_results([tmp_path]).missing
    assert [(want.key, want.seed) for want in missing] == [
        (Key("cifar10 (as published)", 0.1, "bn"), 13),  # by the name that the grid's own run has here
        (Key("cifar10 (as published)", 0.1, "bn"), 14),
    ]


def write_search(root: Path, tried: dict[float, dict[int, tuple[float, float]]], **changes: object) -> Path:
    """Runs of a grid with a sweep: by rate and seed the best validation accuracy and the last test accuracy."""
    cells = []
    for rate, by_seed in tried.items():
        for seed, (val, test) in by_seed.items():
            folder = f"cifar10_bn_0noise_lr{rate:g}/seed{seed}"
            point = {"dataset": "cifar10", "arm": "bn", "noise": 0, "seed": seed, "folder": folder}
            cells.append({**point, "sweep": {"optimizer.args.lr": rate}})
            if test:
                settings = {
                    **config("cifar10_bn_0noise", "bn", 0.0, seed, 2, **changes),
                    "optimizer": {"args": {"lr": rate}},
                }
                write_run(root / folder, settings, {"val_accuracy": [val, 0.1], "test_accuracy": [0.2, test]})
    (root / "grid.json").write_text(json.dumps({"name": "search", "cells": cells}))
    return root


def test_a_search_chooses_by_validation_and_never_by_test_accuracy(tmp_path: Path) -> None:
    tried = {
        0.1: {12: (0.50, 0.9), 13: (0.52, 0.9), 14: (0.54, 0.9)},
        0.05: {12: (0.60, 0.3), 13: (0.50, 0.3), 14: (0.55, 0.3)},
        0.01: {12: (0.99, 0.9), 13: (0.99, 0.9), 14: (0.0, 0.0)},  # a seed is missing
    }
    write_search(tmp_path / "search", tried)
    write_cell(tmp_path / "paper", "bn", 0.0, seeds(0.5, 0.5, 0.5))
    write_cell(tmp_path / "paper", "conv", 0.0, seeds(0.4, 0.4, 0.4))
    results = read_results([tmp_path])
    table = next(b for b in document(results) if isinstance(b, Table) and b.caption.startswith("Best validation"))
    assert table.caption == "Best validation accuracy, %: cifar10 (search)"
    assert table.rows == (
        ("bn", "0 %", "lr=0.05 (chosen)", "55.00 ± 5.00", "3"),
        ("bn", "0 %", "lr=0.1", "52.00 ± 2.00", "3"),
        ("bn", "0 %", "lr=0.01", "99.00 ± 0.00", "2"),
    )
    assert [(want.key, want.seed) for want in results.missing] == [(Key("cifar10 (search)", 0.0, "bn lr=0.01"), 14)]
    assert not [warning for warning in results.warnings if "differ in" in warning]
    assert {finding.dataset for finding in statements.examine(results)} == {"cifar10"}


def test_other_datasets_than_the_paper_s_get_no_verdicts(tmp_path: Path) -> None:
    for arm, top in (("bn", 0.6), ("conv", 0.5)):
        for seed in SEEDS:
            settings = config(f"mine_{arm}_0noise", arm, 0.0, seed, 2, kind="Digits")
            write_run(tmp_path / arm / str(seed), settings, {"test_accuracy": [0.1, top]})
    results = read_results([tmp_path])
    assert statements.examine(results) == []
    text = markdown(document(results), "results")
    assert "None of them can be held against these runs" in text
    assert "The paper's networks" not in text


def test_several_folders_are_one_report(tmp_path: Path) -> None:
    write_cell(tmp_path / "a", "bn", 0.0, seeds(0.5))
    write_cell(tmp_path / "b", "bn", 0.0, {13: 0.6})
    results = read_results([tmp_path / "a", tmp_path / "b", tmp_path / "a" / "cifar10_bn_0noise"])  # the last is in a
    assert [run.seed for run in results.finished] == [12, 13]


def test_settings_that_differ_are_said(tmp_path: Path) -> None:
    write_cell(tmp_path, "bn", 0.0, seeds(0.5, 0.6))
    write_cell(tmp_path, "conv", 0.0, seeds(0.5, 0.6), trainer={"epochs": 4, "clip_grad_norm": 1.0})
    assert not [w for w in read_results([tmp_path]).warnings if "clip" in w or "seed" in w]
    write_cell(tmp_path, "conv", 0.2, seeds(0.5), trainer={"epochs": 4})
    assert any("differ in `trainer.clip_grad_norm`" in w for w in read_results([tmp_path]).warnings), "within an arm"
    assert "Gradients are clipped in some runs of `conv` (to norm 1) only." in text_of(read_results([tmp_path]))
    write_cell(tmp_path, "bncn", 0.0, seeds(0.5, 0.6), epochs=3)
    (warning,) = (w for w in read_results([tmp_path]).warnings if "trainer.epochs" in w)
    assert "3 in `bncn` at 0 %" in warning
    assert "4 in `bn` at 0 %, `conv` at 0 %" in warning


def test_machines_that_differ_are_said(tmp_path: Path) -> None:
    write_cell(tmp_path, "bn", 0.0, seeds(0.5, 0.6, 0.7))
    assert read_results([tmp_path]).warnings == ()
    images = dict.fromkeys(("train", "val", "test"), 9)
    here = {"torch": "2.14.1", "device": "cpu", "threads": 1, "world_size": 1, "code": "abc"}
    there = {**here, "device": "a GPU"}
    for seed, environments in ((12, [here]), (13, [{**here, "threads": 2}]), (14, [here, there])):
        record = json.dumps({"images": images, "environments": environments})
        (tmp_path / "cifar10_bn_0noise" / f"seed{seed}" / "data.json").write_text(record)
    (warning,) = read_results([tmp_path]).warnings
    assert warning.endswith(
        "several kinds of machine, by one code: cpu, torch 2.14.1 (2); cpu, torch 2.14.1, then a GPU, torch 2.14.1 (1)."
    )
    (tmp_path / "cifar10_bn_0noise" / "seed12" / "data.json").write_text(
        json.dumps({"images": images, "environments": [{**here, "code": "def"}]})
    )
    (warning,) = read_results([tmp_path]).warnings
    assert "on several kinds of machine, by 2 versions of the code, which each run's data.json names: cpu," in warning
    record = json.dumps({"images": images, "environments": [here]})
    for seed in (13, 14):
        (tmp_path / "cifar10_bn_0noise" / f"seed{seed}" / "data.json").write_text(record)
    (warning,) = read_results([tmp_path]).warnings
    assert "on one kind of machine, by 2 versions" in warning
    assert warning.endswith(": cpu, torch 2.14.1 (3).")
    record = json.dumps({"images": images, "environments": [{**here, "code": None}]})
    (tmp_path / "cifar10_bn_0noise" / "seed12" / "data.json").write_text(record)
    (warning,) = read_results([tmp_path]).warnings
    assert warning.endswith("on one kind of machine, by code that is not recorded of all: cpu, torch 2.14.1 (3).")


def test_settings_that_a_resume_changed_are_said(coco_dir: Path, tmp_path: Path) -> None:
    """The config.json of such a run has the newest settings alone."""
    folder = tmp_path / "runs" / "straight"
    assert run(*coco(coco_dir, folder, "trainer.epochs=1")) == 0
    assert run("-r", "auto", "--run-dir", folder) == 0  # nothing to do
    assert read_results([tmp_path / "runs"]).warnings == ()
    assert (
        run("-r", "auto", "--run-dir", folder, "trainer.epochs=2", "optimizer.args.lr=0.01", "trainer.save_period=2")
        == 0
    )
    assert run("-r", "auto", "--run-dir", folder, "trainer.epochs=3") == 0
    said = [warning for warning in read_results([tmp_path / "runs"]).warnings if "went on" in warning]
    assert said == [
        f"Runs of coco went on with another `{name}` than they began with: `bn` at 20 %, seed 12."
        for name in ("optimizer.args.lr", "trainer.epochs")
    ]


def test_a_setting_that_an_older_config_lacks_is_no_difference(tmp_path: Path) -> None:
    write_cell(tmp_path, "bn", 0.0, seeds(0.5))
    write_cell(tmp_path, "bncn", 0.0, seeds(0.5), protocol="clean", news=None)
    assert read_results([tmp_path]).warnings == ()


def test_a_setting_that_an_earlier_config_left_open_is_no_difference(tmp_path: Path) -> None:
    earlier = {"type": "StepLR", "args": {"step_size": 3, "gamma": None, "milestones": None, "T_max": None}}
    resolved = {"type": "StepLR", "args": {"step_size": 3, "gamma": 0.1}}
    write_cell(tmp_path, "bn", 0.0, seeds(0.5), loss="cross_entropy", lr_scheduler=earlier)
    loss = {"type": "cross_entropy", "args": {}}
    write_cell(tmp_path, "bncn", 0.0, seeds(0.5), loss=loss, lr_scheduler=resolved)
    assert read_results([tmp_path]).warnings == ()
    resolved["args"]["gamma"] = 0.2
    write_cell(tmp_path, "conv", 0.0, seeds(0.5), loss=loss, lr_scheduler=resolved)
    (warning,) = read_results([tmp_path]).warnings
    assert "differ in `lr_scheduler.args.gamma`" in warning


def write_data(folder: Path, wrong: int, train: int = 1000) -> None:
    record = {"images": {"train": train, "val": 100, "test": 100}, "wrong_labels": {"train": wrong, "val": 0}}
    (folder / "data.json").write_text(json.dumps(record))


def test_noise_of_another_kind_is_another_experiment(tmp_path: Path) -> None:
    write_cell(tmp_path, "bn", 0.0, seeds(0.5))
    write_cell(tmp_path, "bn", 0.2, seeds(0.4))
    asymmetric = {"type": "asymmetric", "rate": 0.2, "include_true_class": None}
    write_cell(tmp_path / "b", "bn", 0.2, seeds(0.3), label_noise=asymmetric)
    from_file = {"type": "file", "rate": 0.0, "path": "noise.npz", "include_true_class": None}
    write_cell(tmp_path / "c", "bn", 0.0, seeds(0.2, 0.1), label_noise=from_file)
    write_data(tmp_path / "c" / "cifar10_bn_0noise" / "seed12", 198)
    results = read_results([tmp_path])
    assert {key: len(cell) for key, cell in results.cells.items()} == {
        Key("cifar10", 0.0, "bn"): 1,
        Key("cifar10", 0.2, "bn"): 1,
        Key("cifar10 (asymmetric noise)", 0.2, "bn"): 1,
        Key("cifar10 (labels of a file)", 0.2, "bn"): 1,  # 198 of 1,000, whatever the unused rate says
    }
    (warning,) = results.warnings
    assert "c/cifar10_bn_0noise/seed13" in warning
    assert "no data.json that says how many are wrong" in warning


def test_a_run_whose_loss_was_not_finite_is_told(tmp_path: Path) -> None:
    write_cell(tmp_path, "bn", 0.0, seeds(0.5, 0.5, 0.5))
    write_cell(tmp_path, "conv", 0.0, seeds(0.9))
    settings = config("cifar10_conv_0noise", "conv", 0.0, 13, 4)
    later = write_run(tmp_path / "later", settings, {"test_accuracy": [0.2, 0.3]})
    (later / "diverged.json").write_text('{"epoch": 3, "step": 70}')
    at_once = write_run(tmp_path / "at_once", settings | {"seed": 14}, {"test_accuracy": [0.2]})
    (at_once / "metrics.csv").unlink()
    (at_once / "diverged.json").write_text('{"epoch": 1, "step": 5}')
    for source in (tmp_path, tmp_path / "records.zip"):  # and so say the records alone
        assert run_report(source, "-o", tmp_path / "out", "--records", tmp_path / "records.zip") == 0
        text = (tmp_path / "out" / "results.md").read_text()
        assert "seed 13: 2 of 4 epochs, diverged in epoch 3<br>seed 14: 0 of 4 epochs, diverged in epoch 1" in text
        assert "The loss of 2 runs became NaN or infinite; means are of the others alone: cifar10, `conv`" in text
        assert "0 % (2 of `conv` diverged): -40.00 (1 seed), not decided" in text, "an interval cannot show them"


def test_an_arm_that_always_diverged_is_no_hole(tmp_path: Path) -> None:
    write_cell(tmp_path, "conv", 0.1, seeds(0.9))
    folder = tmp_path / "cifar10_conv_10noise" / "seed12"
    (folder / "metrics.csv").unlink()
    (folder / "diverged.json").write_text('{"epoch": 1, "step": 5}')
    text = text_of(read_results([tmp_path]))
    assert "seed 12: 0 of 4 epochs, diverged in epoch 1" in text
    assert "curves-" not in text
    (folder / "diverged.json").write_text("{}")
    with pytest.raises(DataError, match="is left out: it has no epoch"):
        read_results([tmp_path])


def test_fewer_than_three_seeds_are_warned_about(tmp_path: Path) -> None:
    write_cell(tmp_path, "bn", 0.0, seeds(0.5, 0.6, 0.7))
    write_cell(tmp_path, "conv", 0.0, seeds(0.5, 0.6))
    text = text_of(read_results([tmp_path]))
    assert "Fewer than three seeds in 1 of 2 cells" in text
    assert "cifar10 0 % `conv` (2)" in text
    assert "2, too few" in text


# --- statements ------------------------------------------------------------------------------------------------------


def test_a_difference_beyond_the_spread_of_seeds_decides(tmp_path: Path) -> None:
    write_cell(tmp_path, "bn", 0.0, seeds(0.60, 0.61, 0.62))
    write_cell(tmp_path, "conv", 0.0, seeds(0.50, 0.51, 0.53))
    write_cell(tmp_path, "bncn", 0.0, seeds(0.70, 0.71, 0.73))
    write_cell(tmp_path, "conv_published", 0.0, seeds(0.70, 0.50, 0.62))
    found = findings(tmp_path)
    assert found["cifar10", "test accuracy, `bn` less `conv`"].verdict == HOLDS
    assert found["cifar10", "test accuracy, `bn` less `bncn`"].verdict == FAILS
    assert found["cifar10", "test accuracy, `bn` less `conv_published`"].verdict == OPEN
    # 10, 10 and 9 points: 9.667, and 4.303 times 0.577 / 3 ** 0.5 either way
    (line,) = found["cifar10", "test accuracy, `bn` less `conv`"].numbers
    assert line == "0 %: +9.67 [+8.23, +11.10] (3 seeds), holds"


def test_a_level_whose_runs_are_missing_keeps_a_statement_open(tmp_path: Path) -> None:
    for noise in (0.0, 0.2):
        write_cell(tmp_path, "bn", noise, seeds(0.60, 0.61, 0.62))
    write_cell(tmp_path, "conv", 0.0, seeds(0.50, 0.51, 0.53))
    for seed in SEEDS:
        settings = config("cifar10_conv_20noise", "conv", 0.2, seed, 4)
        write_run(tmp_path / f"begun{seed}", settings, {"test_accuracy": [0.1, 0.2]})
    found = findings(tmp_path)
    finding = found["cifar10", "test accuracy, `bn` less `conv`"]
    assert finding.verdict == OPEN
    assert finding.in_short.replace("\N{NO-BREAK SPACE}", " ") == "not decided yet (1 of 2)"
    assert finding.numbers[1] == "20 %: no seed has both runs, not decided"
    assert found["cifar10", "points lost, `bn` less `conv`"].numbers == (
        "0 to 20 %: no seed has both runs, not decided",
    )
    assert ("cifar10", "test accuracy, `bn` less `bncn`") not in found


def test_the_levels_with_the_most_seeds_decide(tmp_path: Path) -> None:
    """And Holm's correction is over theirs alone: at 20 % two seeds disagree, and nobody asks them."""
    write_cell(tmp_path, "bn", 0.0, seeds(0.60, 0.61, 0.62))
    write_cell(tmp_path, "conv", 0.0, seeds(0.50, 0.51, 0.53))
    write_cell(tmp_path, "bn", 0.2, seeds(0.10, 0.11))
    write_cell(tmp_path, "conv", 0.2, seeds(0.60, 0.61))
    (tmp_path / "grid.json").write_text('{"name": "own", "cells": []}')  # it asks for nothing more
    finding = findings(tmp_path)["cifar10", "test accuracy, `bn` less `conv`"]
    assert finding.verdict == HOLDS
    assert finding.verdicts == (HOLDS,)
    assert finding.numbers[1].endswith("(2 seeds), shown beside")


def test_an_interval_that_excludes_zero_may_not_survive_the_correction(tmp_path: Path) -> None:
    for arm, values in {"bn": (0.60, 0.61, 0.62), "conv": (0.58, 0.60, 0.60), "bncn": (0.58, 0.605, 0.60)}.items():
        write_cell(tmp_path, arm, 0.0, seeds(*values))
    alone = findings(tmp_path)["cifar10", "test accuracy, `bn` less `conv`"]
    (measured,) = alone.measured
    assert measured.level.interval is not None
    assert measured.level.interval.at(0.94).above(0.0)
    assert alone.verdict == OPEN


def planned(root: Path, dataset: str, arms: Sequence[str], noises: Sequence[int], seeds: Sequence[int]) -> None:
    """A grid.json that asks for these runs."""
    cells = [
        {
            "dataset": dataset,
            "arm": arm,
            "noise": noise,
            "seed": seed,
            "folder": f"{dataset}_{arm}_{noise}noise/seed{seed}",
        }
        for arm in arms
        for noise in noises
        for seed in seeds
    ]
    (root / "grid.json").write_text(json.dumps({"name": "own", "cells": cells}))


def test_a_grid_that_is_half_done_counts_and_says_so(tmp_path: Path) -> None:
    """No finished run is left out, and every verdict that a later run may change is told as one so far."""
    planned(tmp_path, "cifar10", ("bn", "conv"), (0,), range(12, 18))
    write_cell(tmp_path, "bn", 0.0, seeds(0.60, 0.61, 0.62))
    write_cell(tmp_path, "conv", 0.0, seeds(0.50, 0.51, 0.53))
    write_cell(tmp_path, "bn", 0.0, seeds(0.60, 0.61, 0.62), dataset="coco")
    finding = findings(tmp_path)["cifar10", "test accuracy, `bn` less `conv`"]
    assert (finding.verdict, finding.told, finding.final) == (HOLDS, "holds so far", False)
    text = text_of(read_results([tmp_path]))
    assert "9 of 15 planned runs have finished" in text
    assert "BatchNorm outperforms ConvNorm (bn less conv) holds so far on cifar10" in text
    assert prose.NOT_FINAL in text
    assert "| cifar10 | 6 of 12 |" in text
    assert "| coco | 3 of 3 |" in text
    assert "| bn | 0 % | seeds 15 to 17: missing |" in text
    for arm in ("bn", "conv"):
        write_cell(tmp_path, arm, 0.0, dict.fromkeys(range(15, 18), 0.6 if arm == "bn" else 0.5))
    finding = findings(tmp_path)["cifar10", "test accuracy, `bn` less `conv`"]
    assert (finding.told, finding.final) == (HOLDS, True)
    assert prose.NOT_FINAL not in text_of(read_results([tmp_path]))


def test_a_run_that_diverged_is_not_waited_for(tmp_path: Path) -> None:
    write_cell(tmp_path, "bn", 0.0, seeds(0.60, 0.61))
    folder = tmp_path / "lost"
    write_run(folder, config("cifar10_bn_0noise", "bn", 0.0, 14, 4), {"test_accuracy": [0.1]})
    assert not read_results([tmp_path]).is_final("cifar10")
    (folder / "diverged.json").write_text('{"epoch": 2}')
    assert read_results([tmp_path]).is_final("cifar10")


@pytest.mark.parametrize(("clipped", "told"), [(0.66, True), (0.611, False)])
def test_a_control_that_differs_is_told(tmp_path: Path, clipped: float, told: bool) -> None:
    for arm, top in {"bn": 0.6, "bn_clipped": clipped}.items():
        for seed, more in seeds(0.0, 0.01, 0.02).items():
            settings = config(f"cifar10_{arm}_0noise", "bn", 0.0, seed, 4)
            write_run(
                tmp_path / f"{arm}{seed}", settings, {"test_accuracy": [top + more + seed * 1e-5 * (arm == "bn")] * 4}
            )
    assert (prose.CLIPPING.format(datasets="cifar10") in text_of(read_results([tmp_path]))) == told


def test_one_seed_by_plan_is_no_open_question(tmp_path: Path) -> None:
    write_cell(tmp_path, "bn", 0.0, seeds(0.9), dataset="coco_full")
    write_cell(tmp_path, "conv", 0.0, seeds(0.1), dataset="coco_full")
    for arm in ("bn", "conv"):
        write_cell(tmp_path, arm, 0.0, seeds(0.5, 0.6, 0.7), dataset="cifar10")
    found = findings(tmp_path)["coco_full", "test accuracy, `bn` less `conv`"]
    assert (found.verdict, found.in_short) == (OPEN, "1 seed only")
    assert "of 2 tests 0 hold, 0 do not and 2 are not decided" in text_of(read_results([tmp_path])), "those of cifar10"


def test_what_a_grid_notes_is_told_first(tmp_path: Path) -> None:
    planned(tmp_path, "coco", ("bn",), (0,), SEEDS)
    path = tmp_path / "grid.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "notes": ["These are `pictures`\nof ours."]}))
    write_cell(tmp_path, "bn", 0.0, seeds(0.5), dataset="coco")
    assert "reading on:\n\n- These are pictures of ours.\n- Fewer than" in text_of(read_results([tmp_path]))


def test_two_seeds_decide_nothing(tmp_path: Path) -> None:
    write_cell(tmp_path, "bn", 0.0, seeds(0.9, 0.9))
    write_cell(tmp_path, "conv", 0.0, seeds(0.1, 0.1))
    assert findings(tmp_path)["cifar10", "test accuracy, `bn` less `conv`"].verdict == OPEN


@pytest.mark.parametrize(
    ("verdicts", "together"),
    [
        ((HOLDS, HOLDS, HOLDS), HOLDS),
        ((HOLDS, OPEN, HOLDS), OPEN),
        ((HOLDS, FAILS, OPEN), FAILS),
        ((OPEN,), OPEN),
    ],
)
def test_a_statement_holds_if_it_holds_at_every_noise_level(verdicts: tuple[str, ...], together: str) -> None:
    levels = tuple(Measured(Level(0.0, "", None), verdict, True) for verdict in verdicts)
    aside = Measured(Level(0.1, "", None), FAILS, False)
    assert Finding(STATEMENTS[0], "", (*levels, aside)).verdict == together


def test_robustness_compares_drops_to_twenty_percent(tmp_path: Path) -> None:
    for arm, lost in (("bn", (0.20, 0.21, 0.22)), ("conv", (0.05, 0.06, 0.06))):
        write_cell(tmp_path, arm, 0.0, seeds(0.6, 0.6, 0.6))
        write_cell(tmp_path, arm, 0.2, seeds(*(0.6 - points for points in lost)))
        write_cell(tmp_path, arm, 0.4, seeds(0.1, 0.1, 0.1))  # beyond what the paper speaks of
    found = findings(tmp_path)["cifar10", "points lost, `bn` less `conv`"]
    assert found.verdict == HOLDS
    assert found.numbers[0].startswith("0 to 20 %: +15.33 [")


@pytest.mark.parametrize(
    ("differences", "verdict"),
    [
        ((0.1, -0.1, 0.3), HOLDS),  # 0.1, give or take 0.5
        ((1.0, 1.1, 1.2), HOLDS),  # surely not 0, and surely small
        ((4.0, 4.1, 4.2), FAILS),
        ((2.5, 3.0, 3.5), OPEN),  # 1.8 to 4.2
        ((3.0, -3.0, 0.5), OPEN),  # anything from -7 to 7
    ],
)
def test_doing_the_same_wants_a_narrow_interval(differences: Sequence[float], verdict: str) -> None:
    (statement,) = (s for s in STATEMENTS if s.text.startswith("As published, conv and bncn do the same"))
    assert statement.decide(interval(differences)) == verdict


def test_tinycoco_as_published_beside_the_authors_logs(tmp_path: Path) -> None:
    settings = config("coco_bn_0noise", "bn", 0.0, 0, 2, "TinyCOCO") | {"protocol": "as_published"}
    for seed, validation, test in ((1, 0.21, 0.70), (2, 0.22, 0.71), (3, 0.20, 0.73)):
        columns = {
            "train_accuracy": [0.3, 0.8],
            "val_accuracy": [0.1, validation],
            "test_accuracy": [0.3, test],
        }
        write_run(tmp_path / f"seed{seed}", settings | {"seed": seed}, columns)
    found = findings(tmp_path)
    said = text_of(read_results([tmp_path]))
    assert "the authors' BatchNorm run ended with 84 % on training images, 80 % called test and 23 % held out" in said
    assert "ended with 80 %, 71 % and 21 % on coco (as published) (`bn`, 2 epochs, 0 % noise)." in said
    label = "coco (as published)"
    assert found[label, "validation accuracy, %"].verdict == HOLDS
    assert found[label, "validation accuracy, %"].numbers == ("0 %, bn: 21.00 [18.52, 23.48] (3 seeds), holds",)
    assert found[label, "test less validation accuracy"].verdict == HOLDS


def test_a_validation_accuracy_far_from_the_authors_is_not_near() -> None:
    assert statements.near_the_authors(interval([60.0, 61.0, 62.0])) == FAILS
    assert statements.near_the_authors(interval([5.0, 21.0, 37.0])) == OPEN


def test_the_papers_own_figures() -> None:
    assert paper.stated("cifar10", "bn", 0.0) == 94.5
    assert paper.stated("coco", "conv_published", 0.2) == 36
    assert paper.stated("cifar10", "bn", 0.3) is None
    theirs = paper.logged("cifar10", "bncn_published", 0.1)
    assert theirs is not None
    assert (theirs.test, theirs.val) == (67.11, 82.32)
    assert paper.logged_validation("coco") == (18.75, 23.38)


# --- damage ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("{", "not JSON"),
        ("[]", "name must be a name"),
        ('{"name": "x", "seed": 1}', "arch.args.norm"),
        (b"\xff\xfe", "not JSON"),
    ],
)
def test_a_damaged_config_costs_its_run_alone(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], text: str | bytes, says: str
) -> None:
    write_cell(tmp_path, "bn", 0.0, seeds(0.5, 0.6))
    for seed in (12, 13):
        damaged = tmp_path / "cifar10_bn_0noise" / f"seed{seed}" / "config.json"
        damaged.write_bytes(text if isinstance(text, bytes) else text.encode())
        if seed == 12:
            results = read_results([tmp_path])
            assert [run.seed for run in results.finished] == [13]
            (warning,) = results.warnings
            assert warning.startswith("`cifar10_bn_0noise/seed12` is left out: config.json: ")
            assert says in warning
    assert run_report(tmp_path, "-o", tmp_path / "out") == 3  # no run is left
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert says in error
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("damage", "says"),
    [
        (lambda text: "", "no column epoch"),
        (lambda text: text.splitlines()[0] + "\n", "no row"),
        (lambda text: text.replace("test_accuracy", "other", 1), "no column test_accuracy"),
        (lambda text: text.rstrip("\n").rsplit(",", 2)[0] + "\n", "line 5 has not as many cells"),
        (lambda text: text.replace("0.1,", "nan,", 1), "lr is empty or not finite in line 2"),
        (lambda text: text.replace("0.1,", "x,", 1), "lr in line 2 is 'x', not a number"),
        (lambda text: text.replace("\n2,", "\n3,", 1), "the epochs are not 1, 2, 3"),
        (lambda text: text.replace("0.5,", "50,"), "not a share between 0 and 1"),
        (lambda text: text + '"\n', "damaged"),
    ],
)
def test_a_run_with_damaged_metrics_is_left_out_and_said(tmp_path: Path, damage: object, says: str) -> None:
    write_cell(tmp_path, "bn", 0.0, seeds(0.5, 0.6))
    path = tmp_path / "cifar10_bn_0noise" / "seed12" / "metrics.csv"
    path.write_text(damage(path.read_text()))
    results = read_results([tmp_path])
    assert [run.seed for run in results.finished] == [13]
    (warning,) = (warning for warning in results.warnings if "seed12" in warning)
    assert says in warning
    assert says in text_of(results).replace(r"\*", "*")


def test_damaged_diagnostics_leave_the_run(tmp_path: Path) -> None:
    write_cell(tmp_path, "bn", 0.0, seeds(0.5))
    (tmp_path / "cifar10_bn_0noise" / "seed12" / "diagnostics.csv").write_text("epoch,layer\n1,a\n")
    results = read_results([tmp_path])
    assert len(results.finished) == 1
    assert any("no column largest_singular_value" in warning for warning in results.warnings)


def test_the_scale_has_the_numbers_of_images_that_runs_say(tmp_path: Path) -> None:
    write_cell(tmp_path, "bn", 0.0, seeds(0.5), epochs=4)
    assert "5,000 images to train and validate, all test images" in text_of(read_results([tmp_path]))
    images = {"train": 4501, "val": 499, "test": 3000}
    (tmp_path / "cifar10_bn_0noise" / "seed12" / "data.json").write_text(json.dumps({"images": images}))
    said = text_of(read_results([tmp_path]))
    assert "4,501 images to train on, 499 to validate, 3,000 to test" in said
    assert f"about {4 * 36} steps" in said  # 4,501 images are 36 batches of 128


def test_the_scale_says_a_size_of_images_that_is_not_the_paper_s(tmp_path: Path) -> None:
    write_cell(tmp_path, "bn", 0.0, seeds(0.5))
    assert "pixels a side" not in text_of(read_results([tmp_path]))
    large = {"type": "CIFAR10", "args": {"batch_size": 128, "image_size": 64, "in_memory": False}}
    write_cell(tmp_path, "conv", 0.0, seeds(0.5), data_loader=large)
    results = read_results([tmp_path])
    assert "batches of 128, images of 32 or 64 pixels a side" in text_of(results)
    assert any("differ in `data_loader.args.image_size`" in warning for warning in results.warnings)
    assert not any("in_memory" in warning for warning in results.warnings), "no result depends on it"


@pytest.mark.parametrize("text", ["", "[]", "{", '{"images": {"train": 1, "val": 1}}', '{"images": 3}', "\xff"])
def test_a_damaged_data_json_leaves_the_run(tmp_path: Path, text: str) -> None:
    write_cell(tmp_path, "bn", 0.0, seeds(0.5))
    (tmp_path / "cifar10_bn_0noise" / "seed12" / "data.json").write_bytes(text.encode("latin1"))
    results = read_results([tmp_path])
    assert len(results.finished) == 1
    assert any("data.json" in warning for warning in results.warnings)


@pytest.mark.parametrize("text", ["{", '{"cells": [{"dataset": "x"}]}', "[]"])
def test_a_damaged_grid_ends_with_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str], text: str) -> None:
    write_cell(tmp_path, "bn", 0.0, seeds(0.5))
    (tmp_path / "grid.json").write_text(text)
    assert run_report(tmp_path, "-o", tmp_path / "out") == 3
    assert "grid.json: not what grid.py writes" in capsys.readouterr().err


def test_no_runs(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run_report(tmp_path, "-o", tmp_path / "out") == 3
    assert "a run is a folder with config.json and metrics.csv" in capsys.readouterr().err
    assert run_report(tmp_path / "none", "-o", tmp_path / "out") == 3
    assert "there is no folder" in capsys.readouterr().err
    assert run_report("-o", tmp_path / "out") == 2


# --- files -----------------------------------------------------------------------------------------------------------


def text_of(results: Results) -> str:
    return markdown(document(results), "results")


def contents(folder: Path) -> dict[str, bytes]:
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


@pytest.mark.slow
def test_the_same_runs_give_the_same_bytes(tmp_path: Path) -> None:
    """At another place, in another order, in other processes with other hash seeds, with other times, and with files
    touched."""
    runs, moved = tmp_path / "runs", tmp_path / "elsewhere" / "moved"
    for part, accuracies in {"a": (0.5, 0.6), "b": (0.4, 0.7)}.items():  # two runs of each seed
        for arm in ("bn", "conv"):
            write_cell(runs / part, arm, 0.2, seeds(*accuracies))
    write_cell(runs / "b", "bncn", 0.1, dict.fromkeys(range(90, 99), 0.5))  # which makes holes of all others
    shutil.copytree(runs, moved)
    for path in moved.rglob("metrics.csv"):
        path.write_text(path.read_text().replace(",10.0\n", ",99.5\n"))
    for hash_seed, folder, parts in (("1", runs, "ab"), ("2", moved, "ba")):
        environment = {**os.environ, "PYTHONHASHSEED": hash_seed}
        command = [sys.executable, str(ROOT / "report.py"), *parts, "-o", str(tmp_path / hash_seed)]
        subprocess.run(command, check=True, env=environment, cwd=folder, capture_output=True, timeout=240)
    first, second = contents(tmp_path / "1"), contents(tmp_path / "2")
    assert first.keys() == second.keys()
    assert [name for name in first if first[name] != second[name]] == []
    assert not any(str(tmp_path).encode() in data for data in first.values())


def test_data_flow_one_way_through_the_report_s_folders() -> None:
    order = ("runs", "statistics", "figures", "text", "render")
    seen = set()
    for path in (ROOT / "reporting").rglob("*.py"):
        for line in re.findall(r"^from reporting\.(\w+)", path.read_text(), re.MULTILINE):
            seen.add(path.parent.name)
            assert order.index(line) <= order.index(path.parent.name), path
    assert seen == set(order)


def test_the_committed_report_is_that_of_the_committed_runs(tmp_path: Path) -> None:
    assert run_report(*sorted((ROOT / "results").glob("*.zip"), reverse=True), "-o", tmp_path) == 0
    for name in ("results.md", "results.csv", "results.tex"):  # the figures' bytes depend on matplotlib's version
        assert (tmp_path / name).read_bytes() == (ROOT / "docs" / name).read_bytes(), name


def test_figures_of_an_earlier_report_go_and_other_files_stay(tmp_path: Path) -> None:
    write_cell(tmp_path / "runs", "bn", 0.0, seeds(0.5))
    output = tmp_path / "docs"
    assert run_report(tmp_path / "runs", "-o", output) == 0
    shutil.copy(output / "results" / "stability.svg", output / "results" / "curves-old-0noise.svg")
    for name in ("results/curves-mine-0noise.svg", "results/mine.svg", "design.md"):
        (output / name).write_text("x")
    assert run_report(tmp_path / "runs", "-o", output) == 0
    assert sorted(contents(output)) == [
        "design.md",
        "results.csv",
        "results.html",
        "results.md",
        "results.tex",
        "results/curves-cifar10-0noise.svg",
        "results/curves-mine-0noise.svg",
        "results/mine.svg",
        "results/stability.svg",
    ]


def test_csv_and_latex_hold_the_summary(files: dict[str, str]) -> None:
    rows = list(csv.DictReader(io.StringIO(files["results.csv"])))
    assert len(rows) == 15
    row = next(row for row in rows if (row["arm"], row["noise_percent"]) == ("conv", "20"))
    values = [51.0, 52.0, 52.5]
    assert (row["dataset"], row["seeds"], row["epochs"]) == ("cifar10", "3", "4")
    assert float(row["last_mean_percent"]) == pytest.approx(sum(values) / 3, abs=1e-3)
    assert float(row["last_std_percent"]) == pytest.approx(0.7638, abs=1e-3)
    # a straight line from 0 over four epochs: their mean is 5/8 of the last
    assert float(row["last_ten_mean_percent"]) == pytest.approx(sum(values) / 3 * 5 / 8, abs=1e-3)
    tex = files["results.tex"]
    lines = [line for line in tex.splitlines() if line.endswith(r"\\")]
    assert len(lines) == 16
    assert {line.count(" & ") for line in lines} == {6}
    assert r"cifar10 & conv & 20 \% & 3 & 51.83 $\pm$ 0.76 & 51.83 $\pm$ 0.76 & 32.40 $\pm$ 0.48 \\" in lines
    assert tex.count(r"\begin{tabular}") == tex.count(r"\end{tabular}") == tex.count(r"\toprule") == 1
    assert not re.search(r"(?<!\\)[_%](?!.*booktabs)", tex.split("\n", 1)[1])


def test_markdown_tables_and_links(files: dict[str, str]) -> None:
    text = files["results.md"]
    linked = re.findall(r"!\[[^\]]+\]\(([^)]+)\)", text)
    pictures = [name for name in files if name.endswith(".svg")]
    assert sorted([*linked, "results/forest-small.svg"]) == sorted(pictures)  # which is for other pages
    for table in re.findall(r"(?:^\|.*\|\n)+", text, re.MULTILINE):
        widths = {len(re.split(r"(?<!\\)\|", line)) for line in table.splitlines()}
        assert len(widths) == 1, table


def test_the_sections_come_in_order(grid: Path) -> None:
    sections = [b.text for b in document(read_results([grid])) if isinstance(b, Heading) and b.level == 2]
    assert sections == [
        "Scale",
        "The paper's own numbers beside ours",
        "Robustness to label noise",
        "The paper's statements",
        "Curves",
        "Stability",
        "Summary",
        "Missing and unfinished runs",
        "How to make this page again",
    ]


def test_ours_stand_beside_the_papers(grid: Path) -> None:
    tables = [b for b in document(read_results([grid])) if isinstance(b, Table)]
    table = next(t for t in tables if t.caption.startswith("Accuracy, %: the paper's text"))
    assert table.header == ("arm", "noise", 'paper, "test"', "logs, held out", "ours, held out", "runs")
    assert ("bn", "20 %", "81.5", "81.6", "56.83 ± 0.76", "3 of 3") in table.rows
    assert ("conv_published", "0 %", "about 73", "72.4", "45.83 ± 0.76", "3 of 3") in table.rows


def test_runs_at_the_papers_scale_stand_beside_the_paper(tmp_path: Path) -> None:
    """What was called test beside what no training has seen, and how much of the grid is there."""
    planned(tmp_path, "coco_published_full", ("bn", "conv_published"), (0, 20), (12,))
    settings = config("coco_published_full_bn_0noise", "bn", 0.0, 12, 200, "TinyCOCO", keep_freed_memory=True)
    settings["arch"]["args"]["width"] = 64
    settings["data_loader"]["args"]["subset"] = None
    columns = {"test_accuracy": [0.8] * 200, "val_accuracy": [0.2] * 200}
    run = write_run(
        tmp_path / "coco_published_full_bn_0noise" / "seed12", {**settings, "protocol": "as_published"}, columns
    )
    write_cell(tmp_path / "small", "bn", 0.0, seeds(0.5), dataset="cifar10")
    blocks = document(read_results([tmp_path]))
    headings = [b.text for b in blocks if isinstance(b, Heading) and b.level == 3]
    assert headings[:2] == ["At the paper's own scale", "At a smaller scale"]
    at_scale, smaller = [b for b in blocks if isinstance(b, Table) and b.caption.startswith("Accuracy, %: the paper's")]
    assert at_scale.rows == (
        ("bn", "0 %", "79.9", "79.9", "23.0", "80.00", "20.00", "1 of 1"),
        ("conv_published", "0 %", "about 45", "44.8", "22.1", "-", "-", "0 of 1"),
        ("bn", "20 %", "58.6", "58.6", "18.8", "-", "-", "0 of 1"),
        ("conv_published", "20 %", "about 36", "35.3", "23.4", "-", "-", "0 of 1"),
    )
    assert smaller.rows == (("bn", "0 %", "94.5", "94.3", "50.00", "1 of 1"),)
    (run / "data.json").write_text('{"images": {"train": 306, "val": 34, "test": 340}, "wrong_labels": {"train": 0}}')
    assert prose.NOT_AT_SCALE in text_of(read_results([tmp_path])), "a tenth of the images is another scale"


@pytest.mark.pictures
def test_memorisation_is_drawn_by_epoch(tmp_path: Path) -> None:
    columns = {
        "test_accuracy": [0.3, 0.5],
        "train_clean_accuracy": [0.5, 0.6],
        "train_mislabelled_given_accuracy": [0.1, 0.9],
        "train_mislabelled_true_accuracy": [0.55, 0.1],
    }
    for noise, found in ((0.2, columns), (0.0, {"test_accuracy": [0.3, 0.5]})):
        settings = config(f"cifar10_bn_{100 * noise:g}noise", "bn", noise, 12, 2)
        write_run(tmp_path / f"{noise}", settings, found)
    results = read_results([tmp_path])
    (run,) = results.runs("cifar10", 0.2, "bn")
    assert measures.learnt(run) == [(1, 10.0), (2, 90.0)]
    assert dict(measures.chances(run)) == pytest.approx({1: 5.0, 2: 10.0})
    told = "answers as given: 90.0 % on cifar10 (`bn`, 20 % noise, 1 seed; chance alone: 10.0 %)."
    assert told in text_of(results)
    assert "less than half of them" not in text_of(results)
    figure = next(b for b in document(results) if isinstance(b, Figure) and b.name == "memorisation")
    assert "by chance<" in figure.svg
    assert figure.svg.count("% noise<") == 1, "clean labels have no wrong ones to learn"


def test_means_of_neighbours_keep_a_long_line_short(tmp_path: Path) -> None:
    run = one_run(tmp_path, test_accuracy=[0.01 * (epoch % 2) for epoch in range(102)])
    few = curves.averaged(measures.changes)(run)
    assert len(few) <= curves.MOST_POINTS
    assert few[-1][0] == 102
    assert [value for _, value in few] == pytest.approx([1.0] * len(few))
    assert curves.averaged(lambda run: [])(run) == []


@pytest.mark.pictures
def test_the_first_picture_says_verdicts_in_words_and_marks(tmp_path: Path) -> None:
    write_cell(tmp_path, "bn", 0.0, seeds(0.60, 0.61, 0.62))
    for arm, top in {"conv": 0.5, "bncn": 0.7, "conv_published": 0.6}.items():
        write_cell(tmp_path, arm, 0.0, seeds(top, top + 0.01, top + 0.03))
    figures = {b.name: b for b in document(read_results([tmp_path])) if isinstance(b, Figure)}
    for name in ("forest", "forest-small"):
        for words in ("✔ holds<", "✘ does not hold<", "the paper's own<", "BatchNorm outperforms ConvNorm"):
            assert words in figures[name].svg, (name, words)
        assert "BatchNorm outperforms ConvNorm (bn less conv) holds on cifar10" in figures[name].alt
    assert "? not decided<" in figures["forest"].svg
    assert "conv_published" in figures["forest"].svg
    assert "conv_published" not in figures["forest-small"].svg


def test_a_picture_is_shortened_without_a_change_to_its_text() -> None:
    long = (
        '<svg>\n  <style>a{b: c}</style>\n  <g id="x">\n   <g id="y" clip-path="url(#p)">\n    <!-- 1.23456 -->\n'
        '    <path id="p" d="M 1.23456 -20.25\nL 3 4.5\nz\n" style="fill: none; stroke: red"/>\n   </g>\n'
        '   <path d="M 0 0\n" style="fill: none; stroke: red"/>\n   <g id="z"/>\n  </g>\n'
        '  <text style="font: 8px \'DejaVu Sans\'" transform="rotate(-0 1 2)">a  1.23456 style="b: c" d="M 1"</text>\n'
        "</svg>\n"
    )
    assert shortened(long).splitlines() == [
        "<svg>",
        "<style>a{b: c}.s0{fill:none;stroke:red}</style>",
        '<g clip-path="url(#i0)">',
        '<path id="i0" d="M1.23-20.2L3 4.5z" class="s0"/>',
        "</g>",
        '<path d="M0 0" class="s0"/>',
        "<g/>",
        '<text style="font:8px \'DejaVu Sans\',Verdana,sans-serif">a  1.23456 style="b: c" d="M 1"</text>',
        "</svg>",
    ]


def test_diagnostics_are_shown(tmp_path: Path) -> None:
    write_cell(tmp_path, "bn", 0.0, seeds(0.5))
    write_cell(tmp_path, "conv", 0.0, seeds(0.5), epochs=2)
    columns = {
        "epoch": [1, 1, 2, 2],
        "layer": ["a", "b", "a", "b"],
        "largest_singular_value": [9, 9, 2.0, 3.0],
        "smallest_singular_value": [9, 9, 0.5, ""],
        "gradient_norm": [9, 9, 3.0, 4.0],
        "weight_norm": [9, 9, 6.0, 8.0],
    }
    for arm in ("bn", "conv"):
        write_table(tmp_path / f"cifar10_{arm}_0noise" / "seed12" / "diagnostics.csv", columns)
    blocks = document(read_results([tmp_path]))
    (table,) = (b for b in blocks if isinstance(b, Table) and b.caption.startswith("Diagnostics"))
    # bn's were switched off after epoch 2 of 4: they are not those of its last epoch
    assert table.rows == (("bn", "0 %", "-", "-", "-", "-", "0"), ("conv", "0 %", "3", "0.5", "5", "10", "1"))
    assert "diagnostics-cifar10.svg" in markdown(blocks, "results")


class Page(HTMLParser):
    """What a page refers to, its ids, and whether its tags close."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, Mapping[str, str | None]]] = []
        self.open: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in ("meta", "img", "br"):
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def attributes(self, name: str) -> list[str]:
        return [str(found[name]) for _, found in self.tags if name in found]


def test_the_page_needs_nothing_else(files: dict[str, str]) -> None:
    text = files["results.html"]
    page = Page(text)
    assert page.open == []
    names = {tag for tag, _ in page.tags}
    assert not names & {"script", "link", "iframe", "object", "embed", "form", "video", "audio", "base"}
    assert all(source.startswith("data:image/svg+xml;base64,") for source in page.attributes("src"))
    ids = page.attributes("id")
    assert len(ids) == len(set(ids))
    assert {link.removeprefix("#") for link in page.attributes("href")} <= set(ids)
    assert "url(" not in text
    assert "@import" not in text
    images = [found for tag, found in page.tags if tag == "img"]
    assert len(images) == 7
    assert all(len(str(found["alt"])) > 40 for found in images)
    assert len(text) < 700_000


def test_figures_are_small_well_formed_and_refer_to_themselves_alone(files: dict[str, str]) -> None:
    figures = {name: text for name, text in files.items() if name.endswith(".svg")}
    for name, text in figures.items():
        assert len(text) < 90_000, name
        root = ElementTree.fromstring(text.encode())
        for element in root.iter():
            for key, value in element.attrib.items():
                assert not key.endswith("href") or value.startswith("#"), name
        assert "<dc:date>" not in text


def test_no_two_datasets_share_a_figure(tmp_path: Path) -> None:
    for dataset in ("cifar10", "CIFAR10", "数据", "猫"):
        write_cell(tmp_path / dataset, "bn", 0.0, seeds(0.5), dataset=dataset)
    results = read_results([tmp_path])
    assert sorted(results.file_names.values()) == ["cifar10", "cifar10-2", "dataset", "dataset-2"]
    files = report_files(results)
    assert "results/curves-cifar10-2-0noise.svg" in files
    for name in ("cifar10-0noise", "cifar10-2-0noise", "dataset-0noise", "dataset-2-0noise"):
        assert files["results.md"].count(f"(results/curves-{name}.svg)") == 1


@pytest.mark.pictures
def test_arms_of_ones_own_can_be_told_apart(tmp_path: Path) -> None:
    arms = ["bn", *(f"mine{n}" for n in range(8)), "_hidden"]
    for arm in arms:
        write_cell(tmp_path, arm, 0.0, seeds(0.5))
    results = read_results([tmp_path])
    assert len(set(looks(results).values())) == len(arms)
    assert looks(results)["bn"] == Look("#000000", "solid", "o")
    figure = report_files(results)["results/curves-cifar10-0noise.svg"]
    assert all(f"{arm}<" in figure for arm in arms), "each is in the legend"


@pytest.mark.pictures
def test_names_from_a_config_cannot_break_the_page(tmp_path: Path) -> None:
    evil = "<script>alert(1)</script>|`x`_$y$ ](http://z)"
    settings = config(f"{evil}_a|b<i>_0noise", "a|b<i>", 0.0, 12, 1)
    write_run(tmp_path / "run", settings, {"test_accuracy": [0.5]})
    files = report_files(read_results([tmp_path]))
    assert "script" not in {tag for tag, _ in Page(files["results.html"]).tags}
    assert "<script" not in files["results.md"]
    assert "](http" not in files["results.md"]


def test_a_run_of_train_py(finished: Path, tmp_path: Path) -> None:
    assert run_report(finished.parent, "-o", tmp_path) == 0
    (row,) = csv.DictReader(io.StringIO((tmp_path / "results.csv").read_text()))
    assert (row["dataset"], row["arm"], row["noise_percent"], row["epochs"]) == ("coco", "bn", "20", "3")
    with open(finished / "metrics.csv") as file:
        last = list(csv.DictReader(file))[-1]
    assert float(row["last_mean_percent"]) == pytest.approx(100 * float(last["test_accuracy"]), abs=1e-4)
    given = f"{100 * float(last['train_mislabelled_given_accuracy']):.2f}"
    assert given in (tmp_path / "results.md").read_text()


def test_help_comes_without_a_heavy_import() -> None:
    code = (
        "import sys, report\n"
        "try:\n    report.main(['--help'])\nexcept SystemExit:\n    pass\n"
        "assert not {'torch', 'numpy', 'matplotlib', 'scipy'} & sys.modules.keys(), sys.modules.keys()"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT, capture_output=True, timeout=60)


# --- browser ---------------------------------------------------------------------------------------------------------

BROWSER = next(
    (path for name in ("chromium", "chromium-browser", "google-chrome") if (path := shutil.which(name))), None
)
_SAYS = """<script>addEventListener("load", () => {
const wide = [...document.querySelectorAll(".words")].filter(box => box.scrollWidth > box.clientWidth)
parent.postMessage([innerWidth, document.documentElement.scrollWidth, wide.length], "*")
})</script>"""
_FRAME = """<body><script>
addEventListener("message", event => { document.body.setAttribute("data-widths", event.data.join(" ")) })
</script><iframe src="page.html" style="border:0;width:%dpx;height:800px"></iframe></body>"""


@pytest.mark.slow
@pytest.mark.skipif(BROWSER is None, reason="no chromium is installed")
@pytest.mark.parametrize("width", [390, 1280])
def test_the_page_does_not_scroll_sideways(files: dict[str, str], tmp_path: Path, width: int) -> None:
    """Nor does a table of words within it. In a frame, since a headless window is no narrower than 500 pixels."""
    text = files["results.html"]
    (tmp_path / "page.html").write_text(text.replace("</body>", f"{_SAYS}</body>"))
    (tmp_path / "frame.html").write_text(_FRAME % width)
    flags = ["--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-sync"]
    flags += ["--disable-background-networking", "--disable-component-update", "--virtual-time-budget=10000"]
    flags += [f"--user-data-dir={tmp_path / 'profile'}", f"--window-size={width + 200},900", "--dump-dom"]
    command = [str(BROWSER), *flags, (tmp_path / "frame.html").as_uri()]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    found = re.search(r'data-widths="(\d+) (\d+) (\d+)"', done.stdout)
    assert found, done.stderr[-2000:]
    inner, scroll = int(found[1]), int(found[2])
    assert inner == width
    assert scroll <= inner
    assert int(found[3]) == 0
