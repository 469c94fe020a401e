"""Kinds of label noise against their definitions, and labels from files as people have them."""

import pickle
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from scipy.special import softmax
from scipy.stats import truncnorm

from data_loader.cifar10 import load_cifar10
from data_loader.dataset import ImageDataset
from data_loader.noise import transition_matrix
from data_loader.splits import Splits
from tests.conftest import ROOT
from tests.runs import SMALL, run
from tests.test_data import CIFAR10_CLASSES, dataset, noisy, split
from utils.errors import ConfigError, DataError, UserError
from utils.seeding import generator

FORTY = np.array([3, 1, 4, 1, 5, 9, 2, 6] * 5)  # labels of `people`'s images that are no test images


def realised(data: ImageDataset, splits: Splits, **noise: object) -> torch.Tensor:
    """The transition matrix of the training split."""
    train = splits.train
    return transition_matrix(data.labels[train], noisy(data, splits, **noise)[train], len(data.classes))


# --- kinds -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("rate", [0.0, 0.2, 0.45, 0.8])
def test_pairs_flip_to_the_next_class(rate: float) -> None:
    data = dataset(5000)
    expected = (1 - rate) * np.eye(10) + rate * np.roll(np.eye(10), 1, axis=1)
    matrix = realised(data, split(data), type="pair_flip", rate=rate)
    np.testing.assert_allclose(matrix.numpy(), expected, atol=0.5 / 400)  # rounded to whole images of each class


def test_pairs_flip_over_a_class_without_images() -> None:
    data = dataset(2000, 5)
    data.labels[data.labels == 2] = 1
    matrix = realised(data, split(data), type="pair_flip", rate=1.0)
    assert [row.nonzero().flatten().tolist() for row in matrix] == [[1], [3], [], [4], [0]]


def test_a_map_names_the_pairs_of_any_dataset() -> None:
    data = dataset(2000, 4)
    splits = split(data)
    one_way = {"class 1": "class 3", "class 0": "class 1"}
    matrix = realised(data, splits, type="asymmetric", rate=0.25, map=one_way)
    expected = torch.eye(4, dtype=torch.float64)
    expected[0], expected[1] = torch.tensor([0.75, 0.25, 0, 0]), torch.tensor([0, 0.75, 0, 0.25])
    torch.testing.assert_close(matrix, expected, atol=0.002, rtol=0)
    other_order = dict(reversed(one_way.items()))
    given = [noisy(data, splits, type="asymmetric", rate=0.25, map=each) for each in (one_way, other_order)]
    assert torch.equal(*given)


def test_the_map_of_cifar10_is_its_default() -> None:
    data = dataset()
    look_alikes = {"bird": "airplane", "cat": "dog", "deer": "horse", "dog": "cat", "truck": "automobile"}
    given = [noisy(data, split(data), type="asymmetric", rate=0.4, map=each) for each in (None, look_alikes)]
    assert torch.equal(*given)


@pytest.mark.parametrize("pair", [{"cta": "dog"}, {"dog": "cta"}])
def test_a_map_of_unknown_classes(pair: dict[str, str]) -> None:
    with pytest.raises(
        ConfigError, match=r"label_noise.map: made up has no class 'cta', only .*; did you mean 'cat'\?$"
    ):
        noisy(dataset(), split(dataset()), type="asymmetric", rate=0.4, map=pair)


@pytest.mark.parametrize("kind", ["symmetric", "pair_flip", "instance"])
def test_one_class_has_no_other_label(kind: str) -> None:
    data = dataset(100, 1)
    with pytest.raises(ConfigError, match="a dataset of one class"):
        noisy(data, split(data), type=kind, rate=0.2)
    assert torch.equal(noisy(data, split(data), type=kind, rate=0.0), data.labels), "no noise needs no other label"


