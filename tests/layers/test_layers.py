"""Capsule layers with parameters for which the result is known."""

import functools
import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from capsjax.layers import (
    INITIALIZERS,
    Initializers,
    MaskedDecoder,
    PrimaryCapsules,
    RoutedCapsules,
    primary_grid,
    relu,
)
from capsjax.routings import Capsules, Sizes, dynamic
from tests.kernels.routing import reference as routing_reference


def float32(x):
    return jnp.asarray(x, jnp.float32)


def normal(key, shape, dtype=jnp.float32, out_sharding=None):
    """Numbers to start from that need no compiler."""
    return jnp.asarray(np.random.default_rng(0).normal(size=shape), dtype)


TENTH = jax.nn.initializers.constant(0.1)
START = Initializers(
    conv1=normal, primary=normal, routed=normal, dense=normal, bias=TENTH
)


def run(layer, *arguments):
    return jax.jit(lambda *arguments: layer(*arguments))(*arguments)


def squash(s):
    """Equation 1 in float64, zero for zero vectors."""
    s = np.asarray(s, np.float64)
    length = np.linalg.norm(s, axis=-1, keepdims=True)
    return s * length / (1 + length**2)


# The rectifier.


def test_relu_and_its_gradient():
    x = float32([-2, -0.0, 0, 1e-30, 3])
    y, vjp = jax.vjp(relu, x)
    np.testing.assert_array_equal(y, [0, 0, 0, float32(1e-30), 3])
    np.testing.assert_array_equal(vjp(float32([5, 6, 7, 8, 9]))[0], [0, 0, 0, 8, 9])


@pytest.mark.usefixtures("compilation_with_optimizations")
def test_relu_keeps_its_result_and_not_its_argument():
    """XLA's account for a layer before and one after it: one array less is held."""
    B, C = 256, 512
    x, w = (jax.ShapeDtypeStruct(shape, jnp.float32) for shape in ((B, C), (C, C)))

    def temporaries(relu):
        def loss(w, x):
            for _ in range(4):
                x = relu(jax.lax.optimization_barrier(x @ w))
            return jnp.sum(x**2)

        memory = jax.jit(jax.grad(loss)).lower(w, x).compile().memory_analysis()
        assert memory is not None
        return memory.temp_size_in_bytes

    assert temporaries(relu) <= temporaries(jax.nn.relu) - 4 * B * C


# Primary capsules.


def make_primary(num_types=3, dim=2, kernel_size=1, **options):
    defaults: dict[str, Any] = {
        "stride": 1,
        "padding": "VALID",
        "route": False,
        "leaky": False,
    }
    return PrimaryCapsules(
        1,
        num_types,
        dim,
        kernel_size,
        init=START,
        rngs=nnx.Rngs(0),
        **(defaults | options),
    )


def test_a_capsule_is_the_channels_of_one_type_at_one_position():
    """Kernels of one pixel: channel c is the pixel times c + 1, plus a bias."""
    num_types, dim, H, W = 3, 2, 4, 5
    layer = make_primary(num_types, dim)
    layer.conv.kernel[...] = (jnp.arange(6.0) + 1).reshape(1, 1, 1, 6) / 10
    layer.bias[...] = float32([[0.1, 0.2], [0.3, 0.4], [0.5, 0.6]])
    images = np.random.default_rng(0).normal(size=(2, H, W, 1))
    poses = run(layer, float32(images))
    assert poses.shape == (2, H * W * num_types, dim)
    for row in range(H):
        for column in range(W):
            for kind in range(num_types):
                # In order of position, then of type.
                index = (row * W + column) * num_types + kind
                channels = np.array([dim * kind, dim * kind + 1])
                weights, bias = (channels + 1) / 10, (channels + 1) / 10
                s = images[:, row, column] * weights + bias
                np.testing.assert_allclose(poses[:, index], squash(s), atol=1e-6)


