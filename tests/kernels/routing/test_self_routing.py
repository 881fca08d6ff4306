"""Self-routing against loops in float64 and its authors' code."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from kernels.routing import self_routing
from kernels.routing.votes import Windows, vector_votes
from tests.kernels.routing import comparisons

B, C, J, Q, P = 2, 5, 3, 4, 6


def in_float64(votes, activations, poses, routing_weights, routing_bias):
    """Child by child."""
    C, J, Q = votes.shape[-3:]
    out_poses = np.zeros((*votes.shape[:-3], J, Q))
    out_activations = np.zeros((*votes.shape[:-3], J))
    for where in np.ndindex(votes.shape[:-3]):
        mass = np.zeros(J)
        for i in range(C):
            logits = routing_weights[i] @ poses[*where, i] + routing_bias[i]
            c = np.exp(logits) / np.exp(logits).sum()
            for j in range(J):
                share = activations[*where, i] * c[j]
                mass[j] += share
                out_poses[*where, j] += share * votes[*where, i, j]
        out_poses[where] /= mass[:, None]
        out_activations[where] = mass / activations[where].sum()
    return out_poses, out_activations


def activations_in_float64(activations, poses, routing_weights, routing_bias):
    votes = np.zeros((*activations.shape, routing_weights.shape[1], 1))
    return in_float64(votes, activations, poses, routing_weights, routing_bias)[1]


def arguments(positions=()):
    rng = np.random.default_rng(0)
    return (
        rng.normal(size=(B, *positions, C, J, Q)),
        rng.uniform(0.1, 1, size=(B, *positions, C)),
        rng.normal(size=(B, *positions, C, P)),
        rng.normal(size=(C, J, P)),
        rng.normal(size=(C, J)),
    )


def in_float32(positions=()):
    return [jnp.asarray(x, jnp.float32) for x in arguments(positions)]


@pytest.mark.parametrize("positions", [(), (2, 3)])
def test_poses_activations_and_gradients(positions):
    comparisons.with_reference(self_routing.route, in_float64, arguments(positions))


def test_activations_without_votes():
    comparisons.with_reference(
        self_routing.route_activations, activations_in_float64, arguments()[1:]
    )


@pytest.mark.parametrize("dtype", ["float64", "float32"])
@pytest.mark.parametrize(
    "name", ["self_routing_fc", "self_routing_conv", "self_routing_conv_class"]
)
def test_published_code(name, dtype, routing_fixture):
    fixture = routing_fixture(name)
    meta = fixture["meta"]
    windows = Windows(meta["kernel"], meta["stride"], meta["padding"])

    def op(poses, activations, routing_weights, routing_bias, weights=None):
        if "conv" in name:
            poses, activations = windows.children(poses), windows.children(activations)
            routing_weights = routing_weights.reshape(-1, *routing_weights.shape[3:])
            routing_bias = routing_bias.reshape(-1, *routing_bias.shape[3:])
        others = activations, poses, routing_weights, routing_bias
        if weights is None:
            return {"activations": self_routing.route_activations(*others)}
        votes = vector_votes(poses, weights.reshape(-1, *weights.shape[-3:]))
        out_poses, out_activations = self_routing.route(votes, *others)
        return {"poses": out_poses, "activations": out_activations}

    comparisons.with_published(op, fixture, dtype)


def test_activations_add_up_to_one():
    _, found = self_routing.route(*in_float32((2, 3)))
    np.testing.assert_allclose(np.sum(found, axis=-1), 1, rtol=1e-5)


def test_the_scale_of_activations_does_not_count():
    """Only their ratios do, also for tiny ones."""
    votes, activations, *others = in_float32()
    expected = self_routing.route(votes, activations, *others)
    for scale in (10.0, 1e-15):
        found = self_routing.route(votes, scale * activations, *others)
        for a, b in zip(found, expected, strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("scale", [0.0, 1e-30, 1e-19, 1e-15])
def test_inactive_children_give_inactive_capsules(scale):
    """All of an example's; its batch mates do not notice. No gradient is NaN."""
    votes, activations, *others = in_float32()
    given = votes, activations.at[1].multiply(scale), *others
    found, vjp = jax.vjp(jax.jit(self_routing.route), *given)
    for a, b in zip(
        found, self_routing.route(votes, activations, *others), strict=True
    ):
        np.testing.assert_allclose(a[0], b[0], atol=1e-6)
        assert np.all(np.isfinite(a))
        assert scale > 1e-30 or not np.any(a[1])
    assert all(np.all(np.isfinite(x)) for x in vjp(tuple(map(jnp.ones_like, found))))


def test_an_output_capsule_to_which_nothing_is_routed():
    """Its coupling coefficients are too small for float32."""
    *given, routing_bias = in_float32()
    given.append(routing_bias.at[:, 1].set(-500))
    (poses, activations), vjp = jax.vjp(jax.jit(self_routing.route), *given)
    assert not np.any(poses[:, 1])
    assert not np.any(activations[:, 1])
    assert np.all(np.any(poses[:, ::2], axis=-1))
    found = vjp((jnp.ones_like(poses), jnp.ones_like(activations)))
    assert all(np.all(np.isfinite(x)) for x in found)


def test_children_in_the_padding_do_not_count():
    """Their poses of 0 have equal logits; it is the activation that leaves them out."""
    votes, activations, poses, *others = in_float32()
    padded = [x.at[:, 2].set(0) for x in (votes, activations, poses)]
    found = self_routing.route(*padded, *others)
    expected = self_routing.route(
        *(jnp.delete(x, 2, axis=1) for x in padded),
        *(jnp.delete(x, 2, axis=0) for x in others),
    )
    for a, b in zip(found, expected, strict=True):
        np.testing.assert_allclose(a, b, atol=1e-5)


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_half_precision_is_computed_in_float32(dtype):
    """Activations may be wider than the rest, and come out in float32."""
    votes, activations, *others = in_float32()
    half = [x.astype(dtype) for x in (votes, *others)]
    wide = [x.astype("float32") for x in half]
    poses, found = self_routing.route(half[0], activations, *half[1:])
    expected_poses, expected = self_routing.route(wide[0], activations, *wide[1:])
    assert (poses.dtype, found.dtype) == (dtype, "float32")
    np.testing.assert_array_equal(poses, expected_poses.astype(dtype))
    np.testing.assert_array_equal(found, expected)


def test_arguments_that_do_not_agree():
    votes, *given = in_float32()
    for index, wrong in enumerate(
        [given[0][:, 1:], given[1][..., 1:], given[2][:, 1:], given[3][:, 1:]]
    ):
        changed = [*given]
        changed[index] = wrong
        shape = ", ".join(map(str, wrong.shape))
        for function in (
            functools.partial(self_routing.route, votes),
            self_routing.route_activations,
        ):
            with pytest.raises(ValueError, match=rf"self-routing .*\({shape}\)"):
                function(*changed)
    with pytest.raises(ValueError, match=r"self-routing .*\(2, 5, 2, 4\)"):
        self_routing.route(votes[:, :, 1:], *given)
