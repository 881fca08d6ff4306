"""Drawn faces: parts where they are said to be, and what scrambling keeps."""

import dataclasses
import itertools

import numpy as np
import pytest

from capsjax import data
from capsjax.data.sources import faces, faces_scenes, faces_scrambled
from capsjax.data.sources.faces_drawing import draw
from capsjax.data.sources.faces_scenes import PARTS, SIDE
from capsjax.data.sources.faces_scrambled import scrambled
from capsjax.errors import UserError

EYES, OTHERS = (0, 1), (2, 3)


def ink(images):
    """Ink of each image in pixels."""
    return images.reshape(len(images), -1).sum(axis=1) / 255.0


def only(scenes, part):
    """The scenes with a part alone, without an outline."""
    drawn = np.zeros_like(scenes.drawn)
    drawn[:, part] = scenes.drawn[:, part]
    far = np.full_like(scenes.radii, 1e3)
    return draw(dataclasses.replace(scenes, drawn=drawn, radii=far))


def centres(images):
    """Centres of the ink, [N, 2]."""
    weights = images[..., 0].astype(float)
    grid = np.indices(weights.shape[1:])
    return np.einsum("nhw,dhw->nd", weights, grid) / weights.sum(axis=(1, 2))[:, None]


def test_the_data_set():
    loaded = data.load("faces", validation_examples=1_000)
    sizes = [len(part) for part in loaded.parts().values()]
    assert sizes == [9_000, 1_000, 2_000]
    assert loaded.image_shape == (28, 28, 1)
    assert loaded.class_names == ("not a face", "face")
    assert loaded.test.labels.mean() == loaded.validation.labels.mean() == 0.5
    # What is drawn for other purposes are the same images.
    np.testing.assert_array_equal(
        loaded.test.images[:6], draw(faces.drawn_for_testing(6).scenes)
    )
    np.testing.assert_array_equal(
        loaded.test.images[1::2][:9], scrambled("correct", count=9).images
    )
    # No test image is a training image.
    trained = {image.tobytes() for image in loaded.train.images}
    assert not trained & {image.tobytes() for image in loaded.test.images}


def test_an_image_is_a_function_of_its_number():
    images = [draw(faces.drawn_for_training(count).scenes) for count in (5, 40)]
    np.testing.assert_array_equal(images[0], images[1][:5])
    for kind in faces_scrambled.KINDS:
        few, many = scrambled(kind, count=3), scrambled(kind, count=8)
        np.testing.assert_array_equal(few.images, many.images[:3])


@pytest.mark.parametrize("part", range(len(PARTS)))
def test_parts_are_where_they_are_recorded(part):
    drawn = faces.drawn_for_testing(60)
    at, shown = drawn.positions()[:, part], drawn.scenes.drawn[:, part]
    images = only(drawn.scenes, part)
    np.testing.assert_array_equal(ink(images) > 0, shown)
    np.testing.assert_array_equal(np.isfinite(at[:, 0]), shown)
    # The middle of a nose is that of its line, beside that of its ink.
    offsets = np.linalg.norm(centres(images[shown]) - at[shown], axis=1)
    assert offsets.max() < 1.0
    # And the whole image has that ink.
    whole = draw(drawn.scenes)
    assert np.all(whole >= images)


def test_others_lack_a_part_or_have_a_doodle():
    drawn = faces.drawn_for_training(2_000)
    whole = faces_scenes.faces(faces._TRAIN_SEED, np.arange(2_000))
    there, strokes = drawn.scenes.drawn, drawn.scenes.strokes
    intact = there & np.all(strokes == whole.strokes, axis=(2, 3))
    is_face = drawn.labels == faces.FACE
    assert intact[is_face].all()
    assert not intact[~is_face].all(axis=1).any()
    lacking = ~intact[~is_face]
    assert 0.6 < np.mean(lacking.sum(axis=1) == 1) < 0.74
    assert 0.45 < np.mean(there[~is_face][lacking]) < 0.55
    # A doodle is about as long as the part's stroke.
    doodle = there & ~intact
    ratio = faces_scenes.lengths(strokes)[doodle]
    np.testing.assert_allclose(ratio, faces_scenes.lengths(whole.strokes)[doodle])