def algorithm_2(data: ImageDataset, part: torch.Tensor, name: str, seed: int, rate: float) -> list[int]:
    """Algorithm 2 of Xia et al. 2020, image by image as it is printed, with the draws of a run at `seed`."""
    uniform = torch.rand(2, len(part), dtype=torch.float64, generator=generator(seed, f"label noise {name}")).numpy()
    shared = generator(seed, "label noise")
    pixels = data.images.double().numpy() / 255
    axes = (0, 2, 3)
    x = (pixels - pixels.mean(axes, keepdims=True)) / pixels.std(axes, keepdims=True)
    classes = len(data.classes)
    w = [torch.randn(x[0].size, classes, dtype=torch.float64, generator=shared).numpy() for _ in range(classes)]
    q = truncnorm.ppf(uniform[0], (0 - rate) / 0.1, (1 - rate) / 0.1, loc=rate, scale=0.1)
    given = []
    for i, position in enumerate(part.tolist()):
        y = int(data.labels[position])
        p = x[position].ravel() @ w[y]
        p[y] = -np.inf
        p = q[i] * softmax(p)
        p[y] = 1 - q[i]
        assert p.sum() == pytest.approx(1)
        given.append(int(np.searchsorted(np.cumsum(p), uniform[1, i])))
    return given


