"""Train a config, or resume a run: python train.py -c configs/demo.json [-r CHECKPOINT|auto] [KEY=VALUE ...]"""

import utils.early  # isort: skip # noqa: F401
import argparse
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from utils.cli import OneLineParser, leave, run_program
from utils.lock import FolderLock

if TYPE_CHECKING:
    from utils.world import World


def parse_args(argv: list[str] | None) -> argparse.Namespace:
    parser = OneLineParser(description="Train a ResNet as a config says, or resume a run.")
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
        args.overrides.append(f"weights={json.dumps({'path': args.weights, 'sha256': None})}")
    return args


def train(args: argparse.Namespace) -> None:
    if args.resume is None and args.config is not None:  # report a mistake in a config before torch is imported
        from parse_config import load_config

        load_config(args.config, args.overrides)
    from utils.world import World

    with FolderLock() as lock, World() as world:
        _train(args, lock, world)


def _train(args: argparse.Namespace, lock: FolderLock, world: "World") -> None:
    from data_loader.build import build_data
    from logger.log import set_up_logging
    from models.build import build_model
    from trainer.optim import build_optimizer
    from trainer.preflight import show
    from trainer.restore import check_fit
    from trainer.resume import Request, find_start
    from trainer.run_folder import make_run_folder
    from trainer.session import accept, begin, load, log_outcome
    from trainer.trainer import Trainer
    from utils.device import choose_device
    from utils.memory import keep_freed_memory
    from utils.seeding import seed_everything

    set_up_logging(quiet=not world.first)
    request = Request(args.config, args.resume, args.run_dir, args.overrides, args.allow_inexact)
    start = world.on_first(lambda: find_start(request, None if args.check else lock))
    config = start.config
    if config.trainer.keep_freed_memory:
        keep_freed_memory()
    device = choose_device(args.device or config.trainer.device, world.local_rank)
    seed_everything(config.seed, config.trainer.deterministic)
    access = start.access()
    data = world.first_then_others(lambda: build_data(config, device, world, access))
    if start.state is not None:
        check_fit(config, data, start.state, start.source)
    model = build_model(config, len(data.dataset.classes)).to(device)
    optimizer, schedule = build_optimizer(config, model)
    trainer = Trainer(config, model, optimizer, schedule, data, device, Path(), world)
    if args.check:
        load(trainer, start)
        show(trainer)
        return
    accept(trainer, start, access)
    folder = world.on_first(lambda: make_run_folder(config, start.folder, start.in_place, lock))
    trainer.enter(lock.folder or folder)
    begin(trainer, start)
    trainer.train()
    log_outcome(trainer)


def main(argv: list[str] | None = None) -> int:
    """Run with the arguments `argv` (by default those of sys.argv) and return the exit code."""
    return run_program(lambda: train(parse_args(argv)), sys.argv[1:] if argv is None else argv)


if __name__ == "__main__":
    leave(main())
