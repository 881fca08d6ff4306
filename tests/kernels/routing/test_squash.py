"""The exponential squash against its formula and its authors' code."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from kernels.routing import exponential_squash
from tests.kernels.routing import comparisons


def in_float64(s):
    length = np.linalg.norm(s, axis=-1, keepdims=True)
    return (1 - np.exp(-length)) * s / length


def test_values_and_gradients():
    s = np.random.default_rng(0).normal(size=(3, 7, 5))
    comparisons.with_reference(exponential_squash, in_float64, [s])


@pytest.mark.parametrize("dtype", ["float64", "float32"])
def test_published_code(dtype, routing_fixture):
    """Lengths from 0.001 to 100."""
    fixture = routing_fixture("self_attention_squash")
    outputs = {"cotangent_out_poses": "cotangent_out", "out_poses": "out"}
    fixture = fixture | {new: fixture[old] for new, old in outputs.items()}
    del fixture["cotangent_out"]

    def op(inputs):
        return {"poses": exponential_squash(inputs)}

    comparisons.with_published(op, fixture, dtype)


def test_short_vectors_keep_their_digits():
    """``1 - exp(-x)`` has none left at 1e-8 in float32; the factor there is 1."""
    s = jnp.float32([[3e-8, 4e-8], [3e-20, 0]])
    np.testing.assert_allclose(exponential_squash(s), s, rtol=1e-6)


def test_its_jacobian_at_zero_is_the_identity():
    jacobian = jax.jacobian(exponential_squash)(jnp.zeros(3))
    np.testing.assert_array_equal(jacobian, np.eye(3))
    assert not np.any(exponential_squash(jnp.zeros(3)))


def test_half_precision_is_computed_in_float32():
    s = jnp.asarray(np.random.default_rng(1).normal(size=(9, 5)), jnp.bfloat16)
    found, expected = exponential_squash(s), exponential_squash(s.astype("float32"))
    assert found.dtype == jnp.bfloat16
    np.testing.assert_array_equal(found, expected.astype("bfloat16"))
