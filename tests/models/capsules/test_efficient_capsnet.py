"""Efficient-CapsNet: its parameters, its normalisation, and what does not fit."""

import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from capsjax import models
from capsjax.errors import UserError
from capsjax.models.capsules.efficient_capsnet import Config
from capsjax.routings import ROUTINGS


def shapes(config, image_shape=(28, 28, 1), num_classes=10):
    return nnx.eval_shape(
        lambda: models.build(config, image_shape, num_classes, nnx.Rngs(0))
    )


@pytest.mark.parametrize(
    ("preset", "image_shape", "num_classes", "expected"),
    [
        ("mnist", (28, 28, 1), 10, 161_824),
        ("multimnist", (36, 36, 1), 10, 154_656),
        ("smallnorb", (48, 48, 2), 5, 151_664),
    ],
)
def test_numbers_of_parameters(preset, image_shape, num_classes, expected):
    """Of the authors' code, without the decoder."""
    config = Config.preset(preset).without_decoder()
    model = shapes(config, image_shape, num_classes)
    assert models.num_parameters(model) == expected


def test_the_decoder_is_that_of_capsnet():
    with_decoder = models.num_parameters(shapes(Config()))
    layers = [(160, 512), (512, 1024), (1024, 28 * 28)]
    expected = sum((n_in + 1) * n_out for n_in, n_out in layers)
    assert with_decoder - 161_824 == expected


@pytest.mark.parametrize("name", ROUTINGS)
def test_class_capsules_of_any_routing(name):
    """Those that need activations are given the lengths of the primary capsules."""
    routing = ROUTINGS[name]()
    config = Config.preset("digits", routing=routing)
    assert config.scores == (routing.activations or "logits")
    model = shapes(config, (8, 8, 1))
    found = nnx.eval_shape(lambda m: m(jnp.zeros((2, 8, 8, 1))), model)
    assert found.scores.shape == (2, 10)
    assert found.poses.shape == (2, 10, config.class_dim)
    assert found.reconstructions.shape == (2, 8, 8, 1)


@pytest.mark.parametrize("count", [2, 3])
def test_the_decoder_reads_the_labels_classes(count):
    """One class of each image, or several at once."""
    config = Config.preset("digits", channels=(2, 4, 4), decoder_units=(3,))
    model = models.build(config, (8, 8, 1), count, nnx.Rngs(0))
    poses = np.random.default_rng(0).normal(size=(2, count, 16)).astype(np.float32)
    labels = np.array([[0, 1], [1, 0]])
    both = model.decode(jnp.asarray(poses), jnp.asarray(labels))
    assert both.shape == (2, 2, 8, 8, 1)
    one = model.decode(jnp.asarray(poses), jnp.asarray(labels[:, 1]))
    np.testing.assert_allclose(one, both[:, 1], atol=1e-6)


def test_leaky_units_and_instance_normalisation():
    config = Config.preset("digits", leak=0.3, normalization="instance")
    model = shapes(config, (8, 8, 1))
    assert not nnx.state(model, nnx.BatchStat)
    assert nnx.state(shapes(Config.preset("digits"), (8, 8, 1)), nnx.BatchStat)


def test_routing_to_the_class_capsules_is_diagnosed():
    routing = ROUTINGS["dynamic"]()
    model = shapes(Config.preset("digits", routing=routing), (8, 8, 1))
    found = nnx.eval_shape(lambda m: m.diagnose_routing(jnp.zeros((3, 8, 8, 1))), model)
    assert found.logit_changes.shape == (routing.iterations,)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"strides": (1, 1, 1)}, "4 channels, 4 kernels and 3 strides; give each"),
        ({"channels": (), "kernels": (), "strides": ()}, "0 channels, 0 kernels and 0"),
        ({"kernels": (5, 3, 3, 30)}, "28x28 pixels are too small for kernels"),
        ({"primary_kernel": 10}, "and primary_kernel 10; use smaller kernels"),
        ({"primary_dim": 7}, "128 channels cannot be divided into capsules of 7"),
        ({"normalization": "layer"}, "unknown config.model.normalization 'layer'"),
    ],
)
def test_settings_that_do_not_fit(changes, message):
    with pytest.raises(UserError, match=message):
        shapes(Config(**changes))
