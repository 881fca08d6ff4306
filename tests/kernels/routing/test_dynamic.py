"""One suite for the implementations in plain JAX; the kernels have test_mosaic_gpu."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from kernels.routing import IMPLEMENTATIONS, norm, route, squash
from kernels.routing.dynamic import xla
from tests.kernels.routing import reference as routing_reference

# As they run for users.
pytestmark = pytest.mark.usefixtures("compilation_with_optimizations")

# B, I, P, J, Q: usual, odd, single, and more blocks of rows than one.
SIZES = {
    "small": (4, 12, 8, 10, 16),
    "odd": (3, 7, 5, 3, 6),
    "ones": (1, 1, 1, 1, 1),
    "one_input": (5, 1, 8, 4, 16),
    "one_class": (2, 9, 4, 1, 8),
}


@pytest.fixture(params=[name for name in IMPLEMENTATIONS if name != "mosaic_gpu"])
def implementation(request) -> str:
    return request.param


def make_arguments(sizes, seed=0):
    """Inputs, weights and bias, float64, of the sizes that occur in a CapsNet."""
    B, I, P, J, Q = sizes
    rng = np.random.default_rng(seed)
    u = rng.normal(size=(B, I, P)) / np.sqrt(P)
    W = rng.normal(size=(I, J, Q, P)) * 2 / np.sqrt(I)
    return u, W, rng.normal(size=(J, Q)) * 0.3


def jitted(implementation, **options):
    return jax.jit(functools.partial(route, implementation=implementation, **options))


def jitted_with_vjp(implementation, **options):
    """Poses and the gradients for a cotangent, which is the last argument."""

    @jax.jit
    def call(*arguments):
        *primals, cotangent = arguments
        poses, vjp = jax.vjp(
            functools.partial(route, implementation=implementation, **options),
            *primals,
        )
        return poses, vjp(cotangent)

    return call


def as_dtype(arguments, dtype):
    return [None if x is None else jnp.asarray(x, dtype) for x in arguments]


@pytest.mark.parametrize(
    ("num_iterations", "leaky", "with_bias"),
    [
        (1, False, False),
        (3, False, False),
        (3, False, True),
        (3, True, False),
        (5, True, True),
    ],
)
@pytest.mark.parametrize("sizes", SIZES.values(), ids=SIZES.keys())
def test_poses_equal_procedure_1(
    implementation, sizes, num_iterations, leaky, with_bias
):
    u, W, bias = make_arguments(sizes)
    bias = bias if with_bias else None
    options = {"num_iterations": num_iterations, "leaky": leaky}
    expected, _ = routing_reference.route(u, W, bias, **options)
    poses = jitted(implementation, **options)(*as_dtype((u, W, bias), jnp.float32))
    assert poses.dtype == jnp.float32
    np.testing.assert_allclose(poses, expected, atol=5e-6)


@pytest.mark.parametrize("num_iterations", [1, 2, 3, 4, 5])
@pytest.mark.parametrize("leaky", [False, True])
@pytest.mark.parametrize("stop_gradient", [False, True])
def test_gradients_equal_central_differences(
    implementation, num_iterations, leaky, stop_gradient
):
    arguments = make_arguments(SIZES["odd"])
    rng = np.random.default_rng(1)
    options = {"num_iterations": num_iterations, "leaky": leaky}
    cotangent = rng.normal(size=(3, 3, 6))
    frozen = (
        routing_reference.route(*arguments, **options)[1] if stop_gradient else None
    )

    def scalar(*arguments):
        poses, _ = routing_reference.route(
            *arguments, **options, frozen_coupling=frozen
        )
        return float((poses * cotangent).sum())

    call = jitted_with_vjp(implementation, **options, stop_gradient=stop_gradient)
    _, gradients = call(*as_dtype((*arguments, cotangent), jnp.float32))
    for _ in range(5):
        directions = [rng.normal(size=x.shape) for x in arguments]
        expected = routing_reference.directional_derivative(
            scalar, arguments, directions
        )
        found = sum(
            np.vdot(gradient, direction)
            for gradient, direction in zip(gradients, directions, strict=True)
        )
        np.testing.assert_allclose(found, expected, rtol=2e-5, atol=2e-5)


def test_stop_gradient_changes_the_gradient_and_not_the_poses(implementation):
    arguments = as_dtype(make_arguments(SIZES["odd"]), jnp.float32)
    cotangent = jnp.ones((3, 3, 6))
    through = jitted_with_vjp(implementation, stop_gradient=False)
    stopped = jitted_with_vjp(implementation, stop_gradient=True)
    poses, gradients = through(*arguments, cotangent)
    poses_stopped, gradients_stopped = stopped(*arguments, cotangent)
    np.testing.assert_array_equal(poses, poses_stopped)
    assert np.abs(gradients[0] - gradients_stopped[0]).max() > 1e-3


@pytest.mark.parametrize("leaky", [False, True])
def test_half_precision_is_as_good_as_rounding_allows(implementation, leaky):
    """Against float64 on the same rounded inputs; a rounding of 2^-9 each time."""
    sizes = (4, 64, 8, 10, 16)
    arguments = as_dtype(make_arguments(sizes), jnp.bfloat16)
    exact = [np.asarray(x, np.float64) for x in arguments]
    expected, _ = routing_reference.route(*exact, leaky=leaky)
    call = jitted_with_vjp(implementation, leaky=leaky)
    cotangent = jnp.asarray(expected, jnp.bfloat16)
    poses, gradients = call(*arguments, cotangent)
    assert poses.dtype == jnp.bfloat16
    np.testing.assert_allclose(np.asarray(poses, np.float64), expected, atol=4 * 2**-9)
    _, wide = call(*[x.astype(jnp.float32) for x in (*arguments, cotangent)])
    for half, full in zip(gradients, wide, strict=True):
        assert half.dtype == jnp.bfloat16
        error = np.abs(np.asarray(half, np.float32) - full).max()
        assert error <= 8 * 2**-9 * np.abs(full).max()


def test_half_precision_accumulates_in_float32(implementation):
    """4,096 equal votes: a bfloat16 sum would stop growing at 256 of them."""
    I = 4096
    u = jnp.ones((1, I, 1), jnp.bfloat16)
    W = jnp.full((I, 1, 1, 1), 2.0**-11, jnp.bfloat16)
    poses = jitted(implementation, num_iterations=1)(u, W)
    np.testing.assert_allclose(np.float32(poses.squeeze()), 4 / 5, rtol=2**-8)


def test_coupling_is_a_softmax_over_output_capsules(implementation):
    """All votes are equal, so the coupling stays uniform over the J outputs.

    The total input is then the votes' sum over J; a softmax over the inputs would
    divide it by their number instead.
    """
    I, J = 6, 4
    u = jnp.ones((1, I, 1))
    W = jnp.full((I, J, 1, 1), 0.5)
    poses = jitted(implementation)(u, W)
    s = 0.5 * I / J
    np.testing.assert_allclose(poses.squeeze(), s**2 / (1 + s**2), rtol=1e-6)
    leaky = jitted(implementation, num_iterations=1, leaky=True)(u, W)
    s = 0.5 * I / (J + 1)
    np.testing.assert_allclose(leaky.squeeze(), s**2 / (1 + s**2), rtol=1e-6)


def test_an_example_does_not_depend_on_its_batch_mates(implementation):
    u, W, bias = as_dtype(make_arguments((6, 12, 8, 10, 16)), jnp.float32)
    call = jitted(implementation)
    together = call(u, W, bias)
    for index in range(6):
        alone = call(u[index : index + 1], W, bias)
        np.testing.assert_allclose(together[index], alone[0], atol=1e-6)


def test_permuting_input_capsules_changes_nothing(implementation):
    u, W, bias = as_dtype(make_arguments(SIZES["small"]), jnp.float32)
    order = np.random.default_rng(2).permutation(12)
    call = jitted(implementation)
    np.testing.assert_allclose(
        call(u[:, order], W[order], bias), call(u, W, bias), atol=1e-6
    )


def test_zero_inputs_give_zero_poses_and_finite_gradients(implementation):
    u, W = jnp.zeros((2, 5, 4)), jnp.ones((5, 3, 6, 4))
    poses, gradients = jitted_with_vjp(implementation)(u, W, jnp.ones((2, 3, 6)))
    assert not np.any(poses)
    for gradient in gradients:
        assert np.all(np.isfinite(gradient))


def test_large_logits_do_not_overflow(implementation):
    u, W, _ = as_dtype(make_arguments(SIZES["small"]), jnp.float32)
    call = jitted_with_vjp(implementation, leaky=True)
    poses, gradients = call(u, 200 * W, jnp.ones((4, 10, 16)))
    assert np.all(np.isfinite(poses))
    for gradient in gradients:
        assert np.all(np.isfinite(gradient))


def test_works_without_jit_and_under_vmap_and_remat(implementation):
    u, W, bias = as_dtype(make_arguments(SIZES["odd"]), jnp.float32)
    call = jitted(implementation)
    expected = call(u, W, bias)
    np.testing.assert_allclose(
        route(u, W, bias, implementation=implementation), expected, atol=1e-6
    )
    stacked = jax.vmap(call, in_axes=(0, None, None))(jnp.stack([u, -u]), W, bias)
    np.testing.assert_allclose(stacked[0], expected, atol=1e-6)
    np.testing.assert_allclose(stacked[1], call(-u, W, bias), atol=1e-6)

    def total(u):
        return jnp.sum(jnp.square(call(u, W, bias)))

    np.testing.assert_allclose(
        jax.jit(jax.grad(jax.checkpoint(total)))(u),
        jax.jit(jax.grad(total))(u),
        atol=1e-6,
    )


def test_second_derivatives_agree():
    """The gradient of xla is its own; the derivative of that is JAX's."""
    u, W, bias = as_dtype(make_arguments((2, 5, 4, 3, 6)), jnp.float32)

    def curvature(implementation):
        def total(u):
            return jnp.sum(jnp.sin(route(u, W, bias, implementation=implementation)))

        return jax.jit(jax.grad(lambda u: jnp.sum(jnp.square(jax.grad(total)(u)))))(u)

    expected = curvature("reference")
    assert np.abs(expected).max() > 1e-2
    np.testing.assert_allclose(curvature("xla"), expected, atol=1e-5)


