"""EM routing against float64 NumPy, its authors' code and others', and its pitfalls."""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from kernels import routing
from kernels.routing.votes import Windows, matrix_votes
from tests.kernels.routing import comparisons, mixture_reference

GRID = (5, 4)
# On this grid, each capsule has one to four parents; or, in the padded windows, two.
WINDOWS = {"overlapping": Windows(3, 2), "padded": Windows(2, 1, 1)}


def make_arguments(B=2, N=(), C=7, J=3, Q=4, seed=0):
    """Votes, activations, beta_u and beta_a, float64."""
    rng = np.random.default_rng(seed)
    votes = rng.normal(size=(B, *N, C, J, Q))
    activations = rng.uniform(0.05, 1, size=(B, *N, C))
    return votes, activations, 0.3 * rng.normal(size=J), rng.normal(size=J)


def on_grid(windows, B=2, I=2, J=3, Q=4, seed=0):
    """The same for the windows of a grid, with nothing in the padding."""
    rng = np.random.default_rng(seed)
    N = tuple(map(windows.size, GRID))
    votes, _, *betas = make_arguments(B, N, windows.kernel**2 * I, J, Q, seed)
    below = jnp.asarray(rng.uniform(0.05, 1, size=(B, *GRID, I)))
    activations = np.asarray(windows.children(below), np.float64)
    votes *= (activations > 0)[..., None, None]
    return votes, activations, *betas


def by_position(function, owners, **options):
    """A reference for votes [B, *N, C, J, Q]."""

    def call(votes, activations, *betas):
        B, N, C = len(votes), votes.shape[1:-3], votes.shape[-3]
        given = votes.reshape(B, -1, *votes.shape[-3:]), activations.reshape(B, -1, C)
        found = function(*given, *betas, owners=owners, **options)
        return tuple(x.reshape(B, *N, *x.shape[2:]) for x in found)

    return call


def float32(arguments):
    return [jnp.asarray(x, jnp.float32) for x in arguments]


# Values and gradients.


@pytest.mark.parametrize(
    "options",
    [
        {"num_iterations": 1},
        {"num_iterations": 2, "mean_momentum": 0.2, "cost_factor": 3.0},
        {"num_iterations": 3, "variance_floor": 1e-3, "mass_epsilon": 1e-3},
        {"num_iterations": 2, "start": "ones"},
    ],
)
def test_it_equals_float64_in_a_fully_connected_layer(options):
    options = {"final_lambda": 4.0, **options}
    comparisons.with_reference(
        functools.partial(routing.em.route, **options),
        by_position(mixture_reference.em, np.arange(7)[None], **options),
        make_arguments(),
    )


@pytest.mark.parametrize(
    ("windows", "num_iterations", "competition"),
    [
        ("overlapping", 3, "parents"),
        ("padded", 2, "parents"),
        ("padded", 2, "types"),
    ],
)
def test_it_equals_float64_in_windows(windows, num_iterations, competition):
    windows = WINDOWS[windows]
    options = {
        "num_iterations": num_iterations,
        "competition": competition,
        "final_lambda": 4.0,
        # In the corners few votes count, and their variance is all but 0.
        "variance_floor": 0.1,
    }
    owners = mixture_reference.owners(GRID, windows, types=2)
    comparisons.with_reference(
        functools.partial(routing.em.route, windows=windows, grid=GRID, **options),
        by_position(mixture_reference.em, owners, **options),
        on_grid(windows, B=1, J=2, Q=3),
    )


# What published code computes.

SELF_ROUTING = {
    "competition": "types",
    "start": "ones",
    "variance_floor": 1e-12,
    "mass_epsilon": 1e-12,
}
GOOGLE = {"competition": "positions", "mean_momentum": 0.1, "cost_factor": 2.0}


def votes_of(poses, activations, weights, fixture):
    """Votes and activations of all children, their windows and the grid."""
    d = math.isqrt(poses.shape[-1])
    poses = poses.reshape(*poses.shape[:-1], d, d)
    weights = weights.reshape(-1, *weights.shape[-3:])
    if fixture["poses"].ndim == 3:
        return matrix_votes(poses, weights), activations, None, ()
    grid, K = poses.shape[1:3], fixture["weights"].shape[0]
    if K == 1:  # Shared by all places.
        poses = poses.reshape(len(poses), -1, d, d)
        activations = activations.reshape(len(poses), -1)
        weights = jnp.tile(weights, (math.prod(grid), 1, 1, 1))
        return matrix_votes(poses, weights), activations, None, ()
    meta = fixture["meta"]
    windows = Windows(K, meta["stride"], meta["padding"])
    votes = matrix_votes(windows.children(poses), weights)
    return votes, windows.children(activations), windows, grid