def test_without_doodles_nothing_is_in_their_places():
    drawn, usual = (
        faces.drawn_for_training(400, doodle_share=0.0),
        faces.drawn_for_training(400),
    )
    whole = faces_scenes.faces(faces._TRAIN_SEED, np.arange(400))
    np.testing.assert_array_equal(drawn.scenes.strokes, whole.strokes)
    intact = np.all(usual.scenes.strokes == whole.strokes, axis=(2, 3))
    np.testing.assert_array_equal(drawn.scenes.drawn, usual.scenes.drawn & intact)
    assert not np.all(intact)
    few = data.load("faces", without_doodles=True)
    np.testing.assert_array_equal(few.train.images[:400], draw(drawn.scenes))
    assert few.content != data.load("faces").content


def test_a_stroke_has_the_area_of_its_shape():
    """A straight stroke of length l and width w: l w, and half a disk at each end."""
    scene = faces_scenes.faces((0,), np.arange(1))
    line = np.linspace([-3, -2], [3, 2], 9)
    scene.strokes[:] = line
    places = np.zeros_like(scene.places)
    one = dataclasses.replace(
        scene, places=places, scale=np.ones(1), widths=np.array([3.0])
    )
    expected = 3 * np.hypot(6, 4) + np.pi * 1.5**2
    assert ink(only(one, 3))[0] == pytest.approx(expected, rel=0.02)


def test_a_moved_face_has_its_parts_moved():
    scenes, move = faces_scenes.faces((3,), np.arange(20)), np.array([2, -1])
    there = dataclasses.replace(scenes, shift=scenes.shift + move)
    np.testing.assert_allclose(there.positions(), scenes.positions() + move, atol=1e-12)
    a, b = draw(scenes), draw(there)
    np.testing.assert_array_equal(a[:, 2:24, 3:25], b[:, 4:26, 2:24])


def test_a_turned_face_is_the_turned_image():
    scenes = faces_scenes.faces((4,), np.arange(5))
    scenes = dataclasses.replace(scenes, shift=np.zeros((5, 2)))
    quarter = dataclasses.replace(scenes, turn=scenes.turn + np.pi / 2)
    np.testing.assert_allclose(
        draw(quarter)[..., 0].astype(int),
        np.rot90(draw(scenes)[..., 0], axes=(1, 2)).astype(int),
        atol=1,
    )


@pytest.mark.parametrize("kind", ["swapped", "shuffled", "turned", "moved"])
def test_scrambled_faces_keep_their_parts(kind):
    """As much of each part is shown, but where it is covered or cut off."""
    scenes = faces_scenes.faces(faces_scrambled.TEST_SEED, np.arange(1, 120, 2))
    indices = np.arange(1, 120, 2)
    other = faces_scrambled.scramble(
        scenes, kind, faces_scrambled.KINDS[kind], faces_scrambled.TEST_SEED, indices
    )
    for part in range(len(PARTS)):
        before, after = ink(only(scenes, part)), ink(only(other, part))
        assert np.median(after / before) == pytest.approx(1, abs=0.02)
        assert np.all(after / before > (0.5 if kind == "moved" else 0.8))
        assert np.all(after / before < 1.2)
    total = ink(draw(other)).mean() / ink(draw(scenes)).mean()
    assert total == pytest.approx(1, abs=0.08)


def test_swapped_is_the_mouth_and_an_eye():
    before, after = (scrambled(k, count=80).positions for k in ("correct", "swapped"))
    left = np.all(after[:, 3] == before[:, 0], axis=1)
    for eye, rows in ((0, left), (1, ~left)):
        np.testing.assert_array_equal(after[rows, 3], before[rows, eye])
        np.testing.assert_array_equal(after[rows, eye], before[rows, 3])
        np.testing.assert_array_equal(after[rows, 1 - eye], before[rows, 1 - eye])
    np.testing.assert_array_equal(after[:, 2], before[:, 2])
    assert 0.3 < left.mean() < 0.7


