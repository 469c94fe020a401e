"""Splits, label noise and batches."""

import csv
import io
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from config_schema import Augment
from data_loader.batches import ImageBatches, PixelStats, pixel_stats
from data_loader.build import build_data
from data_loader.dataset import ImageDataset
from data_loader.digits import load_digits
from data_loader.noise import (
    CIFAR10_CONFUSIONS,
    given_labels,
    noise_record,
    transition_matrix,
    transition_table,
)
from data_loader.splits import Splits, make_splits, stratified
from parse_config import validate
from utils.errors import ConfigError, DataError

CPU = torch.device("cpu")
CIFAR10_CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")


def dataset(count: int = 1000, classes: int = 10, own_test: int = 0, seed: int = 0) -> ImageDataset:
    generator = torch.Generator().manual_seed(seed)
    labels = torch.arange(count) % classes
    images = torch.randint(0, 256, (count, 3, 8, 8), dtype=torch.uint8, generator=generator)
    names = CIFAR10_CLASSES if classes == 10 else tuple(f"class {i}" for i in range(classes))
    test = torch.arange(count - own_test, count) if own_test else None
    return ImageDataset(images, labels, names, "made up", test)


def split(data: ImageDataset, seed: int = 0, subset: float | None = None) -> Splits:
    return make_splits(data, 0.1, 0.1, subset, seed)


# --- splits --------------------------------------------------------------------------------------------------------


@settings(max_examples=30, deadline=None)
@given(st.integers(200, 2000), st.integers(2, 12), st.sampled_from([0, 0, 50, 100]), st.integers(0, 99))
def test_splits_are_disjoint_whole_stratified_and_seeded(count: int, classes: int, own: int, seed: int) -> None:
    assume(round(0.1 * (count - own)) >= classes)  # else a split has no image of some class, which is an error
    data = dataset(count, classes, own)
    splits = split(data, seed)
    joined = torch.cat(list(splits.named().values()))
    assert torch.equal(joined.sort().values, torch.arange(count))
    pool = count - own if own else count
    assert len(splits.val) == round(0.1 * pool)
    assert len(splits.test) == (own or round(0.1 * count))
    for name, part in splits.named().items():
        if own and name == "test":
            continue
        counts = data.labels[part].bincount(minlength=classes)
        assert counts.max() - counts.min() <= 2, name
    again = split(data, seed)
    assert all(torch.equal(a, b) for a, b in zip(again.named().values(), splits.named().values(), strict=True))
    assert not torch.equal(split(data, seed + 1).val, splits.val)


def test_own_test_images_are_the_test_split() -> None:
    splits = split(dataset(own_test=200))
    assert torch.equal(splits.test, torch.arange(800, 1000))
    assert len(splits.val) == 80


@pytest.mark.parametrize(("subset", "size"), [(300, 300), (0.5, 450), (1.0, 900), (900, 900)])
def test_a_subset_limits_training_and_validation_but_not_the_test(subset: float, size: int) -> None:
    data = dataset()
    whole, part = split(data), split(data, subset=subset)
    assert torch.equal(part.test, whole.test)
    assert len(part.train) + len(part.val) == size
    assert len(part.val) == round(size / 9)


def test_shares_that_cannot_be_had() -> None:
    with pytest.raises(ConfigError, match="901 images of only 900"):
        split(dataset(), subset=901)
    with pytest.raises(ConfigError, match="leave nothing to train on"):
        make_splits(dataset(), 0.5, 0.5, None, 0)
    with pytest.raises(DataError, match=r"cannot take 0 of"):
        split(dataset(4, 2))


@pytest.mark.parametrize(("classes", "left"), [(3, 1), (3, 2), (10, 9), (10, 1), (10, 11)])
def test_what_a_subset_leaves_out_needs_no_image_of_each_class(classes: int, left: int) -> None:
    data = dataset(300, classes)
    whole = split(data)
    size = len(whole.train) + len(whole.val) - left
    part = split(data, subset=size)
    assert len(part.train) + len(part.val) == size
    assert torch.equal(part.test, whole.test)
    tested = make_splits(data, 0.1, 0.1, None, 0, test_subset=30 - left) if left < 30 - classes else whole
    assert set(tested.test.tolist()) <= set(whole.test.tolist())
    assert len(tested.test) == (30 - left if left < 30 - classes else 30)
    assert torch.equal(tested.train, whole.train)