def options_of(name, fixture):
    """The options of `em.route` that say what the code does."""
    meta, (children, J) = fixture["meta"], fixture["weights"].shape[-4:-2]
    if name.endswith("google"):
        final_lambda = meta["final_beta"]
        if name == "em_class_google":
            return GOOGLE | {"mass_epsilon": 1e-5, "final_lambda": final_lambda / 4}
        return GOOGLE | {"final_lambda": final_lambda}
    options = {"final_lambda": meta["final_lambda"]}
    if name.endswith("sr"):
        return options | SELF_ROUTING
    children *= 9  # Both layers have nine places.
    return options | {
        "variance_floor": 1e-9,
        "mass_epsilon": 1e-9,
        "cost_factor": 100 * J / children,
    }


def coordinates_of(name, fixture):
    """What the class layers add to all votes, [C, Q]; or None."""
    H, W, I, Q = fixture["poses"].shape[1:]
    added = np.zeros((H, W, I, Q))
    if name == "em_class_google":
        added[..., :2] = fixture["position_grid"][:, :, None]
    else:
        added[..., 3] = ((np.arange(W) + 0.5) / H)[None, :, None]
        added[..., 7] = ((np.arange(H) + 0.5) / H)[:, None, None]
    return added.reshape(-1, Q)


@pytest.mark.parametrize(
    ("name", "dtype", "tolerance"),
    [
        ("em_fc_sr", "float64", 1e-9),
        ("em_fc_sr", "float32", 1e-9),
        ("em_conv_sr", "float64", 1e-9),
        ("em_conv_ibm", "float64", 1e-8),
        ("em_conv_ibm", "float32", 1e-8),
        ("em_class_ibm", "float64", 1e-8),
        ("em_conv_google", "float64", 1e-9),
        ("em_class_google", "float64", 1e-9),
    ],
)
def test_it_equals_published_code(name, dtype, tolerance, routing_fixture):
    fixture = routing_fixture(name)

    def op(poses, activations, weights, **betas):
        votes, activations, windows, grid = votes_of(
            poses, activations, weights, fixture
        )
        if "class" in name:
            added = jnp.asarray(coordinates_of(name, fixture), votes.dtype)
            votes += added[None, :, None]
        if name.endswith("google"):
            # The logit is lambda (-5000 t - mass (sum_h log variance_h + s Q (1 + log 2
            # pi))); t and s are these biases.
            beta_u = betas["sigma_biases"] * ((1 + math.log(2 * math.pi)) / 2)
            betas = {"beta_u": beta_u, "beta_a": -5000 * betas["activation_biases"]}
        found = routing.em.route(
            votes,
            activations,
            **betas,
            num_iterations=fixture["meta"]["iterations"],
            windows=windows,
            grid=grid,
            **options_of(name, fixture),
        )
        return dict(zip(("poses", "activations"), found, strict=True))

    comparisons.with_published(op, fixture, dtype, tolerance)


# Pitfalls.


def test_activations_of_the_children_matter():
    """An absent child is as if it were not there; the others count by activation."""
    votes, activations, *betas = make_arguments()
    route = jax.jit(routing.em.route)
    activations[:, 2] = 0
    poses, found = route(*float32((votes, activations, *betas)))
    others = np.delete(votes, 2, axis=1), np.delete(activations, 2, axis=1)
    # The start does not depend on the number of children.
    for a, b in zip((poses, found), route(*float32((*others, *betas))), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5)
    equal = np.full_like(activations, 0.5)
    assert np.abs(route(*float32((votes, equal, *betas)))[0] - poses).max() > 0.01


