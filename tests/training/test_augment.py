"""Augmentation and preprocessing against NumPy's own moves of the same images."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.ndimage

from capsjax.config import Augment, Config, Preprocess
from capsjax.errors import UserError
from capsjax.training import augment, geometry

KEY = jax.random.key(0)


def config_of(*, crop=0, standardize=False, **augmentation):
    """A config that augments nothing but what is asked for."""
    return Config(
        preprocess=Preprocess(crop=crop, standardize=standardize),
        augment=Augment(**{"shift": 0, **augmentation}),
    )


EVERYTHING = {
    "crop": 6,
    "standardize": True,
    "shift": 1,
    "flip": True,
    "brightness": 0.2,
    "contrast": (0.5, 1.5),
}
AFFINE = {"rotation": 20.0, "scale": (0.8, 1.2), "shear": 0.2}


def random_bytes(*shape, seed=0):
    return np.random.default_rng(seed).integers(0, 256, shape, np.uint8)


def copies(image, n):
    """The same image n times, uint8 [n, H, W, C]."""
    return jnp.asarray(np.repeat(image[None], n, axis=0))


def trainer(config):
    def call(images, key):
        keys = jax.vmap(jax.random.fold_in, (None, 0))(key, jnp.arange(len(images)))
        return augment.for_training(images, keys, config)

    return jax.jit(call)


def train(images, config):
    return np.asarray(trainer(config)(jnp.asarray(images), KEY))


def evaluate(images, config):
    call = jax.jit(lambda images: augment.for_evaluation(images, config))
    return np.asarray(call(jnp.asarray(images)))


def unit(images):
    return np.asarray(images, np.float32) / np.float32(255)


def as_bytes(images):
    """Back to 0 .. 255; fails for values in between."""
    scaled = np.asarray(images) * 255
    np.testing.assert_allclose(scaled, np.round(scaled), atol=1e-4)
    return np.round(scaled).astype(np.uint8)


def count(images, candidates):
    """How many of the images equal each of the candidates; all must equal one."""
    places = {candidate.tobytes(): i for i, candidate in enumerate(candidates)}
    assert len(places) == len(candidates)
    return np.bincount([places[x.tobytes()] for x in images], minlength=len(places))


# To the unit range.


def test_bytes_become_numbers_from_zero_to_one():
    x = jax.jit(augment.to_unit_range)(jnp.arange(256, dtype=jnp.uint8))
    assert x.dtype == jnp.float32
    assert x[0] == 0.0
    assert x[255] == 1.0
    np.testing.assert_allclose(x, np.arange(256) / 255, rtol=1e-6)


def test_evaluation_images_are_never_augmented():
    images = random_bytes(5, 9, 10, 2)
    config = config_of(
        shift=2, flip=True, brightness=0.5, contrast=(0.2, 1.8), **AFFINE
    )
    config.augment.colors_before_crop = True
    found = evaluate(images, config)
    assert found.dtype == np.float32
    np.testing.assert_array_equal(as_bytes(found), images)
    # Unlike the same images in training.
    assert np.abs(train(images, config) - found).max() > 0.1


def test_training_without_augmentation_is_evaluation():
    images = random_bytes(5, 9, 10, 2)
    for options in ({}, {"standardize": True}):
        config = config_of(**options)
        np.testing.assert_allclose(
            train(images, config), evaluate(images, config), atol=1e-6
        )


# Keys.


@pytest.mark.parametrize("name", ["crop", "shift", "flip", "brightness", "contrast"])
def test_each_example_has_its_own_randomness(name):
    config = config_of(**{name: EVERYTHING[name]})
    images = copies(random_bytes(9, 10, 2), 16)
    call = trainer(config)
    found = call(images, KEY)
    np.testing.assert_array_equal(call(images, KEY), found)
    assert np.any(call(images, jax.random.key(1)) != found)
    assert np.any(found != found[:1])


def test_an_examples_randomness_does_not_depend_on_the_batchs_size():
    config = config_of(**EVERYTHING)
    images = random_bytes(8, 9, 10, 2)
    np.testing.assert_allclose(
        train(images[:4], config), train(images, config)[:4], atol=1e-5
    )


def test_without_affine_moves_the_draws_are_those_of_the_first_version():
    """Bit by bit, so that old runs can be repeated: five keys, in this order."""

    def as_before(image, key):
        keys = jax.random.split(key, 5)
        image = augment.random_crop(image, keys[0], 6)
        image = augment.random_flip(image, keys[1])
        image = augment.random_brightness(image, keys[2], 0.2)
        image = augment.random_contrast(image, keys[3], 0.5, 1.5)
        return augment.standardize(augment.random_shift(image, keys[4], 1))

    images = jnp.asarray(random_bytes(8, 9, 10, 2))
    keys = jax.vmap(jax.random.fold_in, (None, 0))(KEY, jnp.arange(8))
    expected = jax.jit(jax.vmap(as_before))(augment.to_unit_range(images), keys)
    np.testing.assert_array_equal(train(images, config_of(**EVERYTHING)), expected)


def test_affine_moves_leave_the_other_draws_as_they_are():
    """A rotation too small to be seen."""
    images = random_bytes(8, 9, 10, 2)
    options = {"crop": 6, "shift": 1, "flip": True}
    np.testing.assert_allclose(
        train(images, config_of(**options, rotation=1e-5)),
        train(images, config_of(**options)),
        atol=1e-4,
    )


def assert_uniform(values, low, high):
    """Samples of a uniform distribution: their range, mean and standard deviation."""
    share = (values - low) / (high - low)
    assert -1e-3 <= share.min() < 0.02
    assert 0.98 < share.max() <= 1 + 1e-3
    assert abs(share.mean() - 0.5) < 4 / np.sqrt(12 * len(values))
    np.testing.assert_allclose(share.std(), 1 / np.sqrt(12), rtol=0.05)


# Shifts.


def shifted(image, down, right):
    """The image moved over a ground of zeros; negative: up and left."""
    H, W, _ = image.shape
    ground = np.zeros((3 * H, 3 * W, image.shape[2]), image.dtype)
    ground[H + down : 2 * H + down, W + right : 2 * W + right] = image
    return ground[H : 2 * H, W : 2 * W]


def test_all_25_shifts_are_equally_likely():
    n = 5000
    image = random_bytes(6, 7, 2)
    candidates = [
        shifted(image, down, right) for down in range(-2, 3) for right in range(-2, 3)
    ]
    found = train(copies(image, n), config_of(shift=2))
    counts = count(as_bytes(found), candidates)
    # Chi-squared with 24 degrees of freedom: above 51 once in a thousand.
    expected = n / 25
    assert ((counts - expected) ** 2 / expected).sum() < 51


def test_a_shift_larger_than_the_image_leaves_zeros():
    image = random_bytes(2, 3, 1) | 1
    found = train(copies(image, 200), config_of(shift=5))
    lit = (found > 0).sum(axis=(1, 2, 3))
    assert lit.min() == 0
    assert lit.max() == 6


def test_the_one_row_of_a_signal_moves_along_time_only():
    signal = random_bytes(1, 40, 2) | 1
    found = train(copies(signal, 300), config_of(shift=5))
    candidates = [shifted(signal, 0, right) for right in range(-5, 6)]
    assert count(as_bytes(found), candidates).min() > 0


# Crops.


@pytest.mark.parametrize(
    ("size", "side", "row", "column"),
    [((32, 32), 24, 4, 4), ((9, 12), 7, 1, 2), ((8, 8), 8, 0, 0), ((8, 9), 3, 2, 3)],
)
def test_evaluation_takes_the_central_patch(size, side, row, column):
    images = random_bytes(2, *size, 3)
    np.testing.assert_array_equal(
        as_bytes(evaluate(images, config_of(crop=side))),
        images[:, row : row + side, column : column + side],
    )


def test_output_shape():
    assert augment.output_shape((9, 12, 3), config_of()) == (9, 12, 3)
    assert augment.output_shape((9, 12, 3), config_of(crop=7)) == (7, 7, 3)
    assert augment.output_shape((9, 12, 3), config_of(crop=9)) == (9, 9, 3)


@pytest.mark.parametrize("shape", [(23, 32, 3), (32, 23, 3)])
def test_a_crop_larger_than_the_images_is_refused(shape):
    message = f"config.preprocess.crop is 24, .*{shape[0]}x{shape[1]} pixels"
    with pytest.raises(UserError, match=message):
        augment.output_shape(shape, config_of(crop=24))


# Affine moves.


@jax.jit
def affine(image, angle, scale, shear):
    matrix = geometry.affine_matrix(angle, scale, shear)
    return geometry.affine(image, matrix)


def moved(image, angle=0.0, scale=(1.0, 1.0), shear=0.0):
    """An image of floats after one affine move; the angle is in degrees."""
    settings = (jnp.float32(x) for x in (angle, scale, shear))
    return np.asarray(affine(jnp.asarray(image, jnp.float32), *settings))


def moved_in_float64(image, matrix):
    """SciPy's, which wants the matrix from the new place to the old one."""
    inverse = np.linalg.inv(matrix)
    centre = (np.array(image.shape[:2]) - 1) / 2
    return np.stack(
        [
            scipy.ndimage.affine_transform(
                np.float64(channel),
                inverse,
                offset=centre - inverse @ centre,
                order=1,
                mode="grid-constant",
            )
            for channel in np.moveaxis(image, 2, 0)
        ],
        axis=2,
    )


