"""Splits that keep every class, and that do not move when examples are added."""

import numpy as np
import pytest
from PIL import Image

from capsjax import data
from capsjax.data.splits import SPLIT_SEED, few_of_each_class
from capsjax.errors import UserError
from tests.data.made import image_set, numbered, numbers


def save(root, names, seed=0):
    """Random images under these names, all different."""
    rng = np.random.default_rng(seed)
    for name in names:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(0, 256, (5, 5), np.uint8)).save(path)


def names(*classes, n=60):
    return [f"{name}/{i}.png" for name in classes for i in range(n)]


def load(root, **options):
    return data.load("folder", path=str(root), **options)


def contents(image_set):
    return {image.tobytes() for image in image_set.images}


@pytest.mark.parametrize("counts", [(200, 2), (500, 3, 2), (100, 50, 2, 2)])
@pytest.mark.parametrize("num_held_out", [20, 40])
def test_rare_classes_are_in_both_parts(counts, num_held_out):
    """Proportional shares of 2 in 202 examples round to none of them."""
    labels = np.repeat(np.arange(len(counts)), counts).astype(np.int32)
    images = np.zeros((len(labels), 1, 1, 1), np.uint8)
    rest, held_out = data.carve(data.ImageSet(images, labels), num_held_out, SPLIT_SEED)
    assert len(held_out) == num_held_out
    assert len(rest) == len(labels) - num_held_out
    for part in (rest, held_out):
        assert np.bincount(part.labels, minlength=len(counts)).min() >= 1
    share = np.bincount(held_out.labels)[0] / counts[0]
    assert abs(share - num_held_out / sum(counts)) < 0.03


@pytest.mark.parametrize("split", ["content", "random"])
def test_rare_classes_of_ones_own_images(split, tmp_path):
    save(tmp_path, names("common", n=200) + names("rare", n=3))
    found = load(tmp_path, split=split, validation_examples=20)
    for part in (found.train, found.validation, found.test):
        assert np.bincount(part.labels, minlength=2).min() == 1
    (tmp_path / "rare/0.png").unlink()
    with pytest.raises(UserError, match=r"validation_examples=20 .*class 1 has a sin"):
        load(tmp_path, split=split, validation_examples=20)


def test_added_removed_and_renamed_images_move_no_others(tmp_path):
    save(tmp_path, names("cat", "dog"))
    before = load(tmp_path)

    save(tmp_path, [f"cat/new{i}.png" for i in range(40)], seed=1)
    (tmp_path / "dog/0.png").unlink()
    (tmp_path / "dog/1.png").rename(tmp_path / "dog/zzz.png")
    (tmp_path / "cat").rename(tmp_path / "kitten")
    after = load(tmp_path)

    assert len(after.train) + len(after.test) == 159
    assert not contents(before.train) & contents(after.test)
    assert not contents(before.test) & contents(after.train)
    assert 15 <= len(after.test) <= 55  # 32 are expected, with a deviation of 5.
    assert before.content != after.content


def test_added_images_move_few_validation_images(tmp_path):
    save(tmp_path, names("cat", "dog"))
    before = load(tmp_path, validation_examples=20)
    save(tmp_path, ["cat/new.png"], seed=1)
    after = load(tmp_path, validation_examples=20)
    assert len(contents(before.validation) & contents(after.validation)) >= 19


def test_copies_lie_on_one_side(tmp_path):
    save(tmp_path, names("cat", "dog"))
    for name in names("cat"):
        (tmp_path / name).with_suffix(".copy.png").write_bytes(
            (tmp_path / name).read_bytes()
        )
    found = load(tmp_path)
    assert len(found.train) + len(found.test) == 180
    assert not contents(found.train) & contents(found.test)


def test_npz_splits_do_not_move_either(tmp_path):
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (300, 4, 4), np.uint8)
    labels = np.arange(300) % 3
    found = []
    for n in (300, 200):
        np.savez(tmp_path / "set.npz", images=images[:n], labels=labels[:n])
        found.append(data.load("npz", path=str(tmp_path / "set.npz")))
    whole, part = found
    assert not contents(part.train) & contents(whole.test)
    assert not contents(part.test) & contents(whole.train)


