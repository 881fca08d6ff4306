"""Convolutions of one and three dimensions, against float64 loops over the places."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from kernels.convolution import convolve, output_size


def correlate(x, kernel, stride, pads, cotangent):
    """Result and gradients in any number of dimensions, place by place."""
    sizes, K = x.shape[1:-1], kernel.shape[0]
    padded = np.pad(x, [(0, 0), *pads, (0, 0)])
    y = np.zeros(cotangent.shape)
    dx, dkernel = np.zeros(padded.shape), np.zeros(kernel.shape)
    for place in np.ndindex(*y.shape[1:-1]):
        window = np.s_[:, *(np.s_[i * stride : i * stride + K] for i in place)]
        y[:, *place] = np.tensordot(padded[window], kernel, kernel.ndim - 1)
        g = cotangent[:, *place]
        dkernel += np.tensordot(padded[window], g, (0, 0))
        dx[window] += np.tensordot(g, kernel, (1, kernel.ndim - 1))
    inside = (
        np.s_[before : before + size]
        for (before, _), size in zip(pads, sizes, strict=True)
    )
    return y, dx[:, *inside], dkernel


# Sizes, K, stride, padding, and the zeros before and after each axis.
CASES = {
    "signal": ((13,), 4, 3, "VALID", [(0, 0)]),
    "padded_signal": ((13,), 4, 2, "SAME", [(1, 2)]),
    "volume": ((5, 4, 6), 3, 1, 1, [(1, 1)] * 3),
    "strided_volume": ((5, 4, 3), 2, 2, "SAME", [(0, 1), (0, 0), (0, 1)]),
}


@pytest.mark.parametrize("case", CASES.values(), ids=CASES.keys())
@pytest.mark.parametrize("platform", ["cpu", "cuda"])
def test_value_and_gradients_equal_loops(case, platform, monkeypatch):
    """Also of the form that other platforms take, computed on the CPU."""
    sizes, K, stride, padding, pads = case
    monkeypatch.setattr(
        jax.lax,
        "platform_dependent",
        lambda *args, cpu, default: (cpu if platform == "cpu" else default)(*args),
    )
    rng = np.random.default_rng(0)
    x = rng.normal(size=(2, *sizes, 3))
    kernel = rng.normal(size=(*(K,) * len(sizes), 3, 4))
    outputs = [output_size(size, K, stride, padding) for size in sizes]
    cotangent = rng.normal(size=(2, *outputs, 4))

    @jax.jit
    def call(x, kernel, cotangent):
        y, vjp = jax.vjp(lambda x, k: convolve(x, k, stride, padding), x, kernel)
        return y, *vjp(cotangent)

    found = call(*(jnp.asarray(a, jnp.float32) for a in (x, kernel, cotangent)))
    expected = correlate(x, kernel, stride, pads, cotangent)
    for name, a, b in zip(("y", "dx", "dkernel"), found, expected, strict=True):
        assert a.shape == b.shape, name
        np.testing.assert_allclose(a, b, atol=2e-5, err_msg=name)


@pytest.mark.parametrize("dimensions", [1, 3])
def test_on_a_cpu_it_is_matrix_products_and_no_convolution(dimensions):
    def loss(x, kernel):
        return jnp.sum(convolve(x, kernel, 2, "SAME") ** 2)

    shapes = ((2, *(5,) * dimensions, 3), (*(3,) * dimensions, 3, 4))
    inputs = (jax.ShapeDtypeStruct(shape, jnp.float32) for shape in shapes)
    traced = jax.jit(jax.grad(loss, argnums=(0, 1))).trace(*inputs)
    program = traced.lower(lowering_platforms=("cpu",)).as_text()
    assert "stablehlo.convolution" not in program
    assert "stablehlo.dot_general" in program