def test_a_subset_is_the_same_as_ever() -> None:
    """Splits of an earlier version, at which a checkpoint may be."""
    splits = split(dataset(60, 3), subset=40)
    assert splits.val.tolist() == [4, 16, 30, 44]
    assert splits.train[:8].tolist() == [0, 1, 2, 3, 5, 6, 7, 8]


@pytest.mark.parametrize(
    ("count", "shares", "message"),
    [
        (32, {"subset": 2}, "2 of 26 images for subset: the 3 classes 'class 0', 'class 1', 'class 2' must each have "
         "one of them; raise data_loader.args.subset, or add images"),
        (32, {"test_subset": 2}, "2 of 6 images for test subset: the 3 classes 'class 0', 'class 1', 'class 2' must "
         "each have one of them; raise data_loader.args.test_subset, or add images"),
        (32, {"validation_split": 1e-9}, "0 of 26 images for validation: the 3 classes 'class 0', 'class 1', 'class 2' "
         "must each have one of them; raise data_loader.args.validation_split, or add images"),
        (32, {"test_split": 1e-9}, "0 of 32 images for test: the 3 classes 'class 0', 'class 1', 'class 2' must each "
         "have one of them; raise data_loader.args.test_split, or add images"),
        (32, {"test_split": 0.94, "validation_split": 0.01}, "30 of 32 images for test: the 3 classes 'class 0', "
         "'class 1', 'class 2' must each have one of the 2 others; lower data_loader.args.test_split, or add images"),
        (5, {"test_split": 0.6, "validation_split": 0.2}, "3 of 5 images for test: class 'class 2' has only one image, "
         "and data_loader.args.test_split divides each class in two; add images of it, raise data_loader.args.subset "
         "if it is set, or take the class away"),
    ],
)  # fmt: skip
def test_too_few_images_to_take_are_said_by_setting_and_class(count: int, shares: dict, message: str) -> None:
    every = {"validation_split": 0.2, "test_split": 0.2, "subset": None, **shares}
    with pytest.raises(DataError) as caught:
        make_splits(dataset(count, 3), **every, seed=0)
    assert str(caught.value) == f"made up: cannot take {message}"


def test_a_class_missing_from_a_split_is_an_error() -> None:
    data = dataset(200, 2)
    data.labels[:] = 0
    data.labels[:3] = 1
    with pytest.raises(DataError, match=r"split \(20 images\) has none of class 'class 1', of which .* 3"):
        split(data)


def test_a_class_without_any_image_is_no_error() -> None:
    data = dataset(200, 4)
    data.labels[data.labels == 3] = 2
    assert len(split(data).train) == 160


# --- label noise ---------------------------------------------------------------------------------------------------


def noisy(data: ImageDataset, splits: Splits, seed: int = 0, **options: object) -> torch.Tensor:
    """The given labels (N,) of the whole dataset."""
    given = data.labels.clone()
    noise = validate({"name": "x", "label_noise": options}, "test").label_noise
    for name, labels in given_labels(data, splits, noise, seed).items():
        given[splits.named()[name]] = labels
    return given


def by_split(given: torch.Tensor, splits: Splits) -> dict[str, torch.Tensor]:
    return {name: given[part] for name, part in splits.named().items()}


@pytest.mark.parametrize("rate", [0.0, 0.1, 0.2, 0.33, 1.0])
def test_symmetric_noise_changes_exactly_its_share_of_each_split(rate: float) -> None:
    data = dataset(3000)
    splits = split(data)
    given = noisy(data, splits, rate=rate)
    for name, part in splits.named().items():
        wrong = int((given[part] != data.labels[part]).sum())
        assert wrong == (0 if name == "test" else round(rate * len(part)))


def test_symmetric_noise_is_uniform_over_the_other_classes() -> None:
    data = dataset(50_000, 5)
    splits = split(data)
    given = noisy(data, splits, rate=1.0)
    matrix = transition_matrix(data.labels[splits.train], given[splits.train], 5)
    assert matrix.diagonal().sum() == 0
    off = matrix[~torch.eye(5, dtype=torch.bool)]
    # 8,000 draws a class: the standard error of a share of 1/4 is 0.005
    assert (off - 0.25).abs().max() < 0.025


def test_noise_over_all_classes_hits_the_true_one_too() -> None:
    data = dataset(50_000)
    splits = split(data)
    given = noisy(data, splits, rate=0.2, include_true_class=True)
    wrong = (given[splits.train] != data.labels[splits.train]).double().mean().item()
    assert wrong == pytest.approx(0.18, abs=0.005)


