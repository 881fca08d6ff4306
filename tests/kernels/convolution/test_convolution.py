"""The convolution against float64 loops, and the form it takes on each platform."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from capsjax.layers import Conv
from kernels.convolution import api, convolve, output_size

# As they run for users.
pytestmark = pytest.mark.usefixtures("compilation_with_optimizations")

# H, W, K, C_in, C_out.
SIZES = {
    "odd": (9, 12, 3, 2, 5),
    "even_kernel": (7, 8, 2, 3, 1),
    "kernel_as_large_as_the_image": (5, 5, 5, 1, 4),
    "patches_smaller_than_the_result": (6, 8, 2, 2, 9),
}


def pad_same(x, K, stride):
    """Zeros so that the size is H / stride, rounded up; the odd one at the end."""
    pads = [(0, 0)]
    for size in x.shape[1:3]:
        total = max((int(np.ceil(size / stride)) - 1) * stride + K - size, 0)
        pads.append((total // 2, total - total // 2))
    return np.pad(x, [*pads, (0, 0)]), pads[1:]


def correlate(x, kernel, stride, padding, cotangent=None):
    """Result and gradients (where there is a cotangent), pixel by pixel in float64."""
    K = kernel.shape[0]
    H, W = x.shape[1:3]
    pads = [(0, 0), (0, 0)]
    if padding == "SAME":
        x, pads = pad_same(x, K, stride)
    h, w = ((size - K) // stride + 1 for size in x.shape[1:3])
    y = np.zeros((x.shape[0], h, w, kernel.shape[3]))
    dx, dkernel = np.zeros(x.shape), np.zeros(kernel.shape)
    for row in range(h):
        for column in range(w):
            window = np.s_[
                :,
                row * stride : row * stride + K,
                column * stride : column * stride + K,
            ]
            y[:, row, column] = np.tensordot(x[window], kernel, 3)
            if cotangent is not None:
                g = cotangent[:, row, column]
                dkernel += np.tensordot(x[window], g, (0, 0))
                dx[window] += np.tensordot(g, kernel, (1, 3))
    (top, _), (left, _) = pads
    return y, dx[:, top : top + H, left : left + W], dkernel


def arguments(size, stride, padding, B=2):
    """Images, kernel and a cotangent of the result, in float64."""
    H, W, K, C_in, C_out = size
    rng = np.random.default_rng(0)
    x, kernel = rng.normal(size=(B, H, W, C_in)), rng.normal(size=(K, K, C_in, C_out))
    y, *_ = correlate(x, kernel, stride, padding)
    return x, kernel, rng.normal(size=y.shape)


def with_gradients(stride, padding):
    """The function from images, kernel and cotangent to the result and gradients."""

    def call(x, kernel, cotangent):
        y, vjp = jax.vjp(lambda x, k: convolve(x, k, stride, padding), x, kernel)
        return y, *vjp(cotangent)

    return jax.jit(call)


def as_float32(arrays):
    return [jnp.asarray(x, jnp.float32) for x in arrays]


@pytest.mark.parametrize("size", SIZES.values(), ids=SIZES.keys())
@pytest.mark.parametrize("padding", ["VALID", "SAME"])
@pytest.mark.parametrize("stride", [1, 2, 3])
def test_value_and_gradients_equal_loops(size, stride, padding):
    inputs = arguments(size, stride, padding)
    x, kernel, cotangent = inputs
    expected = correlate(x, kernel, stride, padding, cotangent)
    found = with_gradients(stride, padding)(*as_float32(inputs))
    for name, a, b in zip(("y", "dx", "dkernel"), found, expected, strict=True):
        assert a.dtype == jnp.float32
        assert a.shape == b.shape, name
        np.testing.assert_allclose(a, b, atol=2e-5, err_msg=name)


@pytest.mark.parametrize("padding", ["VALID", "SAME"])
@pytest.mark.parametrize("stride", [1, 2])
def test_equals_the_librarys_convolution_without_jit_and_under_vmap(stride, padding):
    x, kernel, _ = as_float32(arguments(SIZES["odd"], stride, padding))
    expected = jax.lax.conv_general_dilated(
        x,
        kernel,
        (stride, stride),
        padding,
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
    )
    np.testing.assert_allclose(
        convolve(x, kernel, stride, padding), expected, atol=1e-5, rtol=1e-5
    )
    call = functools.partial(convolve, stride=stride, padding=padding)
    stacked = jax.jit(jax.vmap(call, (0, None)))(jnp.stack([x, 2 * x]), kernel)
    np.testing.assert_allclose(stacked[1], 2 * expected, atol=2e-5, rtol=1e-5)


def test_half_precision_in_and_out():
    inputs = arguments(SIZES["odd"], 2, "VALID")
    halves = [jnp.asarray(x, jnp.bfloat16) for x in inputs]
    x, kernel, cotangent = (np.asarray(x, np.float64) for x in halves)
    expected = correlate(x, kernel, 2, "VALID", cotangent)
    for a, b in zip(with_gradients(2, "VALID")(*halves), expected, strict=True):
        assert a.dtype == jnp.bfloat16
        np.testing.assert_allclose(np.float64(a), b, atol=2**-6 * np.abs(b).max())


# The form. The gradient of a strided convolution has an operand that is dilated, which
# XLA's CPU backend is hundreds of times slower at; nowhere on a CPU may it occur.


def lowered(platform, stride, padding):
    """The program (StableHLO) of the convolution and its gradients."""
    inputs = as_float32(arguments(SIZES["odd"], stride, padding))
    traced = with_gradients(stride, padding).trace(*inputs)
    return traced.lower(lowering_platforms=(platform,)).as_text()


@pytest.mark.parametrize("padding", ["VALID", "SAME"])
@pytest.mark.parametrize("stride", [2, 3])
def test_strided_on_a_cpu_is_matrix_products_and_no_convolution(stride, padding):
    program = lowered("cpu", stride, padding)
    assert "stablehlo.convolution" not in program
    assert "stablehlo.dot_general" in program


@pytest.mark.parametrize("platform", ["cuda", "rocm", "tpu"])
@pytest.mark.parametrize("padding", ["VALID", "SAME"])
def test_strided_elsewhere_is_one_convolution_each_way(platform, padding):
    program = lowered(platform, 2, padding)
    # Forward, gradient of the images, gradient of the kernel.
    assert program.count("stablehlo.convolution") == 3
    assert "stablehlo.dot_general" not in program


@pytest.mark.parametrize("stride", [1, 2])
def test_images_of_few_channels_on_a_cpu_are_one_matrix_product(stride):
    size = SIZES["patches_smaller_than_the_result"]
    inputs = as_float32(arguments(size, stride, "SAME"))
    traced = with_gradients(stride, "SAME").trace(*inputs)
    program = traced.lower(lowering_platforms=("cpu",)).as_text()
    assert "stablehlo.convolution" not in program
    # Forward, gradient of the images, gradient of the kernel.
    assert program.count("stablehlo.dot_general") == 3


@pytest.mark.parametrize(
    ("platform", "least", "convolutions", "products"),
    [("cpu", 1, 2, 3), ("cpu", 10**8, 3, 0), ("cuda", 1, 3, 0)],
)
def test_stride_one_is_a_convolution(
    monkeypatch, platform, least, convolutions, products
):
    """But, of large ones on a CPU, the kernel's gradient: one product for each row."""
    monkeypatch.setattr(api, "_ROWS_FROM", least)
    program = lowered(platform, 1, "SAME")
    assert program.count("stablehlo.convolution") == convolutions
    assert program.count("stablehlo.dot_general") == products


