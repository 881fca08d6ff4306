"""Adversarial training: what it trains on, and what comes of it."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from capsjax import config as config_lib
from capsjax import models
from capsjax.attacks import Attacked, objectives, pgd
from capsjax.config import Config
from capsjax.errors import UserError
from capsjax.losses import cross_entropy
from capsjax.models.cnns import baseline_cnn, deep_convnet
from capsjax.training import adversarial, augment
from capsjax.training import step as train_step
from capsjax.training.parallel import Devices
from tests.stepping import take_steps


@pytest.fixture
def config() -> Config:
    config = Config(loss=cross_entropy.Softmax())
    config.model = deep_convnet.Config(channels=(4, 4), dense_units=8)
    config.data.name, config.batch_size = "digits", 16
    config.augment.shift = 1
    config.preprocess.channel_mean, config.preprocess.channel_std = (0.3,), (0.4,)
    config.optimizer.name, config.optimizer.learning_rate = "sgd", 0.1
    config.adversarial.radius, config.adversarial.steps = 0.1, 3
    return config


def lenet_like() -> baseline_cnn.Config:
    """A small network without dropout."""
    return baseline_cnn.Config(
        conv_channels=(8,), kernel_sizes=(3,), dense_units=(32,), dropout_rate=0.0
    )


def attacked(config, data):
    """A batch of images as augmented, and as attacked; and a function to losses."""
    graphdef, state = train_step.create(config, data.image_shape, 10)
    keys = jax.random.split(jax.random.key(0), 16)
    labels = jnp.asarray(data.train.labels[:16])
    clean = augment.augmented(jnp.asarray(data.train.images[:16]), keys, config)

    @jax.jit
    def attack(variables):
        return adversarial.attacked_images(
            graphdef, config, variables, clean, labels, keys
        )

    def losses(images):
        seen = augment.normalized(images, config.preprocess)
        output, _ = models.apply(graphdef, state.variables, seen, labels, "float32")
        return objectives.cross_entropy(output.scores, labels)

    return clean, attack(state.variables), losses


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_training_images_are_the_worst_in_their_balls(config, digits_data, norm):
    config.adversarial.norm = norm
    config.adversarial.radius = 0.1 if norm == "linf" else 0.8
    clean, found, losses = attacked(config, digits_data)
    changes = np.asarray(found, np.float64) - np.asarray(clean)
    sizes = np.linalg.norm(
        changes.reshape(16, -1), np.inf if norm == "linf" else 2, axis=1
    )
    assert sizes.max() <= np.float32(config.adversarial.radius)
    assert sizes.min() > 0.5 * config.adversarial.radius
    assert found.min() >= 0
    assert found.max() <= 1
    assert np.all(losses(found) > losses(clean))


def test_several_devices_equal_one(config, digits_data):
    _, one = take_steps(config, digits_data, 2)
    _, two = take_steps(config, digits_data, 2, Devices(jax.devices()[:2]))
    for a, b in zip(*map(jax.tree.leaves, (one[-1], two[-1])), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-5)


def test_a_network_trained_so_withstands_more(config, digits_data):
    test = digits_data.test
    images = jnp.asarray(test.images / np.float32(255), jnp.float32)
    labels = jnp.asarray(test.labels)
    keys = jax.random.split(jax.random.key(1), len(labels))
    config.batch_size, config.augment.shift = 64, 0
    config.model = lenet_like()
    config.optimizer.name, config.optimizer.learning_rate = "adam", 3e-3
    withstood = {}
    for radius in (0.0, 0.08):
        config.adversarial.radius = radius
        _, states = take_steps(config, digits_data, 250)
        graphdef, _ = train_step.create(config, digits_data.image_shape, 10)

        def scores(variables, x, graphdef=graphdef):
            seen = augment.normalized(x, config.preprocess)
            return models.apply(graphdef, variables, seen, None, "float32")[0].scores

        objective = objectives.of_name("cross_entropy", "logits", config.loss)
        variables = states[-1].variables
        network = Attacked(scores, objective, variables)
        found = pgd(steps=10)(network, images, labels, keys, jnp.float32(0.08))
        clean = np.mean(np.argmax(scores(variables, images), axis=1) == test.labels)
        withstood[radius] = clean, 1 - np.mean(found.success)
    assert min(clean for clean, _ in withstood.values()) > 0.8
    assert withstood[0.08][1] > withstood[0.0][1] + 0.1


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda c: setattr(c.augment, "brightness", 0.1), "augment.brightness do not"),
        (lambda c: setattr(c.augment, "mixup", 0.1), "augment.mixup do not"),
        (lambda c: setattr(c.adversarial, "norm", "l1"), "config.adversarial.norm"),
        (lambda c: setattr(c.adversarial, "radius", -1.0), "config.adversarial.radius"),
    ],
)
def test_settings_that_do_not_fit_are_refused(config, change, message):
    change(config)
    with pytest.raises(UserError, match=message):
        config_lib.check(config)


def test_images_of_two_digits_are_refused(config):
    config = Config()
    config.data.name, config.adversarial.radius = "multimnist", 0.1
    config.augment.shift = 0
    with pytest.raises(UserError, match="show several classes; leave it out"):
        config_lib.check(config)
