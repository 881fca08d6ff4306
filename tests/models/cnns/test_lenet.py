"""LeNet-5, held against the paper's counts and float64 NumPy."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from capsjax import models
from capsjax.errors import UserError
from capsjax.layers import scaled_tanh
from capsjax.models.cnns import lenet


def build(config, image_shape=(28, 28, 1)):
    return models.build(config, image_shape, 10, nnx.Rngs(params=0))


@pytest.mark.parametrize("image_shape", [(28, 28, 1), (32, 32, 1)])
def test_the_number_of_parameters(image_shape):
    """By layer, as in section II-B."""
    model = nnx.eval_shape(lambda: build(lenet.Config(), image_shape))
    layers = (model.c1, model.s2, model.c3, model.s4, model.c5, model.f6)
    counts = [models.num_parameters(layer) for layer in layers]
    assert counts == [156, 12, 1_516, 32, 48_120, 10_164]
    assert models.num_parameters(model) == 60_000


def test_the_number_of_parameters_of_the_dense_form():
    config = lenet.Config.preset("dense")
    for image_shape, expected in (((28, 28, 1), 61_706), ((32, 32, 3), 62_006)):
        model = nnx.eval_shape(lambda shape=image_shape: build(config, shape))
        assert models.num_parameters(model) == expected


def test_the_table_is_the_papers():
    """Section II-B: six contiguous threes, six fours, three others and all."""
    rings = [
        {tuple(sorted((start + i) % 6 for i in range(n))) for start in range(6)}
        for n in (3, 4)
    ]
    assert set(lenet.TABLE[:6]) == rings[0]
    assert set(lenet.TABLE[6:12]) == rings[1]
    assert all(len(maps) == 4 and maps not in rings[1] for maps in lenet.TABLE[12:15])
    assert lenet.TABLE[15] == tuple(range(6))
    # Each map of S2 is seen by ten maps of C3.
    seen = list(itertools.chain(*lenet.TABLE))
    assert [seen.count(i) for i in range(6)] == [10] * 6


def test_a_partial_convolution_in_float64():
    connections = [(0, 2), (1,), (0, 1, 2)]
    layer = lenet.PartialConv(connections, rngs=nnx.Rngs(0))
    rng = np.random.default_rng(0)
    layer.bias[...] = jnp.float32(rng.normal(size=3))
    x = rng.normal(size=(2, 7, 6, 3))
    kernel = np.asarray(layer.kernel[...], np.float64)
    bias = np.asarray(layer.bias[...], np.float64)
    expected = np.zeros((2, 3, 2, 3))
    for b, h, w, o in np.ndindex(expected.shape):
        first = sum(len(maps) for maps in connections[:o])
        expected[b, h, w, o] = bias[o] + sum(
            np.sum(x[b, h : h + 5, w : w + 5, i] * kernel[:, :, first + place])
            for place, i in enumerate(connections[o])
        )
    np.testing.assert_allclose(layer(jnp.float32(x)), expected, atol=1e-5)


def test_subsampling_by_hand():
    layer = lenet.Subsampling(1)
    layer.factor[...], layer.bias[...] = jnp.array([0.5]), jnp.array([1.0])
    x = jnp.arange(8.0).reshape(1, 2, 4, 1)
    np.testing.assert_allclose(layer(x)[0, :, :, 0], [[0.5 * 10 + 1, 0.5 * 18 + 1]])


def test_scaled_tanh():
    x = np.array([-1, 0, 1, 3])
    expected = 1.7159 * np.tanh(2 * x / 3)
    np.testing.assert_allclose(scaled_tanh(jnp.float32(x)), expected, rtol=1e-6)
    np.testing.assert_allclose(expected[:3], [-1, 0, 1], atol=1e-4)


def test_codes_differ_in_half_of_their_numbers():
    codes = lenet.codes(10, 84)
    assert set(np.unique(codes)) == {-1, 1}
    distances = [np.sum(a != b) for a, b in itertools.combinations(codes, 2)]
    assert 40 <= min(distances) <= max(distances) <= 44


def small(image_shape):
    """A small network, built where it is called."""
    config = lenet.Config(channels=(6, 16, 4), dense_units=12)
    return lenet.LeNet(config, image_shape, 10, nnx.Rngs(params=0))


def test_a_score_is_minus_the_squared_distance_from_the_code():
    """F6 has no weights here, so that its units are tanh of their biases."""
    bias = np.random.default_rng(0).normal(size=12)

    @jax.jit
    def scores():
        model = small((8, 8, 1))
        model.f6.kernel[...] *= 0
        model.f6.bias[...] = jnp.float32(bias)
        return model(jnp.ones((1, 8, 8, 1))).scores[0]

    units = 1.7159 * np.tanh(2 * bias / 3)
    expected = -np.sum((units - lenet.codes(10, 12)) ** 2, axis=1)
    np.testing.assert_allclose(scores(), expected, rtol=1e-5)


def test_small_images_are_padded_with_background():
    """Numbers outside of 28x28 pixels are those of black pixels."""
    image = np.zeros((1, 32, 32, 1), np.float32)
    image[:, 2:30, 2:30] = np.random.default_rng(0).uniform(size=(1, 28, 28, 1))

    @jax.jit
    def scores(image):
        return small(image.shape[1:])(image).scores

    found = scores(jnp.asarray(image[:, 2:30, 2:30]))
    np.testing.assert_allclose(found, scores(jnp.asarray(image)), rtol=1e-5)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"channels": (6, 8, 20)}, "for 6 and 16 maps, not 6 and 8"),
        ({"dense_units": 8}, "8 dense_units are too few for the codes of 10"),
    ],
)
def test_settings_that_do_not_fit(settings, message):
    with pytest.raises(UserError, match=message):
        build(lenet.Config(**settings))
