"""Ways to train: each is exact on several devices and on resume."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from capsjax.config import Config
from capsjax.errors import UserError
from capsjax.losses import cross_entropy
from capsjax.models.cnns import deep_convnet
from capsjax.runs.provenance import sha256
from capsjax.training import augment
from capsjax.training.parallel import Devices
from capsjax.training.train import train
from capsjax.training.trained import restore
from tests.stepping import back_to_step, take_steps

KEYS = jax.random.split(jax.random.key(0), 6)


@pytest.fixture
def config() -> Config:
    """Everything at once: what one part does not keep, the whole does not."""
    config = Config(loss=cross_entropy.Softmax(label_smoothing=0.1))
    config.model = deep_convnet.Config(channels=(4, 4), dense_units=8)
    config.data.name, config.data.validation_examples = "digits", 100
    config.batch_size, config.max_steps, config.log_every_steps = 8, 4, 2
    config.augment.shift, config.augment.cutout, config.augment.mixup = 1, 3, 0.4
    config.preprocess.channel_mean = (0.3,)
    config.preprocess.channel_std = (0.4,)
    config.optimizer.name, config.optimizer.momentum = "nesterov", 0.9
    config.optimizer.learning_rate, config.optimizer.weight_decay = 0.1, 1e-3
    config.optimizer.schedule, config.optimizer.decay_steps = "cosine", 4
    config.optimizer.warmup_steps = 2
    config.optimizer.average_decay = 0.5
    config.optimizer.rates = ("pairs.0=0", "logits=3")
    config.num_devices = 1
    return config


def test_several_devices_equal_one(config, digits_data):
    expected, states = take_steps(config, digits_data, 2)
    found, others = take_steps(config, digits_data, 2, Devices(jax.devices()[:2]))
    for a, b in zip(found, expected, strict=True):
        np.testing.assert_allclose(a["loss"], b["loss"], rtol=1e-4)
    for a, b in zip(*map(jax.tree.leaves, (others[-1], states[-1])), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-5)


def test_frozen_layers_stay_and_averages_follow(config, digits_data):
    _, states = take_steps(config, digits_data, 2)
    first, last = states[0].params, states[-1].params
    assert sha256(first["pairs"][0]) == sha256(last["pairs"][0])
    assert sha256(first["pairs"][1]) != sha256(last["pairs"][1])
    # Half of the newest, a quarter of the one before, a quarter of the first.
    for *params, average in zip(
        *(jax.tree.leaves(state.params) for state in states),
        jax.tree.leaves(states[-1].averages),
        strict=True,
    ):
        expected = np.tensordot([0.25, 0.25, 0.5], params, 1)
        np.testing.assert_allclose(average, expected, atol=1e-6)
    assert sha256(states[-1].variables.params) == sha256(states[-1].averages)


def test_a_run_resumes_exactly_and_evaluates_the_averages(
    config, digits_data, tmp_path
):
    config.checkpoint_every_steps = 2
    whole = train(config, digits_data, tmp_path / "whole")
    back_to_step(2, tmp_path / "whole", tmp_path / "parts")
    parts = train(config, digits_data, tmp_path / "parts", resume=True)
    assert whole is not None
    assert parts is not None
    assert sha256(whole.model.variables) == sha256(parts.model.variables)
    assert whole.record["params_sha256"] == sha256(whole.model.variables.params)
    restored = restore(tmp_path / "whole", digits_data)
    assert sha256(restored.variables) == sha256(whole.model.variables)


def test_mixup_mixes_neighbours_by_one_share():
    images = jnp.asarray(np.random.default_rng(0).uniform(size=(6, 3, 3, 1)), "float32")
    mixed, shares = augment.mixup(images, KEYS, 0.4)
    np.testing.assert_array_equal(shares[::2], shares[1::2])
    assert len(np.unique(shares)) == 3
    for first in (0, 2, 4):
        pair, share = images[first : first + 2], shares[first]
        expected = share * pair + (1 - share) * pair[::-1]
        np.testing.assert_allclose(mixed[first : first + 2], expected, atol=1e-6)
    # As on two devices with a part of the pairs each.
    np.testing.assert_array_equal(
        augment.mixup(images[2:], KEYS[2:], 0.4)[0], mixed[2:]
    )


def test_mixups_shares_are_of_the_beta_distribution():
    """Its variance is 1 / (8 alpha + 4)."""
    keys = jax.random.split(jax.random.key(1), 4_000)
    shares = augment.mixup(jnp.zeros((4_000, 1, 1, 1)), keys, 0.4)[1]
    assert np.mean(shares) == pytest.approx(0.5, abs=0.03)
    assert np.var(shares) == pytest.approx(1 / 7.2, rel=0.05)


def test_pairs_need_an_even_number():
    with pytest.raises(UserError, match="a device has 5 images"):
        augment.mixup(jnp.zeros((5, 1, 1, 1)), KEYS[:5], 1.0)


@pytest.mark.parametrize("side", [1, 2, 3])
def test_cutout_is_a_square_round_any_pixel(side):
    keys = jax.random.split(jax.random.key(0), 600)
    cut = jax.vmap(lambda key: augment.cutout(jnp.ones((4, 5, 2)), key, side))(keys)
    found = {tuple(map(tuple, one)) for one in np.asarray(cut[..., 0])}
    expected = set()
    for row, column in np.ndindex(4, 5):
        one = np.ones((4, 5))
        top, left = row - side // 2, column - side // 2
        one[max(top, 0) : top + side, max(left, 0) : left + side] = 0
        expected.add(tuple(map(tuple, one)))
    assert found == expected
    np.testing.assert_array_equal(cut[..., 0], cut[..., 1])


def test_label_smoothing_is_a_mean_over_classes_and_for_training_only():
    scores = jnp.asarray(np.random.default_rng(0).normal(size=(4, 5)), jnp.float32)
    labels = jnp.arange(4)
    of_each = -np.asarray(jax.nn.log_softmax(scores), np.float64)
    plain = of_each[np.arange(4), labels]
    loss = cross_entropy.Softmax(label_smoothing=0.2)
    np.testing.assert_allclose(loss.classification(scores, labels), plain, rtol=1e-5)
    np.testing.assert_allclose(
        loss.classification(scores, labels, train=True),
        0.8 * plain + 0.2 * of_each.mean(axis=1),
        rtol=1e-5,
    )


def test_channels_are_normalised_in_training_and_evaluation():
    images = np.random.default_rng(0).integers(0, 256, (2, 4, 4, 3), np.uint8)
    config = Config()
    config.augment.shift = 0
    config.preprocess.channel_mean = (0.5, 0.4, 0.3)
    config.preprocess.channel_std = (0.2, 0.3, 0.4)
    expected = (images / 255 - [0.5, 0.4, 0.3]) / [0.2, 0.3, 0.4]
    found = augment.for_evaluation(jnp.asarray(images), config)
    np.testing.assert_allclose(found, expected, atol=1e-5)
    found = augment.for_training(jnp.asarray(images), KEYS[:2], config)
    np.testing.assert_allclose(found, expected, atol=1e-5)


def test_means_of_other_channels_are_refused():
    config = Config()
    config.preprocess.channel_std = (0.5, 0.5, 0.5)
    with pytest.raises(UserError, match=r"has 3 numbers, .* have 1 channels"):
        augment.output_shape((4, 4, 1), config)
