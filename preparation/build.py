"""Makes a dataset file of a plan: decodes the images that are drawn, and writes the file and its manifest."""

import hashlib
import io
import os
import pickle
import signal
import zipfile
from collections.abc import Sequence
from functools import partial

import numpy as np

from data_loader.class_names import problem_of
from data_loader.npz import LARGEST
from data_loader.picture_files import broken_message, dim_message
from data_loader.pictures import BrokenImageError, Picture
from preparation.manifest import LARGEST_MANIFEST, difference, dump, make_manifest, manifest_path, read_manifest
from preparation.plan import Candidate, Outcome, Plan, Request, Selection, check_counts, select
from utils.errors import ConfigError, DataError, FileSystemError, Stopped
from utils.files import make_place, read_file, write_atomically
from utils.progress import Bar
from utils.stopping import StopRequest, exit_code
from utils.text import CELL, visible

SUFFIXES = (".npz", ".pkl", ".pickle")
TYPES: dict[str, np.dtype] = {"uint8": np.dtype("u1"), "float32": np.dtype("<f4"), "float64": np.dtype("<f8")}


def check(request: Request) -> None:
    if request.output.suffix not in SUFFIXES:
        raise ConfigError(f"-o {request.output}: the name of a dataset file ends in {', '.join(SUFFIXES)}")
    if request.dither and request.format == "uint8":
        raise ConfigError("--dither moves values between the 256 levels, which uint8 lacks; give another --format")


def build(plan: Plan, request: Request) -> list[str]:
    """Write `request.output` and its manifest, unless they are there already; returns lines for the user.

    Raises:
        ConfigError: the file would be larger than the largest that training reads.
        DataError: an image is broken, a class has too few images, or its name cannot be written into the file.
        FileSystemError: another file is in the way, or the file cannot be written.
        Stopped: a signal came; either nothing was written or everything.
    """
    problem = problem_of(plan.own_names(request))
    if problem is not None:
        raise DataError(f"{plan.place}: {problem}; rename the class folders, or choose others with --classes")
    expected = select(plan, request)
    check_counts(plan, expected, request)
    _check_size(len(expected.chosen), request)
    if os.path.lexists(request.output) and not request.output.is_dir() and not request.force:
        _refuse_another(plan, request)
        return [f"nothing to do: {request.output} is what this command makes"]
    make_place(request.output)  # not before: the disk may be read-only where there is nothing to do
    _refuse_other_manifest(request)
    selection, outcomes = _decode(plan, request, len(expected.chosen))
    check_counts(plan, selection, request, outcomes.get)
    pictures = [picture for candidate in selection.chosen if (picture := outcomes[candidate].picture)]
    data = pack(pictures, [candidate.label for candidate in selection.chosen], request, plan.own_names(request))
    digest = hashlib.sha256(data).hexdigest()
    manifest = make_manifest(plan, request, selection, outcomes, {"bytes": len(data), "sha256": digest})
    _write(plan, request, data, dump(manifest))
    dim = [candidate.name for candidate, picture in zip(selection.chosen, pictures, strict=True) if picture.dim]
    written = f"wrote {request.output}: {len(pictures):,} images, {len(data):,} bytes, SHA-256 {digest}"
    return [*_report(plan, selection, dim), written, f"wrote {manifest_path(request.output)}"]


def _refuse_another(plan: Plan, request: Request) -> None:
    """Raise FileSystemError if `request.output` is there, is not what `request` makes, and is not to be replaced."""
    if os.path.lexists(request.output) and not request.force:
        reason = difference(plan, request)
        if reason:
            raise FileSystemError(f"{request.output} exists, and {reason}; give another -o, or --force to replace it")


def _refuse_other_manifest(request: Request) -> None:
    path = manifest_path(request.output)
    if os.path.lexists(path) and not request.force and read_manifest(request.output) is None:
        raise FileSystemError(f"{path} is no manifest of this program; move it away, or --force")


def _check_size(images: int, request: Request) -> None:
    form = request.format
    size = images * 3 * request.image_size**2 * TYPES[form].itemsize
    if size > LARGEST:
        raise ConfigError(
            f"{images:,} images as {form} take {size:,} bytes, and a dataset file has at most {LARGEST:,}; give "
            "--format uint8 or a smaller --per-class"
        )


