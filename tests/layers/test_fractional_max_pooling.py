"""Fractional max pooling against the paper's formula and loops."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from capsjax.errors import SettingsError
from capsjax.layers import fractional_max_pool
from capsjax.layers.fractional_max_pooling import region_starts

KEYS = jax.random.split(jax.random.key(0), 200)
SIZES = [(9, 7), (8, 4)]


def drawn(size, regions, sequence):
    def draw(key):
        return region_starts(size, regions, sequence, key)

    return np.asarray(jax.jit(jax.vmap(draw))(KEYS))


@pytest.mark.parametrize("sequence", ["pseudorandom", "random"])
@pytest.mark.parametrize(("size", "regions"), SIZES)
def test_regions_of_one_or_two_steps_cover_everything(size, regions, sequence):
    fixed = np.asarray(region_starts(size, regions, sequence, None))
    found = np.concatenate([drawn(size, regions, sequence), fixed[None]])
    assert found.shape == (201, regions + 1)
    assert np.all(found[:, 0] == 0)
    assert np.all(found[:, -1] == size)
    assert set(np.unique(np.diff(found))) <= {1, 2}


@pytest.mark.parametrize(("size", "regions"), SIZES)
def test_pseudorandom_sequences_are_those_of_the_papers_formula(size, regions):
    """All of them, and no other, for u in steps that meet each."""
    alpha = size / regions
    expected = set()
    for u in np.linspace(0.01, 0.99, 400) * (regions / size):
        values = [math.ceil(alpha * (i + u)) for i in range(regions)]
        expected.add((*(value - values[0] for value in values), size))
    found = {tuple(row.tolist()) for row in drawn(size, regions, "pseudorandom")}
    assert found == expected


def test_random_sequences_have_their_increments_in_any_order():
    """7 regions of 9 steps: 2 of 7 increments are 2, equally often each."""
    increments = np.diff(drawn(9, 7, "random"))
    assert len(np.unique(increments, axis=0)) == math.comb(7, 2)
    share = np.mean(increments == 2, axis=0)
    assert np.all(abs(share - 2 / 7) < 4 * math.sqrt(2 / 7 * 5 / 7 / len(KEYS)))


def in_loops(x, rows, columns, overlapping):
    """Maxima, and how often each pixel is one."""
    y, counts = np.empty((len(rows) - 1, len(columns) - 1)), np.zeros(x.shape)
    for i, j in np.ndindex(y.shape):
        (top, bottom), (left, right) = rows[i : i + 2], columns[j : j + 2]
        region = x[top : bottom + overlapping, left : right + overlapping]
        y[i, j] = region.max()
        counts[x == region.max()] += 1
    return y, counts


@pytest.mark.parametrize(
    ("overlapping", "sequence"),
    [(True, "random"), (False, "pseudorandom"), (True, None)],
)
def test_maxima_and_gradient(overlapping, sequence):
    """Of examples whose regions differ; each axis has its own sequence."""
    B, H, W, C, size = 4, 10, 9, 2, (7, 5)
    # Whole numbers, all different: results must be exact.
    x = np.random.default_rng(0).permutation(B * H * W * C).reshape(B, H, W, C)
    keys = None if sequence is None else KEYS[:B]
    options = {"overlapping": overlapping, "sequence": sequence or "pseudorandom"}

    @jax.jit
    def maxima_and_gradient(x):
        y, vjp = jax.vjp(lambda x: fractional_max_pool(x, size, keys, **options), x)
        return y, vjp(jnp.ones_like(y))[0]

    @jax.jit
    def starts(keys):
        """Of the rows and the columns, as documented."""
        return [
            jax.vmap(
                lambda key, axis=axis, n=n: region_starts(
                    x.shape[1 + axis] - overlapping,
                    n,
                    options["sequence"],
                    None if sequence is None else jax.random.fold_in(key, axis),
                )
            )(keys)
            for axis, n in enumerate(size)
        ]

    y, gradient = maxima_and_gradient(jnp.float32(x))
    every_rows, every_columns = map(np.asarray, starts(KEYS[:B]))
    regions = set()
    for b in range(B):
        rows, columns = every_rows[b], every_columns[b]
        regions.add((tuple(rows), tuple(columns)))
        for c in range(C):
            maxima, counts = in_loops(x[b, :, :, c], rows, columns, overlapping)
            np.testing.assert_array_equal(y[b, :, :, c], maxima)
            np.testing.assert_array_equal(gradient[b, :, :, c], counts)
    assert (len(regions) > 1) == (sequence is not None)


@pytest.mark.parametrize("size", [(4, 7), (10, 7)])
def test_regions_that_cannot_cover_the_image(size):
    with pytest.raises(SettingsError, match=f"10x10 pixels.*{size[0]}x{size[1]} reg"):
        fractional_max_pool(jnp.ones((1, 10, 10, 1)), size, None)