@pytest.mark.parametrize(
    "matrix",
    [
        [[1.0, 0.0], [0.0, 1.0]],
        [[1.3, 0.4], [-0.2, 0.8]],
        [[-0.6, 0.9], [1.1, 0.3]],
        [[0.01, 0.0], [0.0, 100.0]],
    ],
)
@pytest.mark.parametrize("shape", [(9, 10, 2), (8, 5, 1)])
def test_any_matrix_moves_images_as_scipy_does(matrix, shape):
    image = unit(random_bytes(*shape))
    found = jax.jit(geometry.affine)(jnp.asarray(image), jnp.float32(np.array(matrix)))
    assert found.dtype == jnp.float32
    np.testing.assert_allclose(found, moved_in_float64(image, matrix), atol=1e-5)


def test_scale_then_shear_then_rotation_against_scipy():
    image = unit(random_bytes(11, 8, 3))
    radians = np.deg2rad(25)
    cos, sin = np.cos(radians), np.sin(radians)
    # Distances (row, column); rows point down, so this is counterclockwise.
    matrix = (
        np.array([[cos, -sin], [sin, cos]])
        @ np.array([[1, 0], [0.3, 1]])
        @ np.diag([0.7, 1.4])
    )
    np.testing.assert_allclose(
        moved(image, 25.0, (0.7, 1.4), 0.3), moved_in_float64(image, matrix), atol=1e-5
    )


