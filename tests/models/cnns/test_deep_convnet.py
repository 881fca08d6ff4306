"""The textbook's deep CNN, held against the book's published parameters."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from capsjax import data, models
from capsjax.errors import UserError
from capsjax.models.cnns import deep_convnet

MNIST = (28, 28, 1)


def build(config=None, image_shape=MNIST):
    return models.build(
        config or deep_convnet.Config(), image_shape, 10, nnx.Rngs(params=0)
    )


def test_the_number_of_parameters():
    """By layer: as counted from the book's published file."""
    model = nnx.eval_shape(build)
    layers = [conv for pair in model.pairs for conv in pair]
    counts = [models.num_parameters(x) for x in (*layers, model.dense, model.logits)]
    assert counts == [160, 2_320, 4_640, 9_248, 18_496, 36_928, 51_250, 510]
    assert models.num_parameters(model) == 123_552


def test_the_usual_padding_is_a_setting():
    config = deep_convnet.Config(wide_padding=False)
    model = nnx.eval_shape(lambda: build(config))
    assert model.dense.kernel.shape == (3 * 3 * 64, 50)


def test_images_that_are_too_small():
    with pytest.raises(UserError, match="2x2 pixels cannot be halved 3 times"):
        build(image_shape=(2, 2, 1))


@pytest.mark.parametrize("drop_logits", [False, True])
def test_dropout_in_training_only(drop_logits):
    """A share of what is dropped is zero, the rest larger, so that means agree."""
    model = build(deep_convnet.Config(drop_logits=drop_logits), (8, 8, 1))
    images = jnp.ones((1, 8, 8, 1))
    plain = model(images).scores
    np.testing.assert_array_equal(model(images).scores, plain)
    many = jnp.broadcast_to(images, (4_000, 8, 8, 1))
    dropped = model(many, keys=jax.random.split(jax.random.key(0), 4_000)).scores
    assert np.mean(dropped == 0) == pytest.approx(0.5 * drop_logits, abs=0.01)
    assert np.ptp(dropped, axis=0).min() > 0
    error = 5 * np.std(dropped, axis=0) / np.sqrt(4_000)
    assert np.all(np.abs(np.mean(dropped, axis=0) - plain[0]) < error)


def test_the_published_parameters_make_the_books_errors(network_fixture, tfds_data_dir):
    """Without and with the factor that dropout has in the book's own code."""
    published = network_fixture("textbook_deep_convnet")
    model = build()
    layers = [conv for pair in model.pairs for conv in pair]
    for number, conv in enumerate(layers, 1):
        conv.kernel[...] = jnp.float32(published[f"W{number}"].transpose(2, 3, 1, 0))
        conv.bias[...] = jnp.float32(published[f"b{number}"])
    # The book's images have their channels first.
    dense = published["W7"].reshape(64, 4, 4, 50).transpose(1, 2, 0, 3)
    model.dense.kernel[...] = jnp.float32(dense.reshape(1024, 50))
    model.dense.bias[...] = jnp.float32(published["b7"])
    model.logits.bias[...] = jnp.float32(published["b8"])
    test = data.load("mnist", data_dir=tfds_data_dir, validation_examples=0).test
    predict = nnx.jit(lambda model, images: jnp.argmax(model(images).scores, axis=1))
    for factor, errors in ((1.0, 62), (0.5, 65)):
        model.logits.kernel[...] = jnp.float32(factor * published["W8"])
        found = [
            predict(model, jnp.float32(images) / 255)
            for images in np.split(test.images, 10)
        ]
        assert np.sum(np.concatenate(found) != test.labels) == errors