@pytest.mark.parametrize(
    ("num_types", "route", "leaky", "divisor"),
    [
        (32, False, False, 1),
        (32, False, True, 1),
        (32, True, False, 32),
        (64, True, False, 64),
        (64, True, True, 65),
    ],
)
def test_routing_primary_capsules_divides_before_the_bias(
    num_types, route, leaky, divisor
):
    """The released code's: squash(conv/32 + 0.1), if leaky squash(conv/65 + 0.1)."""
    layer = make_primary(num_types, 8, route=route, leaky=leaky)
    layer.conv.kernel[...] = jnp.ones((1, 1, 1, num_types * 8))
    image = np.random.default_rng(3).normal(size=(1, 2, 3, 1))
    expected = squash(np.repeat(image.reshape(1, -1, 1), 8, axis=2) / divisor + 0.1)
    np.testing.assert_allclose(
        run(layer, float32(image)), np.repeat(expected, num_types, axis=1), atol=1e-6
    )


def test_primary_capsules_are_shorter_than_one():
    layer = make_primary(4, 8, kernel_size=3, stride=2, padding="SAME")
    images = np.random.default_rng(4).normal(size=(3, 7, 8, 1)) * 20
    poses = np.asarray(run(layer, float32(images)), np.float64)
    assert poses.shape == (3, 4 * 4 * 4, 8)
    lengths = np.linalg.norm(poses, axis=2)
    assert lengths.max() < 1
    assert lengths.max() > 0.99


def test_primary_capsules_of_nothing_are_zero_with_finite_gradients():
    layer = make_primary(4, 8, kernel_size=3)
    layer.bias[...] = jnp.zeros((4, 8))
    image = jnp.zeros((1, 5, 5, 1))
    poses, vjp = jax.vjp(lambda image: run(layer, image), image)
    assert not np.any(poses)
    assert not np.any(vjp(jnp.ones_like(poses))[0])


# Routed capsules.


def routed(use_bias=True, **options):
    """A function from poses to poses, and the layer that it calls."""
    layer = RoutedCapsules(
        Sizes(7, 5, 3, 6),
        routing=dynamic.Config(**options),
        weights_init=START.routed,
        bias_init=START.bias if use_bias else None,
        rngs=nnx.Rngs(0),
    )
    return lambda poses: layer(Capsules(poses)).poses, layer


@pytest.mark.parametrize("num_iterations", [1, 3])
@pytest.mark.parametrize("leaky", [False, True])
@pytest.mark.parametrize("use_bias", [False, True])
def test_routed_capsules_route_as_told(num_iterations, leaky, use_bias):
    call, layer = routed(use_bias, iterations=num_iterations, leaky=leaky)
    u = np.random.default_rng(5).normal(size=(2, 7, 5))
    expected, _ = routing_reference.route(
        u,
        layer.weights[...],
        np.full((3, 6), 0.1) if use_bias else None,
        num_iterations=num_iterations,
        leaky=leaky,
    )
    np.testing.assert_allclose(run(call, float32(u)), expected, atol=5e-6)


def test_routed_capsules_use_the_named_implementation():
    u = jnp.ones((2, 7, 5))
    votes = "2x7x3x6"  # Only the reference has all votes [B, I, J, Q] at once.
    for name, has_votes in (("reference", True), ("xla", False)):
        program = jax.jit(routed(implementation=name)[0]).lower(u).as_text()
        assert (votes in program) == has_votes
    with pytest.raises(ValueError, match="unknown routing implementation 'fastest'"):
        routed(implementation="fastest")[0](u)


# The decoder.


@pytest.fixture(scope="module")
def decoder():
    return MaskedDecoder(4, 3, (8, 9), (5, 6, 2), init=START, rngs=nnx.Rngs(0))


POSES = np.random.default_rng(7).normal(size=(3, 4, 3)) / 3
LABELS = jnp.array([2, 0, 3], jnp.int32)
IS_OTHER = np.arange(4) != np.asarray(LABELS)[:, None]