@pytest.mark.parametrize("side", [6, 7])
def test_a_quarter_turn_is_counterclockwise(side):
    image = unit(random_bytes(side, side, 2))
    np.testing.assert_allclose(moved(image, 90.0), np.rot90(image), atol=1e-5)
    np.testing.assert_allclose(moved(image, -90.0), np.rot90(image, -1), atol=1e-5)
    # A pixel at the top, right of the middle, goes to the left, above the middle.
    dot = np.zeros((7, 7, 1))
    dot[0, 4] = 1
    places = np.argwhere(moved(dot, 90.0) > 0.5)
    np.testing.assert_array_equal(places, [[2, 0, 0]])


def test_scale_two_makes_a_square_twice_as_wide():
    """Each axis by its own factor; the sum of the pixels grows with the area."""
    square = np.zeros((20, 20, 1))
    square[8:12, 8:12] = 1
    for scale in ((2.0, 2.0), (1.0, 2.0), (2.0, 1.0)):
        found = moved(square, scale=scale)
        expected = (4 * scale[0], 4 * scale[1])
        bright = found[:, :, 0] > 0.5
        assert (bright.any(axis=1).sum(), bright.any(axis=0).sum()) == expected
        np.testing.assert_allclose(found.sum(), expected[0] * expected[1], rtol=1e-5)


def test_shear_moves_a_row_by_its_distance_from_the_centre():
    line = np.zeros((7, 11, 1))
    line[:, 5] = 1
    columns = moved(line, shear=1.0)[:, :, 0].argmax(axis=1)
    np.testing.assert_array_equal(columns, np.arange(7) - 3 + 5)