def test_shuffled_leaves_no_place_with_a_part_of_its_kind():
    before, after = (scrambled(k, count=80).positions for k in ("correct", "shuffled"))
    same = np.all(after[:, :, None] == before[:, None], axis=-1)  # [N, part, place]
    np.testing.assert_array_equal(same.sum(axis=1), 1)
    for part, place in itertools.product(EYES, EYES):
        assert not same[:, part, place].any()
    for part, place in itertools.product(OTHERS, OTHERS):
        assert not same[:, part, place].any()
    # Each of the others happens.
    for part, place in itertools.product(EYES, OTHERS):
        assert 0.25 < same[:, part, place].mean() < 0.75


def test_moved_is_by_the_amount_and_not_at_all_by_none():
    correct = scrambled("correct", count=50)
    np.testing.assert_array_equal(scrambled("moved", 0.0, 50).images, correct.images)
    units = []
    for d in (2.5, 8.0):
        moved = scrambled("moved", d, 50).positions - correct.positions
        np.testing.assert_allclose(np.linalg.norm(moved, axis=-1), d)
        units.append(moved / d)
    np.testing.assert_allclose(units[0], units[1], atol=1e-12)
    at = scrambled("moved", 8.0, 1_000).positions
    assert at.min() > 1.9
    assert at.max() < SIDE - 2.9


def test_turned_parts_stay_where_they_are():
    before, after = (scrambled(k, count=30) for k in ("correct", "turned"))
    np.testing.assert_array_equal(before.positions, after.positions)
    np.testing.assert_array_equal(scrambled("turned", 0.0, 30).images, before.images)
    different = np.any(before.images != after.images, axis=(1, 2, 3))
    assert different.all()


def test_upside_down_is_the_turned_image():
    indices = np.arange(20)
    scenes = faces_scenes.faces((5,), indices)
    scenes = dataclasses.replace(scenes, shift=np.zeros((20, 2)))
    turned = faces_scrambled.scramble(scenes, "upside_down", 0.0, (5,), indices)
    np.testing.assert_allclose(
        draw(turned)[..., 0].astype(int),
        np.rot90(draw(scenes)[..., 0], 2, axes=(1, 2)).astype(int),
        atol=1,
    )
    correct, other = (scrambled(k, count=5) for k in ("correct", "upside_down"))
    middles = np.mean(correct.positions + other.positions, axis=1) / 2
    shifts = faces_scenes.faces(faces_scrambled.TEST_SEED, np.arange(1, 10, 2)).shift
    np.testing.assert_allclose(middles, faces_scenes.MIDDLE + shifts)


def test_some_of_the_others_may_be_shuffled_faces():
    none, some, more = (faces.drawn_for_training(2_000, s) for s in (0.0, 0.1, 0.3))
    chosen = [
        np.any(part.scenes.places != none.scenes.places, axis=(1, 2))
        for part in (some, more)
    ]
    other = none.labels == faces.NOT_A_FACE
    assert not chosen[1][~other].any()
    assert chosen[0][other].mean() == pytest.approx(0.1, abs=0.03)
    assert chosen[1][other].mean() == pytest.approx(0.3, abs=0.05)
    assert not np.any(chosen[0] & ~chosen[1])
    assert some.scenes.drawn[chosen[0]].all()
    np.testing.assert_array_equal(some.labels, none.labels)


def test_only_faces_lack_doodles():
    with pytest.raises(UserError, match="without_doodles is True, but digits has no"):
        data.load("digits", without_doodles=True)


def test_only_faces_have_a_share_of_scrambled_ones():
    with pytest.raises(UserError, match=r"scrambled_share is 0.1, but digits has no"):
        data.load("digits", scrambled_share=0.1)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("blurred",), "no faces 'blurred'.*'correct' or 'swapped'"),
        (("moved", 9.0), "'moved' have no amount 9; choose 0 to 8"),
        (("swapped", 1.0), "'swapped' have no amount 1"),
        (("turned", 90.0, 1_001), "1,000 test faces.*in place of 1001"),
    ],
)
def test_unknown_kinds_amounts_and_counts_are_refused(arguments, message):
    with pytest.raises(UserError, match=message):
        scrambled(*arguments)
