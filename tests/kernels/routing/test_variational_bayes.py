"""Variational Bayes routing against float64 NumPy and its authors' code."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from kernels import routing
from kernels.routing.votes import Windows
from tests.kernels.routing import comparisons, mixture_reference
from tests.kernels.routing.test_em import (
    GRID,
    WINDOWS,
    by_position,
    float32,
    make_arguments,
    on_grid,
    votes_of,
)

# Values and gradients.


@pytest.mark.parametrize("num_iterations", [1, 3])
def test_it_equals_float64_in_a_fully_connected_layer(num_iterations):
    options = {"num_iterations": num_iterations}
    comparisons.with_reference(
        functools.partial(routing.variational_bayes.route, **options),
        by_position(mixture_reference.variational_bayes, np.arange(7)[None], **options),
        make_arguments(),
    )


@pytest.mark.parametrize(
    ("windows", "options"),
    [
        ("overlapping", {"num_iterations": 2}),
        ("padded", {"num_iterations": 2, "least_likelihood": 1e-2}),
    ],
)
def test_it_equals_float64_in_windows(windows, options):
    windows = WINDOWS[windows]
    owners = mixture_reference.owners(GRID, windows, types=2)
    comparisons.with_reference(
        functools.partial(
            routing.variational_bayes.route, windows=windows, grid=GRID, **options
        ),
        by_position(mixture_reference.variational_bayes, owners, **options),
        on_grid(windows, B=1, J=2, Q=3),
    )


@pytest.mark.parametrize(
    ("name", "dtype", "tolerance"),
    [
        ("vb_conv", "float64", 1e-9),
        ("vb_conv", "float32", 1e-9),
        ("vb_conv_clamped", "float64", 1e-9),
        ("vb_class_shared", "float64", 1e-8),
    ],
)
def test_it_equals_published_code(name, dtype, tolerance, routing_fixture):
    fixture = routing_fixture(name)

    def op(poses, activations, weights, **betas):
        votes, activations, windows, grid = votes_of(
            poses, activations, weights, fixture
        )
        if name == "vb_class_shared":
            # What that code adds instead of coordinates.
            added = np.zeros((3, 3))
            added[:2, 2] = 0.1
            votes += jnp.asarray(added.reshape(1, 1, 1, 9), votes.dtype)
        found = routing.variational_bayes.route(
            votes,
            activations,
            **betas,
            num_iterations=fixture["meta"]["iterations"],
            windows=windows,
            grid=grid,
            least_likelihood=1e-11 if name == "vb_conv_clamped" else 0.0,
        )
        return {
            name: x.reshape(fixture[f"out_{name}"].shape)
            for name, x in zip(("means", "scores"), found, strict=True)
        }

    comparisons.with_published(op, fixture, dtype, tolerance)


# Pitfalls.


@functools.cache
def jitted(**options):
    return jax.jit(functools.partial(routing.variational_bayes.route, **options))


def test_activations_of_the_children_matter():
    """An absent child is as if it were not there; the others count by activation."""
    votes, activations, *betas = make_arguments()
    activations[:, 2] = 0
    means, scores = jitted()(*float32((votes, activations, *betas)))
    others = np.delete(votes, 2, axis=1), np.delete(activations, 2, axis=1)
    found = jitted()(*float32((*others, *betas)))
    for a, b in zip((means, scores), found, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5)
    equal = np.full_like(activations, 0.5)
    found, _ = jitted()(*float32((votes, equal, *betas)))
    assert np.abs(found - means).max() > 0.01


def test_positions_compete():
    """A position's means depend on what its children vote for at another position."""
    windows = WINDOWS["overlapping"]
    arguments = on_grid(windows)
    route = jitted(windows=windows, grid=GRID)
    before, _ = route(*float32(arguments))
    arguments[0][:, 1] *= 0.1
    after, _ = route(*float32(arguments))
    assert np.abs(after - before)[:, 0].max() > 0.01


@pytest.mark.parametrize(("least_likelihood", "counts"), [(0.0, True), (1e-11, False)])
def test_children_that_are_unlikely_everywhere_count(least_likelihood, counts):
    """In float32, many dimensions and votes far apart; the authors' code drops them."""
    votes, activations, *betas = make_arguments(B=1, C=6, J=2, Q=40)

    def loss(arguments):
        means, scores = routing.variational_bayes.route(
            *arguments, least_likelihood=least_likelihood, num_iterations=2
        )
        return jnp.sum(jnp.sin(means)) + jnp.sum(scores)

    value, gradient = jax.jit(jax.value_and_grad(loss))(
        float32((100 * votes, activations, *betas))
    )
    assert all(np.all(np.isfinite(x)) for x in (value, *gradient))
    assert np.all(np.any(gradient[0], axis=(0, 2, 3))) == counts


def test_empty_capsules_and_single_children_are_finite():
    """No mass gives the prior: a mean of 0."""

    def loss(arguments):
        means, scores = routing.variational_bayes.route(
            *arguments, windows=Windows(1), grid=(2, 2), num_iterations=2
        )
        total = jnp.sum(means.astype(jnp.float32)) + jnp.sum(scores)
        return total, means

    arguments = [jnp.asarray(x, "bfloat16") for x in make_arguments(N=(2, 2), C=1)]
    both = jax.jit(jax.value_and_grad(loss, has_aux=True))
    empty = [jnp.zeros_like(x) for x in arguments]
    for given in (arguments, empty, [arguments[0], *empty[1:]]):
        (_, means), _ = found = both(given)
        assert all(np.all(np.isfinite(x)) for x in jax.tree.leaves(found))
        assert np.any(means) == np.any(given[1])


def test_half_precision_is_computed_in_float32():
    arguments = [jnp.asarray(x, jnp.bfloat16) for x in make_arguments()]
    means, scores = jitted()(*arguments)
    assert means.dtype == jnp.bfloat16
    assert scores.dtype == jnp.float32
    expected, of_scores = jitted()(*[x.astype(jnp.float32) for x in arguments])
    np.testing.assert_array_equal(means, expected.astype(jnp.bfloat16))
    np.testing.assert_allclose(scores, of_scores, rtol=1e-5)


def test_an_example_does_not_depend_on_its_batch_mates():
    votes, activations, *betas = make_arguments(B=3)
    together = jitted()(*float32((votes, activations, *betas)))
    votes[1:] *= 100
    again = jitted()(*float32((votes, activations, *betas)))
    for a, b in zip(together, again, strict=True):
        np.testing.assert_allclose(a[0], b[0], atol=1e-6)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"activations": jnp.zeros((2, 6))}, r"takes votes .*\(2, 6\)"),
        ({"beta_u": jnp.zeros(4)}, r"betas \[J\].*\(4,\)"),
        ({"windows": Windows(3), "grid": (5, 4)}, "if there are windows"),
        ({"num_iterations": 0}, "at least 1; got 0"),
    ],
)
def test_wrong_arguments_are_refused(changes, message):
    names = "votes", "activations", "beta_u", "beta_a"
    given = dict(zip(names, float32(make_arguments()), strict=True))
    with pytest.raises(ValueError, match=message):
        routing.variational_bayes.route(**(given | changes))
