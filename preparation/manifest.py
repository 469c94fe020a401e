"""The manifest beside a dataset file: what it was made from, image by image, and how."""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from preparation.plan import Candidate, Outcome, Plan, Request, Selection, counts
from preparation.store import FORMAT
from utils.errors import DataError
from utils.files import sha256_of_file
from utils.progress import Bar


def manifest_path(out: Path) -> Path:
    return out.with_name(f"{out.name}.manifest.json")


def make_manifest(
    plan: Plan, request: Request, selection: Selection, outcomes: Mapping[int, Outcome], packed: Path
) -> dict[str, Any]:
    """No dates, and no paths but within the source: the same wherever and whenever it is made."""

    def entry(position: int, **more: Any) -> dict[str, Any]:
        return {**plan.candidates[position].entry(), "sha256": outcomes[position].source, **more}

    return {
        **_identity(plan, request),
        "versions": dict(plan.versions),
        "output": {
            "name": request.out.name,
            "bytes": packed.stat().st_size,
            "sha256": sha256_of_file(packed),
        },
        "classes": [
            {"label": label, "name": plan.classes[label], "images": count}
            for label, count in enumerate(counts(plan, selection))
        ],
        "broken": [entry(position, fault=outcomes[position].fault) for position in selection.broken],
        "duplicates": [entry(position, same_as=plan.candidates[twin].key()) for position, twin in selection.duplicates],
        "images": [entry(position) for position in selection.chosen],
    }


def dump(manifest: Mapping[str, Any]) -> bytes:
    """JSON with a line for each image."""
    parts = []
    for key, value in manifest.items():
        if isinstance(value, list) and value:
            lines = ",\n".join("    " + json.dumps(item) for item in value)
            parts.append(f"  {json.dumps(key)}: [\n{lines}\n  ]")
        else:
            parts.append(f"  {json.dumps(key)}: {json.dumps(value)}")
    return ("{\n" + ",\n".join(parts) + "\n}\n").encode()


def difference(plan: Plan, request: Request) -> str | None:
    """Why the file at `request.out` is not what `request` makes of the sources as they are; None if it is."""
    manifest = _read(request.out)
    if manifest is None:
        return "there is no manifest beside it that says what it was made from"
    for key, value in json.loads(json.dumps(_identity(plan, request))).items():
        if manifest.get(key) != value:
            return f"it was made with {_other(key, manifest.get(key), value)}"
    # The checksum of a zip has been compared; of a folder, only the names of its files.
    if any(source["kind"] == "folder" for source in plan.sources):
        sums = {
            _key(entry): entry.get("sha256") for part in ("broken", "duplicates", "images") for entry in manifest[part]
        }
        for candidate in Bar(plan.candidates, desc="checking", unit="image", leave=False):
            if candidate.key() in sums and _sum(plan, candidate) != sums[candidate.key()]:
                return f"{candidate.name} is not the image it was made from"
    return None


def _identity(plan: Plan, request: Request) -> dict[str, Any]:
    """What was asked for, and of which sources."""
    return {
        "program": "prepare_data.py",
        "format": FORMAT,
        "command": plan.command,
        "arguments": request.arguments(plan),
        "sources": [dict(source) for source in plan.sources],
        "candidates": {"count": len(plan.candidates), "sha256": plan.digest()},
    }


def _other(key: str, was: Any, now: Any) -> str:
    if key != "arguments" or not isinstance(was, dict):
        return f"another {key.removesuffix('s')}" if key in ("program", "format", "command") else f"other {key}"
    return ", ".join(f"{name} {was.get(name)!r}, not {now[name]!r}" for name in now if was.get(name) != now[name])


def is_other_file(path: Path) -> bool:
    """Whether something lies at `path` that is no manifest."""
    try:
        found = json.loads(path.read_bytes())
        return not isinstance(found, dict) or found.get("program") != "prepare_data.py"
    except FileNotFoundError:
        return False
    except (OSError, ValueError, RecursionError):
        return True


def _read(out: Path) -> dict[str, Any] | None:
    """The manifest of `out`, or None where there is none, or `out` is not the file that it speaks of."""
    try:
        manifest = json.loads(manifest_path(out).read_bytes())
        lists = all(isinstance(entry, dict) for part in ("broken", "duplicates", "images") for entry in manifest[part])
        return manifest if lists and manifest["output"]["sha256"] == sha256_of_file(out) else None
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return None


def _key(entry: Mapping[str, Any]) -> str:
    return Candidate(entry.get("name", ""), 0, entry.get("annotation")).key()


def _sum(plan: Plan, candidate: Candidate) -> str | None:
    try:
        return hashlib.sha256(plan.read(candidate)).hexdigest()
    except DataError:
        return None
