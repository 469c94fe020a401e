"""From a plan to a dataset file: decode what is drawn, keep it on disk as it comes, write the file at the end."""

import contextlib
import errno
import hashlib
import json
import os
import signal
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from data_loader.npz import LARGEST
from data_loader.picture_files import told_broken, told_dim
from data_loader.pictures import SIZE, BrokenImageError
from preparation import output
from preparation.manifest import difference, dump, is_other_file, make_manifest, manifest_path
from preparation.plan import Outcome, Plan, Request, Selection, check_counts, counts, select
from preparation.store import FORMAT, Store
from utils.errors import ConfigError, DataError, FileSystemError, Stopped
from utils.files import temporary_of, write_atomically
from utils.folder import Folder
from utils.lock import NAMES as LOCK_NAMES
from utils.lock import FolderLock
from utils.progress import Bar
from utils.stopping import Handlers, exit_code
from utils.text import CELL, visible

_CHUNK = 1024  # images
_DECODED = "decoded"  # the store in the folder for what is unfinished


def build(plan: Plan, request: Request) -> list[str]:
    """Write `request.out` and its manifest, and return what there is to say about it, line by line.

    What is decoded is kept in `.<name>.partial` beside it, from where the same command goes on if this one is killed;
    the folder is removed at the end.

    Raises:
        ConfigError: the file would have another suffix, or be larger, than any that is read.
        DataError: an image is broken, or a class has too few.
        FileSystemError: there is another file already, another process writes it, or it cannot be written.
        Stopped: by a signal.
    """
    out = request.out
    output.check_suffix(out)
    expected = select(plan, request.per_class, request.seed, lambda position: None, request.keep_duplicates)
    check_counts(plan, expected, request, lambda position: None)
    size = len(expected.chosen) * 3 * SIZE * SIZE * output.TYPES[request.form].itemsize
    if size > LARGEST:
        raise ConfigError(
            f"{len(expected.chosen):,} images as {request.form} take {size:,} bytes, and a dataset file has at most "
            f"{LARGEST:,}; give --format uint8 or a smaller --per-class"
        )
    if out.is_dir():
        raise FileSystemError(f"{out} is a folder; give the name of a file with -o")
    try:
        with _workplace(out) as work:
            if out.exists() and not request.force:
                reason = difference(plan, request)
                if reason:
                    raise FileSystemError(f"{out} exists, and {reason}; give another -o, or --force to replace it")
                work.remove(_DECODED)
                return [f"nothing to do: {out} is what this command makes"]
            if not request.force and is_other_file(manifest_path(out)):
                raise FileSystemError(f"{manifest_path(out)} is no manifest of this program; move it away, or --force")
            with Store(work, _DECODED) as store:
                selection = _Decoding(plan, request, store).run(len(expected.chosen))
                check_counts(plan, selection, request, lambda position: store.get(key_of(plan, position)))
                report = _write(plan, request, selection, store, work)
            work.remove(_DECODED)
            return report
    except Stopped as stop:
        reason = str(stop).split(";")[0]
        raise Stopped(stop.exit_code, f"{reason}; what was decoded is kept, and the same command goes on") from stop


def key_of(plan: Plan, position: int) -> bytes:
    """16 bytes: a hash of all that the pixels of a candidate depend on."""
    candidate = plan.candidates[position]
    parts = [FORMAT, plan.command, plan.options, plan.versions, candidate.entry(), plan.stamp(candidate)]
    return hashlib.sha256(json.dumps(parts).encode()).digest()[:16]


class _Decoding:
    """Decodes the candidates whose turn it is, unless the store has them already."""

    def __init__(self, plan: Plan, request: Request, store: Store) -> None:
        self._plan, self._request, self._store = plan, request, store
        self._bar: Bar | None = None
        self._stopped_by: int | None = None

    def run(self, count: int) -> Selection:
        """The selection; about `count` images are decoded for it. Its pixels are in the store."""
        request = self._request
        before = len(self._store)
        with Handlers(self._stop), Bar(total=count, desc="decoding", unit="image") as self._bar:
            selection = select(self._plan, request.per_class, request.seed, self.outcome, request.keep_duplicates)
            if before and not self._bar.disable:
                self._bar.write(f"{before:,} images were decoded before")
        self._check_stop()
        if selection.broken and not request.skip_broken:
            broken = [(self._plan.candidates[at].name, str(self.outcome(at).fault)) for at in selection.broken]
            raise DataError(
                f"{self._plan.place}: {told_broken(broken)}; remove or replace {'it' if len(broken) == 1 else 'them'}, "
                "or leave such images out with --skip-broken"
            )
        return selection

    def outcome(self, position: int) -> Outcome:
        self._check_stop()
        candidate = self._plan.candidates[position]
        key = key_of(self._plan, position)
        outcome = self._store.get(key)
        if outcome is None:
            source, picture, fault = None, None, ""
            try:
                data = self._plan.read(candidate)
                source = hashlib.sha256(data).hexdigest()
                picture = self._plan.decode(data, candidate)
            except BrokenImageError as error:  # any other error is not the image's fault, and nothing to remember
                fault = error.reason
            outcome = self._store.add(key, source, picture, fault)
        if self._bar is not None:
            self._bar.update()
        return outcome

    def _check_stop(self) -> None:
        """Raise Stopped between two images if a signal came: within one, a library might swallow it."""
        if self._stopped_by is not None:
            raise Stopped(exit_code(self._stopped_by), f"stopped by {signal.Signals(self._stopped_by).name}")

    def _stop(self, number: int) -> None:
        self._stopped_by = number


