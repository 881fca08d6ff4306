"""The losses against numbers worked out by hand and in float64."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from capsjax import losses
from capsjax.losses import (
    cross_entropy,
    margin,
    negative_log_likelihood,
    squared_hinge,
)
from capsjax.models import ModelOutput
from experiments.configs import mnist


def float32(x):
    return jnp.asarray(x, jnp.float32)


def labels_of(*labels):
    return jnp.array(labels, jnp.int32)


def random_output(reconstructions=True, B=4):
    rng = np.random.default_rng(0)
    output = ModelOutput(
        float32(rng.uniform(size=(B, 10))),
        float32(rng.normal(size=(B, 10, 16))),
        float32(rng.uniform(size=(B, 28, 28, 1))) if reconstructions else None,
    )
    images = float32(rng.uniform(size=(B, 28, 28, 1)))
    return output, images, jnp.asarray(rng.integers(0, 10, B), jnp.int32)


# The margin loss.


def margin_loss(scores, *labels, **options):
    return margin.Config(**options).classification(float32(scores), labels_of(*labels))


def parts_of(output, images, labels, config):
    return losses.per_example(
        config,
        output.scores,
        labels,
        reconstructions=output.reconstructions,
        targets=images,
    )


@pytest.mark.parametrize(
    ("label", "expected"),
    [
        (0, 0.5 * 0.2**2),
        (1, 0.6**2 + 0.5 * 0.85**2),
        (2, 0.85**2 + 0.5 * 0.85**2 + 0.5 * 0.2**2),
    ],
)
def test_margin_loss_by_hand(label, expected):
    """Lengths 0.95, 0.3 and 0.05; the first is long enough, the last short enough."""
    loss = margin_loss([[0.95, 0.3, 0.05]], label)
    assert loss.shape == (1,)
    assert loss.dtype == jnp.float32
    np.testing.assert_allclose(loss, [expected], rtol=1e-6)


def test_margin_loss_with_other_margins_by_hand():
    margins = {"positive_margin": 0.75, "negative_margin": 0.25}
    loss = margin_loss([[0.5, 0.5]], 1, **margins, absent_weight=2.0)
    np.testing.assert_allclose(loss, [0.25**2 + 2 * 0.25**2], rtol=1e-6)


def test_lengths_that_keep_the_margins_cost_nothing():
    """Exactly: lengths that went through a softmax could not be so far apart."""
    lengths = np.full((2, 10), 0.1)
    lengths[0, 3], lengths[1, 7] = 0.9, 0.999
    loss, vjp = jax.vjp(lambda x: margin_loss(x, 3, 7), float32(lengths))
    assert not np.any(loss)
    assert not np.any(vjp(jnp.ones(2))[0])


def test_margin_losss_gradient_by_hand():
    lengths = float32([[0.95, 0.3, 0.05]])
    gradient = jax.grad(lambda x: margin_loss(x, 1).sum())(lengths)
    np.testing.assert_allclose(gradient, [[0.85, -2 * 0.6, 0]], rtol=1e-6)


def test_half_mean_is_a_twentieth_of_the_sum_for_ten_classes():
    output, _, labels = random_output()
    total, half_mean = (
        margin_loss(output.scores, *labels, class_reduction=reduction)
        for reduction in ("sum", "half_mean")
    )
    np.testing.assert_allclose(half_mean, total / 20, rtol=1e-6)
    # Half of the mean, so a sixth for three classes.
    found = margin_loss([[0.95, 0.3, 0.05]], 1, class_reduction="half_mean")
    np.testing.assert_allclose(found, [(0.6**2 + 0.5 * 0.85**2) / 6], rtol=1e-6)


# The reconstruction loss.


def test_reconstruction_loss_is_summed_over_pixels_and_channels():
    rng = np.random.default_rng(1)
    a, b = rng.uniform(size=(2, 3, 5, 4, 2))
    found = losses.reconstruction_loss(float32(a), float32(b))
    np.testing.assert_allclose(found, ((a - b) ** 2).sum(axis=(1, 2, 3)), rtol=1e-6)


@pytest.mark.parametrize("preset", ["paper", "authors_code"])
def test_its_weight_is_that_of_sums_not_means(preset):
    """0.0005 times the sum over 784 pixels is 0.392 times the mean."""
    output, images, labels = random_output()
    config = mnist.get_config(preset).loss
    parts = parts_of(output, images, labels, config)
    mse = np.square(output.reconstructions - images).mean(axis=(1, 2, 3))
    np.testing.assert_allclose(
        parts["loss"] - parts["margin_loss"], 0.392 * mse, rtol=1e-5
    )


# What training and evaluation use.


def test_the_parts_for_each_example():
    output, images, labels = random_output()
    config = margin.Config(
        reconstruction_weight=0.25,
        positive_margin=0.8,
        negative_margin=0.3,
        absent_weight=0.7,
    )
    parts = parts_of(output, images, labels, config)
    assert set(parts) == {"loss", "margin_loss", "reconstruction_loss"}
    v = np.float64(output.scores)
    present = np.arange(10) == np.asarray(labels)[:, None]
    expected = np.where(
        present, np.maximum(0, 0.8 - v) ** 2, 0.7 * np.maximum(0, v - 0.3) ** 2
    ).sum(axis=1)
    error = np.float64(output.reconstructions) - np.float64(images)
    sse = (error**2).sum(axis=(1, 2, 3))
    np.testing.assert_allclose(parts["margin_loss"], expected, rtol=1e-5)
    np.testing.assert_allclose(parts["reconstruction_loss"], sse, rtol=1e-5)
    np.testing.assert_allclose(parts["loss"], expected + 0.25 * sse, rtol=1e-5)


def test_without_reconstructions_the_loss_is_the_margin_loss():
    output, images, labels = random_output(reconstructions=False)
    parts = parts_of(output, images, labels, margin.Config())
    assert set(parts) == {"loss", "margin_loss"}
    np.testing.assert_array_equal(parts["loss"], parts["margin_loss"])


def test_cross_entropy_in_float64():
    logits = np.random.default_rng(2).normal(size=(5, 4)) * 5
    logits[0] = [100, -100, 0, 99]
    labels = np.array([0, 1, 2, 3, 0])
    shifted = logits - logits.max(axis=1, keepdims=True)
    expected = np.log(np.exp(shifted).sum(axis=1)) - shifted[range(5), labels]
    parts = losses.per_example(
        cross_entropy.Softmax(), float32(logits), labels_of(*labels)
    )
    assert set(parts) == {"loss", "cross_entropy_loss"}
    np.testing.assert_allclose(parts["loss"], expected, rtol=1e-5, atol=1e-5)


def test_negative_log_likelihood_by_hand():
    """Scores count by their share of the sum, which need not be 1."""
    found = losses.per_example(
        negative_log_likelihood.Config(),
        float32([[0.2, 0.6, 0.4], [0.5, 0.5, 0], [1, 0, 0]]),
        labels_of(1, 0, 0),
    )
    assert set(found) == {"loss", "negative_log_likelihood_loss"}
    np.testing.assert_allclose(found["loss"], np.log([2, 2, 1]), atol=1e-6)


def test_negative_log_likelihoods_gradient_by_hand():
    """1 / sum, and less by 1 / a_t for the label."""

    def loss(scores):
        return jnp.sum(
            negative_log_likelihood.Config().classification(scores, labels_of(2, 0))
        )

    gradient = jax.grad(loss)(float32([[0.2, 0.4, 0.4], [0.5, 0.25, 0.25]]))
    np.testing.assert_allclose(
        gradient, [[1.0, 1.0, -1.5], [-1.0, 1.0, 1.0]], rtol=1e-5
    )
    # Small scores keep their gradient: only its product with theirs is of size one.
    gradient = jax.grad(loss)(float32([[1, 0, 1e-25], [1, 0, 0]]))
    np.testing.assert_allclose(gradient[0, 2], -1e25, rtol=1e-5)


def test_negative_log_likelihood_of_nothing_is_finite():
    scores = float32([[0, 0, 0], [0, 1, 0]])
    loss, vjp = jax.vjp(
        lambda x: negative_log_likelihood.Config().classification(x, labels_of(0, 0)),
        scores,
    )
    np.testing.assert_allclose(loss, np.log([3, 1e30]), rtol=1e-5)
    assert np.all(np.isfinite(vjp(jnp.ones(2))[0]))


def test_squared_hinge_loss_by_hand():
    """The mean over classes; scores beyond 1 on the right side cost nothing."""
    scores = float32([[0.5, 2.0, -3.0], [0.5, -0.5, 0.0]])
    loss, vjp = jax.vjp(
        lambda x: squared_hinge.Config().classification(x, labels_of(1, 0)), scores
    )
    expected = [(1.5**2 + 0 + 0) / 3, (0.5**2 + 0.5**2 + 1**2) / 3]
    np.testing.assert_allclose(loss, expected, rtol=1e-6)
    slopes = np.array([[3, 0, 0], [-1, 1, 2]]) / 3
    np.testing.assert_allclose(vjp(jnp.ones(2))[0], slopes, rtol=1e-6)
