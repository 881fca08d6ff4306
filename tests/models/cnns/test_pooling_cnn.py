"""The CNN for comparing poolings: its kinds differ in the pooling alone."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from capsjax import models
from capsjax.errors import UserError
from capsjax.layers import GatedPool, TreePool
from capsjax.models.cnns import pooling_cnn


def build(image_shape=(8, 8, 1), **changes):
    config = pooling_cnn.Config(**changes)
    return models.build(config, image_shape, 10, nnx.Rngs(params=0))


def count(pooling, *, per_channel=False):
    model = nnx.eval_shape(
        lambda: build((28, 28, 1), pooling=pooling, per_channel=per_channel)
    )
    return models.num_parameters(model)


def test_the_number_of_parameters():
    """Kernels of 3x3, two numbers per normalised channel, the dense layer."""
    kernels = 9 * (32 + 32 * 32 + 32 * 64 + 3 * 64 * 64)
    assert count("max") == kernels + 2 * 2 * (32 + 64 + 64) + 65 * 10 == 139_818
    more = {"stride": 0, "mixed": 2, "gated": 2 * 4, "tree": 2 * 3 * 4}
    for pooling, number in more.items():
        assert count(pooling) == 139_818 + number
    assert count("tree", per_channel=True) == 139_818 + (32 + 64) * 3 * 4


def test_each_kind_gives_results_of_its_own():
    """With the same convolutions."""
    images = jnp.asarray(np.random.default_rng(0).uniform(size=(2, 8, 8, 1)))
    scores = {}
    for pooling in ("max", "average", "mixed", "stride"):
        model = build(pooling=pooling, channels=(4, 4), blocks=1)
        call = nnx.jit(lambda model, x: model(x).scores)
        scores[pooling] = call(model, images.astype(jnp.float32))
    found = jnp.stack(list(scores.values()))
    differences = jnp.abs(found[:, None] - found[None]).max(axis=(2, 3))
    assert np.all(differences[~np.eye(len(scores), dtype=bool)] > 1e-3)


def test_a_tree_comes_first_and_gates_follow():
    model = nnx.eval_shape(lambda: build(pooling="tree_gated", tree_levels=3))
    tree, gates = model.pools
    assert isinstance(tree, TreePool)
    assert tree.leaves.shape == (4, 4, 1)
    assert isinstance(gates, GatedPool)


def test_images_that_are_too_small():
    with pytest.raises(UserError, match="window of 2 pixels does not fit into 1"):
        jax.eval_shape(lambda: nnx.state(build((3, 3, 1))))
