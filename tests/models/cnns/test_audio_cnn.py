"""The one-dimensional networks: their sizes, and that time is a line."""

import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from capsjax import models
from capsjax.errors import UserError
from capsjax.models.capsules import audio_capsnet
from capsjax.models.cnns import audio_cnn

SECOND = (1, 8_000, 2)
MNIST, CIFAR = (28, 28, 1), (32, 32, 3)


def shaped(config, image_shape):
    return nnx.eval_shape(
        lambda: models.build(config, image_shape, 10, nnx.Rngs(params=0))
    )


@pytest.mark.parametrize(
    ("preset", "image_shape", "layers"),
    [
        # Weights and, where there is no normalisation, biases; then two numbers per
        # normalised channel, and the dense layer.
        (
            "audio",
            SECOND,
            [80 * 2 * 32, 64, 3 * 32 * 64, 128, 3 * 64 * 64, 128, 65 * 10],
        ),
        (
            "deeper",
            SECOND,
            [5_120, 64, 6_144, 128, 12_288, 128, 3 * 64 * 128, 256, 129 * 10],
        ),
        ("f", SECOND, [16_001 * 10]),
        ("a_f", SECOND, [161 * 32, 2_000 * 32 * 10, 10]),
        ("a_b_f", SECOND, [161 * 32, 97 * 64, 2_000 * 64 * 10, 10]),
        ("a_pool_b_f", SECOND, [161 * 32, 97 * 64, 500 * 64 * 10, 10]),
        ("mnist1d", (1, 40, 2), [11 * 25, 76 * 25, 76 * 25, 126 * 10]),
        ("pixels", MNIST, [288, 64, 96 * 64, 128, 192 * 64, 128, 650]),
        ("pixels", CIFAR, [864, 64, 96 * 64, 128, 192 * 64, 128, 650]),
    ],
)
def test_the_number_of_parameters(preset, image_shape, layers):
    model = shaped(audio_cnn.Config.preset(preset), image_shape)
    assert models.num_parameters(model) == sum(layers)


@pytest.mark.parametrize(
    ("preset", "image_shape", "below", "capsules"),
    [
        # 2,000 places, (2,000 - 9) // 4 + 1 = 498 of them with 8 types.
        ("audio", SECOND, (9 * 2 + 1) * 64 + 9 * 64 * 64 + 64, 498 * 8),
        # 125 places after both pools, 62 of the primary capsules.
        (
            "pooled",
            SECOND,
            160 * 32 + 64 + 96 * 64 + 128 + 3 * 64 * 64 + 64,
            62 * 8,
        ),
        ("mnist1d", (1, 40, 2), 11 * 25 + 76 * 64, 9 * 8),
        ("pixels", MNIST, (9 + 1) * 64 + 9 * 64 * 64 + 64, 23 * 8),
        ("pixels", CIFAR, (9 * 3 + 1) * 64 + 9 * 64 * 64 + 64, 30 * 8),
    ],
)
def test_the_number_of_capsules(preset, image_shape, below, capsules):
    model = shaped(audio_capsnet.Config.preset(preset), image_shape)
    assert model.class_capsules.weights.shape == (capsules, 10, 16, 8)
    assert models.num_parameters(model) == below + capsules * 10 * 16 * 8


def test_an_image_is_read_as_a_line():
    """Folded into rows or not, the same samples give the same scores."""
    config = audio_cnn.Config(
        channels=(4, 4), kernel_sizes=(5, 3), strides=(2, 1), pools=(2, 2)
    )
    model = models.build(config, (1, 48, 2), 3, nnx.Rngs(params=0))
    rng = np.random.default_rng(0)
    images = jnp.asarray(rng.uniform(size=(2, 1, 48, 2)), jnp.float32)
    rows = models.build(config, (6, 8, 2), 3, nnx.Rngs(params=0))
    np.testing.assert_array_equal(
        model(images).scores, rows(images.reshape(2, 6, 8, 2)).scores
    )


def test_the_mean_over_time_does_not_see_shifts():
    """By a multiple of all strides and pools; unlike a dense layer on every place."""
    sizes = audio_cnn.Config(
        channels=(4, 4), kernel_sizes=(5, 3), strides=(2, 1), pools=(2, 1)
    )
    images = np.zeros((2, 1, 64, 1), np.float32)
    images[0, 0, 20:28, 0] = images[1, 0, 32:40, 0] = np.linspace(0.2, 1, 8)
    for average in (True, False):
        config = sizes.replace(global_average=average)
        model = models.build(config, (1, 64, 1), 3, nnx.Rngs(params=0))
        scores = np.asarray(model(jnp.asarray(images)).scores)
        assert np.allclose(scores[0], scores[1], atol=1e-5) == average


def test_bad_settings():
    with pytest.raises(UserError, match="16 samples have 4 places after convolution 1"):
        shaped(audio_cnn.Config(pools=(8, 1, 1)), (4, 4, 1))
    with pytest.raises(UserError, match="2 channels, 3 kernel_sizes, 3 strides and 3"):
        shaped(audio_cnn.Config(channels=(4, 4)), SECOND)
    with pytest.raises(UserError, match=r"16 places .* primary capsules with a kernel"):
        shaped(audio_capsnet.Config(primary_kernel=17), (8, 8, 1))