def test_noise_gives_no_label_of_a_class_that_has_no_images() -> None:
    data = dataset(2000, 6)
    data.labels[data.labels == 2] = 1
    splits = split(data)
    given = noisy(data, splits, rate=1.0)
    assert 2 not in given.unique().tolist()
    assert (given[splits.train] != data.labels[splits.train]).all()


def test_asymmetric_noise_follows_the_pairs() -> None:
    data = dataset(10_000)
    splits = split(data)
    given = noisy(data, splits, type="asymmetric", rate=0.4)
    train = splits.train
    matrix = transition_matrix(data.labels[train], given[train], 10)
    for row, name in enumerate(CIFAR10_CLASSES):
        expected = torch.zeros(10, dtype=torch.float64)
        expected[row] = 1.0
        if name in CIFAR10_CONFUSIONS:
            expected[row] = 0.6
            expected[CIFAR10_CLASSES.index(CIFAR10_CONFUSIONS[name])] = 0.4
        torch.testing.assert_close(matrix[row], expected, atol=0.001, rtol=0)
    with pytest.raises(ConfigError, match="lacks airplane"):
        noisy(dataset(200, 4), split(dataset(200, 4)), type="asymmetric", rate=0.4)


def test_noise_of_one_split_does_not_depend_on_another() -> None:
    data = dataset()
    splits = split(data)
    both, train_only = noisy(data, splits, rate=0.2), noisy(data, splits, rate=0.2, on_validation=False)
    assert torch.equal(both[splits.train], train_only[splits.train])
    assert torch.equal(train_only[splits.val], data.labels[splits.val])
    assert not torch.equal(noisy(data, splits, seed=1, rate=0.2), both)
    assert torch.equal(noisy(data, splits, rate=0.2), both)


def test_noise_of_a_run_can_be_given_to_another(tmp_path: Path) -> None:
    data = dataset()
    splits = split(data)
    given = noisy(data, splits, rate=0.2)
    path = tmp_path / "noise.npz"
    path.write_bytes(noise_record(data, splits, by_split(given, splits)))
    with np.load(path, allow_pickle=False) as record:
        assert set(record["split"].tolist()) == {"train", "val"}
        assert np.array_equal(record["true_label"], data.labels[record["index"]])
        torch.testing.assert_close(
            torch.from_numpy(record["transition_matrix"]),
            transition_matrix(data.labels[splits.train], given[splits.train], 10),
        )
    assert torch.equal(noisy(data, splits, seed=5, type="file", path=str(path)), given)
    other = split(data, seed=9)
    elsewhere = noisy(data, other, type="file", path=str(path))
    assert torch.equal(elsewhere[other.test], data.labels[other.test]), "noise has reached the test labels"
    assert torch.equal(
        elsewhere[other.train], given.where(~torch.isin(torch.arange(1000), splits.test), data.labels)[other.train]
    )


@pytest.mark.parametrize(
    ("arrays", "part"),
    [
        (None, "there is no noise file"),
        ({"index": [0, 1]}, "expected the arrays 'index' and 'given_label'"),
        ({"index": [0, 1], "given_label": [1]}, "one row each"),
        ({"index": [0.5], "given_label": [1]}, "whole numbers"),
        ({"index": [0, 1000], "given_label": [1, 1]}, "index 1000 at row 1 is outside 0 to 999"),
        ({"index": [0, 1], "given_label": [1, -1]}, "given_label -1 at row 1 is outside 0 to 9"),
        ({"index": [4, 3, 4], "given_label": [1, 1, 1]}, "image 4 is listed twice, at rows 0 and 2"),
        (
            {"index": [4, 4, 4], "given_label": [1, 2, 2], "split": ["val", "train", "train"]},
            "image 4 is listed twice, at rows 1 and 2",
        ),
        ({"index": [0, 1], "given_label": [1, 1], "true_label": [0, 2]}, "made for another dataset: image 1"),
        ({"index": np.array([None]), "given_label": [1]}, "malformed .npz"),
        (np.zeros(3), "malformed .npz"),
    ],
)
def test_noise_files_of_the_wrong_form(tmp_path: Path, arrays: dict | np.ndarray | None, part: str) -> None:
    path = tmp_path / "noise.npz"
    if isinstance(arrays, np.ndarray):
        with open(path, "wb") as file:
            np.save(file, arrays)
    elif arrays is not None:
        np.savez(path, **{key: np.asarray(value) for key, value in arrays.items()})
    with pytest.raises(DataError) as caught:
        noisy(dataset(), split(dataset()), type="file", path=str(path))
    assert part in str(caught.value)


