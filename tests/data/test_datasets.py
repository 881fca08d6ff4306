"""Loading data sets, splitting and batching them."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from sklearn.datasets import load_digits

from capsjax import data
from capsjax.data.datasets import as_image_set, resize
from capsjax.errors import UserError
from tests.data.made import image_set


def dataset(train, validation, test, num_classes):
    names = tuple(map(str, range(num_classes)))
    return data.Dataset("made", train, validation, test, names, "made up")


# The types.


@pytest.mark.parametrize(
    ("images", "labels", "message"),
    [
        (np.zeros((2, 3, 3, 1)), np.zeros(2, int), "dtype float64; store .* uint8"),
        (np.zeros((2, 3, 3, 1), np.int64), np.zeros(2, int), "dtype int64; store"),
        (np.zeros((2, 3), np.uint8), np.zeros(2, int), r"shape \(2, 3\); wanted \[N"),
        (np.zeros((2, 3, 9, 9), np.uint8), np.zeros(2, int), "channels last"),
        (np.zeros((2, 0, 9, 1), np.uint8), np.zeros(2, int), r"shape \(2, 0, 9, 1\)"),
        (np.zeros((2, 9, 9), np.uint8), np.zeros(3, int), "2 images but 3 labels"),
        (np.zeros((2, 9, 9), np.uint8), np.zeros(2), "labels have dtype float64"),
        (np.zeros((2, 9, 9), np.uint8), np.zeros(2, bool), "labels have dtype bool"),
        (np.zeros((2, 9, 9), np.uint8), np.eye(2, dtype=int), "one-hot"),
        (np.zeros((2, 9, 9), np.uint8), np.array([0, -1]), r"labels span -1\.\.0"),
        (np.zeros((2, 9, 9), np.uint8), np.array([0, 2**31]), "labels span"),
    ],
)
def test_arrays_that_are_no_labelled_images(images, labels, message):
    with pytest.raises(UserError, match=f"^here: .*{message}"):
        as_image_set(images, labels, "here")


def test_arrays_that_are_labelled_images():
    gray = np.arange(2 * 3 * 4, dtype=np.uint8).reshape(2, 3, 4)
    found = as_image_set(gray, np.array([[7], [9]], np.uint8), "here")
    np.testing.assert_array_equal(found.images[..., 0], gray)
    assert found.images.shape == (2, 3, 4, 1)
    assert found.labels.dtype == np.int32
    assert found.labels.tolist() == [7, 9]
    assert len(found) == 2


def test_image_set_wants_its_dtypes():
    with pytest.raises(UserError, match=r"labels have dtype int64 and shape \(1,\)"):
        data.ImageSet(np.zeros((1, 2, 2, 1), np.uint8), np.zeros(1, np.int64))


def test_dataset_checks_its_parts():
    good, empty = image_set([0, 1]), image_set([])
    assert dataset(good, empty, good, 2).num_classes == 2
    assert dataset(good, empty, good, 2).image_shape == (4, 5, 3)
    with pytest.raises(UserError, match="made: the test set is empty"):
        dataset(good, empty, empty, 2)
    with pytest.raises(UserError, match="made: the train set is empty"):
        dataset(empty, good, good, 2)
    with pytest.raises(UserError, match=r"train images have .*\(4, 5, 3\) but test"):
        dataset(good, empty, image_set([0], (5, 5, 3)), 2)
    with pytest.raises(UserError, match=r"validation labels span 0\.\.2 but .* 2 clas"):
        dataset(good, image_set([0, 2]), good, 2)


# Sizes.


@pytest.mark.parametrize("side", [3, 8, 20])
@pytest.mark.parametrize("channels", [1, 2, 3])
def test_resize(side, channels):
    whole = image_set([0, 1], (8, 6, channels))
    found = resize(whole, side)
    assert found.images.shape == (2, side, side, channels)
    assert found.labels.tolist() == [0, 1]
    # Pillow resizes the bands of an RGB image together.
    for image, resized in zip(whole.images, found.images, strict=True):
        rgb = np.zeros((8, 6, 3), np.uint8)
        rgb[..., :channels] = image
        wanted = Image.fromarray(rgb).resize((side, side), Image.Resampling.BILINEAR)
        np.testing.assert_array_equal(resized, np.asarray(wanted)[..., :channels])


def test_resize_is_antialiased():
    stripes = np.zeros((1, 8, 8, 1), np.uint8)
    stripes[:, ::2] = 200
    found = resize(data.ImageSet(stripes, np.zeros(1, np.int32)), 2).images
    assert np.all(abs(found.astype(int) - 100) < 30)  # without: 0 or 200.


def test_resize_to_the_same_size_copies_nothing():
    whole = image_set([0], (8, 8, 1))
    assert resize(whole, 8) is whole


# The door.


def test_unknown_names():
    with pytest.raises(UserError, match=r"'mnits'; did you mean mnist.*known: digits,"):
        data.load("mnits")
    with pytest.raises(UserError, match="unknown data set 'xyz'; known: digits, mnist"):
        data.load("xyz")


def test_arguments_out_of_range():
    with pytest.raises(UserError, match=r"validation_examples is -1; it must be"):
        data.load("digits", validation_examples=-1)
    with pytest.raises(UserError, match=r"image_size is -2; it must be at least 0"):
        data.load("digits", image_size=-2)
    with pytest.raises(
        UserError, match="=1437 of digits: cannot hold out 1437 of 1437"
    ):
        data.load("digits", validation_examples=1437)
    with pytest.raises(UserError, match=r"=5 of digits: .*each of the 10 classes"):
        data.load("digits", validation_examples=5)
    with pytest.raises(UserError, match=r"digits takes no path \(got x.npz\)"):
        data.load("digits", path="x.npz")
    for name in ("folder", "npz"):
        with pytest.raises(UserError, match="no path is given; set config"):
            data.load(name)


def test_digits():
    found = data.load("digits")
    assert (len(found.train), len(found.validation), len(found.test)) == (1437, 0, 360)
    assert found.image_shape == (8, 8, 1)
    assert found.class_names == tuple("0123456789")
    assert "1797" in found.provenance
    assert "scikit-learn" in found.provenance

    bunch = load_digits()
    table = [round(value * 255 / 16) for value in range(17)]
    wanted = sorted(
        (label, bytes(table[int(value)] for value in image.ravel()))
        for image, label in zip(bunch.images, bunch.target.tolist(), strict=True)
    )
    images = np.concatenate([found.train.images, found.test.images])
    labels = np.concatenate([found.train.labels, found.test.labels])
    pairs = zip(labels.tolist(), images, strict=True)
    assert sorted((label, image.tobytes()) for label, image in pairs) == wanted
    fraction = np.bincount(found.test.labels) / np.bincount(bunch.target)
    np.testing.assert_allclose(fraction, 360 / 1797, atol=0.005)


def test_validation_comes_from_the_training_images_alone():
    plain = data.load("digits")
    split = data.load("digits", validation_examples=200)
    again = data.load("digits", validation_examples=200)
    assert (len(split.train), len(split.validation)) == (1237, 200)
    np.testing.assert_array_equal(split.test.images, plain.test.images)
    np.testing.assert_array_equal(split.validation.images, again.validation.images)
    parts = np.concatenate([split.train.images, split.validation.images])
    assert sorted(image.tobytes() for image in parts) == sorted(
        image.tobytes() for image in plain.train.images
    )
    assert np.bincount(split.validation.labels).min() >= 19


def test_image_size_of_the_door():
    found = data.load("digits", validation_examples=100, image_size=12)
    for part in (found.train, found.validation, found.test):
        assert part.images.shape[1:] == (12, 12, 1)
    assert found.test.images.max() > 200


def test_loading_starts_no_framework():
    code = (
        "import sys, capsjax.data as d; d.load('digits');"
        "print([m for m in ('jax', 'flax', 'tensorflow') if m in sys.modules])"
    )
    found = subprocess.run(
        [sys.executable, "-c", code],
        cwd=Path(__file__).parents[2],
        check=True,
        capture_output=True,
        text=True,
    )
    assert found.stdout.strip() == "[]"


# Prepared data sets; tests/data/test_prepare.py has made ones.


@pytest.mark.parametrize("name", ["mnist", "fashion_mnist", "kmnist", "cifar10"])
def test_not_prepared(name, tmp_path):
    command = (
        "python -m experiments.prepare_data "
        f"--dataset={name} --data_dir={tmp_path / 'none'}"
    )
    with pytest.raises(UserError, match=f"no {name} .*prepare it by: {command}"):
        data.load(name, data_dir=str(tmp_path / "none"))


def test_real_mnist(tfds_data_dir):
    found = data.load("mnist", data_dir=tfds_data_dir, validation_examples=5000)
    assert (len(found.train), len(found.validation)) == (55000, 5000)
    assert found.image_shape == (28, 28, 1)
    assert found.class_names == tuple("0123456789")
    # Class counts and the mean and deviation of the pixels as they are well known.
    labels = np.concatenate([found.train.labels, found.validation.labels])
    assert np.bincount(labels).tolist() == [
        *(5923, 6742, 5958, 6131, 5842, 5421, 5918, 6265, 5851, 5949)
    ]
    assert np.bincount(found.test.labels).tolist() == [
        *(980, 1135, 1032, 1010, 982, 892, 958, 1028, 974, 1009)
    ]
    images = np.concatenate([found.train.images, found.validation.images]) / 255
    assert images.mean() == pytest.approx(0.1307, abs=5e-5)
    assert images.std() == pytest.approx(0.3081, abs=5e-5)
    assert "mnist 3.0.1" in found.provenance
    assert "JPEG" not in found.provenance


def test_real_cifar10(tfds_data_dir):
    if not (Path(tfds_data_dir) / "cifar10").is_dir():
        pytest.skip("no CIFAR-10 there")
    found = data.load("cifar10", data_dir=tfds_data_dir)
    assert (len(found.train), len(found.test)) == (50000, 10000)
    assert np.bincount(found.train.labels).tolist() == [5000] * 10
    assert np.bincount(found.test.labels).tolist() == [1000] * 10
    assert found.class_names[:3] == ("airplane", "automobile", "bird")
    # The mean colour is well known; compression may shift it a little.
    mean = found.train.images.mean((0, 1, 2)) / 255
    np.testing.assert_allclose(mean, [0.4914, 0.4822, 0.4465], atol=5e-4)
