"""The CNN with DropConnect, dropout or neither."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from capsjax import models
from capsjax.errors import UserError
from capsjax.models.cnns.drop_connect import Config


def build(config, image_shape=(28, 28, 1)):
    return models.build(config, image_shape, 10, nnx.Rngs(params=0))


@pytest.mark.parametrize("preset", Config.PRESETS)
def test_the_number_of_parameters(preset):
    """The same whatever is dropped."""
    model = nnx.eval_shape(lambda: build(Config.preset(preset)))
    convolutions = 32 * (25 + 1) + 64 * (25 * 32 + 1)
    expected = convolutions + 150 * (7 * 7 * 64 + 1) + 10 * 151
    assert models.num_parameters(model) == expected == 524_156


@pytest.mark.parametrize("preset", Config.PRESETS)
def test_it_drops_in_training_only(preset):
    config = Config.preset(preset, conv_channels=(2,), kernel_size=1, dense_units=6)

    @jax.jit
    def run(images, keys):
        model = config.build(images.shape[1:], 10, nnx.Rngs(params=0))
        return model(images).scores, model(images, keys=keys).scores

    plain, dropped = run(
        jnp.ones((20, 4, 4, 1)), jax.random.split(jax.random.key(0), 20)
    )
    assert np.ptp(plain, axis=0).max() == 0
    if preset == "none":
        np.testing.assert_array_equal(dropped, plain)
    else:
        assert len(np.unique(np.asarray(dropped), axis=0)) > 10


def test_images_that_are_too_small():
    with pytest.raises(UserError, match="3x3 pixels cannot be halved 2 times"):
        build(Config(), (3, 3, 1))