def test_transition_table_is_readable_csv() -> None:
    data = dataset()
    splits = split(data)
    given = by_split(noisy(data, splits, rate=0.2), splits)
    rows = list(csv.reader(io.StringIO(transition_table(data, splits, given))))
    assert rows[0] == ["true", *CIFAR10_CLASSES]
    assert [row[0] for row in rows[1:]] == list(CIFAR10_CLASSES)
    assert all(sum(map(float, row[1:])) == pytest.approx(1.0, abs=1e-4) for row in rows[1:])


# --- batches -------------------------------------------------------------------------------------------------------


def loader(data: ImageDataset, *, augment: Augment | None = None, batch_size: int = 64, seed: int = 0) -> ImageBatches:
    true = data.labels
    return ImageBatches(
        data.images, (true + 1) % 10, true, pixel_stats(data.images), batch_size, CPU, augment=augment, seed=seed
    )


def raw(batches: ImageBatches, images: torch.Tensor, stats: PixelStats) -> torch.Tensor:
    """uint8 pixels of normalised images."""
    return ((images.double() * stats.std.view(3, 1, 1) + stats.mean.view(3, 1, 1)) * 255).round().to(torch.uint8)


def test_channel_statistics_are_those_of_the_pixels() -> None:
    images = dataset(500).images
    stats = pixel_stats(images)
    pixels = images.double().div(255).transpose(0, 1).flatten(1)
    torch.testing.assert_close(stats.mean, pixels.mean(1))
    torch.testing.assert_close(stats.std, pixels.std(1, correction=0))


def test_batches_in_order_are_the_images_normalised() -> None:
    data = dataset(150)
    batches = loader(data)
    seen = list(batches.batches())
    assert [len(batch.given) for batch in seen] == [64, 64, 22]
    assert (len(batches), batches.sample_count) == (3, 150)
    joined = torch.cat([batch.images for batch in seen])
    assert torch.equal(raw(batches, joined, pixel_stats(data.images)), data.images)
    assert torch.equal(torch.cat([batch.true for batch in seen]), data.labels)
    assert torch.equal(torch.cat([batch.given for batch in seen]), (data.labels + 1) % 10)
    torch.testing.assert_close(joined.mean((0, 2, 3)), torch.zeros(3), atol=1e-4, rtol=0)
    torch.testing.assert_close(joined.var((0, 2, 3), correction=0), torch.ones(3), atol=1e-4, rtol=0)


def test_every_epoch_has_every_image_once_in_another_order() -> None:
    data = dataset(200)
    data.images[:] = 0
    data.images[:, 0, 0, 0] = torch.arange(200, dtype=torch.uint8)
    batches = loader(data, augment=Augment(crop_padding=0, horizontal_flip=False))
    stats = pixel_stats(data.images)

    def order(epoch: int) -> list[int]:
        return [int(i) for b in batches.batches(epoch) for i in raw(batches, b.images, stats)[:, 0, 0, 0]]

    assert sorted(order(1)) == list(range(200))
    assert order(1) != order(2)
    assert order(1) == order(1)
    for batch in batches.batches(3):
        positions = raw(batches, batch.images, stats)[:, 0, 0, 0].long()
        assert torch.equal(batch.true, data.labels[positions])


def test_augmentation_is_a_crop_of_the_padded_image_and_a_flip() -> None:
    data = dataset(60)
    padding = 3
    batches = loader(data, augment=Augment(crop_padding=padding, horizontal_flip=True))
    stats = pixel_stats(data.images)
    padded = torch.nn.functional.pad(data.images, (padding,) * 4)
    crops = {}
    for i in range(60):
        for top in range(2 * padding + 1):
            for left in range(2 * padding + 1):
                crop = padded[i, :, top : top + 8, left : left + 8]
                crops[crop.numpy().tobytes()] = (i, top, left, False)
                crops[crop.flip(2).numpy().tobytes()] = (i, top, left, True)
    draws = []
    for epoch in range(1, 21):
        for batch in batches.batches(epoch):
            for image in raw(batches, batch.images, stats):
                draws.append(crops[image.contiguous().numpy().tobytes()])  # KeyError: no crop of any image
    flips = np.mean([flip for *_, flip in draws])
    assert abs(flips - 0.5) < 0.08  # 1,200 draws: five standard errors
    for axis in (1, 2):
        counts = np.bincount([draw[axis] for draw in draws], minlength=2 * padding + 1)
        assert counts.min() > 0.6 * len(draws) / (2 * padding + 1)