@pytest.mark.parametrize("num_inputs", [1, 64, 130, 200])
def test_xla_gives_the_same_whatever_its_chunks(monkeypatch, num_inputs):
    """One chunk and more, with and without padding of the last."""
    arguments = as_dtype(make_arguments((3, num_inputs, 4, 3, 5)), jnp.float32)
    cotangent = jnp.ones((3, 3, 5))
    whole, gradients_whole = jitted_with_vjp("xla")(*arguments, cotangent)
    monkeypatch.setattr(xla, "_CPU_CHUNK_BYTES", 1)
    chunks, gradients_chunks = jitted_with_vjp("xla")(*arguments, cotangent)
    np.testing.assert_allclose(chunks, whole, atol=1e-6)
    for in_chunks, at_once in zip(gradients_chunks, gradients_whole, strict=True):
        np.testing.assert_allclose(in_chunks, at_once, atol=5e-6)


def test_xla_needs_a_quarter_of_the_memory_of_the_reference():
    """At the paper's MNIST sizes, by XLA's own account."""
    *primals, cotangent = [
        jax.ShapeDtypeStruct(shape, jnp.float32)
        for shape in ((128, 1152, 8), (1152, 10, 16, 8), (10, 16), (128, 10, 16))
    ]

    def temporary_bytes(call, *arguments):
        compiled = call.lower(*arguments).compile()
        return compiled.memory_analysis().temp_size_in_bytes

    def forward(implementation):
        return temporary_bytes(jitted(implementation), *primals)

    def with_gradients(implementation):
        return temporary_bytes(jitted_with_vjp(implementation), *primals, cotangent)

    assert 4 * forward("xla") <= forward("reference")
    assert 4 * with_gradients("xla") <= with_gradients("reference")


