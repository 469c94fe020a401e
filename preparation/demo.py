"""`demo`: scikit-learn's handwritten digits, which need no download, as a file like the others."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from data_loader.pictures import Picture
from preparation.plan import Candidate, Plan


@contextmanager
def plan_demo() -> Iterator[Plan]:
    """The images of data_loader.type=Digits."""
    import sklearn

    from data_loader.digits import load_digits
    from preparation.sources import VERSIONS

    dataset = load_digits(Path())
    images = dataset.images.numpy()
    rows = {f"digit {row:04}": row for row in range(len(images))}
    candidates = [Candidate(name, int(dataset.labels[row])) for name, row in rows.items()]

    def pixels(data: bytes, candidate: Candidate) -> Picture:
        return Picture(np.frombuffer(data, np.uint8).reshape(images.shape[1:]))

    yield Plan(
        command="demo",
        options={},
        classes=dataset.classes,
        candidates=sorted(candidates, key=lambda candidate: (candidate.label, candidate.name)),
        sources=[{"name": "scikit-learn's handwritten digits", "kind": "package"}],
        versions={**VERSIONS, "scikit-learn": sklearn.__version__},
        place="scikit-learn",
        read=lambda candidate: images[rows[candidate.name]].tobytes(),
        decode=pixels,
        stamp=lambda candidate: "",
    )
