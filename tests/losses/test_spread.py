"""The spread loss against numbers worked out by hand and other implementations."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from capsjax import losses
from capsjax.losses import spread


def loss(activations, *labels, step=0, **options):
    return spread.Config(**options).classification(
        jnp.asarray(activations, jnp.float32),
        jnp.array(labels, jnp.int32),
        step=step,
    )


@pytest.mark.parametrize(
    ("label", "expected"),
    [
        (0, 0.0),
        (1, (0.2 + 0.5) ** 2 + (0.2 - 0.1) ** 2),
        (2, (0.2 + 0.6) ** 2 + (0.2 + 0.1) ** 2),
    ],
)
def test_it_by_hand(label, expected):
    found = loss([[0.9, 0.4, 0.3]], label)
    assert found.shape == (1,)
    assert found.dtype == jnp.float32
    np.testing.assert_allclose(found, [expected], rtol=1e-5, atol=1e-12)


def test_its_gradient_by_hand():
    """The class's activation rises, those within the margin fall, no other moves."""
    gradient = jax.grad(lambda x: loss(x, 1).sum())(jnp.array([[0.5, 0.6, 0.3]]))
    np.testing.assert_allclose(gradient, [[0.2, -0.2, 0]], atol=1e-6)


@pytest.mark.parametrize(
    ("options", "step", "expected"),
    [
        ({}, 0, 0.2),
        ({}, 25_000, 0.55),
        ({}, 50_000, 0.9),
        ({}, 900_000, 0.9),
        ({"margin_steps": 10, "first_margin": 0.1, "last_margin": 0.6}, 2, 0.2),
    ],
)
def test_the_margin_grows_linearly(options, step, expected):
    found = spread.Config(**options).margin(step)
    np.testing.assert_allclose(found, expected, rtol=1e-6)


@pytest.mark.parametrize("step", [0, 1, 50_000, 200_000, 390_000, 10**6])
def test_the_margin_of_the_authors_code(step):
    found = spread.Config.preset("authors_code").margin(jnp.int32(step))
    expected = 0.2 + 0.79 / (1 + np.exp(-min(10, step / 50_000 - 4)))
    assert found.dtype == jnp.float32
    np.testing.assert_allclose(found, expected, rtol=1e-6)


@pytest.mark.parametrize(
    ("name", "margin", "added"),
    [
        ("yl_ratio_0", 0.2, 0.0),
        ("yl_ratio_half", 0.55, 0.0),
        ("yl_ratio_1", 0.9, 0.0),
        # This code also counts the class itself, which adds m^2.
        ("sr_epoch_0_of_10", 0.2, 0.2**2),
        ("sr_no_epoch", 0.9, 0.9**2),
    ],
)
def test_it_equals_published_code(name, margin, added, routing_fixture):
    fixture = routing_fixture("spread_loss")
    labels = jnp.asarray(fixture["labels"], jnp.int32)
    config = spread.Config(first_margin=margin)

    def mean(activations):
        return jnp.mean(losses.per_example(config, activations, labels)["spread_loss"])

    found, gradient = jax.value_and_grad(mean)(
        jnp.asarray(fixture["activations"], jnp.float32)
    )
    np.testing.assert_allclose(found, fixture[f"loss_{name}"] - added, rtol=1e-6)
    np.testing.assert_allclose(gradient, fixture[f"grad_{name}"], rtol=1e-5, atol=1e-6)


def test_the_step_sets_the_margin_in_training_and_evaluation():
    config = spread.Config(margin_steps=4)
    activations, labels = jnp.array([[0.9, 0.4]]), jnp.array([0])
    for train in (True, False):
        found = [
            losses.per_example(
                config, activations, labels, step=jnp.int32(step), train=train
            )["loss"]
            for step in (0, 2, 4)
        ]
        np.testing.assert_allclose(np.ravel(found), [0, 0.05**2, 0.4**2], rtol=1e-5)