def test_none_picks_an_implementation_and_unknown_names_fail():
    u, W, bias = as_dtype(make_arguments(SIZES["odd"]), jnp.float32)
    np.testing.assert_allclose(
        route(u, W, bias), route(u, W, bias, implementation="reference"), atol=1e-6
    )
    with pytest.raises(ValueError, match=r"'cuda'.*xla.*reference"):
        route(u, W, bias, implementation="cuda")


@pytest.mark.parametrize(
    ("shapes", "expected"),
    [
        (((2, 3), (3, 4, 5, 6), None), r"\(2, 3\)"),
        (((2, 3, 6), (3, 4, 5), None), r"\(3, 4, 5\)"),
        (((2, 3, 6), (3, 4, 5, 7), None), r"\(3, 4, 5, 7\)"),
        (((2, 8, 6), (3, 4, 5, 6), None), r"\(2, 8, 6\)"),
        (((2, 3, 6), (3, 4, 5, 6), (5, 4)), r"\(5, 4\)"),
        (((2, 3, 6), (3, 4, 5, 6), (4,)), r"\(4,\)"),
        (((0, 3, 6), (3, 4, 5, 6), None), r"\(0, 3, 6\)"),
    ],
)
def test_wrong_shapes_are_refused_with_the_shapes(shapes, expected):
    arguments = [None if shape is None else jnp.zeros(shape) for shape in shapes]
    with pytest.raises(ValueError, match=expected):
        route(*arguments)  # type: ignore[arg-type]


