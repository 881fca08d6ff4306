"""Scores averaged over several views of each image, against one view at a time."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.special import log_softmax

from capsjax import models
from capsjax.data import ImageSet
from capsjax.errors import UserError
from capsjax.losses import cross_entropy
from capsjax.models.cnns import deep_convnet
from capsjax.training import augment
from capsjax.training import step as train_step
from capsjax.training.evaluate import evaluate, make_eval_step
from capsjax.training.views import Views
from tests.stepping import ONE

IMAGES = np.random.default_rng(0).integers(0, 256, (6, 8, 9, 1), np.uint8)
LABELS = np.arange(6, dtype=np.int32)


@pytest.fixture
def config(tiny_config):
    tiny_config.model = deep_convnet.Config(channels=(4,), dense_units=8)
    tiny_config.loss = cross_entropy.Softmax()
    tiny_config.augment.shift = 2
    return tiny_config


def scores(config, images, views=None):
    """Of a network with random parameters; float images go in as they are."""
    graphdef, state = train_step.create(config, IMAGES.shape[1:], 10)
    if views is not None:
        step = make_eval_step(graphdef, config, ONE, views)
        image_set = ImageSet(images, LABELS)
        return evaluate(step, state.variables, image_set, len(images), ONE)
    output, _ = models.apply(graphdef, state.variables, images, None, "float32")
    return output.scores


def test_the_mirror_image_counts_as_much(config):
    found = scores(config, IMAGES, Views("mirror"))
    both = [
        log_softmax(scores(config, jnp.asarray(x / np.float32(255))), axis=1)
        for x in (IMAGES, IMAGES[:, :, ::-1])
    ]
    np.testing.assert_allclose(found.scores, np.mean(both, axis=0), atol=1e-5)
    assert np.abs(both[0] - both[1]).max() > 1e-3
    np.testing.assert_array_equal(found.predictions, np.argmax(found.scores, axis=1))


def test_ten_crops(config):
    config.preprocess.crop = 6
    found = scores(config, IMAGES, Views("crops"))
    places = [(0, 0), (0, 3), (2, 0), (2, 3), (1, 1)]
    crops = [IMAGES[:, i : i + 6, j : j + 6] / np.float32(255) for i, j in places]
    each = [
        log_softmax(scores(config, jnp.asarray(x)), axis=1)
        for crop in crops
        for x in (crop, crop[:, :, ::-1])
    ]
    np.testing.assert_allclose(found.scores, np.mean(each, axis=0), atol=1e-5)


def test_views_drawn_as_in_training(config):
    found = scores(config, IMAGES, Views("augmented", 3))
    each = []
    for view in range(3):
        key = jax.random.fold_in(jax.random.key(config.seed), view)
        keys = jax.vmap(jax.random.fold_in, (None, 0))(key, jnp.arange(6))
        seen = augment.for_training(jnp.asarray(IMAGES), keys, config)
        each.append(log_softmax(scores(config, seen), axis=1))
    np.testing.assert_allclose(found.scores, np.mean(each, axis=0), atol=1e-5)
    assert np.abs(each[0] - each[1]).max() > 1e-3


@pytest.mark.parametrize(
    ("views", "message"),
    [
        (Views("crops"), "no crops of whole images"),
        (Views("augmented"), "trained without augmentation"),
        (Views("one", 0), "no 0 views"),
        (Views("flip"), "no views 'flip'; choose one or mirror"),
    ],
)
def test_views_that_a_run_does_not_have(config, views, message):
    config.augment = dataclasses.replace(config.augment, shift=0)
    with pytest.raises(UserError, match=message):
        views.check(config)
