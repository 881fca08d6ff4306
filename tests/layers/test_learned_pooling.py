"""Mixed, gated and tree pooling against loops in float64."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from capsjax.errors import SettingsError
from capsjax.layers import GatedPool, MixedPool, TreePool

WINDOW, STRIDE, C = 3, 2, 2
X = np.random.default_rng(0).normal(size=(2, 7, 6, C))


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def build(kind, per_channel):
    """A layer with random weights, which are float32 of round numbers of bits."""
    options = {"per_channel": per_channel}
    if kind is TreePool:
        options |= {"levels": 3, "rngs": nnx.Rngs(0)}
    layer = kind(C, WINDOW, STRIDE, **options)
    rng = np.random.default_rng(1)
    state = nnx.state(layer, nnx.Param)
    nnx.update(
        layer,
        jax.tree.map(lambda x: jnp.float32(rng.normal(size=x.shape)), state),
    )
    return layer


def of_window(layer, pixels, channel):
    """The result for the pixels of one window and channel."""

    def filters(param):
        values = np.asarray(param[...], np.float64)
        return values[..., channel if values.shape[-1] == C else 0]

    mixture = None
    if isinstance(layer, MixedPool):
        mixture = filters(layer.share)
    elif isinstance(layer, GatedPool):
        mixture = sigmoid(filters(layer.mask)[0] @ pixels)
    if mixture is not None:
        return mixture * pixels.max() + (1 - mixture) * pixels.mean()
    a, b, c, d = filters(layer.leaves) @ pixels
    left, right, root = sigmoid(filters(layer.gates) @ pixels)
    first, second = left * a + (1 - left) * b, right * c + (1 - right) * d
    return root * first + (1 - root) * second


@pytest.mark.parametrize("per_channel", [False, True])
@pytest.mark.parametrize("kind", [MixedPool, GatedPool, TreePool])
def test_each_window_and_channel(kind, per_channel):
    layer = build(kind, per_channel)
    expected = np.empty((2, 3, 2, C))
    for b, i, j, c in np.ndindex(expected.shape):
        rows, columns = (slice(STRIDE * n, STRIDE * n + WINDOW) for n in (i, j))
        expected[b, i, j, c] = of_window(layer, X[b, rows, columns, c].ravel(), c)
    found = nnx.jit(lambda layer: layer(jnp.float32(X)))(layer)
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("kind", [MixedPool, GatedPool, TreePool])
def test_all_weights_can_be_learned_from_the_start(kind):
    options = {"rngs": nnx.Rngs(0)} if kind is TreePool else {}
    layer = kind(C, WINDOW, STRIDE, **options, per_channel=True)
    weights = jnp.float32(np.random.default_rng(2).normal(size=(2, 3, 2, C)))

    def loss(layer):
        return jnp.sum(weights * layer(jnp.float32(X)))

    leaves = jax.tree.leaves(nnx.jit(nnx.grad(loss))(layer))
    gradient = np.concatenate([np.ravel(x) for x in leaves])
    assert np.all(gradient != 0)
    if isinstance(layer, TreePool):  # Equal leaves would stay equal.
        assert len(np.unique(layer.leaves[...])) == layer.leaves.size


def test_a_window_that_does_not_fit():
    with pytest.raises(SettingsError, match="window of 3 pixels does not fit into 2"):
        GatedPool(C, WINDOW, STRIDE)(jnp.ones((1, 2, 7, C)))