@pytest.mark.parametrize("examples", [1, 6, 7])
def test_kernel_gradient_of_any_number_of_images(monkeypatch, examples):
    """In chunks of three images where that divides the batch, else of fewer."""
    shapes = [(examples, 6, 5, 4), (3, 3, 4, 5), (examples, 6, 5, 5)]
    x, kernel, cotangent = (
        np.random.default_rng(0).normal(size=shape) for shape in shapes
    )
    monkeypatch.setattr(api, "_ROWS_FROM", 1)
    monkeypatch.setattr(api, "_CHUNK_BYTES", 3 * 4 * 6 * 5 * 3 * 4)
    inputs = as_float32((x, kernel, cotangent))
    found = with_gradients(1, "SAME")(*inputs)
    expected = correlate(x, kernel, 1, "SAME", cotangent)
    for one, other in zip(found, expected, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-5)


@pytest.mark.skipif(jax.default_backend() != "cpu", reason="what a CPU runs")
def test_the_compiled_program_on_a_cpu_dilates_nothing():
    inputs = as_float32(arguments(SIZES["odd"], 2, "VALID"))
    program = with_gradients(2, "VALID").lower(*inputs).compile().as_text()
    assert program is not None
    assert "lhs_dilate=" not in program
    assert " convolution(" not in program


