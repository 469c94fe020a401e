"""Evaluate a checkpoint on its test split: python test.py -r saved/<name>/<run>/model_best.pth [-d DEVICE]"""

import utils.early  # isort: skip # noqa: F401
import argparse
import json
import sys

from utils.cli import OneLineParser, leave, run_program


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    parser = OneLineParser(description="Evaluate a checkpoint on the test images it was not trained on.")
    parser.add_argument(
        "-r", "--resume", required=True, metavar="FILE", help="checkpoint, or a run folder for its best"
    )
    parser.add_argument("-d", "--device", help="cpu, cuda, cuda:1 or mps; without it the best there is")
    parser.add_argument("--allow-inexact", action="store_true", help="read one that could not be resumed exactly")
    parser.add_argument("--data-dir", metavar="DIR", help="where its data are, or may be fetched to and cached")
    parser.add_argument("overrides", nargs="*", metavar="KEY=VALUE", help="such as data_loader.args.data_dir=data/coco")
    return parser.parse_intermixed_args(argv)


def test(args: argparse.Namespace) -> None:
    from data_loader.access import Access
    from data_loader.build import build_data
    from models.build import build_model
    from models.metric import METRICS
    from protocol import departures
    from trainer.changes import changes, check_function
    from trainer.checkpoint import read
    from trainer.environment import device_name
    from trainer.evaluation import AMP_TYPES, Evaluator
    from trainer.judgement import TestReport, save_report
    from trainer.restore import check_fit, load_model
    from trainer.resume import names_data, saved_config
    from trainer.run_folder import folder_of
    from trainer.state import config_of
    from trainer.weights import file_of
    from utils.device import choose_device
    from utils.files import user_path
    from utils.memory import keep_freed_memory
    from utils.output import say

    path = file_of(user_path(args.resume))
    folder_of(path)  # raises if there is no such file
    overrides = list(args.overrides)
    if args.data_dir is not None:
        overrides.append(f"data_loader.args.data_dir={json.dumps(args.data_dir)}")
    state = read(path, args.allow_inexact)
    config = saved_config(state, str(path), overrides)
    if config.trainer.keep_freed_memory:
        keep_freed_memory()
    device = choose_device(args.device or config.trainer.device)
    access = Access.of_checkpoint(names_data(overrides))
    data = build_data(config, device, access=access)
    check_fit(config, data, state, str(path))
    model = build_model(config, len(data.dataset.classes), data.image_size).to(device)
    load_model(model, state["model"], str(path))
    check_function(changes(config_of(state, str(path)), config), len(data.dataset.classes), str(path))
    access.accept()
    evaluator = Evaluator(model, METRICS, device, AMP_TYPES[config.trainer.amp])
    figures = evaluator.figures(data.test, "test")
    predicted, true = evaluator.predictions(data.test, "confusion")
    report = TestReport(
        str(path),
        state["epoch"],
        data.dataset.classes,
        figures,
        predicted,
        true,
        departures(config),
        tuple(overrides),
        device_name(device),
    )
    say(*report.table())
    for written in save_report(report, path):
        say(f"wrote {written}")


def main(argv: list[str] | None = None) -> int:
    """Run with the arguments `argv` (by default those of sys.argv) and return the exit code."""
    return run_program(lambda: test(parse_args(argv)), sys.argv[1:] if argv is None else argv)


if __name__ == "__main__":
    leave(main())
