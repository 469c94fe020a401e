"""Train a config, or resume a run: python train.py -c configs/demo.json [-r CHECKPOINT|auto] [KEY=VALUE ...]"""

import utils.early  # isort: skip # noqa: F401
import argparse
import json
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from utils.cli import OneLineParser, leave, run_program
from utils.errors import StopTraining as StopTraining
from utils.lock import FolderLock

if TYPE_CHECKING:
    from trainer.from_python import Result
    from trainer.trainer import Trainer
    from utils.world import World


def parse_args(argv: list[str] | None) -> argparse.Namespace:
    parser = OneLineParser(description="Train a network as a config says, or resume a run.")
    parser.add_argument("-c", "--config", metavar="FILE", help="config to train, such as configs/demo.json")
    parser.add_argument("-r", "--resume", metavar="FILE", help="checkpoint to go on from, or 'auto' for the newest")
    parser.add_argument("--weights", metavar="FILE", help="checkpoint or .safetensors to start a new run from")
    parser.add_argument("-d", "--device", help="cpu, cuda, cuda:1 or mps; without it the best there is")
    parser.add_argument("--run-dir", type=Path, metavar="DIR", help="run folder, instead of a new one under save_dir")
    parser.add_argument("--check", action="store_true", help="show config, data, model and speed; train nothing")
    parser.add_argument("--allow-inexact", action="store_true", help="resume even without what an exact resume needs")
    parser.add_argument("overrides", nargs="*", metavar="KEY=VALUE", help="config changes: optimizer.args.lr=0.05")
    args = parser.parse_intermixed_args(argv)
    if args.weights is not None:
        if args.resume is not None:
            parser.error("--weights starts a new run, and -r goes on with one; give one of the two")
        args.overrides.append(_start_from(args.weights))
    return args


def _start_from(weights: str | Path) -> str:
    return f"weights={json.dumps({'path': str(weights), 'sha256': None})}"


def run(
    config: str | Path | Mapping[str, Any] | None = None,
    overrides: Mapping[str, Any] | Sequence[str] | None = None,
    *,
    dataset: Any = None,
    on_epoch: Callable[[dict[str, float]], object] | None = None,
    resume: str | Path | None = None,
    weights: str | Path | None = None,
    run_dir: str | Path | None = None,
    device: str | None = None,
    allow_inexact: bool = False,
) -> "Result":
    """Train as the command line does, from Python: run("configs/demo.json", {"optimizer.args.lr": 0.05}).metrics

    Args:
        config: a config's file, or the object that it would hold.
        overrides: settings by their dotted keys, or a list of KEY=VALUE.
        dataset: takes the place of the config's; an ImageDataset, or a dataset as torch's
            (`data_loader.python_dataset.as_image_dataset` says of what).
        on_epoch: called after each epoch, once it is saved, with its figures as in metrics.csv. If it raises
            StopTraining, the run ends there as after its last epoch. Any other error ends the run, and is raised here.
        resume: a checkpoint, or "auto" for the newest of `run_dir`, or of the config's name; as -r.
        weights: a checkpoint or .safetensors to start a new run from; as --weights.
        run_dir, device, allow_inexact: as on the command line.

    In the main thread a signal is answered as on the command line: the run saves, then Ctrl-C raises KeyboardInterrupt,
    and another signal Stopped. Runs of several threads take turns. What a run changes in the process, it puts back.

    Raises:
        UserError: what the command line would say, of the same classes (utils/errors.py).
    """
    from parse_config import as_overrides
    from trainer.from_python import Callback, Result, in_this_process
    from utils.errors import ConfigError
    from utils.world import World

    if on_epoch is not None and not callable(on_epoch):
        raise TypeError(f"on_epoch must be a function of an epoch's figures, not {on_epoch!r}")
    if resume is not None and weights is not None:
        raise ConfigError("weights starts a new run, and resume goes on with one; give one of the two")
    args = parse_args([])
    changes = as_overrides(overrides) + ([] if weights is None else [_start_from(weights)])
    vars(args).update(config=config, overrides=changes, device=device, allow_inexact=allow_inexact)
    args.resume = None if resume is None else str(resume)
    args.run_dir = None if run_dir is None else Path(run_dir)
    called = Callback(on_epoch)
    with in_this_process(called), FolderLock() as lock, World(lives_on=True) as world:
        trainer = _train(args, lock, world, dataset, called)
        assert trainer is not None, "only --check trains nothing"
        return Result.of(trainer)


def train(args: argparse.Namespace) -> None:
    if args.resume is None and args.config is not None:  # report a mistake in a config before torch is imported
        from parse_config import load_config

        load_config(args.config, args.overrides)
    from utils.world import World

    with FolderLock() as lock, World() as world:
        _train(args, lock, world)


def _train(
    args: argparse.Namespace,
    lock: FolderLock,
    world: "World",
    dataset: Any = None,
    on_epoch: Callable[[dict[str, float]], object] | None = None,
) -> "Trainer | None":
    """Train, or, with --check, only show what would be trained and return None."""
    from data_loader.build import build_data
    from data_loader.python_dataset import as_image_dataset
    from logger.log import set_up_logging
    from models.build import build_model, check_network
    from trainer.optim import build_optimizer
    from trainer.preflight import show
    from trainer.restore import check_fit
    from trainer.resume import Request, find_start
    from trainer.run_folder import make_run_folder
    from trainer.session import begin, load, log_outcome
    from trainer.trainer import Trainer
    from utils.device import choose_device
    from utils.memory import keep_freed_memory
    from utils.seeding import seed_everything

    set_up_logging(quiet=not world.first)
    request = Request(args.config, args.resume, args.run_dir, args.overrides, args.allow_inexact)
    start = world.on_first(lambda: find_start(request, None if args.check else lock))
    config = start.config
    check_network(config)
    if config.trainer.keep_freed_memory:
        keep_freed_memory()
    device = choose_device(args.device or config.trainer.device, world.local_rank)
    seed_everything(config.seed, config.trainer.deterministic)
    access = start.access()
    given = None if dataset is None else as_image_dataset(dataset)
    data = world.first_then_others(lambda: build_data(config, device, world, access, given))
    if start.state is not None:
        check_fit(config, data, start.state, start.source)
    model = build_model(config, len(data.dataset.classes), data.image_size).to(device)
    optimizer, schedule = build_optimizer(config, model)
    trainer = Trainer(config, model, optimizer, schedule, data, device, Path(), world)
    load(trainer, start)
    if args.check:
        show(trainer)
        return None
    if world.first:
        access.accept()  # nothing is written before
    folder = world.on_first(lambda: make_run_folder(config, start.folder, start.in_place, lock))
    trainer.enter(lock.folder or folder)
    begin(trainer, start)
    trainer.on_epoch = on_epoch
    trainer.train()
    log_outcome(trainer)
    return trainer


def main(argv: list[str] | None = None) -> int:
    """Run with the arguments `argv` (by default those of sys.argv) and return the exit code."""
    return run_program(lambda: train(parse_args(argv)), sys.argv[1:] if argv is None else argv)


if __name__ == "__main__":
    leave(main())