def drawn_moves(config, n=1000):
    """What was drawn n times, [4, n]: degrees, factors (row, column) and shear.

    In an image whose pixels say their place, the neighbours of the centre say where
    they come from; bilinear interpolation of such an image is exact.
    """
    side, step = 15, 16
    places = np.moveaxis(np.mgrid[:side, :side], 0, 2)
    found = train(copies(np.uint8(step * places), n), config) * (255 / step)
    centre = found[:, 7, 7]
    np.testing.assert_allclose(centre, np.full_like(centre, 7), atol=1e-4)
    inverse = np.stack([found[:, 8, 7] - centre, found[:, 7, 8] - centre], axis=2)
    matrix = np.linalg.inv(np.float64(inverse))
    # The column's way is rotated and scaled only; shear shows in the row's.
    radians = np.arctan2(-matrix[:, 0, 1], matrix[:, 1, 1])
    cos, sin = np.cos(radians), np.sin(radians)
    down = cos * matrix[:, 0, 0] + sin * matrix[:, 1, 0]
    aside = cos * matrix[:, 1, 0] - sin * matrix[:, 0, 0]
    across = np.hypot(matrix[:, 0, 1], matrix[:, 1, 1])
    return np.stack([np.rad2deg(radians), down, across, aside / down])


def test_affine_moves_are_drawn_evenly_and_apart():
    n = 1000
    drawn = drawn_moves(config_of(rotation=30.0, scale=(0.5, 1.5), shear=0.4), n)
    ranges = [(-30, 30), (0.5, 1.5), (0.5, 1.5), (-0.4, 0.4)]
    for values, (low, high) in zip(drawn, ranges, strict=True):
        assert_uniform(values, low, high)
    # Four standard deviations.
    assert np.abs(np.corrcoef(drawn) - np.eye(4)).max() < 4 / np.sqrt(n)


@pytest.mark.parametrize(
    ("move", "row"),
    [({"rotation": 20.0}, 0), ({"scale": (0.8, 1.2)}, 1), ({"shear": 0.3}, 3)],
)
def test_each_affine_setting_alone_moves_in_its_own_way(move, row):
    drawn = drawn_moves(config_of(**move), 20)
    changed = [row, 2] if row == 1 else [row]
    assert np.all(drawn[changed].std(axis=1) > 0.01)
    change = drawn - np.array([[0], [1], [1], [0]])
    np.testing.assert_allclose(np.delete(change, changed, axis=0), 0, atol=1e-3)


def test_affine_moves_stay_in_the_unit_range():
    images = random_bytes(200, 9, 10, 2)
    images[:100] = 255
    found = train(images, config_of(rotation=45.0, scale=(0.5, 2.0), shear=0.5))
    assert found.min() >= 0
    assert found.max() <= 1 + 1e-6


# Colours and mirrors.


def test_flips_mirror_half_of_the_images_left_to_right():
    n = 1000
    image = random_bytes(5, 6, 2)
    found = train(copies(image, n), config_of(flip=True))
    _, flips = count(as_bytes(found), [image, image[:, ::-1]])
    # Four standard deviations.
    assert abs(flips - n / 2) < 4 * np.sqrt(n / 4)


def test_brightness_adds_one_number_to_an_image():
    most = 63 / 255
    image = random_bytes(5, 6, 3)
    found = train(copies(image, 1000), config_of(brightness=most))
    change = found - unit(image)
    amounts = change.mean(axis=(1, 2, 3))
    # The same for all pixels and channels; nothing is clipped.
    np.testing.assert_allclose(
        change, np.broadcast_to(amounts[:, None, None, None], change.shape), atol=1e-6
    )
    assert np.abs(amounts).max() <= most + 1e-6
    assert_uniform(amounts, -most, most)


def test_contrast_scales_the_distance_to_each_channels_mean():
    low, high = 0.2, 1.8
    image = random_bytes(5, 6, 3)
    found = train(copies(image, 1000), config_of(contrast=(low, high)))
    means = np.float64(unit(image)).mean(axis=(0, 1))
    np.testing.assert_allclose(
        found.mean(axis=(1, 2)), np.broadcast_to(means, (1000, 3)), atol=1e-6
    )
    distance = np.float64(unit(image)) - means
    factors = np.tensordot(found - means, distance, 3) / (distance**2).sum()
    expected = factors[:, None, None, None] * distance + means
    np.testing.assert_allclose(found, expected, atol=1e-6)
    assert low - 1e-6 <= factors.min() <= factors.max() <= high + 1e-6
    assert_uniform(factors, low, high)


