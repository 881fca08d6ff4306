"""Evaluation counts every example once."""

import jax
import numpy as np
import pytest

from capsjax import data
from capsjax.data import ImageSet
from capsjax.training import step as train_step
from capsjax.training.evaluate import evaluate, make_eval_step, make_reconstruct
from tests.stepping import ONE


@pytest.fixture(scope="module")
def images() -> ImageSet:
    test = data.load("digits").test
    return ImageSet(test.images[:50], test.labels[:50])


@pytest.fixture
def model(tiny_config):
    graphdef, state = train_step.create(tiny_config, (8, 8, 1), 10)
    return graphdef, state.variables


@pytest.mark.parametrize("batch_size", [1, 7, 49, 50, 64])
def test_the_batch_size_does_not_matter(tiny_config, model, images, batch_size):
    """50 images in batches that divide them, that do not, and that are larger."""
    graphdef, variables = model
    step = make_eval_step(graphdef, tiny_config, ONE)
    expected = evaluate(step, variables, images, 25, ONE)
    counted: list[int] = []
    found = evaluate(step, variables, images, batch_size, ONE, on_batch=counted.append)
    assert sum(counted) == 50
    np.testing.assert_array_equal(found.predictions, expected.predictions)
    assert found.metrics == pytest.approx(expected.metrics, rel=1e-5)


def test_accuracy_and_losses_are_plain_means(tiny_config, model, images):
    graphdef, variables = model
    step = make_eval_step(graphdef, tiny_config, ONE)
    found = evaluate(step, variables, images, 16, ONE)
    hits = np.mean(found.predictions == images.labels)
    assert found.metrics["accuracy"] == pytest.approx(hits)
    assert found.metrics["error_percent"] == pytest.approx(100 * (1 - hits))
    batch = ONE.shard({"image": images.images, "label": images.labels})
    whole = step(variables, batch)
    assert found.metrics["loss"] == pytest.approx(
        np.mean(np.asarray(whole["loss"]), dtype=np.float64), rel=1e-5
    )


def test_evaluation_is_not_augmented(tiny_config, model, images):
    """Twice the same, and the images come back as they are stored."""
    graphdef, variables = model
    tiny_config.augment.shift = 2
    step = make_eval_step(graphdef, tiny_config, ONE)
    batch = ONE.shard({"image": images.images, "label": images.labels})
    first, second = step(variables, batch), step(variables, batch)
    jax.tree.map(np.testing.assert_array_equal, first, second)
    reconstruct = make_reconstruct(graphdef, tiny_config)
    seen, drawn = reconstruct(variables, images.images, images.labels)
    np.testing.assert_allclose(seen, images.images / 255, atol=1e-7)
    assert drawn is not None
    assert drawn.shape == seen.shape
