"""Build a dataset file from images: python prepare_data.py folder|coco|exdark|demo ... -o OUT.pkl"""

import utils.early  # isort: skip # noqa: F401
import argparse
import sys
import unicodedata
from contextlib import AbstractContextManager
from dataclasses import fields
from typing import TYPE_CHECKING

from config_schema import LEAST_SIDE, MOST_SIDE
from utils.cli import OneLineParser, leave, run_program, whole_number
from utils.files import user_path
from utils.limits import memory_for_data
from utils.output import say

if TYPE_CHECKING:
    from preparation.plan import Plan

ABOUT = """\
Build a dataset file, a pickle or .npz of {"images", "labels"}, from images: brought to one size, drawn by a seed, the
same number of each class. Nothing is downloaded; docs/datasets.md says where COCO and ExDark are to be had."""

NOTES = """\
OUT ends in .pkl, .pickle or .npz. Rows are sorted by label and name. Images whose pixels are those of an image taken
before are left out, since training stops where images are shared by training and test set. Beside OUT lies
OUT.manifest.json: arguments, sources and their SHA-256, each image's name, label and box. The same command makes the
same bytes. OUT is written whole or not at all. Where it exists already and is what the command makes, nothing is done.

exit codes: 0 done, 2 command line, 3 data, 5 files, 130 and 143 stopped by Ctrl-C and SIGTERM"""


def parse_args(argv: list[str] | None) -> argparse.Namespace:
    style = argparse.RawDescriptionHelpFormatter
    parser = OneLineParser(description=ABOUT, epilog=NOTES, formatter_class=style)
    commands = parser.add_subparsers(dest="command", required=True, metavar="folder|coco|exdark|demo")

    def command(name: str, about: str, layout: str = "NHWC", per_class: int | None = None) -> argparse.ArgumentParser:
        sub = commands.add_parser(
            name, help=about.split(":")[0], description=about, epilog=NOTES, formatter_class=style
        )
        add_common(sub, layout, per_class)
        return sub

    folder = command(
        "folder",
        "a folder or .zip of images by class: train/<class>/*, val/<class>/* and test/<class>/*, or <class>/*;\n"
        "one folder around it all is looked through.",
    )
    folder.add_argument("source", type=user_path, metavar="SOURCE", help="folder or .zip")
    folder.add_argument("--classes", type=names, metavar="A,B,C", help="those to take, in the order of their labels")
    folder.add_argument("--split", choices=("train", "val", "test", "all"), default="train", help="default: train")
    add_square(folder)

    coco = command(
        "coco",
        "objects cut from COCO: the boxes of cat, dog, car, bus, train, boat, ball (COCO's sports ball),\n"
        "pizza, chair and table (dining table), labels 0 to 9, that are no crowd. The cut is a square as long as the\n"
        "box's long side, moved to lie within the image; black where the image is too small for it. Of one picture\n"
        "one box is taken at most.",
        per_class=340,
    )
    coco.add_argument(
        "--annotations", type=user_path, required=True, metavar="FILE", help="such as instances_train2017.json"
    )
    coco.add_argument(
        "--images", type=user_path, required=True, metavar="SOURCE", help="folder or .zip, such as train2017"
    )
    size_help = "least pixels of a box's short side (default: that of --image-size)"
    coco.add_argument("--min-size", type=whole_number(1), metavar="N", help=size_help)

    exdark = command(
        "exdark", "ExDark's class folders Bicycle, Boat, ..., Table: whole images, labels 0 to 11.", layout="NCHW"
    )
    exdark.add_argument("source", type=user_path, metavar="SOURCE", help="folder or .zip")
    exdark.add_argument("--classes", type=names, metavar="A,B,C", help="take these only; labels keep their numbers")
    add_square(exdark)

    command("demo", "scikit-learn's handwritten digits: needs no images.")
    return parser.parse_args(argv)


def add_common(parser: argparse.ArgumentParser, layout: str, per_class: int | None) -> None:
    add = parser.add_argument
    add("-o", "--output", type=user_path, required=True, metavar="OUT", help="file to write, .pkl or .npz")
    number = f"default: {per_class or 'all there are'}"
    add("--per-class", type=whole_number(1), default=per_class, metavar="N", help=f"images of each class ({number})")
    sides = f"height and width of the images, {LEAST_SIDE} to {MOST_SIDE} (default: 32)"
    add("--image-size", type=whole_number(LEAST_SIDE, MOST_SIDE), default=32, metavar="N", help=sides)
    add("--seed", type=whole_number(0), default=0, help="of the draw and of --dither (default: 0)")
    formats = "uint8, or floats in [0, 1] (default: float32)"
    add("--format", choices=("float32", "float64", "uint8"), default="float32", help=formats)
    dither = (
        "move each float within its level at random, as if it had been resized in floating point; rounding undoes it"
    )
    add("--dither", action="store_true", help=dither)
    layouts = f"order of the axes (default: {layout})"
    add("--layout", choices=("NHWC", "NCHW"), default=layout, help=layouts)
    add("--keep-duplicates", action="store_true", help="keep images whose pixels are those of another")
    add("--skip-broken", action="store_true", help="leave out images that cannot be read, and list them")
    add("--force", action="store_true", help="replace another OUT")


def add_square(parser: argparse.ArgumentParser) -> None:
    text = "crop the long side at the centre, as ImageFolder does, or pad the short one with black (default: crop)"
    parser.add_argument("--square", choices=("crop", "pad"), default="crop", help=text)


def names(text: str) -> list[str]:
    found = [unicodedata.normalize("NFC", name.strip()) for name in text.split(",")]
    if not all(found) or len(set(found)) < len(found):
        raise argparse.ArgumentTypeError(f"{text!r} is no list of names such as a,b,c, each once")
    return found


def plan(args: argparse.Namespace) -> "AbstractContextManager[Plan]":
    from preparation.coco import plan_coco
    from preparation.sources import plan_demo, plan_exdark, plan_folder

    match args.command:
        case "folder":
            return plan_folder(args.source, args.classes, args.split, args.square, args.image_size)
        case "coco":
            return plan_coco(args.annotations, args.images, args.min_size or args.image_size, args.image_size)
        case "exdark":
            return plan_exdark(args.source, args.classes, args.square, args.image_size)
        case _:
            return plan_demo(args.image_size)


@memory_for_data()
def prepare(args: argparse.Namespace) -> None:
    from preparation.build import build, check
    from preparation.plan import Request

    request = Request(**{field.name: getattr(args, field.name) for field in fields(Request)})
    check(request)
    with plan(args) as found:
        say(*build(found, request))


def main(argv: list[str] | None = None) -> int:
    """Run with the arguments `argv` (sys.argv's by default) and return the exit code."""
    return run_program(lambda: prepare(parse_args(argv)), sys.argv[1:] if argv is None else argv)


if __name__ == "__main__":
    leave(main())