def test_the_random_split_is_that_of_earlier_versions(tmp_path):
    """A fifth of each class by scikit-learn, as runs without this field had."""
    from sklearn.model_selection import train_test_split

    save(tmp_path, names("cat", "dog", n=25))
    found = load(tmp_path, split="random")
    _, wanted = train_test_split(
        np.arange(50), test_size=10, stratify=np.repeat([0, 1], 25), random_state=0
    )
    order = [n for name in ("cat", "dog") for n in sorted(names(name, n=25))]
    stored = [np.asarray(Image.open(tmp_path / order[i])) for i in np.sort(wanted)]
    np.testing.assert_array_equal(found.test.images[..., 0], stored)


def test_unknown_split(tmp_path):
    save(tmp_path, names("cat"))
    with pytest.raises(
        UserError,
        match=r"config\.data\.split 'contents'; choose one of",
    ):
        load(tmp_path, split="contents")


def test_carve_is_a_stratified_partition():
    whole = image_set([0] * 60 + [1] * 30 + [2] * 10)
    rest, held_out = data.carve(whole, 20, seed=3)

    assert np.bincount(held_out.labels).tolist() == [12, 6, 2]
    parts = [*rest.images, *held_out.images]
    keys = sorted(image.tobytes() for image in parts)
    assert keys == sorted(image.tobytes() for image in whole.images)
    by_image = {
        image.tobytes(): label
        for image, label in zip(whole.images, whole.labels, strict=True)
    }
    for part in (rest, held_out):
        for image, label in zip(part.images, part.labels, strict=True):
            assert by_image[image.tobytes()] == label


def test_carve_depends_on_the_seed_alone_and_keeps_the_order():
    whole = numbered(100)
    rest, held_out = data.carve(whole, 30, seed=3)
    again, again_held_out = data.carve(whole, 30, seed=3)
    assert numbers(rest.images) == numbers(again.images) == sorted(numbers(rest.images))
    assert numbers(held_out.images) == numbers(again_held_out.images)
    assert numbers(held_out.images) == sorted(numbers(held_out.images))
    other = data.carve(whole, 30, seed=4)[1]
    assert numbers(held_out.images) != numbers(other.images)


def test_carve_nothing():
    rest, held_out = data.carve(numbered(4), 0, seed=0)
    assert numbers(rest.images) == [0, 1, 2, 3]
    assert held_out.images.shape == (0, 1, 1, 1)


@pytest.mark.parametrize(
    ("labels", "num", "message"),
    [
        ([0, 0, 1, 1], 4, r"cannot hold out 4 of 4 examples; choose 0\.\.3"),
        ([0, 0, 1, 1], -1, "cannot hold out -1 of 4"),
        ([0, 0, 0, 1], 2, "class 1 has a single example"),
        ([0, 0, 1, 1], 1, "hold out 1 of 4 .* each of the 2 classes"),
        ([0, 0, 1, 1], 3, "hold out 3 of 4 .* each of the 2 classes"),
    ],
)
def test_carve_refuses(labels, num, message):
    with pytest.raises(UserError, match=message):
        data.carve(image_set(labels), num, seed=0)


def test_few_images_are_nested_balanced_and_repeated():
    labels = np.repeat(np.arange(3), (30, 40, 25)).astype(np.int32)
    images = np.arange(95, dtype=np.uint8).reshape(-1, 1, 1, 1)
    every = data.ImageSet(images, labels)
    chosen = {}
    for count in (1, 2, 7):
        few = few_of_each_class(every, count, 4)
        assert len(few) == 95
        numbers, times = np.unique(few.images, return_counts=True)
        np.testing.assert_array_equal(np.bincount(labels[numbers]), [count] * 3)
        np.testing.assert_array_equal(few.labels, labels[few.images.ravel()])
        assert times.max() - times.min() <= 1
        chosen[count] = set(numbers)
    assert chosen[1] < chosen[2] < chosen[7]
    other = few_of_each_class(every, 7, 5)
    assert set(np.unique(other.images)) != chosen[7]
    with pytest.raises(UserError, match=r"per_class is 26, but class 2 has only 25"):
        few_of_each_class(every, 26, 4)


def test_a_data_set_of_few_images_keeps_its_other_parts():
    whole = data.load("digits", validation_examples=100)
    few = data.load("digits", validation_examples=100, train_per_class=2)
    assert len(few.train) == len(whole.train)
    assert len(contents(few.train)) == 20
    assert contents(few.train) < contents(whole.train)
    assert contents(few.validation) == contents(whole.validation)
    np.testing.assert_array_equal(few.test.images, whole.test.images)
    assert few.content != whole.content
    assert "2 training images of each class" in few.provenance
    pairs = data.load("expanded", base="digits", canvas=12, shift=1, train_per_class=3)
    assert len(contents(pairs.train)) == 30