def _write(plan: Plan, request: Request, selection: Selection, store: Store, work: Folder) -> list[str]:
    """Write manifest and dataset file, in this order: where there is a file, its manifest is there too."""
    outcomes = {position: _known(store.get(key_of(plan, position))) for position in selection.positions()}
    rows = [outcomes[position].row for position in selection.chosen]
    chunks = (
        output.convert(store.pixels(rows[start : start + _CHUNK]), request.form, request.layout)
        for start in range(0, len(rows), _CHUNK)
    )
    shape = (len(rows), *((SIZE, SIZE, 3) if request.layout == "NHWC" else (3, SIZE, SIZE)))
    labels = np.array([plan.candidates[position].label for position in selection.chosen], np.dtype("<i8"))
    output.write_arrays(work, chunks, shape, request.form, labels)
    packed = output.pack_npz(work) if request.out.suffix == ".npz" else output.pack_pickle(work)
    manifest = make_manifest(plan, request, selection, outcomes, packed)
    write_atomically(manifest_path(request.out), dump(manifest))
    output.publish(packed, request.out)
    dim = [plan.candidates[position].name for position in selection.chosen if outcomes[position].dim]
    return _report(plan, request, selection, dim, manifest["output"])


def _report(
    plan: Plan, request: Request, selection: Selection, dim: list[str], written: Mapping[str, Any]
) -> list[str]:
    found = counts(plan, selection)
    names = [visible(name, CELL) for name in plan.classes]
    width = max(len(name) for name in names)
    lines = [f"{label:>5}  {name:<{width}}  {found[label]:>8,}" for label, name in enumerate(names)]
    lines.insert(0, f"label  {'class':<{width}}    images")
    lines += plan.notes
    if dim:
        lines.append(told_dim(dim))
    if selection.duplicates:
        lines.append(f"{len(selection.duplicates):,} left out that have the pixels of another (--keep-duplicates)")
    if selection.broken:
        lines.append(f"{len(selection.broken):,} left out that cannot be read; the manifest lists them")
    lines.append(f"wrote {request.out}: {sum(found):,} images, {written['bytes']:,} bytes, SHA-256 {written['sha256']}")
    lines.append(f"wrote {manifest_path(request.out)}")
    return lines


def _known(outcome: Outcome | None) -> Outcome:
    assert outcome is not None, "all that was selected is in the store"
    return outcome


@contextmanager
def _workplace(out: Path) -> Iterator[Folder]:
    """The folder beside `out` for what is unfinished, locked; it goes at the end unless there is something to keep."""
    path = out.with_name(f".{out.name}.partial")
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        Folder(out.parent).below(path.name).release()
    except OSError as error:
        # mkdir says "File exists" of a file where a folder should be
        reason = os.strerror(errno.ENOTDIR) if isinstance(error, FileExistsError) else error.strerror
        raise FileSystemError(f"cannot write {out}: {reason}; give another -o") from error
    with FolderLock("folder", "another -o") as lock:
        work = lock.acquire(path)
        work.refuse_links((_DECODED, *output.SCRATCH).__contains__)
        beside = Folder(out.parent)
        for left in beside.names():  # by a run that was killed while it wrote
            if temporary_of(Path(left)) in (out.name, manifest_path(out).name):
                beside.remove(left)
        try:
            yield work
        finally:
            with contextlib.suppress(OSError):
                for scratch in output.SCRATCH:
                    work.remove(scratch)
                if not work.size(_DECODED):
                    for name in (_DECODED, *LOCK_NAMES):
                        work.remove(name)
                    path.rmdir()  # unless there is more in it, which is not ours
