"""The learning rate and the optimizers' steps in float64."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

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


@pytest.mark.parametrize("step", [0, 1, 4, 99, 100, 250, 251, 399, 400, 10**6])
@pytest.mark.parametrize("warmup_steps", [0, 5])
@pytest.mark.parametrize("name", ["cosine", "linear", "steps", "exponential"])
def test_schedules_in_float64(name, warmup_steps, step):
    config = Optimizer(
        schedule=name,
        learning_rate=0.1,
        min_learning_rate=1e-3,
        decay_steps=400,
        decay_rate=0.1,
        boundaries=(100, 250) if name == "steps" else (),
        warmup_steps=warmup_steps,
    )
    share = min(step / 400, 1)
    rate = {
        "cosine": 1e-3 + 0.099 * (1 + np.cos(np.pi * share)) / 2,
        "linear": 0.1 - 0.099 * share,
        # The step after a boundary is the first with the lower rate.
        "steps": 0.1 * 0.1 ** sum(step >= boundary for boundary in (100, 250)),
        "exponential": max(0.1 * 0.1 ** (step / 400), 1e-3),
    }[name]
    rate *= min((step + 1) / warmup_steps, 1) if warmup_steps else 1
    np.testing.assert_allclose(learning_rate(config, step), rate, rtol=1e-4)


@pytest.mark.parametrize("name", ["sgd", "nesterov"])
def test_momentum_and_weight_decay_in_float64(name):
    """Decay is added to the gradient of a matrix, not of a bias."""
    config = Optimizer(name=name, momentum=0.9, weight_decay=0.1, **FAST)
    rng = np.random.default_rng(1)
    for shape, decay in (((2, 3), 0.1), ((6,), 0.0)):
        start, gradients = rng.normal(size=shape), rng.normal(size=(3, *shape))
        params, velocity = start.copy(), np.zeros(shape)
        for step, g in enumerate(gradients):
            g = g + decay * params
            velocity = 0.9 * velocity + g
            params -= fast_rate(step) * (
                g + 0.9 * velocity if name == "nesterov" else velocity
            )
        np.testing.assert_allclose(
            run_steps(config, start, gradients), params, atol=1e-6
        )


def test_adamw_decays_beside_the_update():
    """Without gradients nothing else is left of the step."""
    config = Optimizer(name="adamw", weight_decay=0.1, **FAST)
    start = np.random.default_rng(0).normal(size=(2, 3))
    expected = start * (1 - 0.1 * fast_rate(0)) * (1 - 0.1 * fast_rate(1))
    found = run_steps(config, start, np.zeros((2, 2, 3)))
    np.testing.assert_allclose(found, expected, rtol=1e-5)


# Rates of some parameters.

PARAMS = nnx.State(
    {
        "convs": {0: {"kernel": nnx.Param(jnp.ones((2, 2)))}},
        "logits": {
            "bias": nnx.Param(jnp.ones((1, 2))),
            "kernel": nnx.Param(jnp.ones((2, 2))),
        },
    }
)


@pytest.mark.parametrize(
    ("rates", "expected"),
    [
        (("logits=10",), [1, 10, 10]),
        (("*=0", "logits.kernel=0.5"), [0, 0, 0.5]),
        (("convs.0.kernel=2", "*bias=3"), [2, 3, 1]),
        (("convs.*=2",), [2, 1, 1]),
    ],
)
def test_rates_multiply_the_updates_of_what_matches(rates, expected):
    """Layers or parameters; the last match counts. Frozen ones do not decay, either."""
    config = Optimizer(name="sgd", learning_rate=1.0, decay_rate=1.0, weight_decay=1.0)
    found = []
    for some in ((), rates):
        tx = optim.build(config.replace(rates=some))
        with jax.numpy_dtype_promotion("standard"):
            found.append(tx.update(PARAMS, tx.init(PARAMS), PARAMS)[0])
    plain, scaled = (jax.tree.leaves(updates) for updates in found)
    # The gradient and the decay; biases do not decay, whatever their shape.
    assert [float(np.mean(x)) for x in plain] == [-2, -1, -2]
    ratios = [float(np.mean(a / b)) for a, b in zip(scaled, plain, strict=True)]
    assert ratios == expected


@pytest.mark.parametrize(
    ("rates", "message"),
    [
        (("logit=1",), r"'logit', which is no parameter .* has convs\.0, logits"),
        (("logits",), "'logits'; write PATTERN=FACTOR"),
        (("logits=x",), "'logits=x'; write PATTERN=FACTOR"),
        (("logits=nan",), "'logits=nan'; write PATTERN=FACTOR"),
        (("logits=-1",), "'logits=-1'; write PATTERN=FACTOR with .* at least 0"),
    ],
)
def test_rates_that_match_nothing_or_are_no_numbers(rates, message):
    with pytest.raises(UserError, match=message):
        optim.factors(PARAMS, rates)


def test_averages_that_never_move_are_refused():
    with pytest.raises(UserError, match="average_decay is 1"):
        optim.build(Optimizer(average_decay=1.0))


def test_the_average_of_parameters():
    """After n steps each has the weight 1 - d times d to its age; the first d to n."""
    params = np.random.default_rng(0).normal(size=(5, 3))
    average = params[0]
    for one in params[1:]:
        average = optim.averaged(average, one, 0.9)
    weights = np.array([0.9**4, *(0.1 * 0.9 ** np.arange(3, -1, -1))])
    np.testing.assert_allclose(average, weights @ params)


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (
            Optimizer(name="lamb"),
            r"'lamb' in config\.optimizer\.name; choose one of adam, adamw, sgd",
        ),
        (Optimizer(momentum=0.9), "momentum is for sgd and nesterov, not 'adam'"),
        (Optimizer(boundaries=(3,)), "the schedule steps needs boundaries"),
        (Optimizer(schedule="steps"), "the schedule steps needs boundaries"),
    ],
)
def test_what_does_not_fit_is_refused(config, message):
    with pytest.raises(UserError, match=message):
        optim.build(config)
