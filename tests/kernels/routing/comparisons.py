"""Comparisons of routing ops with float64 NumPy and with their authors' code."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from tests.kernels.routing import reference


def assert_close(found: Any, expected: np.ndarray, tolerance: float, name: str = ""):
    """All errors are below a share of the largest expected value."""
    largest = np.abs(expected).max()
    error = np.abs(np.asarray(found, np.float64) - expected).max() / (largest or 1)
    assert np.shape(found) == expected.shape, name
    assert error <= tolerance, f"{name}: relative error {error:.1e}"


def with_published(
    op: Callable[..., Mapping[str, jax.Array]],
    fixture: Mapping[str, Any],
    dtype: str,
    tolerance: float = 1e-9,
):
    """Compares an op with a fixture in values and in all gradients.

    Args:
        op: takes the arrays of which the fixture has gradients, by their names, and
            returns those of which it has cotangents.
        fixture: arrays, and their gradients by ``grad_`` and the name.
        dtype: float64 or float32.
        tolerance: of float64.
    """

    def named(prefix):
        return [
            key.removeprefix(prefix)
            for key in fixture
            if key.startswith(prefix) and not key.endswith("_as_released")
        ]

    of_values, of_gradients = (
        (tolerance, tolerance) if dtype == "float64" else (2e-5, 2e-4)
    )
    with jax.enable_x64(dtype == "float64"):
        arguments, cotangents = (
            {name: jnp.asarray(fixture[prefix + name], dtype) for name in named(key)}
            for key, prefix in (("grad_", ""), ("cotangent_out_", "cotangent_out_"))
        )

        @jax.jit
        def both(arguments, cotangents):
            found, vjp = jax.vjp(lambda given: dict(op(**given)), arguments)
            return found, vjp(cotangents)[0]

        outputs, gradients = both(arguments, cotangents)
    for name, found in outputs.items():
        assert found.dtype == dtype
        assert_close(found, fixture[f"out_{name}"], of_values, f"out_{name}")
    for name, found in gradients.items():
        assert_close(found, fixture[f"grad_{name}"], of_gradients, f"grad_{name}")


def with_reference(
    op: Callable[..., Any],
    in_float64: Callable[..., Any],
    arguments: Sequence[np.ndarray],
):
    """Compares an op with NumPy in values and in gradients, in float64 and float32.

    Args:
        op: takes arrays and returns one or a tuple of them.
        in_float64: the same in float64 NumPy; its gradients, along random directions,
            are central differences.
        arguments: float64.
    """
    expected = [np.asarray(x) for x in _several(in_float64(*arguments))]
    rng = np.random.default_rng(7)
    cotangents = [rng.normal(size=x.shape) for x in expected]

    def weighted(*arguments):
        outputs = _several(in_float64(*arguments))
        return sum((x * y).sum() for x, y in zip(outputs, cotangents, strict=True))

    directions = [[rng.normal(size=x.shape) for x in arguments] for _ in range(2)]
    # And of each argument by itself, so that a small gradient is seen beside others.
    for index in range(len(arguments)):
        alone = [np.zeros_like(x) for x in arguments]
        alone[index] = rng.normal(size=alone[index].shape)
        directions.append(alone)
    slopes = [
        reference.directional_derivative(weighted, arguments, direction)
        for direction in directions
    ]

    @jax.jit
    def both(arguments, cotangents):
        found, vjp = jax.vjp(lambda given: tuple(_several(op(*given))), arguments)
        return found, vjp(tuple(cotangents))[0]

    for dtype, of_values, of_slopes in (
        ("float64", 1e-11, 1e-7),
        ("float32", 2e-5, 2e-4),
    ):
        with jax.enable_x64(dtype == "float64"):
            outputs, gradients = both(
                *([jnp.asarray(x, dtype) for x in y] for y in (arguments, cotangents))
            )
        for found, value in zip(outputs, expected, strict=True):
            assert found.dtype == dtype
            assert_close(found, value, of_values, dtype)
        for direction, slope in zip(directions, slopes, strict=True):
            terms = [
                np.float64(gradient) * step
                for gradient, step in zip(gradients, direction, strict=True)
            ]
            # Relative to the terms, which may cancel.
            scale = max(sum(np.abs(x).sum() for x in terms), abs(slope))
            error = abs(sum(x.sum() for x in terms) - slope)
            assert error <= of_slopes * scale, f"{dtype}: {error / scale:.1e}"


def _several(outputs: Any) -> Sequence[Any]:
    return outputs if isinstance(outputs, tuple) else (outputs,)
