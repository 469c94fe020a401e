"""Write a trained network for other tools: python export.py -r saved/<name>/<run> --onnx model.onnx

Each file holds, beside the network, what inference needs as JSON texts: arch, classes, mean, std and image_size.
"""

import utils.early  # isort: skip # noqa: F401
import argparse
import sys
from functools import partial
from pathlib import Path

from utils.cli import OneLineParser, leave, run_program

#: Option -> the suffix of its file.
SUFFIXES = {"safetensors": ".safetensors", "torch_export": ".pt2", "onnx": ".onnx"}


def parse_args(argv: list[str] | None) -> argparse.Namespace:
    parser = OneLineParser(description="Write a trained network for other tools, checked against the network itself.")
    parser.add_argument("-r", "--resume", required=True, metavar="FILE", help="run folder, checkpoint or .safetensors")
    parser.add_argument(
        "--onnx", metavar="FILE.onnx", help="for ONNX Runtime and others; images (N, 3, H, W) -> logits"
    )
    parser.add_argument("--torch-export", metavar="FILE.pt2", help="for torch.export.load, without this code")
    parser.add_argument("--safetensors", metavar="FILE.safetensors", help="the weights alone, for load() and --weights")
    args = parser.parse_args(argv)
    if not any(getattr(args, option) for option in SUFFIXES):
        parser.error("there is nothing to write; give --onnx, --torch-export or --safetensors")
    for option, suffix in SUFFIXES.items():
        name = getattr(args, option)
        if name is not None and Path(name).suffix != suffix:
            parser.error(f"--{option.replace('_', '-')} {name}: the name of such a file ends in {suffix}")
    return args


def export(args: argparse.Namespace) -> None:
    import torch

    from inference import export as formats
    from inference.loading import trained
    from inference.places import refuse_others
    from trainer.weights import read_weights
    from utils.files import make_place, user_path
    from utils.folder import Folder
    from utils.output import say

    places = [user_path(name) for option in SUFFIXES if (name := getattr(args, option)) is not None]
    refuse = {place: partial(refuse_others, place, formats.is_ours) for place in places}
    for check in refuse.values():
        check()
    weights = read_weights(user_path(args.resume))
    network = trained(weights, torch.device("cpu"))
    facts = formats.facts_of(weights, network)
    for place in places:
        make_place(place)
    made = [formats.export(network, facts, place.suffix) for place in places]
    for place, (data, checked) in zip(places, made, strict=True):
        Folder(place.parent).write(place.name, data, refuse=refuse[place])
        say(f"wrote {place}: {len(data):,} bytes; {checked}")


def main(argv: list[str] | None = None) -> int:
    """Run with the arguments `argv` (by default those of sys.argv) and return the exit code."""
    return run_program(lambda: export(parse_args(argv)), sys.argv[1:] if argv is None else argv)


if __name__ == "__main__":
    leave(main())