@pytest.mark.parametrize("num_iterations", [0, -1, True, 2.0])
def test_wrong_numbers_of_iterations_are_refused(num_iterations):
    with pytest.raises(ValueError, match="num_iterations"):
        route(
            jnp.zeros((2, 3, 6)),
            jnp.zeros((3, 4, 5, 6)),
            num_iterations=num_iterations,
        )


def test_mixed_and_integer_dtypes_are_refused():
    u, W = jnp.zeros((2, 3, 6)), jnp.zeros((3, 4, 5, 6))
    with pytest.raises(ValueError, match="bfloat16"):
        route(u, W.astype(jnp.bfloat16))
    with pytest.raises(ValueError, match="int32"):
        route(u.astype(jnp.int32), W.astype(jnp.int32))


def test_squash_has_the_papers_lengths():
    """|squash(s)| = |s|^2 / (1 + |s|^2), direction kept."""
    s = np.random.default_rng(3).normal(size=(50, 16)) * 3
    v = np.asarray(squash(jnp.asarray(s, jnp.float32)), np.float64)
    lengths = np.linalg.norm(s, axis=1)
    np.testing.assert_allclose(
        np.linalg.norm(v, axis=1), lengths**2 / (1 + lengths**2), rtol=1e-6
    )
    np.testing.assert_allclose(
        v / np.linalg.norm(v, axis=1)[:, None], s / lengths[:, None], atol=1e-6
    )


def test_squash_and_norm_at_zero_are_exact_in_value_and_gradient():
    zero = jnp.zeros((3, 8))
    assert not np.any(squash(zero))
    assert not np.any(norm(zero))
    assert not np.any(jax.grad(lambda s: jnp.sum(squash(s)))(zero))
    assert not np.any(jax.grad(lambda s: jnp.sum(norm(s)))(zero))


@pytest.mark.parametrize("scale", [1e-4, 1.0, 1e3])
def test_squash_gradient_equals_central_differences(scale):
    rng = np.random.default_rng(4)
    s, g, direction = rng.normal(size=(3, 6))
    s = s * scale
    expected = routing_reference.directional_derivative(
        lambda s: float(routing_reference.squash(s) @ g),
        [s],
        [direction],
        step=1e-5 * scale,
    )
    (found,) = jax.vjp(squash, jnp.asarray(s, jnp.float32))[1](
        jnp.asarray(g, jnp.float32)
    )
    np.testing.assert_allclose(np.vdot(found, direction), expected, rtol=1e-4)


@pytest.mark.parametrize("check_vma", [True, False])
def test_four_devices_in_a_shard_map_equal_one(implementation, check_vma, monkeypatch):
    """Also where JAX itself keeps account of what differs and sums up the gradients."""
    monkeypatch.setattr(xla, "_MIN_CHUNK_INPUTS", 5)
    monkeypatch.setattr(xla, "_CPU_CHUNK_BYTES", 1)
    u, W, bias = as_dtype(make_arguments((8, 12, 8, 3, 4)), jnp.float32)
    mesh = jax.make_mesh((4,), ("data",), axis_types=(jax.sharding.AxisType.Auto,))
    shared, mine = jax.sharding.PartitionSpec(), jax.sharding.PartitionSpec("data")

    def loss(u, W, bias):
        poses = route(u, W, bias, implementation=implementation)
        return jnp.sum(jnp.square(poses))

    gradient = jax.grad(loss, argnums=(0, 1, 2))

    def share(u, W, bias):
        du, *others = gradient(u, W, bias)
        return du, (others if check_vma else jax.lax.psum(others, "data"))

    sharded = jax.shard_map(
        share,
        mesh=mesh,
        in_specs=(mine, shared, shared),
        out_specs=(mine, shared),
        check_vma=check_vma,
    )
    expected = jax.jit(gradient)(u, W, bias)
    du, (dW, dbias) = jax.jit(sharded)(u, W, bias)
    for found, right in zip((du, dW, dbias), expected, strict=True):
        np.testing.assert_allclose(found, right, atol=1e-5)
