"""Classify pictures by a trained network: python predict.py -r saved/<name>/<run> PICTURES [--top 3] [-o FILE.csv]

From Python:

    from predict import load

    model, preprocess, classes = load("saved/<name>/<run>/model_best.pth")
    probabilities = model(preprocess("cat.jpg").unsqueeze(0)).softmax(1)
"""

import utils.early  # isort: skip # noqa: F401
import argparse
import sys
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from utils.cli import OneLineParser, leave, run_program, whole_number

if TYPE_CHECKING:
    from inference.loading import Trained


def load(path: str | Path, device: str = "cpu") -> "Trained":
    """The network in a checkpoint, a weights-only file (.safetensors) or a run folder. Of a run folder it is the best.

    Returns (model, preprocess, classes): the model in evaluation mode, from (N, 3, H, W) to logits (N, C); the function
    from a picture, a path or a PIL image of any mode and size, to the model's input (3, H, W); the C classes' names.

    Raises:
        UserError: there is no such file, it is damaged or not of this program, or there is no such device.
    """
    from inference.loading import trained
    from trainer.weights import read_weights
    from utils.device import choose_device
    from utils.files import user_path

    return trained(read_weights(user_path(str(path))), choose_device(device))


def parse_args(argv: list[str] | None) -> argparse.Namespace:
    parser = OneLineParser(description="Classify pictures by a trained network.")
    parser.add_argument("-r", "--resume", required=True, metavar="FILE", help="run folder, checkpoint or .safetensors")
    parser.add_argument("-d", "--device", help="cpu, cuda, cuda:1 or mps; without it the best there is")
    parser.add_argument("--top", type=whole_number(1), default=1, metavar="K", help="show the K most probable classes")
    parser.add_argument(
        "-o", "--output", metavar="FILE.csv", help="write a table there, instead of lines to the terminal"
    )
    parser.add_argument("pictures", nargs="+", metavar="PICTURES", help="pictures, and folders and .zip files of them")
    args = parser.parse_intermixed_args(argv)
    if "" in args.pictures:  # a shell's unset variable; as a path it would be the working directory
        parser.error("PICTURES: one of them is empty")
    return args


def predict(args: argparse.Namespace) -> None:
    from inference.loading import trained
    from inference.places import refuse_others
    from inference.predictions import answers_to, as_csv, find_pictures, is_ours, of_broken
    from trainer.weights import read_weights
    from utils.device import choose_device
    from utils.errors import DataError
    from utils.files import make_place, user_path
    from utils.folder import Folder
    from utils.memory import keep_freed_memory
    from utils.output import complain, say

    out = None if args.output is None else user_path(args.output)
    refuse = None if out is None else partial(refuse_others, out, is_ours)
    if refuse is not None:
        refuse()
    weights = read_weights(user_path(args.resume))
    if weights.config.trainer.keep_freed_memory:
        keep_freed_memory()
    device = choose_device(args.device or weights.config.trainer.device)
    network = trained(weights, device)
    with find_pictures(args.pictures) as pictures:
        if out is not None:
            make_place(out)
        top = min(args.top, len(network.classes))
        if top < args.top:
            pictures.notes.append(f"--top {args.top}: the network has {top} classes")
        answers = list(answers_to(network, pictures, weights.config, device, top))
    *each, broken = of_broken(pictures.broken)
    complain(*each)
    if not answers:
        raise DataError(f"{broken}; nothing was written")
    if out is None:
        say(*(answer.line() for answer in answers))
        complain(*pictures.notes)
    else:
        Folder(out.parent).write(out.name, as_csv(answers, top), refuse=refuse)
        say(*pictures.notes, f"wrote {out}: {len(answers):,} pictures, by {weights.source}")
    if broken:
        raise DataError(f"{broken}; {len(answers):,} others were classified")


def main(argv: list[str] | None = None) -> int:
    """Run with the arguments `argv` (by default those of sys.argv) and return the exit code."""
    return run_program(lambda: predict(parse_args(argv)), sys.argv[1:] if argv is None else argv)


if __name__ == "__main__":
    leave(main())
