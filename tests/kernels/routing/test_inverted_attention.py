"""Inverted attention against loops in float64 and its authors' code."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from kernels.routing import inverted_attention
from kernels.routing.votes import Windows, matrix_votes, vector_votes
from tests.kernels.routing import comparisons

B, C, J, Q = 2, 5, 3, 4


def in_float64(votes, scale, bias, *, num_iterations):
    """Pass by pass and capsule by capsule."""
    C, J, Q = votes.shape[-3:]
    out = np.empty((*votes.shape[:-3], J, Q))
    for where in np.ndindex(votes.shape[:-3]):
        V, coupling, p = votes[where], np.full((C, J), 1 / J), np.empty((J, Q))
        for iteration in range(num_iterations):
            if iteration:
                logits = np.array(
                    [[V[i, j] @ p[j] / np.sqrt(Q) for j in range(J)] for i in range(C)]
                )
                e = np.exp(logits - logits.max(axis=1, keepdims=True))
                coupling = e / e.sum(axis=1, keepdims=True)
            for j in range(J):
                s = coupling[:, j] @ V[:, j]
                if Q > 1:
                    s = (s - s.mean()) / np.sqrt(s.var() + 1e-5) * scale + bias
                p[j] = s
        out[where] = p
    return out


def arguments(positions=(), Q=Q):
    rng = np.random.default_rng(0)
    votes = rng.normal(size=(B, *positions, C, J, Q))
    return votes, rng.normal(size=Q), rng.normal(size=Q)


def in_float32():
    return [jnp.asarray(x, jnp.float32) for x in arguments()]


@pytest.mark.parametrize(
    ("num_iterations", "positions", "dim"),
    [(1, (), Q), (2, (2, 3), Q), (3, (), Q), (2, (), 1)],
)
def test_poses_and_gradients(num_iterations, positions, dim):
    """Capsules of one dimension are not normalised."""
    op, expected = (
        functools.partial(function, num_iterations=num_iterations)
        for function in (inverted_attention.route, in_float64)
    )
    comparisons.with_reference(op, expected, arguments(positions, dim))


@pytest.mark.parametrize("dtype", ["float64", "float32"])
@pytest.mark.parametrize(
    "name", ["attention_fc", "attention_fc_matrix", "attention_conv_matrix"]
)
def test_published_code(name, dtype, routing_fixture):
    fixture = routing_fixture(name)
    meta = fixture["meta"]

    def op(poses, weights, norm_scale, norm_bias):
        if "conv" in name:
            poses = Windows(meta["kernel"], meta["stride"]).children(poses)
        if meta["matrix_pose"]:
            votes = votes_of_matrices(poses, weights)
        else:
            votes = vector_votes(poses, weights)
        poses = inverted_attention.route(
            votes, norm_scale, norm_bias, num_iterations=meta["iterations"]
        )
        return {"poses": poses}

    comparisons.with_published(op, fixture, dtype)


def votes_of_matrices(poses, weights):
    """Of poses whose elements are in one row, and weights of a window."""
    weights = weights.reshape(-1, *weights.shape[-3:])
    return matrix_votes(poses.reshape(*poses.shape[:-1], *weights.shape[2:]), weights)


@pytest.mark.parametrize("schedule", ["sequential", "concurrent"])
def test_a_published_network(schedule, routing_fixture):
    """Three layers of matrices; in concurrent routing they make each pass together."""
    fixture = routing_fixture("attention_net")
    iterations = fixture["meta"]["iterations"]
    assert fixture["meta"]["layers"].startswith("conv K3 S2, conv K3 S1, fully")

    @jax.jit
    def logits(given):
        def votes(index, below):
            if index < 2:
                below = Windows(3, 2 - index).children(below)
            else:
                # The authors' order of the children of a fully connected layer.
                below = jnp.moveaxis(below, 3, 1)
                below = below.reshape(len(below), -1, below.shape[-1])
            return votes_of_matrices(below, given[f"weights_{index}"])

        def norm(index):
            return given[f"norm_scale_{index}"], given[f"norm_bias_{index}"]

        first = inverted_attention.first_pass
        if schedule == "sequential":
            first = functools.partial(
                inverted_attention.route, num_iterations=iterations
            )
        layers = [given["primary_poses"]]
        for index in range(3):
            layers.append(first(votes(index, layers[-1]), *norm(index)))
        for _ in range(iterations - 1 if schedule == "concurrent" else 0):
            layers[1:] = [
                inverted_attention.next_pass(
                    votes(index, layers[index]), layers[index + 1], *norm(index)
                )
                for index in range(3)
            ]
        return layers[-1] @ given["classifier_weight"]

    with jax.enable_x64(True):
        given = {key: jnp.asarray(x) for key, x in fixture.items() if key != "meta"}
        found = np.asarray(logits(given)) + fixture["classifier_bias"]
    comparisons.assert_close(found, fixture[f"logits_{schedule}"], 1e-9)


def test_logits_are_not_summed_over_the_passes():
    """The fourth pass sees what the third left, and nothing else."""
    votes, *norm = in_float32()
    poses = inverted_attention.route(votes, *norm, num_iterations=3)
    found = inverted_attention.next_pass(votes, poses, *norm)
    expected = inverted_attention.route(votes, *norm, num_iterations=4)
    np.testing.assert_allclose(found, expected, rtol=1e-5)


def test_output_capsules_compete_and_input_capsules_do_not():
    """Votes for a single output capsule are summed, whatever the agreement."""
    votes, *norm = in_float32()
    one, three = (
        inverted_attention.route(votes[:, :, :1], *norm, num_iterations=n)
        for n in (1, 3)
    )
    np.testing.assert_allclose(one, three, rtol=1e-5)


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_half_precision_is_computed_in_float32(dtype):
    """Also between the passes."""
    votes, *norm = in_float32()
    votes = votes.astype(dtype)
    found = inverted_attention.route(votes, *norm, num_iterations=3)
    expected = inverted_attention.route(
        votes.astype("float32"), *norm, num_iterations=3
    )
    assert found.dtype == dtype
    np.testing.assert_array_equal(found, expected.astype(dtype))
    poses = inverted_attention.first_pass(votes, *norm)
    assert poses.dtype == dtype
    assert inverted_attention.next_pass(votes, poses, *norm).dtype == dtype


def test_votes_of_zero_have_finite_gradients():
    route = jax.jit(inverted_attention.route)
    poses, vjp = jax.vjp(route, jnp.zeros((B, C, J, Q)), jnp.ones(Q), jnp.zeros(Q))
    assert not np.any(poses)
    assert all(np.all(np.isfinite(x)) for x in vjp(jnp.ones_like(poses)))


def test_arguments_that_do_not_agree():
    votes, scale, bias = in_float32()
    for wrong in ((votes, scale[1:], bias), (votes, scale, bias[1:])):
        for function in (inverted_attention.route, inverted_attention.first_pass):
            with pytest.raises(ValueError, match=r"inverted attention .*\(3,\)"):
                function(*wrong)
    with pytest.raises(ValueError, match=r"votes .* got \(5, 3, 4\)"):
        inverted_attention.route(votes[0], scale, bias)
    with pytest.raises(ValueError, match=r"poses .* and \(2, 5, 4\)"):
        inverted_attention.next_pass(votes, votes[:, :, 0], scale, bias)
    wrong_numbers: tuple[Any, ...] = (True, 2.0)
    for iterations in wrong_numbers:
        with pytest.raises(ValueError, match="num_iterations must be an int"):
            inverted_attention.route(votes, scale, bias, num_iterations=iterations)
    with pytest.raises(ValueError, match="at least 1; got 0"):
        inverted_attention.route(votes, scale, bias, num_iterations=0)
