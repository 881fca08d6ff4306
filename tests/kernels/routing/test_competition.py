"""Competition of parents for their children: what must hold for any logits."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from kernels.routing import competition
from kernels.routing.votes import Windows
from tests.kernels.routing import mixture_reference

# The last row and column of the grid are in no window; or padding is in some.
GRIDS = [((6, 4), Windows(3, 2)), ((3, 4), Windows(2, 1, 1))]


def logits_of(grid, windows, spread=2.0, I=2, J=3, B=2):
    shape = (B, *map(windows.size, grid), windows.kernel**2 * I, J)
    return spread * np.random.default_rng(0).normal(size=shape)


@pytest.mark.parametrize("spread", [2.0, 1e4])
@pytest.mark.parametrize(("grid", "windows"), GRIDS)
def test_the_coefficients_of_a_child_add_up_to_one(grid, windows, spread):
    logits = jnp.asarray(logits_of(grid, windows, spread), jnp.float32)
    found = competition.among_parents(logits, windows, grid)
    assert 0 <= found.min() <= found.max() <= 1
    total = np.asarray(windows.total(jnp.sum(found, axis=-1), grid))
    covered = np.asarray(windows.total(jnp.ones(found.shape[:-1]), grid)) > 0
    assert np.mean(covered) > 0.5
    np.testing.assert_allclose(total[covered], 1, rtol=1e-4)
    found = competition.among_types(logits)
    np.testing.assert_allclose(jnp.sum(found, axis=-1), 1, rtol=1e-5)


@pytest.mark.parametrize("least_total", [0.0, 2.0])
@pytest.mark.parametrize(("grid", "windows"), GRIDS)
def test_they_equal_float64(grid, windows, least_total):
    logits = logits_of(grid, windows)
    owners = mixture_reference.owners(grid, windows, types=2)
    expected = [
        mixture_reference.shares(x, owners, "parents", least_total)
        for x in logits.reshape(len(logits), -1, *logits.shape[3:])
    ]
    found = competition.among_parents(
        jnp.asarray(logits, jnp.float32), windows, grid, least_total=least_total
    )
    np.testing.assert_allclose(found, np.reshape(expected, found.shape), atol=1e-5)


@pytest.mark.parametrize(("grid", "windows"), GRIDS)
def test_the_gradient_is_finite_for_likelihoods_that_underflow(grid, windows):
    logits = jnp.asarray(logits_of(grid, windows, 1e4), jnp.float32)

    @functools.partial(jax.jit, static_argnums=1)
    def gradient(logits, least_total):
        def total(logits):
            found = competition.among_parents(
                logits, windows, grid, least_total=least_total
            )
            return jnp.sum(jnp.square(found))

        return jax.grad(total)(logits)

    for least_total in (0.0, 1e-11):
        assert np.all(np.isfinite(gradient(logits, least_total)))


def test_a_child_that_is_unlikely_everywhere_drops_out_if_told():
    logits = jnp.full((1, 2, 3), -40.0)
    found = competition.among_parents(logits)
    np.testing.assert_allclose(found, 1 / 3, rtol=1e-5)
    found = competition.among_parents(logits, least_total=1e-11)
    assert 0 < found.max() < 1e-6


@pytest.mark.parametrize(("grid", "windows"), GRIDS)
def test_parents_are_counted(grid, windows):
    owners = mixture_reference.owners(grid, windows, types=2)
    expected = np.zeros(owners.shape)
    for places in mixture_reference.parents(owners):
        for place in places:
            expected[place] = len(places)
    found = competition.parents(windows, grid, owners.shape[1], "float32")
    assert found.dtype == jnp.float32
    np.testing.assert_array_equal(found.reshape(owners.shape), expected)
    np.testing.assert_array_equal(competition.parents(None, (), 4, "float32"), 1)