@pytest.mark.parametrize("rate", [0.1, 0.4, 0.8])
def test_noise_of_the_image_is_the_paper_s_algorithm(rate: float, monkeypatch: pytest.MonkeyPatch) -> None:
    data = dataset(600, 6)
    data.images[:] = (data.images // 16) + 100  # so little contrast that no softmax is all on one class
    splits = split(data)
    given = noisy(data, splits, seed=3, type="instance", rate=rate)
    for name in ("train", "val"):
        part = splits.named()[name]
        assert given[part].tolist() == algorithm_2(data, part, name, 3, rate)
    assert torch.equal(given[splits.test], data.labels[splits.test])
    assert torch.equal(given, noisy(data, splits, seed=3, type="instance", rate=rate))
    assert not torch.equal(given, noisy(data, splits, seed=4, type="instance", rate=rate))
    monkeypatch.setattr("data_loader.noise._NUMBERS_AT_ONCE", 7 * data.images[0].numel())
    assert torch.equal(given, noisy(data, splits, seed=3, type="instance", rate=rate)), "read in parts of seven images"


@pytest.mark.parametrize("rate", [0.2, 0.5, 0.8])
def test_noise_of_the_image_has_its_rate_in_every_class(rate: float) -> None:
    data = dataset(10_000, 5)
    matrix = realised(data, split(data), type="instance", rate=rate)
    expected = 1 - truncnorm.mean((0 - rate) / 0.1, (1 - rate) / 0.1, loc=rate, scale=0.1)
    # 1,600 images a class: the standard error of a share is 0.0125 at most
    np.testing.assert_allclose(matrix.diagonal().numpy(), np.full(5, expected), atol=0.05)
    assert (matrix > 0).all(), "some class is never given"


def test_equal_images_get_the_same_wrong_class_in_both_splits() -> None:
    """Of pixels of full contrast nearly all softmax is on one class, which the image decides."""
    data = dataset(2000, 10)
    data.images[:] = data.images[:10].repeat(200, 1, 1, 1)  # one image of each class
    splits = split(data)
    given = noisy(data, splits, type="instance", rate=0.8)

    def usual(part: torch.Tensor, true: int) -> int:
        of_class = given[part][data.labels[part] == true]
        return int(of_class[of_class != true].mode().values)

    assert sum(usual(splits.train, true) == usual(splits.val, true) for true in range(10)) >= 9


def test_noise_of_the_image_at_no_rate_is_none() -> None:
    data = dataset()
    assert torch.equal(noisy(data, split(data), type="instance", rate=0.0), data.labels)


# --- files -----------------------------------------------------------------------------------------------------------


def people() -> ImageDataset:
    """Fifty images, the last ten its own test images, as CIFAR10 has them."""
    return dataset(50, 10, own_test=10)


def parts(data: ImageDataset) -> Splits:
    return Splits(torch.arange(30), torch.arange(30, 40), torch.arange(40, 50))


def given_by(path: Path, data: ImageDataset | None = None, **more: object) -> list[int]:
    data = data or people()
    return noisy(data, parts(data), type="file", path=str(path), **more).tolist()


def human() -> dict[str, Any]:
    """As CIFAR-10N's file: one label for each training image."""
    clean = people().labels[:40].numpy()
    return {"clean_label": clean, "worse_label": FORTY, "aggre_label": (clean + 1) % 10, "random_label1": FORTY[::-1]}


WRITERS: dict[str, Callable[[Path, np.ndarray], object]] = {
    "npy": lambda path, labels: np.save(path, labels),
    "npy (N, 1)": lambda path, labels: np.save(path, labels[:, None].astype(np.uint8)),
    "npy of floats": lambda path, labels: np.save(path, labels.astype(np.float32)),
    "npz": lambda path, labels: np.savez(path, labels),
    "npz of text": lambda path, labels: np.savez(path, labels.astype(str)),
    "npz of two": lambda path, labels: np.savez(path, given_label=labels, about=np.zeros(3)),
    "csv": lambda path, labels: path.write_text("\n".join(map(str, labels)) + "\n"),
    "csv of savetxt": lambda path, labels: np.savetxt(path, labels),
    "csv with a header": lambda path, labels: path.write_text("\ufeffhuman\r\n" + "\r\n".join(map(str, labels))),
    "pt": lambda path, labels: torch.save(torch.from_numpy(labels.copy()), path),
    "pt of an array": lambda path, labels: torch.save(labels, path),
    "pt of a list": lambda path, labels: torch.save(labels.tolist(), path),
    "pt of one": lambda path, labels: torch.save({"human": labels}, path),
    "pth of pickle": lambda path, labels: path.write_bytes(pickle.dumps(labels)),
}


@pytest.mark.parametrize("form", WRITERS)
def test_a_plain_array_is_a_label_for_each_image_in_order(tmp_path: Path, form: str) -> None:
    path = tmp_path / f"labels.{form.split()[0]}"
    WRITERS[form](path, FORTY)
    assert given_by(path) == [*FORTY, *people().labels[40:].tolist()]
    whole = np.concatenate([FORTY, np.zeros(10, dtype=np.int64)])
    WRITERS[form](path, whole)
    assert given_by(path) == [*FORTY, *people().labels[40:].tolist()], "the labels of test images must stay true"


@pytest.mark.parametrize("key", ["clean_label", "worse_label", "aggre_label", "random_label1"])
@pytest.mark.parametrize("form", ["pt", "pt of tensors", "npz", "npy", "csv"])
def test_a_key_names_one_of_several(tmp_path: Path, form: str, key: str) -> None:
    path, labels = tmp_path / f"human.{form.split()[0]}", human()
    if form == "pt":
        torch.save(labels, path)
    elif form == "pt of tensors":
        torch.save({name: torch.from_numpy(array.copy()) for name, array in labels.items()}, path)
    elif form == "npz":
        np.savez(path, **labels)
    elif form == "npy":
        np.save(path, labels)  # pickles the dict
    else:
        rows = [",".join(labels), *(",".join(map(str, row)) for row in zip(*labels.values(), strict=True))]
        path.write_text("\n".join(rows))
    assert given_by(path, key=key)[:40] == labels[key].tolist()
    with pytest.raises(
        ConfigError, match=r"label_noise.key: .* has several labels; name one of 'worse_label', 'aggre_"
    ):
        given_by(path)
    with pytest.raises(ConfigError, match=r"has nothing under 'agre_label', only .*; did you mean 'aggre_label'\?$"):
        given_by(path, key="agre_label")
    other = people()
    other.labels[7] = 0
    with pytest.raises(DataError, match="made for another dataset: image 7 has the true label 0 here and 7 there"):
        given_by(path, other, key=key)


@pytest.mark.parametrize(
    "text", ["index,label\n7,1\n\n2, 9\n", "7,1\n2,9\n", "human,INDEX\n1,7\n9,2\n", ",human\n7,1\n2,9\n"]
)
def test_a_csv_of_some_images(tmp_path: Path, text: str) -> None:
    path = tmp_path / "labels.csv"
    path.write_text(text)
    expected = people().labels.tolist()
    expected[7], expected[2] = 1, 9
    assert given_by(path) == expected


@pytest.mark.parametrize("form", ["csv", "csv without a header", "npz", "npy", "pt", "pt of a list", "any zip"])
def test_labels_may_be_names_of_classes(tmp_path: Path, form: str) -> None:
    path = tmp_path / f"labels.{'x' if form == 'any zip' else form.split()[0]}"
    names = [CIFAR10_CLASSES[label] for label in FORTY]
    index = np.arange(40)[::-1]
    if form.startswith("csv"):
        header = "" if "without" in form else "index,label\n"
        path.write_text(header + "".join(f"{row}, {name}\n" for row, name in zip(index, names, strict=True)))
    elif form in ("npz", "any zip"):
        with open(path, "wb") as file:
            np.savez(file, index=index, given_label=names)
    elif form == "npy":
        np.save(path, {"index": index, "label": names})
    else:
        torch.save({"index": index, "label": names if "list" in form else np.array(names)}, path)
    assert given_by(path)[:40] == FORTY[::-1].tolist()


def test_classes_that_are_named_by_numbers(tmp_path: Path) -> None:
    """Folders 0 to 11 are sorted as text. A number in a .csv is one thing or the other; elsewhere numbers and text
    differ."""
    names = tuple(sorted(map(str, range(12))))
    data = ImageDataset(dataset(50, 10).images, torch.arange(50) % 12, names, "made up")
    text = [names[label] for label in data.labels]
    np.savez(tmp_path / "text.npz", text)
    np.savez(tmp_path / "numbers.npz", data.labels.numpy())
    for name in ("text.npz", "numbers.npz"):
        assert given_by(tmp_path / name, data) == data.labels.tolist()
    (tmp_path / "labels.csv").write_text("label\n" + "\n".join("0" * 50))
    assert given_by(tmp_path / "labels.csv", data)[:40] == [0] * 40, "0 is the label of class 0"
    (tmp_path / "labels.csv").write_text("label\n" + "\n".join(text))
    with pytest.raises(DataError, match="10 could be label 10 or the class '10', whose label is 2; save the column in"):
        given_by(tmp_path / "labels.csv", data)
    data = replace(data, classes=tuple(map(str, range(12))))
    (tmp_path / "labels.csv").write_text("\n".join(map(str, data.labels.tolist())))
    assert given_by(tmp_path / "labels.csv", data) == data.labels.tolist()


@pytest.mark.parametrize("found", [torch.tensor([10] * 30), torch.zeros(29).long(), torch.zeros(30)])
def test_noise_of_one_s_own_must_give_labels(monkeypatch: pytest.MonkeyPatch, found: torch.Tensor) -> None:
    monkeypatch.setattr("data_loader.noise.symmetric", lambda *_: found)
    with pytest.raises(ConfigError, match="symmetric must give each of 30 images a label from 0 to 9, as int64"):
        noisy(people(), parts(people()), type="symmetric", rate=0.5)


class Evil:
    def __reduce__(self) -> Any:
        return Path.touch, (Path("ran"),)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.csv", "index,label\n7,1\n3,2\n7,1\n", "image 7 is listed twice, at rows 0 and 2"),
        ("a.csv", "index,label\n7,1\n3\n", "malformed .csv (row 1 has 1 cells, and the others 2)"),
        ("a.csv", "1,2,3\n", "malformed .csv (it has 3 columns without a header)"),
        ("a.csv", "", "malformed .csv (it is empty)"),
        ("a.csv", "x,x\n1,2\n", "malformed .csv (two columns have one name)"),
        ("a.csv", b"\xff\xfe\x00", "malformed .csv"),
        ("a.csv", "index,label\n7,cat\n3,cta\n", "label must be whole numbers or names of classes, and row 1, counted "
         "from 0, has 'cta'; did you mean 'cat'?"),
        ("a.csv", "index,label\n7,1\n3,1O\n", "names of classes, and row 1, counted from 0, has '1O'"),
        ("a.csv", "index,label\n7,3\n3,cat\n", "and row 0, counted from 0, has '3'"),
        ("a.csv", "index,label\ncat,1\n", "index must be whole numbers, and row 0, counted from 0, has 'cat'"),
        ("a.csv", "index,label\n7,1.5\n", "label must be whole numbers, and row 0, counted from 0, has 1.5"),
        ("a.csv", "index,label\n7,1\n8,nan\n", "label must be whole numbers, and row 1, counted from 0, has nan"),
        ("a.csv", "index;label\n7;1\n", "row 0, counted from 0, has '7;1'; separate columns with commas"),
        ("a.csv", "index,label,split\n7,1,train\n8,1,Train\n", "split must be train, val or test, and row 1, counted "
         "from 0, has 'Train'; did you mean 'train'?"),
        ("a.csv", "index,label,split\n7,1,0\n", "split must be train, val or test, and row 0, counted from 0, has"),
        ("a.pt", {"index": [7, 7], "label": [1, 2], "split": ["train", "training"]}, "has 'training'; did you "),
        ("a.npz", {"index": [7], "given_label": ["dgo"]}, "has 'dgo'; did you mean 'dog'?"),
        ("a.npz", {"index": [7], "given_label": np.full(1, 0x7FFFFFFF, np.int32).view("<U1")}, "malformed text ("),
        ("a.txt", "1\n2\n", "a.txt: labels are read from .npz, .npy, .csv, .pt, .pth; save them as one of these"),
        ("a.json", "[1, 2]", "a.json: labels are read from .npz, .npy, .csv, .pt, .pth; save them as one of these"),
        ("a.npz", "1\n2\n", "malformed .npz (it is no zip)"),
        ("a.csv", "index,label\n7,10\n", "given_label 10 at row 0 is outside 0 to 9"),
        ("a.csv", "index,label\n50,1\n", "index 50 at row 0 is outside 0 to 49"),
        ("a.npz", {"index": [0, -(2**63), 1], "given_label": [1, 1, 1], "split": ["train", "train", "val"]},
         "index -9223372036854775808 at row 1 is outside 0 to 49"),
        ("a.csv", "index\n5\n", "it has no labels, only 'index'"),
        ("a.csv", "1\n2\n", "2 labels, but made up has 50 images, of which 40 are no test images; give one for each"),
        ("a.npy", b"no array", "malformed .npy (it is no array)"),
        ("a.npy", np.array([None] * 40), "malformed .npy (it holds objects)"),
        ("a.npy", {"a": Evil()}, "which a file of images does not need; it was not run"),
        ("a.npy", {"a": "text"}, "must be whole numbers"),
        ("a.npy", {"a": np.array({"b": FORTY})}, "must be whole numbers"),
        ("a.npy", np.zeros((40, 2), dtype=int), "must be whole numbers"),
        ("a.npy", np.full(40, 2**63, dtype=np.uint64), "must be whole numbers"),
        ("a.pt", b"PK no zip", "malformed or truncated pickle"),
        ("a.pt", {"a": Evil()}, "which was not run"),
        ("a.pt", {"a": "text"}, "must be whole numbers"),
        ("a.pt", torch.zeros(1, dtype=torch.int64).expand(40), "a tensor that repeats its numbers"),
        ("a.pt", {"label": [1, 2], "index": [4, 4]}, "image 4 is listed twice, at rows 0 and 1"),
    ],
)  # fmt: skip
def test_files_of_the_wrong_form(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, content: object, message: str
) -> None:
    monkeypatch.chdir(tmp_path)
    path = tmp_path / name
    if isinstance(content, str | bytes):
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
    elif name == "a.npy":
        np.save(path, content)
    elif name == "a.npz":
        np.savez(path, **content)
    else:
        torch.save(content, path)
    with pytest.raises(UserError) as caught:
        given_by(path)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "ran").exists()


