"""Variational Bayes routing as a plug-in: its batch normalisation."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from capsjax.normalization import BATCH_AXIS
from capsjax.routings import Capsules, Sizes, Transform, variational_bayes
from kernels.routing import blocks
from kernels.routing.votes import Windows


@pytest.mark.parametrize("batch", [(1, 2), (2, 1)])
def test_it_equals_published_code(routing_fixture, monkeypatch, batch):
    """Batch normalisation is over all examples, in several blocks or shares."""
    monkeypatch.setattr(blocks, "_CPU_BLOCK_BYTES", 1)
    fixture = routing_fixture("vb_conv")
    poses, activations = (
        jnp.float32(fixture[name]) for name in ("poses", "activations")
    )
    weights = jnp.float32(fixture["weights"]).reshape(-1, 2, 2, 2)
    transform = Transform(weights, windows=Windows(3, 2))
    plug_in = variational_bayes.Config().build(Sizes(27, 4, 2, 4), nnx.Rngs(0))
    for name in ("beta_u", "beta_a"):
        getattr(plug_in, name)[...] = jnp.float32(fixture[name])
    graphdef, state = nnx.split(plug_in)

    def call(inputs, train):
        merged = nnx.merge(graphdef, state, copy=True)
        found = merged(inputs, transform, train=train)
        _, averages = nnx.split(merged)
        return found, averages

    def given(*batch):
        return Capsules(
            poses.reshape(*batch, 5, 5, 3, 2, 2), activations.reshape(*batch, 5, 5, 3)
        )

    shares = jax.vmap(functools.partial(call, train=True), axis_name=BATCH_AXIS)
    training, averages = jax.jit(shares)(given(*batch))
    fresh, _ = jax.jit(functools.partial(call, train=False))(given(2))
    for found, name in ((training, "training"), (fresh, "fresh_statistics")):
        expected = fixture[f"out_poses_{name}"].reshape(2, 2, 2, 2, 2, 2)
        assert found.activations is not None
        np.testing.assert_allclose(
            found.poses.reshape(expected.shape), expected, atol=2e-4
        )
        expected = fixture[f"out_activations_{name}"]
        np.testing.assert_allclose(
            found.activations.reshape(expected.shape), expected, atol=2e-4
        )
    scores = fixture["out_scores"].mean(axis=(0, 1, 2))
    mean = averages["score_norm"]["norm"]["mean"][...]
    np.testing.assert_allclose(mean, np.tile(0.1 * scores, (batch[0], 1)), rtol=1e-4)
