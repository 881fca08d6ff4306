"""Votes from poses, and plug-ins for vectors, matrices, windows and shared weights."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from capsjax.routings import (
    Capsules,
    Config,
    Sizes,
    Transform,
    base,
    dynamic,
    inverted_attention,
    self_attention,
    self_routing,
    uniform,
)
from kernels.routing import blocks
from kernels.routing.votes import Windows
from tests.kernels.routing import comparisons, reference

B, I, J, P, Q, D = 2, 2, 3, 4, 5, 2
WINDOWS = {"windows": Windows(3, 2, 1), "narrow windows": Windows(2)}
SIZES = Sizes(I, P, J, Q)
SIZE = (4, 3)
FORMS = pytest.mark.parametrize(
    ("form", "matrices", "with_offsets"),
    [
        *itertools.product(["flat", "grid"], [False, True], [False, True]),
        *itertools.product(WINDOWS, [False, True], [False]),
        ("windows", True, True),
    ],
)


def given(form, matrices, with_offsets):
    """Poses, activations and a transformation in float64, and the votes in loops.

    The votes are [B, *N, C, J, Q], and the children's activations [B, *N, C].
    """
    rng = np.random.default_rng(0)
    places = () if form == "flat" else SIZE
    pose = (D, D) if matrices else (P,)
    poses = rng.normal(size=(B, *places, I, *pose))
    activations = rng.uniform(size=(B, *places, I))
    windows = WINDOWS.get(form)
    if windows is None:
        size: tuple[int, ...] = ()
        children: dict[tuple[int, ...], list[tuple[int, ...]]] = {
            (): [(*place, i) for place in np.ndindex(places) for i in range(I)]
        }
    else:
        size = tuple(map(windows.size, SIZE))
        K, S, padding = windows
        children = {
            (y, x): [
                (S * y + row - padding, S * x + column - padding, i)
                for row, column, i in np.ndindex(K, K, I)
            ]
            for y, x in np.ndindex(size)
        }
    C = len(next(iter(children.values())))
    W = rng.normal(size=(C, J, *((D, D) if matrices else (Q, P)))) / 2
    dim = D * D if matrices else Q
    offsets = rng.normal(size=(C, dim)) if with_offsets else None
    votes = np.zeros((B, *size, C, J, dim))
    weights = np.zeros((B, *size, C))
    for b, (where, places_of) in itertools.product(range(B), children.items()):
        for c, (*place, i) in enumerate(places_of):
            inside = all(0 <= p < n for p, n in zip(place, SIZE, strict=False))
            if inside:
                weights[b, *where, c] = activations[b, *place, i]
            for j in range(J):
                if inside:
                    u = poses[b, *place, i]
                    vote = u @ W[c, j] if matrices else W[c, j] @ u
                    votes[b, *where, c, j] = vote.flatten()
                if offsets is not None:
                    votes[b, *where, c, j] += offsets[c]
    bias = rng.normal(size=(J, dim))

    def float32(x):
        return None if x is None else jnp.asarray(x, jnp.float32)

    inputs = Capsules(float32(poses), float32(activations))
    transform = Transform(float32(W), float32(bias), float32(offsets), windows=windows)
    return inputs, transform, votes, weights


@FORMS
def test_votes_in_both_forms(form, matrices, with_offsets):
    inputs, transform, votes, weights = given(form, matrices, with_offsets)

    @jax.jit
    def both(inputs, transform):
        children = transform.children(inputs)
        poses, matrices, bias = transform.vectors(children)
        products = jnp.einsum("ncp,cjqp->ncjq", poses, matrices)
        return children, transform.votes(children), products, bias

    children, found, products, bias = both(inputs, transform)
    assert children.are_matrices == matrices
    assert children.grid == votes.shape[1:-3]
    np.testing.assert_allclose(children.activations, weights, rtol=1e-6)
    np.testing.assert_allclose(found, votes, atol=1e-5)
    np.testing.assert_allclose(
        products, votes.reshape(-1, *votes.shape[-3:]), atol=1e-5
    )
    np.testing.assert_array_equal(bias, transform.bias)
    assert transform.votes_bytes(inputs) == 4 * votes[0].size


@FORMS
def test_poses_of_ops_that_take_vectors(form, matrices, with_offsets, monkeypatch):
    """Dynamic and uniform routing in each window; blocks of one example as well."""
    inputs, transform, votes, _ = given(form, matrices, with_offsets)
    configs: dict[int, Config] = {3: dynamic.Config(iterations=3), 1: uniform.Config()}
    for budget, (iterations, config) in itertools.product(
        [2**24, 1] if "windows" in form else [2**24], configs.items()
    ):
        monkeypatch.setattr(blocks, "_CPU_BLOCK_BYTES", budget)
        plug_in = config.build(SIZES, nnx.Rngs(0))
        # Traced anew, for the budget.
        found = jax.jit(lambda *arguments, route=plug_in: route(*arguments))(
            inputs, transform
        )
        expected = np.zeros((*votes.shape[:-3], *votes.shape[-2:]))
        for where in np.ndindex(votes.shape[:-3]):
            expected[where], _ = reference.route_votes(
                votes[where], transform.bias, num_iterations=iterations
            )
        lengths = np.linalg.norm(expected, axis=-1)
        pose = (D, D) if matrices else (Q,)
        np.testing.assert_allclose(
            found.poses, expected.reshape(*lengths.shape, *pose), atol=1e-5
        )
        np.testing.assert_allclose(found.activations, lengths, atol=1e-5)


@pytest.mark.parametrize("dtype", ["float64", "float32"])
@pytest.mark.parametrize(
    ("name", "options", "tolerance"),
    [
        ("dynamic_fc_sr", {}, 1e-9),
        ("dynamic_conv_sr", {}, 1e-9),
        # The norm in its divisor is larger by 1e-8.
        ("dynamic_fc_stop_gradient", {"stop_gradient": True}, 1e-7),
    ],
)
def test_published_code(name, options, tolerance, dtype, routing_fixture):
    fixture = routing_fixture(name)
    meta = fixture["meta"]
    config = dynamic.Config(
        iterations=meta["iterations"], implementation="xla", **options
    )
    windows = None
    if "conv" in name:
        windows = Windows(meta["kernel"], meta["stride"], meta["padding"])

    def op(poses, weights):
        weights = weights.reshape(-1, *weights.shape[-3:])
        plug_in = config.build(SIZES, nnx.Rngs(0))
        transform = Transform(weights, windows=windows)
        return {"poses": plug_in(Capsules(poses), transform).poses}

    comparisons.with_published(op, fixture, dtype, tolerance)


# Plug-ins that work on votes.


class Weighted(base.RoutingOfVotes):
    """A toy whose poses are sums of votes times activations, without their mean."""

    name = "weighted"
    needs_activations = True

    def route(self, votes, children, inputs, transform, step):
        poses = jnp.einsum("...c,...cjq->...jq", children.activations, votes)
        poses += jnp.asarray(step, poses.dtype)
        return poses, jnp.max(poses, axis=-1)

    def finish(self, poses, activations, *, train):
        if train:
            poses -= jnp.mean(poses, axis=0, keepdims=True)
        return poses, activations


@pytest.mark.parametrize("budget", [2**24, 1])
@pytest.mark.parametrize("matrices", [False, True])
@pytest.mark.parametrize("form", ["flat", "windows"])
def test_routing_of_votes(form, matrices, budget, monkeypatch):
    """All examples together are finished after they have been routed in blocks."""
    monkeypatch.setattr(blocks, "_CPU_BLOCK_BYTES", budget)
    inputs, transform, votes, weights = given(form, matrices, False)
    expected = 7 + np.einsum("...c,...cjq->...jq", weights, votes)
    route = jax.jit(Weighted().__call__, static_argnames="train")
    found = route(inputs, transform, step=7)
    poses = found.poses.reshape(expected.shape)
    np.testing.assert_allclose(poses, expected, atol=1e-5)
    np.testing.assert_allclose(found.activations, expected.max(axis=-1), atol=1e-5)
    assert found.poses.ndim == expected.ndim + matrices
    trained = route(inputs, transform, train=True)
    np.testing.assert_allclose(np.mean(trained.poses, axis=0), 0, atol=1e-5)


@pytest.mark.parametrize(
    "name",
    [
        "attention_fc",
        "attention_conv_matrix",
        "self_attention_fc",
        "self_routing_fc",
        "self_routing_conv",
    ],
)
def test_published_code_by_plug_ins(name, routing_fixture):
    """Whose parameters are those of the children, in windows too."""
    fixture = routing_fixture(name)
    meta = fixture["meta"]
    config: Config = self_routing.Config()
    if name.startswith("attention"):
        config = inverted_attention.Config(iterations=meta["iterations"])
    elif name.startswith("self_attention"):
        config = self_attention.Config()
    windows = None
    if "conv" in name:
        windows = Windows(meta["kernel"], meta["stride"], meta["padding"])

    def op(poses, weights, activations=None, **parameters):
        weights = weights.reshape(-1, *weights.shape[-3:])
        sizes = Sizes(
            len(weights),
            poses.shape[-1],
            weights.shape[1],
            fixture["out_poses"].shape[-1],
        )
        if meta.get("matrix_pose"):
            poses = poses.reshape(*poses.shape[:-1], *weights.shape[2:])
        plug_in = config.build(sizes, nnx.Rngs(0))
        for key, value in parameters.items():
            parameter = getattr(plug_in, key)
            parameter[...] = value.reshape(parameter.shape)
        found = plug_in(
            Capsules(poses, activations), Transform(weights, windows=windows)
        )
        outputs = {"poses": found.poses.reshape(fixture["out_poses"].shape)}
        if found.activations is not None and "out_activations" in fixture:
            outputs["activations"] = found.activations
        return outputs

    comparisons.with_published(op, fixture, "float32")


@pytest.mark.parametrize("form", ["flat", "windows"])
def test_self_routing_of_matrices(form):
    """The routing weights see the elements of a pose in rows."""
    inputs, transform, _, weights = given(form, True, False)
    rng = np.random.default_rng(3)
    plug_in = self_routing.Config().build(
        Sizes(weights.shape[-1], D * D, J, D * D), nnx.Rngs(0)
    )
    plug_in.routing_weights[...] = jnp.asarray(
        rng.normal(size=plug_in.routing_weights.shape), jnp.float32
    )
    found = jax.jit(plug_in.__call__)(inputs, transform)
    poses = np.float64(transform.children(inputs).poses)
    logits = np.einsum(
        "...cp,cjp->...cj",
        poses.reshape(*poses.shape[:-2], D * D),
        np.float64(plug_in.routing_weights[...]),
    )
    coupling = np.exp(logits) / np.exp(logits).sum(axis=-1, keepdims=True)
    mass = np.einsum("...c,...cj->...j", weights, coupling)
    np.testing.assert_allclose(
        found.activations, mass / weights.sum(axis=-1)[..., None], atol=1e-5
    )


def test_activations_are_there_where_they_are_needed():
    inputs, transform, *_ = given("flat", False, False)
    with pytest.raises(ValueError, match=r"weighted routing needs .* activations"):
        Weighted()(Capsules(inputs.poses), transform)
