"""Uniform routing against formulas in float64, and against dynamic routing."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from kernels import routing
from tests.kernels.routing import reference
from tests.kernels.routing.test_dynamic import SIZES, as_dtype, make_arguments

OPTIONS = pytest.mark.parametrize(
    ("leaky", "with_bias"),
    [(False, False), (False, True), (True, False), (True, True)],
)


def in_float64(u, W, bias=None, *, leaky=False):
    """Vote by vote: each input capsule gives each output the same share of its vote."""
    I, J, Q, _ = W.shape
    share = 1 / (J + leaky)
    s = np.zeros((len(u), J, Q)) + (0 if bias is None else bias)
    for example in range(len(u)):
        for i in range(I):
            for j in range(J):
                s[example, j] += share * (W[i, j] @ u[example, i])
    return reference.squash(s)


def jitted(**options):
    return jax.jit(functools.partial(routing.uniform.route, **options))


@OPTIONS
@pytest.mark.parametrize("sizes", SIZES.values(), ids=SIZES.keys())
def test_poses_equal_the_formula(sizes, leaky, with_bias):
    u, W, bias = make_arguments(sizes)
    bias = bias if with_bias else None
    poses = jitted(leaky=leaky)(*as_dtype((u, W, bias), jnp.float32))
    assert poses.dtype == jnp.float32
    expected = in_float64(u, W, bias, leaky=leaky)
    np.testing.assert_allclose(poses, expected, atol=5e-6)


@OPTIONS
def test_it_is_dynamic_routing_with_one_iteration(leaky, with_bias):
    """In which no logit counts; the poses and all gradients."""
    u, W, bias = as_dtype(make_arguments(SIZES["small"]), jnp.float32)
    arguments = (u, W, bias) if with_bias else (u, W)
    cotangent = jnp.cos(jnp.arange(4 * 10 * 16.0)).reshape(4, 10, 16)

    @functools.partial(jax.jit, static_argnums=0)
    def with_gradients(route, *arguments):
        poses, vjp = jax.vjp(functools.partial(route, leaky=leaky), *arguments)
        return poses, vjp(cotangent)

    one_iteration = functools.partial(routing.dynamic.route, num_iterations=1)
    found = with_gradients(routing.uniform.route, *arguments)
    expected = with_gradients(one_iteration, *arguments)
    for a, b in zip(*map(jax.tree.leaves, (found, expected)), strict=True):
        np.testing.assert_allclose(a, b, atol=2e-6 * np.abs(b).max())
    # Later iterations are another op.
    poses = routing.dynamic.route(*arguments, leaky=leaky, num_iterations=3)
    assert np.abs(poses - found[0]).max() > 1e-2


@pytest.mark.parametrize("leaky", [False, True])
def test_gradients_equal_central_differences(leaky):
    arguments = make_arguments(SIZES["odd"])
    rng = np.random.default_rng(1)
    cotangent = rng.normal(size=(3, 3, 6))

    def scalar(*arguments):
        return float((in_float64(*arguments, leaky=leaky) * cotangent).sum())

    def loss(*arguments):
        poses = routing.uniform.route(*arguments, leaky=leaky)
        return jnp.sum(poses * jnp.asarray(cotangent, jnp.float32))

    gradients = jax.jit(jax.grad(loss, argnums=(0, 1, 2)))(
        *as_dtype(arguments, jnp.float32)
    )
    for _ in range(3):
        directions = [rng.normal(size=x.shape) for x in arguments]
        expected = reference.directional_derivative(scalar, arguments, directions)
        found = sum(map(np.vdot, gradients, directions))
        np.testing.assert_allclose(found, expected, rtol=2e-5, atol=2e-5)


def test_half_precision_accumulates_in_float32():
    """4,096 equal votes: a bfloat16 sum would stop growing at 256 of them."""
    I = 4096
    u = jnp.ones((1, I, 1), jnp.bfloat16)
    W = jnp.full((I, 1, 1, 1), 2.0**-11, jnp.bfloat16)
    poses = jitted()(u, W, jnp.ones((1, 1), jnp.bfloat16))
    assert poses.dtype == jnp.bfloat16
    np.testing.assert_allclose(np.float32(poses.squeeze()), 9 / 10, rtol=2**-8)


def test_zero_inputs_give_zero_poses_and_finite_gradients():
    u, W = jnp.zeros((2, 5, 4)), jnp.ones((5, 3, 6, 4))
    poses, vjp = jax.vjp(routing.uniform.route, u, W)
    assert not np.any(poses)
    for gradient in vjp(jnp.ones_like(poses)):
        assert np.all(np.isfinite(gradient))


@pytest.mark.parametrize(
    ("shapes", "expected"),
    [
        (((2, 3), (3, 4, 5, 6), None), r"takes inputs \[B, I, P\].*\(2, 3\)"),
        (((2, 3, 6), (3, 4, 5, 7), None), r"do not agree.*\(3, 4, 5, 7\)"),
        (((2, 8, 6), (3, 4, 5, 6), None), r"do not agree.*\(2, 8, 6\)"),
        (((2, 3, 6), (3, 4, 5, 6), (5, 4)), r"do not agree.*\(5, 4\)"),
        (((0, 3, 6), (3, 4, 5, 6), None), r"are zero.*\(0, 3, 6\)"),
    ],
)
def test_wrong_shapes_are_refused_with_the_shapes(shapes, expected):
    arguments = [None if shape is None else jnp.zeros(shape) for shape in shapes]
    with pytest.raises(ValueError, match=expected):
        routing.uniform.route(*arguments)  # type: ignore[arg-type]


def test_mixed_and_integer_dtypes_are_refused():
    u, W = jnp.zeros((2, 3, 6)), jnp.zeros((3, 4, 5, 6))
    with pytest.raises(ValueError, match="float32, bfloat16"):
        routing.uniform.route(u, W.astype(jnp.bfloat16))
    with pytest.raises(ValueError, match="int32"):
        routing.uniform.route(u.astype(jnp.int32), W.astype(jnp.int32))
