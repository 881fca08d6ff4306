"""Windows, votes and coordinates against loops."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from kernels.routing.votes import Windows, coordinates, matrix_votes, vector_votes

I, R = 2, 3
# Kernel, stride, padding, and (H, W) of the grid below.
GRIDS = pytest.mark.parametrize(
    ("windows", "size"),
    [
        (Windows(1), (2, 3)),
        (Windows(3), (3, 5)),
        (Windows(2, 2), (4, 6)),
        (Windows(3, 2), (6, 8)),  # The last row and column are in no window.
        (Windows(3, 4), (9, 5)),  # Nor are those between windows.
        (Windows(1, 3), (4, 6)),
        (Windows(3, 1, 1), (4, 3)),
        (Windows(3, 2, 1), (5, 6)),
        (Windows(2, 3, 2), (5, 2)),  # Some windows are empty.
        (Windows(4, 2, 3), (1, 2)),
    ],
    ids=str,
)


def positions(windows, size):
    """Each child of each window and the place where it lies, if not in the padding."""
    K, S, padding = windows
    h, w = ((n + 2 * padding - K) // S + 1 for n in size)
    for y in range(h):
        for x in range(w):
            for row in range(K):
                for column in range(K):
                    place = S * y + row - padding, S * x + column - padding
                    inside = all(0 <= p < n for p, n in zip(place, size, strict=True))
                    yield (y, x, row, column), place if inside else None


@GRIDS
def test_what_windows_contain(windows, size):
    x = np.random.default_rng(0).normal(size=(2, *size, I, R)).astype(np.float32)
    h, w = map(windows.size, size)
    K = windows.kernel
    expected = np.zeros((2, h, w, K, K, I, R), np.float32)
    for child, place in positions(windows, size):
        if place is not None:
            expected[:, *child] = x[:, *place]
    gathered, children, without_r = jax.jit(
        lambda x: (windows.gather(x), windows.children(x), windows.children(x[..., 0]))
    )(x)
    np.testing.assert_array_equal(gathered, expected)
    # In the order (row, column, capsule).
    expected = expected.reshape(2, h, w, K * K * I, R)
    np.testing.assert_array_equal(children, expected, strict=True)
    np.testing.assert_array_equal(without_r, expected[..., 0], strict=True)


@GRIDS
def test_sums_and_maxima_over_the_windows_that_contain_a_capsule(windows, size):
    rest = () if windows.kernel == 3 else (R,)
    h, w = map(windows.size, size)
    K = windows.kernel
    x = np.random.default_rng(1).normal(size=(2, h, w, K, K, I, *rest)) - 3
    x = x.astype(np.float32)
    total = np.zeros((2, *size, I, *rest))
    largest = np.full((2, *size, I, *rest), -np.inf, np.float32)
    for child, place in positions(windows, size):
        if place is not None:
            total[:, *place] += x[:, *child]
            largest[:, *place] = np.maximum(largest[:, *place], x[:, *child])
    totals, maxima = jax.jit(
        lambda x: (windows.total(x, size), windows.largest(x, size))
    )(x.reshape(2, h, w, K * K * I, *rest))
    np.testing.assert_allclose(totals, total, rtol=1e-5)
    np.testing.assert_array_equal(maxima, largest)


def test_a_sum_over_windows_has_the_gradient_of_what_they_contain():
    """Each is the other's transpose."""
    windows, size = Windows(3, 2, 1), (6, 5)
    x = jnp.asarray(np.random.default_rng(2).normal(size=(2, *size, I)), jnp.float32)

    @jax.jit
    def both(x):
        children, vjp = jax.vjp(windows.children, x)
        return vjp(children)[0], windows.total(children, size)

    found, expected = both(x)
    np.testing.assert_allclose(found, expected, rtol=1e-6)


def test_windows_that_do_not_fit():
    assert Windows(4).size(3) == 0
    assert Windows(4, 2, 1).size(2) == 1
    with pytest.raises(ValueError, match="5x2 capsules is too small for 4x4 windows"):
        Windows(4).gather(jnp.zeros((1, 5, 2, 3)))


# Votes.


@pytest.mark.parametrize("positions", [(), (2, 3)])
def test_votes_of_vectors_and_matrices(positions):
    rng = np.random.default_rng(3)
    C, J, P, Q, d = 3, 2, 4, 5, 3
    u, W = rng.normal(size=(2, *positions, C, P)), rng.normal(size=(C, J, Q, P))
    M, T = rng.normal(size=(2, *positions, C, d, d)), rng.normal(size=(C, J, d, d))
    vectors = np.empty((2, *positions, C, J, Q))
    matrices = np.empty((2, *positions, C, J, d * d))
    for where in np.ndindex(2, *positions):
        for i in range(C):
            for j in range(J):
                vectors[*where, i, j] = W[i, j] @ u[*where, i]
                matrices[*where, i, j] = (M[*where, i] @ T[i, j]).flatten()
    with jax.enable_x64(True):
        found = vector_votes(jnp.asarray(u), jnp.asarray(W))
        np.testing.assert_allclose(found, vectors, rtol=1e-12, atol=1e-12)
        found = matrix_votes(jnp.asarray(M), jnp.asarray(T))
        np.testing.assert_allclose(found, matrices, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_votes_in_half_precision_are_summed_in_float32(dtype):
    """Sums of ones in the dtype itself stop at 256 or 2048."""
    P = 4096
    votes = vector_votes(jnp.ones((1, 1, P), dtype), jnp.ones((1, 1, 1, P), dtype))
    assert votes.dtype == dtype
    assert votes.item() == P
    d = 4096
    votes = matrix_votes(jnp.ones((1, 1, 1, d), dtype), jnp.ones((1, 1, d, 1), dtype))
    assert votes.item() == d


# Coordinates.


def test_coordinates():
    """Of the centres, in the first two elements of the right-hand column."""
    expected = np.zeros((2, 3, 4, 4))
    expected[:, :, 0, 3] = [[0.25] * 3, [0.75] * 3]
    expected[:, :, 1, 3] = [[1 / 6, 0.5, 5 / 6]] * 2
    found = coordinates((2, 3), 16)
    assert found.dtype == jnp.float32
    np.testing.assert_allclose(found, expected.reshape(2, 3, 16), rtol=1e-6)
    np.testing.assert_allclose(coordinates((1, 1), 4), [[[0, 0.5, 0, 0.5]]])


@pytest.mark.parametrize("dim", [0, 1, 2, 5, 15])
def test_coordinates_need_square_poses(dim):
    with pytest.raises(ValueError, match=f"got {dim} elements"):
        coordinates((2, 2), dim)