def test_the_decoder_in_float64(decoder):
    expected = []
    for pose, label in zip(POSES, LABELS, strict=True):
        x = np.zeros(12)
        x[3 * label : 3 * label + 3] = pose[label]
        for index, layer in enumerate(decoder.layers):
            x = x @ np.float64(layer.kernel[...]) + np.float64(layer.bias[...])
            x = np.maximum(x, 0) if index < 2 else 1 / (1 + np.exp(-x))
        expected.append(x.reshape(5, 6, 2))
    found = run(decoder, float32(POSES), LABELS)
    assert found.dtype == jnp.float32
    np.testing.assert_allclose(found, expected, atol=1e-6)


def test_the_decoders_gradient_reaches_only_the_labelled_capsule(decoder):
    gradient = np.asarray(
        jax.grad(lambda poses: jnp.sum(run(decoder, poses, LABELS)))(float32(POSES))
    )
    assert not np.any(gradient[IS_OTHER])
    assert np.all(gradient[~IS_OTHER] != 0)


def test_the_decoders_output_lies_in_the_unit_range(decoder):
    found = np.asarray(run(decoder, float32(POSES * 1e3), LABELS))
    assert found.min() >= 0
    assert found.max() <= 1
    assert found.max() - found.min() > 0.9


# How parameters start. What the released code calls the standard deviation is that of
# the normal distribution before it is cut at twice as much; this is what is left of it.
CUT = math.sqrt(1 - 4 * math.exp(-2) / math.sqrt(2 * math.pi) / math.erf(math.sqrt(2)))


def samples(init, shape):
    return np.asarray(init(jax.random.key(0), shape, jnp.float32), np.float64)


@pytest.mark.parametrize(
    ("layer", "stddev"),
    [("conv1", 0.05), ("primary", 0.1), ("routed", 0.1), ("dense", 0.1)],
)
def test_authors_codes_weights(layer, stddev):
    x = samples(getattr(INITIALIZERS["authors_code"], layer), (60, 50, 10, 5))
    assert np.abs(x).max() <= 2 * stddev
    assert np.abs(x).max() > 1.99 * stddev
    np.testing.assert_allclose(x.std(), stddev * CUT, rtol=0.01)
    assert abs(x.mean()) < 0.01 * stddev


def test_standard_weights_keep_the_variance():
    """A convolution's inputs to one output are K x K x C, a dense layer's are C."""
    init = INITIALIZERS["standard"]
    for layer in (init.conv1, init.primary):
        x = samples(layer, (9, 9, 20, 60))
        np.testing.assert_allclose(x.std(), (9 * 9 * 20) ** -0.5, rtol=0.02)
    x = samples(init.dense, (160, 512))
    np.testing.assert_allclose(x.std(), 160**-0.5, rtol=0.02)
    x = samples(init.routed, (30, 10, 16, 8))
    np.testing.assert_allclose(x.std(), 0.1 * CUT, rtol=0.02)


def test_biases():
    for name, value in (("standard", 0), ("authors_code", 0.1)):
        x = INITIALIZERS[name].bias(jax.random.key(0), (4, 3), jnp.float32)
        np.testing.assert_array_equal(x, np.full((4, 3), value, np.float32))


# The grid.

grid = functools.partial(
    primary_grid, conv1_kernel=9, primary_kernel=9, primary_stride=2
)


@pytest.mark.parametrize(
    ("shape", "padding", "expected"),
    [
        ((28, 28, 1), "VALID", (6, 6)),
        ((36, 36, 1), "VALID", (10, 10)),
        ((24, 24, 3), "SAME", (12, 12)),
        ((17, 28, 1), "VALID", (1, 6)),
        ((1, 3, 1), "SAME", (1, 2)),
    ],
)
def test_primary_grid(shape, padding, expected):
    assert grid(shape, padding=padding) == expected


@pytest.mark.parametrize("shape", [(16, 28, 1), (28, 16, 1), (8, 28, 1)])
def test_images_that_are_too_small_for_the_kernels(shape):
    """16 pixels: 8 after conv1, one too few for the primary capsules' kernel."""
    with pytest.raises(ValueError, match=f"{shape[0]}x{shape[1]} pixels .* 9x9"):
        grid(shape, padding="VALID")
