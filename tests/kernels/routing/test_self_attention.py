"""Self-attention routing against loops in float64 and its authors' code."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from kernels.routing import self_attention
from kernels.routing.votes import vector_votes
from tests.kernels.routing import comparisons

B, C, J, Q = 2, 5, 3, 4


def in_float64(votes, routing_bias, bias=None):
    """Equations 5 to 7 with the matrix of all pairs of votes."""
    C, J, Q = votes.shape[-3:]
    poses = np.empty((*votes.shape[:-3], J, Q))
    for where in np.ndindex(*votes.shape[:-3]):
        V = votes[where]
        logits = np.zeros((C, J))
        for j in range(J):
            pairs = V[:, j] @ V[:, j].T / np.sqrt(Q)
            logits[:, j] = pairs.sum(axis=1)
        e = np.exp(logits - logits.max(axis=1, keepdims=True))
        coupling = e / e.sum(axis=1, keepdims=True) + routing_bias
        for j in range(J):
            s = coupling[:, j] @ V[:, j] + (0 if bias is None else bias[j])
            length = np.linalg.norm(s)
            poses[*where, j] = (1 - np.exp(-length)) * s / length
    return poses


def arguments(positions=()):
    rng = np.random.default_rng(0)
    votes = rng.normal(size=(B, *positions, C, J, Q)) / 2
    return votes, rng.normal(size=(C, J)) / 3, rng.normal(size=(J, Q))


@pytest.mark.parametrize("positions", [(), (2, 3)])
@pytest.mark.parametrize("bias", [False, True])
def test_poses_and_gradients(positions, bias):
    comparisons.with_reference(
        self_attention.route, in_float64, arguments(positions)[: 2 + bias]
    )


@pytest.mark.parametrize("dtype", ["float64", "float32"])
def test_published_code(dtype, routing_fixture):
    def op(poses, weights, routing_bias):
        votes = vector_votes(poses, weights)
        return {"poses": self_attention.route(votes, routing_bias)}

    comparisons.with_published(op, routing_fixture("self_attention_fc"), dtype)


def test_the_routing_bias_is_added_after_the_softmax():
    """Inside it, a constant would change nothing."""
    votes, routing_bias, _ = (jnp.asarray(x, jnp.float32) for x in arguments())
    before, after = (
        self_attention.route(votes, routing_bias + shift) for shift in (0.0, 1.0)
    )
    assert np.abs(after - before).max() > 0.1


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_half_precision_is_computed_in_float32(dtype):
    votes, *others = (jnp.asarray(x, jnp.float32) for x in arguments())
    votes = votes.astype(dtype)
    found = self_attention.route(votes, *others)
    expected = self_attention.route(votes.astype("float32"), *others)
    assert found.dtype == dtype
    np.testing.assert_array_equal(found, expected.astype(dtype))


def test_votes_of_zero_have_finite_gradients():
    given = jnp.zeros((B, C, J, Q)), jnp.zeros((C, J))
    poses, vjp = jax.vjp(jax.jit(self_attention.route), *given)
    assert not np.any(poses)
    for gradient in vjp(jnp.ones_like(poses)):
        assert np.all(np.isfinite(gradient))


def test_arguments_that_do_not_agree():
    with pytest.raises(ValueError, match=r"\(2, 5, 3, 4\) and \(5, 4\)"):
        self_attention.route(jnp.zeros((2, 5, 3, 4)), jnp.zeros((5, 4)))
    with pytest.raises(ValueError, match=r"\(5, 3, 4\) and \(5, 3\)"):
        self_attention.route(jnp.zeros((5, 3, 4)), jnp.zeros((5, 3)))
    with pytest.raises(ValueError, match=r"bias.*\(3, 5\)"):
        self_attention.route(
            jnp.zeros((2, 5, 3, 4)), jnp.zeros((5, 3)), jnp.zeros((3, 5))
        )
