"""Extruded digits: their turns, and where training and testing have which."""

import numpy as np
import pytest
import scipy.ndimage
from scipy.spatial.transform import Rotation

from capsjax import data
from capsjax.data.derived import extruded
from capsjax.errors import UserError
from tests.data.made import image_set


def load(novel_viewpoint=""):
    return data.load(
        "extruded",
        base="digits",
        novel_viewpoint=novel_viewpoint,
        validation_examples=100,
    )


def test_turns_are_scipys():
    rng = np.random.default_rng(0)
    axes = rng.normal(size=(5, 3))
    axes /= np.linalg.norm(axes, axis=1, keepdims=True)
    degrees = rng.uniform(-180, 180, 5)
    expected = Rotation.from_rotvec(axes * degrees[:, None], degrees=True).as_matrix()
    np.testing.assert_allclose(extruded.rotations(axes, degrees), expected, atol=1e-12)


def test_a_solid_is_the_turned_plate():
    """SciPy turns the plate as voxels; without a turn it is the plate itself."""
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (4, 16, 16), np.uint8)
    turns = np.concatenate([np.eye(3)[None], Rotation.random(3, rng=rng).as_matrix()])
    found = extruded.solid(images, turns)
    plates = np.zeros((4, 16, 16, 16))
    plates[..., 6:10] = images[..., None]
    np.testing.assert_array_equal(found[0], plates[0])
    for volume, plate, turn in zip(found, plates, turns, strict=True):
        expected = scipy.ndimage.affine_transform(
            plate,
            turn.T,
            offset=7.5 - turn.T @ np.full(3, 7.5),
            order=1,
            mode="grid-constant",
        )
        np.testing.assert_allclose(volume, expected, atol=0.5 + 1e-6)


@pytest.mark.parametrize(
    ("novel_viewpoint", "trained", "tested"),
    [
        ("", (0, 90), (0, 90)),
        ("azimuth", (0, 30), (30, 90)),
        ("azimuth_familiar", (0, 30), (0, 30)),
    ],
)
def test_turns_of_each_part(novel_viewpoint, trained, tested, monkeypatch):
    drawn = []
    plain = extruded.rotations

    def rotations(axes, degrees):
        drawn.append((axes, degrees))
        return plain(axes, degrees)

    monkeypatch.setattr(extruded, "rotations", rotations)
    found = load(novel_viewpoint)
    assert found.image_shape == (16, 16, 16)
    for part, (axes, degrees), (low, high) in zip(
        found.parts().values(), drawn, (trained, trained, tested), strict=True
    ):
        assert len(part) == len(degrees)
        share = (degrees - low) / (high - low)
        assert 0 <= share.min() < 0.1
        assert 0.9 < share.max() < 1
        # All directions alike: half of the axes lie within 60 degrees of a plane's
        # normal, on either side.
        near = np.abs(axes[:, 2]) > 0.5
        assert abs(near.mean() - 0.5) < 4 * 0.5 / np.sqrt(len(axes))


def test_familiar_turns_are_tested_after_the_same_training():
    novel, familiar = load("azimuth"), load("azimuth_familiar")
    for name in ("train", "validation"):
        a, b = novel.parts()[name], familiar.parts()[name]
        np.testing.assert_array_equal(a.images, b.images)
    assert novel.test.labels.tolist() == familiar.test.labels.tolist()
    assert np.any(novel.test.images != familiar.test.images)
    assert "those of testing by 30 to 90 degrees; made of" in novel.provenance


def test_bad_input():
    with pytest.raises(UserError, match=r"'elevation' of extruded.* azimuth or azimu"):
        load("elevation")
    colour = image_set([0, 1], (8, 8, 3))
    base = data.Dataset("made", colour, colour, colour, ("a", "b"), "made up")
    with pytest.raises(UserError, match=r"images of made have 3 channels; .*grayscale"):
        extruded.derive(base, data.Source(name="extruded"))
