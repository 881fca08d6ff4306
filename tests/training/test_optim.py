"""The learning rate and the optimizers' steps in float64."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from capsjax.config import Optimizer
from capsjax.errors import UserError
from capsjax.training import optim


def learning_rate(config, step):
    """As inside a jitted step, where the count is an int32 array."""
    with jax.numpy_dtype_promotion("standard"):
        return float(jax.jit(optim.schedule(config))(jnp.int32(step)))


@pytest.mark.parametrize("step", [0, 1, 1000, 2000, 20_000, 300_000, 10**6])
def test_the_learning_rate_of_the_released_code(step):
    """Continuous, not in stairs of 2,000 steps."""
    expected = max(1e-3 * 0.96 ** (step / 2000), 1e-6)
    found = learning_rate(Optimizer(), step)
    np.testing.assert_allclose(found, expected, rtol=2e-5)


@pytest.mark.parametrize("step", [0, 1, 1000, 2000, 10**6])
@pytest.mark.parametrize(
    "config",
    [Optimizer(decay_rate=1.0), Optimizer(learning_rate=1e-7)],
    ids=["without_decay", "below_the_minimum"],
)
def test_a_rate_that_does_not_fall_is_kept(config, step):
    np.testing.assert_allclose(
        learning_rate(config, step), config.learning_rate, rtol=1e-6
    )


def run_steps(config, parameters, gradients):
    tx = optim.build(config)
    params = jnp.asarray(parameters, jnp.float32)

    @jax.jit
    def step(params, state, gradient):
        with jax.numpy_dtype_promotion("standard"):
            updates, state = tx.update(gradient, state, params)
        return params + updates, state

    state = tx.init(params)
    for gradient in gradients:
        params, state = step(params, state, jnp.asarray(gradient, jnp.float32))
    return params


# A schedule that changes a lot from step to step.
FAST: dict[str, Any] = {"learning_rate": 0.1, "decay_rate": 0.5, "decay_steps": 2}


def fast_rate(step):
    return 0.1 * 0.5 ** (step / 2)


def test_adam_in_float64():
    """Beta 0.9 and 0.999; epsilon 1e-8, of the size of the last gradients here."""
    rng = np.random.default_rng(0)
    start = rng.normal(size=6)
    gradients = rng.normal(size=(4, 6)) * [1, 10, 1e-3, 1e-6, 1e-8, 3e-8]
    params, m, v = start.copy(), np.zeros(6), np.zeros(6)
    for step, g in enumerate(gradients):
        m = 0.9 * m + 0.1 * g
        v = 0.999 * v + 0.001 * g**2
        m_hat = m / (1 - 0.9 ** (step + 1))
        v_hat = v / (1 - 0.999 ** (step + 1))
        params -= fast_rate(step) * m_hat / (np.sqrt(v_hat) + 1e-8)
    found = run_steps(Optimizer(**FAST), start, gradients)
    np.testing.assert_allclose(found, params, atol=2e-6)
    assert np.abs(params - start).min() > 1e-4


def test_sgd_in_float64():
    rng = np.random.default_rng(1)
    start, gradients = rng.normal(size=6), rng.normal(size=(3, 6))
    expected = start - sum(fast_rate(t) * g for t, g in enumerate(gradients))
    found = run_steps(Optimizer(name="sgd", **FAST), start, gradients)
    np.testing.assert_allclose(found, expected, atol=1e-6)


def test_an_unknown_optimizer_is_refused_with_the_known_names():
    with pytest.raises(
        UserError, match=r"'adamw' in config\.optimizer\.name; choose one of adam, sgd"
    ):
        optim.build(Optimizer(name="adamw"))
