"""Convolution by Fourier transforms against loops in float64 and SciPy."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.signal import correlate2d

from kernels.convolution import convolve, output_size, spectral
from kernels.convolution.spectral import Tiling
from tests.kernels.convolution.test_convolution import correlate


def case(H, W, K, stride, C_in=3, C_out=2, B=3):
    """Images, kernel, a cotangent of the result in float64, and the result's size."""
    rng = np.random.default_rng(0)
    h, w = (output_size(size, K, stride, "VALID") for size in (H, W))
    shapes = ((B, H, W, C_in), (K, K, C_in, C_out), (B, h, w, C_out))
    return *(rng.normal(size=shape) for shape in shapes), (h, w)


def check(x, kernel, gradient, size, tiling, dtype=jnp.float32, tolerance=2e-6):
    """Value and both gradients; the tolerance is of the largest number."""

    def call(x, kernel):
        return spectral.convolve(x, kernel, size, tiling)

    y, vjp = jax.vjp(call, *(jnp.asarray(a, dtype) for a in (x, kernel)))
    results = (y, *vjp(jnp.asarray(gradient, dtype)))
    stride = tiling.stride
    for actual, expected in zip(
        results, correlate(x, kernel, stride, "VALID", gradient), strict=True
    ):
        assert actual.dtype == dtype
        error = np.abs(np.asarray(actual, np.float64) - expected).max()
        assert error < tolerance * np.abs(expected).max()


def plan_of(x, kernel, size, stride):
    channels = kernel.shape[2:]
    return spectral.plan(size, kernel.shape[0], stride, x.shape[0], channels)


@pytest.mark.parametrize("stride", [1, 2, 3])
@pytest.mark.parametrize(("H", "W", "K"), [(20, 20, 9), (13, 17, 4), (5, 8, 5)])
def test_value_and_gradients_equal_loops(H, W, K, stride):
    """Also images with pixels that no kernel reaches."""
    x, kernel, gradient, size = case(H, W, K, stride)
    tiling, _ = plan_of(x, kernel, size, stride)
    check(x, kernel, gradient, size, tiling)


@pytest.mark.parametrize("outputs", [1, 2, 3, 5, 6, 7])
def test_all_tilings_give_the_same(outputs):
    x, kernel, gradient, size = case(14, 17, 3, 2)
    tiles = (-(-size[0] // outputs), -(-size[1] // outputs))
    check(x, kernel, gradient, size, Tiling(2, 2, outputs, tiles))


@pytest.mark.parametrize("B", [1, 4, 5])
def test_blocks_of_images_and_chunks_of_channels(monkeypatch, B):
    """Three images a block, of which the last may be short, and 4 chunks a phase."""
    x, kernel, gradient, size = case(8, 8, 3, 2, C_in=8, B=B)
    tiling, _ = plan_of(x, kernel, size, 2)
    tiles = tiling.tiles[0] * tiling.tiles[1]
    monkeypatch.setattr(spectral, "_BLOCK_BYTES", 3 * 4 * tiling.planes * tiles * 2)
    monkeypatch.setattr(spectral, "_CHUNK_CHANNELS", range(2, 0, -1))
    check(x, kernel, gradient, size, tiling)


def test_half_precision_in_and_out():
    x, kernel, gradient, size = case(12, 12, 5, 1)
    arrays = (x, kernel, gradient)
    x, kernel, gradient = (np.asarray(a, jnp.bfloat16).astype(float) for a in arrays)
    tiling, _ = plan_of(x, kernel, size, 1)
    # One rounding to 8 bits; sums in bfloat16 would be off by several times that.
    check(x, kernel, gradient, size, tiling, jnp.bfloat16, 2**-8)


@pytest.mark.parametrize(("taps", "outputs"), [(1, 1), (2, 3), (5, 6), (3, 5), (5, 1)])
def test_planes_of_one_tile_against_scipy(taps, outputs):
    """In float64, where the float32 of the sums above hides nothing."""
    rng = np.random.default_rng(1)
    tiling = Tiling(1, taps, outputs, (1, 1))
    tile = rng.normal(size=(tiling.size, tiling.size))
    kernel = rng.normal(size=(taps, taps))
    with jax.enable_x64(True):
        matrices = spectral._matrices(tiling, jnp.float64)
        images, of_kernel, results = (np.asarray(matrix) for matrix in matrices)
    y = results.T @ ((of_kernel @ kernel.ravel()) * (images @ tile.ravel()))
    expected = correlate2d(tile, kernel, "valid")
    np.testing.assert_allclose(y.reshape(outputs, outputs), expected, atol=1e-13)
    assert len(images) == tiling.planes


def test_plan_of_the_papers_primary_capsules():
    """One tile makes the 6x6 results: 148 products in place of 36 * 81."""
    tiling, operations = spectral.plan((6, 6), 9, 2, 128, (256, 256))
    assert tiling == Tiling(stride=2, taps=5, outputs=6, tiles=(1, 1))
    assert tiling.size == 10
    assert tiling.phase_size == (10, 10)
    products = 2 * 148 * 128 * 4 * 256 * 256
    transforms = 2 * 148 * (100 * 128 * 1024 + 25 * 1024 * 256 + 36 * 128 * 256)
    assert operations == products + transforms
    assert operations < 0.34 * (2 * 128 * 36 * 81 * 256 * 256)


@pytest.mark.parametrize("size", [(40, 40), (7, 31)])
def test_plans_cover_the_result(size):
    tiling, _ = spectral.plan(size, 9, 2, 4, (256, 256))
    assert 1 < tiling.outputs < 40
    for pixels, count in zip(size, tiling.tiles, strict=True):
        assert (count - 1) * tiling.outputs < pixels <= count * tiling.outputs


def is_spectral(batch_size, C_in, C_out):
    """Whether a convolution like PrimaryCaps' has 148 planes on a CPU."""
    x = jax.ShapeDtypeStruct((batch_size, 20, 20, C_in), jnp.float32)
    kernel = jax.ShapeDtypeStruct((9, 9, C_in, C_out), jnp.float32)
    traced = jax.jit(lambda x, k: convolve(x, k, 2, "VALID")).trace(x, kernel)
    program = traced.lower(lowering_platforms=("cpu",)).as_text()
    assert "stablehlo.convolution" not in program
    return "tensor<148x" in program


def test_taken_where_it_saves_operations():
    assert is_spectral(128, 256, 256)
    # The kernel's transform alone is more than one image's patches need.
    assert not is_spectral(1, 256, 256)
    # With few channels the transforms outweigh the products.
    assert not is_spectral(128, 8, 8)