def _decode(plan: Plan, request: Request, count: int) -> tuple[Selection, dict[Candidate, Outcome]]:
    """Decode the images that are drawn, about `count`; returns the selection and the outcome of each decoded candidate.

    Raises:
        DataError: an image is broken, and `request.skip_broken` is false.
    """
    outcomes: dict[Candidate, Outcome] = {}
    with Bar(total=count, desc="decoding", unit="image") as bar:

        def outcome(candidate: Candidate) -> Outcome:
            bar.update()
            return outcomes.setdefault(candidate, _outcome(plan, candidate))

        selection = select(plan, request, outcome)
    if selection.broken and not request.skip_broken:
        broken = [(candidate.name, outcomes[candidate].fault) for candidate in selection.broken]
        them = "it" if len(broken) == 1 else "them"
        advice = f"remove or replace {them}, or leave such images out with --skip-broken"
        raise DataError(f"{plan.place}: {broken_message(broken)}; {advice}")
    return selection, outcomes


def _outcome(plan: Plan, candidate: Candidate) -> Outcome:
    source = None
    try:
        data = plan.read(candidate)
        source = hashlib.sha256(data).hexdigest()
        return Outcome(source, plan.decode(data, candidate))
    except BrokenImageError as error:  # other errors, such as a failing disk, end the program
        return Outcome(source, None, error.reason)


def pack(
    pictures: Sequence[Picture], labels: Sequence[int], request: Request, classes: Sequence[str] = ()
) -> memoryview:
    """The bytes of the dataset file, the same at any time: `images` (N, H, W, 3) or (N, 3, H, W), `labels` (N,), and
    `classes`, if they are given.

    uint8 is stored as it is; floats are x / 255, in [0, 1]. Dithered, x is first moved by less than half a level.
    """
    images = np.stack([picture.pixels for picture in pictures])
    if request.layout == "NHWC":
        images = images.transpose(0, 2, 3, 1)
    images = images.astype(TYPES[request.format], order="C")
    if request.dither:
        _dither(images, np.random.default_rng(request.seed))
    if request.format != "uint8":
        images /= images.dtype.type(255)
    arrays = {"images": images, "labels": np.array(labels, np.dtype("<i8"))}
    buffer = io.BytesIO()
    if request.output.suffix != ".npz":
        pickle.dump(arrays | ({"classes": list(classes)} if classes else {}), buffer, protocol=5)
        return buffer.getbuffer()
    if classes:
        arrays["classes"] = np.array(classes).astype(f"<U{max(map(len, classes))}")
    with zipfile.ZipFile(buffer, "w") as archive:  # np.savez would store the time of day
        for name, array in arrays.items():
            entry = zipfile.ZipInfo(f"{name}.npy", (1980, 1, 1, 0, 0, 0))
            entry.create_system = 3  # as on Unix, wherever this runs
            entry.external_attr = 0o644 << 16
            with archive.open(entry, "w", force_zip64=True) as file:
                np.lib.format.write_array(file, array)
    return buffer.getbuffer()


def _dither(images: np.ndarray, random: np.random.Generator) -> None:
    """Move each value, a whole number from 0 to 255, by less than half a level, but not out of that range."""
    for image in images:  # one at a time, since all moves would take as much memory as all images
        moves = random.random(image.shape, images.dtype.type)
        moves -= 0.5
        moves *= 0.98  # so that rounding undoes it
        image += moves
    images.clip(0, 255, out=images)


def _write(plan: Plan, request: Request, data: memoryview, manifest: bytes) -> None:
    """Write the manifest before the file, so that every file has one. A request to stop waits for both."""
    out, beside = request.output, manifest_path(request.output)
    stop = StopRequest()
    with stop:
        old = read_file(beside, LARGEST_MANIFEST) if beside.is_file() else None
        write_atomically(beside, manifest, refuse=partial(_refuse_other_manifest, request))
        try:
            write_atomically(out, data, refuse=partial(_refuse_another, plan, request))
        except FileSystemError:
            if old is None:
                beside.unlink(missing_ok=True)
            else:
                write_atomically(beside, old)  # so that the file which stays keeps its own
            raise
    if stop.signal:
        raise Stopped(exit_code(stop.signal), f"stopped by {signal.Signals(stop.signal).name}; {out} is written whole")


def _report(plan: Plan, selection: Selection, dim: list[str]) -> list[str]:
    names = [visible(name, CELL) for name in plan.classes]
    width = max(len(name) for name in names)
    counts = zip(names, selection.counts(plan), strict=True)
    lines = [f"label  {'class':<{width}}    images"]
    lines += [f"{label:>5}  {name:<{width}}  {count:>8,}" for label, (name, count) in enumerate(counts)]
    lines += plan.notes
    if dim:
        lines.append(dim_message(dim))
    if selection.duplicates:
        lines.append(f"{len(selection.duplicates):,} left out that have the pixels of another (--keep-duplicates)")
    if selection.broken:
        lines.append(f"{len(selection.broken):,} left out that cannot be read; the manifest lists them")
    return lines
