"""Digits on larger canvases, and affNIST: read and generated."""

import dataclasses
from typing import Any

import numpy as np
import pytest
import scipy.io

from capsjax import data
from capsjax.data import ImageSet, Source
from capsjax.data.derived import affnist, canvas
from capsjax.errors import UserError


def test_centre_and_shift_by_hand():
    image = np.zeros((2, 2, 3, 1), np.uint8)
    image[:, 0, 0], image[:, 1, 2] = 5, 7
    centred = canvas.centre(image, 6)
    assert centred.shape == (2, 6, 6, 1)
    assert centred[0, 2, 1, 0] == 5
    assert centred[0, 3, 3, 0] == 7
    assert centred.sum() == image.sum()
    moved = canvas.shift(centred, np.array([[1, -1], [-3, 0]]))
    assert moved[0, 3, 0, 0] == 5
    assert moved[0, 4, 2, 0] == 7
    # The upper dot has left the canvas; nothing came back in below.
    assert moved[1, 0, 3, 0] == 7
    assert moved[1].sum() == 7


def test_expanded_digits_lie_anywhere_and_always_at_the_same_place():
    singles = data.load("digits", validation_examples=100)
    arguments: dict[str, Any] = {"base": "digits", "canvas": 14, "shift": 3}
    arguments["validation_examples"] = 100
    found = data.load("expanded", **arguments)
    assert found.image_shape == (14, 14, 1)
    again = data.load("expanded", **arguments)
    np.testing.assert_array_equal(found.test.images, again.test.images)
    np.testing.assert_array_equal(
        found.train.images[:, 3:11, 3:11], singles.train.images
    )
    places = set()
    for image, digit in zip(found.test.images, singles.test.images, strict=True):
        matches = [
            (row, column)
            for row in range(7)
            for column in range(7)
            if (image[row : row + 8, column : column + 8] == digit).all()
        ]
        assert image.sum() == digit.sum()  # Whole, wherever it is.
        assert len(matches) >= 1
        places |= {matches[0]}
    assert len(places) == 49


def test_the_linear_map_turns_shears_and_scales():
    np.testing.assert_allclose(affnist.matrix(0, 0, (1.2, 0.8)), [[1.2, 0], [0, 0.8]])
    up, right = np.array([-1.0, 0.0]), np.array([0.0, 1.0])
    quarter = affnist.matrix(90, 0, (1, 1))
    np.testing.assert_allclose(quarter @ right, up, atol=1e-12)
    # A row below the centre moves to the right, the centre's row stays.
    np.testing.assert_allclose(affnist.matrix(0, 0.2, (1, 1)) @ [1, 0], [1, 0.2])
    np.testing.assert_allclose(affnist.matrix(0, 0.2, (1, 1)) @ right, right)


def square(side: int = 28) -> ImageSet:
    images = np.zeros((1, side, side, 1), np.uint8)
    images[0, 9:19, 9:19] = 255
    return ImageSet(images, np.zeros(1, np.int32))


def test_generated_digits_keep_to_the_recipe():
    """From the moments of a transformed square: its area, turn and place."""
    images, originals = affnist.generate(square(), 40, 400)
    assert images.images.shape == (400, 40, 40, 1)
    assert not originals.any()
    mass = images.images[..., 0] / 255.0
    area = mass.sum(axis=(1, 2)) / 100
    # The area is the product of two scales; rotation and shear keep it.
    assert 0.8**2 * 0.97 < area.min() < 0.72
    assert 1.32 < area.max() < 1.2**2 * 1.03
    assert area.mean() == pytest.approx(1, abs=0.03)
    rows, columns = np.mgrid[:40, :40]
    centres = np.stack(
        [
            (mass * axis).sum(axis=(1, 2)) / mass.sum(axis=(1, 2))
            for axis in (rows, columns)
        ]
    )
    # All places at which the whole square is on the canvas are equally likely.
    np.testing.assert_allclose(centres.mean(axis=1), 19.5, atol=1.5)
    assert centres.min() < 8
    assert centres.max() > 31


