"""Matrix capsules as a network: parameters, routing of every layer, what is refused."""

import jax.numpy as jnp
import pytest
from flax import nnx

from capsjax import models
from capsjax.errors import UserError
from capsjax.models.capsules.matrix_capsules import Config
from capsjax.routings import ROUTINGS


def shapes(config, image_shape=(32, 32, 2), num_classes=5):
    return nnx.eval_shape(
        lambda: models.build(config, image_shape, num_classes, nnx.Rngs(0))
    )


@pytest.mark.parametrize(
    ("preset", "expected"), [("large", 317_194), ("small", 68_754)]
)
def test_numbers_of_parameters(preset, expected):
    """The paper says 310 and 68 thousand; here each kind is counted by itself."""
    config = Config.preset(preset)
    assert models.num_parameters(shapes(config)) == expected
    A, B = config.conv_channels, config.primary_types
    C, D = config.capsule_types
    convolution = (25 * 2 + 1) * A
    primary = (A + 1) * B * 17
    matrices = 16 * (9 * B * C + 9 * C * D + D * 5)
    costs = 2 * (C + D + 5)
    assert convolution + primary + matrices + costs == expected


@pytest.mark.parametrize("normalization", [None, "types", "elements"])
def test_normalisation_replaces_biases(normalization):
    config = Config.preset("digits", normalization=normalization)
    model = shapes(config, (8, 8, 1))
    assert (model.norm is None) == (normalization is None)
    biases = [
        model.conv.bias,
        model.primary_capsules.poses.bias,
        model.primary_capsules.activations.bias,
    ]
    assert [bias is None for bias in biases] == [normalization is not None] * 3


@pytest.mark.parametrize("name", ROUTINGS)
def test_every_routing_routes_every_layer(name):
    routing = ROUTINGS[name]()
    config = Config.preset("digits", routing=routing)
    assert config.scores == (routing.activations or "logits")
    model = shapes(config, (8, 8, 1))
    found = nnx.eval_shape(lambda m: m(jnp.zeros((3, 8, 8, 1))), model)
    assert found.scores.shape == (3, 5)
    assert found.poses.shape == (3, 5, 16)


def test_routing_to_the_class_capsules_is_diagnosed():
    routing = ROUTINGS["dynamic"]()
    model = shapes(Config.preset("digits", routing=routing), (8, 8, 1))
    found = nnx.eval_shape(lambda m: m.diagnose_routing(jnp.zeros((3, 8, 8, 1))), model)
    assert found.logit_changes.shape == (routing.iterations,)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"capsule_strides": (2,)},
            "2 capsule_types, 2 capsule_kernels and 1 capsule_",
        ),
        ({"conv_kernel": 33}, r"32x32 pixels are too small for conv_kernel 33"),
        ({"capsule_kernels": (3, 9)}, r"grids would be 14x14, 6x6, 0x0; use smaller"),
        ({"pose_size": 1}, "config.model.pose_size is 1"),
        ({"normalization": "layers"}, "unknown config.model.normalization 'layers'"),
    ],
)
def test_settings_that_do_not_fit(changes, message):
    with pytest.raises(UserError, match=message):
        shapes(Config(**changes))
