"""EM routing as a plug-in: where it starts, its options, its windows."""

import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from capsjax.routings import Capsules, Sizes, Transform, em
from kernels import routing
from kernels.routing.votes import Windows


@pytest.mark.parametrize("scale", [0.1, 0.3, 1.0])
def test_activations_are_undecided_at_first(scale):
    """In a class layer of 4x4x32 children, whatever the size of its votes."""
    rng = np.random.default_rng(0)
    capsules = Capsules(
        jnp.asarray(rng.normal(size=(2, 512, 4, 4)), "float32"),
        jnp.full((2, 512), 0.5),
    )
    weights = scale / 2 * jnp.asarray(rng.normal(size=(512, 5, 4, 4)), "float32")
    plug_in = em.Config().build(Sizes(512, 16, 5, 16), nnx.Rngs(0))
    poses, activations = plug_in(capsules, Transform(weights))
    assert poses.shape == (2, 5, 4, 4)
    assert activations is not None
    assert 0.05 < activations.min() <= activations.max() < 0.95
    assert np.abs(activations - 0.5).max() > 0.01


def test_it_hands_its_options_and_windows_to_the_op():
    """As the op has them; the poses are matrices."""
    rng = np.random.default_rng(0)
    windows = Windows(2)
    capsules = Capsules(
        jnp.asarray(rng.normal(size=(2, 3, 3, 2, 2, 2)), "float32"),
        jnp.asarray(rng.uniform(size=(2, 3, 3, 2)), "float32"),
    )
    transform = Transform(
        jnp.asarray(rng.normal(size=(8, 3, 2, 2)), "float32"), windows=windows
    )
    config = em.Config.preset("gritzman", iterations=2, beta_a_scale=10.0)
    plug_in = config.build(Sizes(8, 4, 3, 4), nnx.Rngs(0))
    plug_in.beta_a[...] = jnp.asarray([1.0, -2.0, 3.0])
    found = plug_in(capsules, transform)
    children = transform.children(capsules)
    assert found.activations is not None
    assert children.activations is not None
    poses, activations = routing.em.route(
        transform.votes(children),
        children.activations,
        jnp.ones(3),
        jnp.asarray([10.0, -20.0, 30.0]),
        num_iterations=2,
        windows=windows,
        grid=(3, 3),
        variance_floor=1e-9,
        mass_epsilon=1e-9,
        cost_factor=100 * 3 / 8,
    )
    np.testing.assert_allclose(
        found.poses, poses.reshape(2, 2, 2, 3, 2, 2), rtol=1e-4, atol=1e-5
    )
    np.testing.assert_allclose(found.activations, activations, rtol=1e-4)