def test_generated_digits_are_not_turned_further_than_20_degrees():
    bar = np.zeros((1, 28, 28, 1), np.uint8)
    bar[0, 6:22, 13:15] = 255
    images, _ = affnist.generate(ImageSet(bar, np.zeros(1, np.int32)), 40, 300)
    mass = images.images[..., 0].astype(float)
    rows, columns = np.mgrid[:40, :40]
    slants = []
    for one in mass:
        total = one.sum()
        row, column = (one * rows).sum() / total, (one * columns).sum() / total
        slants.append(
            (one * (rows - row) * (columns - column)).sum()
            / (one * (rows - row) ** 2).sum()
        )
    # An upright bar leans by the shear, at most 0.2, and by the rotation, 20 degrees.
    steepest = np.tan(np.deg2rad(20) + np.arctan(0.2 * 1.2 / 0.8))
    assert 0.4 < max(slants) < steepest * 1.05
    assert -steepest * 1.05 < min(slants) < -0.4


def test_generated_is_labelled_so_and_tested_on(tmp_path):
    arguments: dict[str, Any] = {"base": "digits", "canvas": 14, "shift": 3}
    arguments["versions_per_digit"] = 3
    found = data.load("affnist", data_dir=str(tmp_path), **arguments)
    singles = data.load("digits")
    assert len(found.test) == 3 * len(singles.test)
    np.testing.assert_array_equal(found.test.labels, np.tile(singles.test.labels, 3))
    assert "generated here by its recipe (not the published files)" in found.provenance
    expanded = data.load("expanded", **arguments)
    np.testing.assert_array_equal(found.train.images, expanded.train.images)
    assert (found.test.images != np.tile(expanded.test.images, (3, 1, 1, 1))).any()


def write_mat(path, images, labels, originals):
    path.parent.mkdir(parents=True, exist_ok=True)
    struct = {
        "image": images.reshape(len(images), -1).T,
        "label_int": labels[None].astype(np.uint8),
        "original_id": originals[None].astype(np.int32),
    }
    scipy.io.savemat(path, {"affNISTdata": struct})


@pytest.mark.parametrize("whole", [True, False])
def test_published_files_are_read(tmp_path, whole):
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (12, 40, 40), dtype=np.uint8)
    labels = rng.integers(0, 10, 12)
    folder = tmp_path / "affnist"
    if whole:
        write_mat(folder / "test.mat", images, labels, np.arange(12) // 2)
    else:
        for number in (10, 2, 1):  # Read in the order of their numbers.
            part = {1: slice(4), 2: slice(4, 8), 10: slice(8, 12)}[number]
            write_mat(
                folder / "test_batches" / f"{number}.mat",
                images[part],
                labels[part],
                np.arange(12)[part] // 2,
            )
    base = made_mnist()
    found = affnist.load_test(
        dataclasses.replace(base, data_dir=str(tmp_path)), Source()
    )
    np.testing.assert_array_equal(found.images.images[..., 0], images)
    np.testing.assert_array_equal(found.images.labels, labels)
    np.testing.assert_array_equal(found.originals, np.arange(12) // 2)
    assert "the published affNIST, 12 test images" in found.provenance


def made_mnist() -> data.Dataset:
    return data.Dataset(
        "mnist", square(), square(), square(), tuple("0123456789"), "made"
    )


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"not a mat file", "cannot read.*fetch it again"),
        ({"affNISTdata": {"image": np.zeros((1600, 3), np.uint8)}}, "cannot read"),
        (
            {
                "affNISTdata": {
                    "image": np.zeros((784, 2), np.uint8),
                    "label_int": np.zeros((1, 2), np.uint8),
                    "original_id": np.zeros((1, 2), np.uint8),
                }
            },
            r"\(784, 2\).*wanted uint8 \(1600, 2\)",
        ),
    ],
)
def test_damaged_files_are_refused(tmp_path, content, words):
    path = tmp_path / "affnist" / "test.mat"
    path.parent.mkdir()
    if isinstance(content, bytes):
        path.write_bytes(content)
    else:
        scipy.io.savemat(path, content)
    with pytest.raises(UserError, match=words):
        affnist.load_test(
            dataclasses.replace(made_mnist(), data_dir=str(tmp_path)), Source()
        )