def test_colours_before_the_crop_are_the_whole_images():
    """Contrast keeps the whole image's mean in place, not the patch's."""
    image = np.zeros((8, 8, 1), np.uint8)
    image[0, 0] = 255
    plain = unit(image).mean()
    options = {"crop": 7, "contrast": (0.5, 1.5)}
    for before, mean in ((True, plain), (False, 1 / 49)):
        config = config_of(**options, colors_before_crop=before)
        found = train(copies(image, 300), config)
        inside = found[:, 0, 0, 0] > 0.3  # The patch has the bright pixel.
        assert 30 < inside.sum() < 150
        factors = found.max(axis=(1, 2, 3)) - found.min(axis=(1, 2, 3))
        dark = found[:, 3, 3, 0]
        expected = mean * (1 - factors[inside])
        np.testing.assert_allclose(dark[inside], expected, atol=1e-6)
        # Where there is no bright pixel nothing else tells the factor.
        largest = np.abs(dark[~inside]).max()
        assert 0.4 * plain < largest <= 0.5 * plain + 1e-6 if before else largest == 0


def test_colours_before_the_crop_change_nothing_else():
    """Without a crop and moves, before and after are the same."""
    images = random_bytes(8, 9, 10, 2)
    options = {"flip": True, "brightness": 0.2, "contrast": (0.5, 1.5)}
    np.testing.assert_allclose(
        train(images, config_of(**options, colors_before_crop=True)),
        train(images, config_of(**options)),
        atol=1e-6,
    )


# Together.


def test_affine_moves_come_before_the_crop():
    """Twice as large, the bright middle fills the image, and so every patch of it."""
    image = np.zeros((20, 20, 1), np.uint8)
    image[4:16, 4:16] = 255
    found = train(copies(image, 20), config_of(crop=10, scale=(2.0, 2.0)))
    assert found.min() > 0.999


def test_crops_and_shifts_are_drawn_apart():
    """All 3 x 5 crops with all 3 x 3 shifts."""
    image = random_bytes(8, 10, 2)
    found = train(copies(image, 3000), config_of(crop=6, shift=1))
    assert found.shape == (3000, 6, 6, 2)
    candidates = [
        shifted(image[row : row + 6, column : column + 6], down, right)
        for row in range(3)
        for column in range(5)
        for down in (-1, 0, 1)
        for right in (-1, 0, 1)
    ]
    assert count(as_bytes(found), candidates).min() > 0


def test_flips_and_colours_are_drawn_apart():
    image = random_bytes(5, 6, 1)
    found = train(
        copies(image, 1000),
        config_of(flip=True, brightness=0.2, contrast=(0.5, 1.5)),
    )
    distance = image / 255 - np.mean(image / 255)
    along, mirrored = (
        np.tensordot(found, d, 3) / (distance**2).sum()
        for d in (distance, distance[:, ::-1])
    )
    amounts = found.mean(axis=(1, 2, 3))
    correlations = np.corrcoef([along < mirrored, amounts, np.maximum(along, mirrored)])
    # Four standard deviations.
    assert np.abs(correlations - np.eye(3)).max() < 4 / np.sqrt(1000)


# Standardising.


def test_standardized_images_in_float64():
    images = random_bytes(4, 7, 9, 3)
    x = images / 255
    axes = (1, 2, 3)
    expected = (x - x.mean(axes, keepdims=True)) / x.std(axes, keepdims=True)
    found = evaluate(images, config_of(standardize=True))
    np.testing.assert_allclose(found, expected, atol=1e-5)


@pytest.mark.parametrize("value", [0, 1, 77, 254, 255])
def test_a_plain_image_becomes_zeros(value):
    images = np.full((1, 32, 32, 3), value, np.uint8)
    found = evaluate(images, config_of(standardize=True))
    np.testing.assert_allclose(found, np.zeros_like(found), atol=1e-3)


def test_one_pixel_that_differs_by_one_stands_out():
    """Its distance to the mean is divided by the image's standard deviation."""
    images = np.full((1, 8, 8, 1), 100, np.uint8)
    images[0, 3, 4, 0] = 101
    n = 64
    std = np.sqrt(n - 1) / n / 255
    # The divisor is never less than 1 / (255 sqrt(n)), which is a bit more.
    divisor = max(std, 1 / (255 * np.sqrt(n)))
    found = evaluate(images, config_of(standardize=True))
    np.testing.assert_allclose(
        found[0, 3, 4, 0], (1 - 1 / n) / 255 / divisor, rtol=1e-3
    )