def test_arrays_in_files_of_old_torch_are_read_and_tensors_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.pt"
    torch.save(human(), path, _use_new_zipfile_serialization=False)
    assert given_by(path, key="worse_label")[:40] == FORTY.tolist()
    torch.save(torch.from_numpy(FORTY), path, _use_new_zipfile_serialization=False)
    with pytest.raises(DataError, match="it holds tensors of torch"):
        given_by(path)


def test_cifar_10n_trains_beside_cifar10(trusted_cifar10: Path, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    data = load_cifar10(trusted_cifar10)
    assert data.own_test is not None
    clean = data.labels[: -len(data.own_test)].numpy()
    worse = np.where(np.arange(len(clean)) % 5 < 2, (clean + 3) % 10, clean)
    torch.save({"clean_label": clean, "worse_label": worse, "aggre_label": clean}, tmp_path / "CIFAR-10_human.pt")
    noise = ["type=file", f"path={tmp_path / 'CIFAR-10_human.pt'}", "key=worse_label"]
    options = [*SMALL, f"data_loader.args.data_dir={trusted_cifar10}", *(f"label_noise.{each}" for each in noise)]
    assert run("-c", ROOT / "configs" / "cifar10_bn_0noise.json", "--check", *options) == 0
    counts = [line.split() for line in capsys.readouterr().out.splitlines() if line.startswith("label noise on ")]
    assert sum(int(words[4]) for words in counts) == (worse != clean).sum()