@pytest.mark.skipif(jax.default_backend() != "cpu", reason="what a CPU runs")
def test_the_gradient_on_a_cpu_never_holds_all_patches():
    """XLA's own account of the memory for PrimaryCaps on few channels."""
    B, C_in, C_out, K = 8, 16, 16, 9
    shapes = [(B, 20, 20, C_in), (K, K, C_in, C_out), (B, 6, 6, C_out)]
    inputs = [jax.ShapeDtypeStruct(shape, jnp.float32) for shape in shapes]
    compiled = with_gradients(2, "VALID").lower(*inputs).compile()
    assert compiled.memory_analysis().temp_size_in_bytes < 4 * B * 6 * 6 * K * K * C_in


# The layer.


@pytest.mark.parametrize("size", [1, 2, 7, 8, 20, 28])
@pytest.mark.parametrize("kernel_size", [1, 2, 5, 9])
@pytest.mark.parametrize("stride", [1, 2, 3])
def test_output_size(size, kernel_size, stride):
    """Counts the places where the kernel lies, by its first pixel."""
    inside = [i for i in range(0, size, stride) if i + kernel_size <= size]
    valid = output_size(size, kernel_size, stride, "VALID")
    assert max(valid, 0) == len(inside)
    assert output_size(size, kernel_size, stride, "SAME") == len(range(0, size, stride))


def test_output_size_of_the_papers_network():
    assert output_size(28, 9, 1, "VALID") == 20
    assert output_size(20, 9, 2, "VALID") == 6
    assert output_size(24, 9, 2, "SAME") == 12


def make_layer(**options):
    options = {"bias_init": jax.nn.initializers.zeros} | options
    return Conv(
        2, 5, 3, kernel_init=jax.nn.initializers.ones, rngs=nnx.Rngs(0), **options
    )


@pytest.mark.parametrize("padding", ["VALID", "SAME"])
def test_the_layer_adds_its_bias_to_each_channel(padding):
    x, kernel, _ = arguments(SIZES["odd"], 2, padding)
    layer = make_layer(stride=2, padding=padding)
    assert layer.bias is not None
    bias = np.arange(5) - 2.0
    layer.kernel[...] = jnp.asarray(kernel, jnp.float32)
    layer.bias[...] = jnp.asarray(bias, jnp.float32)
    y = layer(jnp.asarray(x, jnp.float32))
    expected, *_ = correlate(x, kernel, 2, padding)
    assert y.shape[1:3] == tuple(output_size(n, 3, 2, padding) for n in (9, 12))
    np.testing.assert_allclose(y, expected + bias, atol=2e-5)


def test_the_layer_starts_as_told():
    layer = make_layer(bias_init=jax.nn.initializers.constant(0.1))
    assert layer.kernel.shape == (3, 3, 2, 5)
    assert np.all(layer.kernel[...] == 1)
    assert layer.bias is not None
    np.testing.assert_array_equal(layer.bias[...], np.full(5, 0.1, np.float32))
    assert make_layer(bias_init=None).bias is None
    assert len(jax.tree.leaves(nnx.state(make_layer(bias_init=None)))) == 1