def test_a_resumed_epoch_skips_just_the_batches_it_has_seen() -> None:
    batches = loader(dataset(300), augment=Augment())
    whole, rest = list(batches.batches(4)), list(batches.batches(4, first=2))
    assert len(rest) == len(whole) - 2
    for a, b in zip(whole[2:], rest, strict=True):
        assert all(torch.equal(x, y) for x, y in zip(a, b, strict=True))
    assert list(batches.batches(4, first=len(batches))) == []


def test_seeds_and_purposes_draw_apart() -> None:
    data = dataset(200)
    one, two = (next(loader(data, augment=Augment(), seed=seed).batches(1)) for seed in (0, 1))
    assert not torch.equal(one.true, two.true)


def test_a_last_batch_of_one_image_joins_the_one_before_in_training() -> None:
    data = dataset(129)
    assert [len(b.given) for b in loader(data, augment=Augment()).batches(1)] == [64, 65]
    assert [len(b.given) for b in loader(data).batches()] == [64, 64, 1]
    assert [len(b.given) for b in loader(data, augment=Augment(), batch_size=1).batches(1)][-2:] == [1, 2]


def test_a_constant_channel_stays_finite() -> None:
    data = dataset(64)
    data.images[:, 1] = 7
    assert torch.isfinite(next(loader(data).batches()).images).all()


def test_channels_last_batches() -> None:
    data = dataset(64)
    stats = pixel_stats(data.images)
    batches = ImageBatches(data.images, data.labels, data.labels, stats, 64, CPU, channels_last=True)
    images = next(batches.batches()).images
    assert images.is_contiguous(memory_format=torch.channels_last)
    assert torch.equal(images, next(loader(data).batches()).images)


# --- together ------------------------------------------------------------------------------------------------------


def test_arms_at_one_seed_see_the_same_data(coco_dir: Path) -> None:
    def data(norm: str):
        values = {
            "name": "x",
            "arch": {"args": {"norm": norm}},
            "data_loader": {"type": "TinyCOCO", "args": {"data_dir": str(coco_dir), "batch_size": 16}},
            "label_noise": {"rate": 0.2},
        }
        return build_data(validate(values, "test"), CPU)

    bn, conv = data("bn"), data("conv")
    assert bn.noisy
    assert torch.equal(bn.all_given(), conv.all_given())
    for a, b in zip(bn.train.batches(3), conv.train.batches(3), strict=True):
        assert all(torch.equal(x, y) for x, y in zip(a, b, strict=True))
    assert [len(part) for part in bn.splits.named().values()] == [80, 10, 10]
    torch.testing.assert_close(bn.stats.mean, pixel_stats(bn.dataset.images[bn.splits.train]).mean)


# --- what is done without scikit-learn, whose import takes longer than a first step ----------------------------------


@settings(deadline=None, max_examples=60)
@given(st.lists(st.integers(2, 30), min_size=1, max_size=7), st.floats(0, 1), st.integers(0, 2**32 - 1))
def test_a_stratified_split_is_scikit_learns_draw_for_draw(sizes: list[int], share: float, state: int) -> None:
    from sklearn.model_selection import train_test_split

    members = np.random.default_rng(state).permutation(np.repeat(np.arange(len(sizes)), sizes))
    count = round(len(sizes) + share * (len(members) - 2 * len(sizes)))
    theirs = train_test_split(np.arange(len(members)), test_size=count, stratify=members, random_state=state)
    ours = stratified(members, np.array(sizes), count, state)
    assert [part.tolist() for part in ours] == [part.tolist() for part in theirs]


def test_the_digits_are_those_that_scikit_learn_loads() -> None:
    from sklearn.datasets import load_digits as load

    theirs, ours = load(), load_digits(Path())
    assert ours.labels.tolist() == theirs.target.tolist()
    corners = ours.images[:, 0, ::31, ::31].double() * 16 / 255  # which interpolation leaves as they are
    assert (corners - torch.tensor(theirs.images[:, ::7, ::7])).abs().max() < 0.04