@pytest.mark.parametrize("competition", routing.em.COMPETITIONS)
def test_positions_compete(competition):
    """A position's poses depend on what its children vote for at another position."""
    windows = WINDOWS["overlapping"]
    arguments = on_grid(windows)
    route = jax.jit(
        functools.partial(
            routing.em.route, windows=windows, grid=GRID, competition=competition
        )
    )
    before, _ = route(*float32(arguments))
    arguments[0][:, 1] *= 0.1
    after, _ = route(*float32(arguments))
    assert (np.abs(after - before)[:, 0].max() > 0.01) == (competition != "types")


def loss(arguments, **options):
    poses, activations = routing.em.route(*arguments, **options)
    return jnp.sum(jnp.sin(poses.astype(jnp.float32))) + jnp.sum(activations)


def test_parents_of_one_child_and_empty_ones_are_finite():
    """Whose variance, or whose mass, is 0."""
    windows, grid = Windows(1), (2, 2)
    both = jax.jit(
        jax.value_and_grad(
            functools.partial(loss, windows=windows, grid=grid, num_iterations=2)
        )
    )
    arguments = make_arguments(N=(2, 2), C=1)
    one_child = [jnp.asarray(x, jnp.bfloat16) for x in arguments]
    empty = [jnp.zeros_like(x) for x in one_child]
    for given in (one_child, empty, [one_child[0], *empty[1:]]):
        assert all(np.all(np.isfinite(x)) for x in jax.tree.leaves(both(given)))


def test_votes_far_apart_are_finite_and_all_count():
    """A child that is unlikely everywhere still goes to its likeliest parent."""
    votes, activations, *betas = make_arguments(B=1, C=6, J=2)
    votes[:, :, 1] += 1000
    votes[:, 4:] += 300
    value, gradient = jax.jit(jax.value_and_grad(loss))(
        float32((votes, activations, *betas))
    )
    assert all(np.all(np.isfinite(x)) for x in (value, *gradient))
    assert all(np.any(gradient[0][0, c]) for c in range(6))


def test_half_precision_is_computed_in_float32():
    arguments = [jnp.asarray(x, jnp.bfloat16) for x in make_arguments()]
    poses, activations = jax.jit(routing.em.route)(*arguments)
    assert poses.dtype == jnp.bfloat16
    assert activations.dtype == jnp.float32
    wide = [x.astype(jnp.float32) for x in arguments]
    expected, of_activations = jax.jit(routing.em.route)(*wide)
    np.testing.assert_array_equal(poses, expected.astype(jnp.bfloat16))
    np.testing.assert_allclose(activations, of_activations, atol=1e-6)


def test_an_example_does_not_depend_on_its_batch_mates():
    votes, activations, *betas = make_arguments(B=3)
    route = jax.jit(routing.em.route)
    together = route(*float32((votes, activations, *betas)))
    votes[1:] *= 100
    again = route(*float32((votes, activations, *betas)))
    for a, b in zip(together, again, strict=True):
        np.testing.assert_allclose(a[0], b[0], atol=1e-6)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"activations": jnp.zeros((2, 6))}, r"takes votes .*\(2, 6\)"),
        ({"beta_u": jnp.zeros(4)}, r"betas \[J\].*\(4,\)"),
        ({"votes": jnp.zeros((2, 0, 3, 4))}, r"\(2, 0, 3, 4\)"),
        ({"windows": Windows(3), "grid": (5, 4)}, "if there are windows"),
        ({"grid": (5, 4)}, r"grid below .*\(5, 4\)"),
        ({"beta_a": jnp.zeros(3, jnp.int32)}, "floating dtypes.*int32"),
        ({"num_iterations": 0}, "at least 1; got 0"),
        ({"num_iterations": True}, "an int; got True"),
        ({"competition": "children"}, "unknown competition 'children'; .*types"),
        ({"start": "random"}, "unknown start 'random'; .*ones"),
    ],
)
def test_wrong_arguments_are_refused(changes, message):
    names = "votes", "activations", "beta_u", "beta_a"
    given = dict(zip(names, float32(make_arguments()), strict=True))
    with pytest.raises(ValueError, match=message):
        routing.em.route(**(given | changes))


def test_windows_that_do_not_fit_the_votes_are_refused():
    arguments = float32(on_grid(WINDOWS["overlapping"]))
    for grid in ((5, 6), (5,), ()):
        with pytest.raises(ValueError, match="windows and the grid"):
            routing.em.route(*arguments, windows=WINDOWS["overlapping"], grid=grid)
