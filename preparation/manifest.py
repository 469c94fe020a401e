"""The manifest of a dataset file: the arguments, the sources and each image that the file was made from."""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from preparation.plan import UNSAID, Candidate, Outcome, Plan, Request, Selection
from utils.errors import DataError
from utils.files import read_file, sha256_of_file
from utils.progress import Bar

LARGEST_MANIFEST = 1 << 30  # bytes of a manifest
_PROGRAM = "prepare_data.py"
_NAMED = "classes_in_file"  # in the manifest of a file that has the names of its classes
_FORMAT = 2  # raise it when the same arguments come to mean other pixels


def manifest_path(out: Path) -> Path:
    return out.with_name(f"{out.name}.manifest.json")


def make_manifest(
    plan: Plan,
    request: Request,
    selection: Selection,
    outcomes: Mapping[Candidate, Outcome],
    output: Mapping[str, Any],
) -> dict[str, Any]:
    """The manifest. It has no dates, and only paths within the source, so it is the same at any time and place.

    `output` describes the file, except for its name.
    """

    def entry(candidate: Candidate, **more: Any) -> dict[str, Any]:
        return {**candidate.entry(), "sha256": outcomes[candidate].source, **more}

    classes = enumerate(zip(plan.classes, selection.counts(plan), strict=True))
    return {
        **_identity(plan, request),
        "versions": dict(plan.versions),
        "output": {"name": request.output.name, **output},
        "classes": [{"label": label, "name": name, "images": count} for label, (name, count) in classes],
        "broken": [entry(candidate, fault=outcomes[candidate].fault) for candidate in selection.broken],
        "duplicates": [entry(candidate, same_as=twin.key()) for candidate, twin in selection.duplicates.items()],
        "images": [entry(candidate) for candidate in selection.chosen],
    }


def dump(manifest: Mapping[str, Any]) -> bytes:
    """The manifest as JSON, with a line for each image."""
    parts = []
    for key, value in manifest.items():
        if isinstance(value, list) and value:
            lines = ",\n".join("    " + json.dumps(item) for item in value)
            parts.append(f"  {json.dumps(key)}: [\n{lines}\n  ]")
        else:
            parts.append(f"  {json.dumps(key)}: {json.dumps(value)}")
    return ("{\n" + ",\n".join(parts) + "\n}\n").encode()


def difference(plan: Plan, request: Request) -> str | None:
    """How the file at `request.output` differs from the one that `request` would make now; None if it does not."""
    manifest = read_manifest(request.output)
    try:
        digest = sha256_of_file(request.output)
    except OSError as error:
        return f"it cannot be read ({error.strerror})"
    if manifest is None or manifest["output"].get("sha256") != digest:
        return "there is no manifest beside it that says what it was made from"
    for key, value in json.loads(json.dumps(_identity(plan, request))).items():
        if manifest.get(key) != value:
            if key == _NAMED:
                return "it was made without the names of its classes"
            return f"it was made with {_other(key, manifest.get(key), value)}"
    # The identity has the checksum of a zip, but only the names of the files in a folder.
    if any(source["kind"] == "folder" for source in plan.sources):
        sums = {(entry.get("name"), entry.get("annotation")): entry.get("sha256") for entry in _entries(manifest)}
        for candidate in Bar(plan.candidates, desc="checking", unit="image", leave=False):
            key = (candidate.name, candidate.number)
            if key in sums and _sum(plan, candidate) != sums[key]:
                return f"{candidate.name} is not the image it was made from"
    return None


def read_manifest(out: Path) -> dict[str, Any] | None:
    """The manifest of `out`; None if there is none, or if another program wrote it."""
    try:
        found = json.loads(read_file(manifest_path(out), LARGEST_MANIFEST))
        whole = all(isinstance(entry, dict) for entry in (found, found["output"], *_entries(found)))
        return found if whole and found["program"] == _PROGRAM else None
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return None


def _entries(manifest: Mapping[str, Any]) -> list[dict[str, Any]]:
    return [entry for part in ("broken", "duplicates", "images") for entry in manifest[part]]


def _identity(plan: Plan, request: Request) -> dict[str, Any]:
    """The entries that two manifests of the same file share: the arguments and the sources."""
    return {
        "program": _PROGRAM,
        "format": _FORMAT,
        "command": plan.command,
        "arguments": request.arguments(plan),
        **({_NAMED: True} if plan.own_names(request) else {}),
        "sources": [dict(source) for source in plan.sources],
        "candidates": {"count": len(plan.candidates), "sha256": plan.digest()},
    }


def _other(key: str, was: Any, now: Any) -> str:
    if key != "arguments" or not isinstance(was, dict):
        return f"another {key}" if key in ("format", "command") else f"other {key}"
    was, now = (UNSAID | part for part in (was, now))
    return ", ".join(
        f"{name} {was.get(name)!r}, not {now.get(name)!r}" for name in was | now if was.get(name) != now.get(name)
    )


def _sum(plan: Plan, candidate: Candidate) -> str | None:
    try:
        return hashlib.sha256(plan.read(candidate)).hexdigest()
    except DataError:
        return None
