"""Layers in their order, and what they see: by the formula, and by gradients."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from capsjax import models
from capsjax.analyses import layer_graph, receptive_field
from capsjax.layers import recording
from capsjax.models.capsules import capsnet
from capsjax.models.cnns import (
    binarized_net,
    deep_convnet,
    lenet,
    pooling_cnn,
    resnet,
)

SHAPE = (40, 40, 1)


def shapes_of(config, image_shape):
    graphdef, params, state = nnx.eval_shape(
        lambda: models.split(models.build(config, image_shape, 10, nnx.Rngs(params=0)))
    )
    return graphdef, models.Variables(jnp.zeros((), jnp.int32), params, state)


def rows_that_matter(config, graphdef, variables):
    """Rows of pixels on which the middle unit of each layer depends, if it has one."""

    def middles(images):
        model = nnx.merge(graphdef, variables.params, variables.model_state)
        found = []
        for _, result in recording.recorded(model, lambda: model(images)):
            if result.ndim == 4:
                middle = result[:, result.shape[1] // 2, result.shape[2] // 2]
                # Squares, so that signs of channels do not cancel.
                found.append(jnp.sum(jnp.square(middle)))
        return jnp.stack(found)

    images = jax.random.uniform(jax.random.key(1), (24, *SHAPE))
    gradients = jax.jit(jax.jacrev(middles))(images)
    return np.asarray(jnp.sum(jnp.any(gradients != 0, axis=(1, 3, 4)), axis=1))


@pytest.mark.parametrize(
    "config",
    [
        deep_convnet.Config(channels=(4, 4), dense_units=2, wide_padding=False),
        resnet.Config(channels=(3, 4), blocks=1),
    ],
    ids=lambda config: config.name,
)
def test_the_formula_is_the_support_of_the_gradient(config):
    graphdef, params, state = models.split(
        models.build(config, SHAPE, 10, nnx.Rngs(params=0))
    )
    variables = models.Variables(jnp.zeros((), jnp.int32), params, state)
    nodes = layer_graph.trace(graphdef, variables, SHAPE)
    found = receptive_field.fields(nodes)
    expected = [field.size for field in found if field.size is not None]
    assert max(expected) < SHAPE[0]
    counted = rows_that_matter(config, graphdef, variables)
    np.testing.assert_array_equal(counted, expected)
    assert [field.size for field in found][-1] is None


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        # C1, S2, C3 and S4 of the paper.
        (lenet.Config(), [5, 6, 14, 16]),
        # The input is normalised last; so each convolution, pooling and normalisation.
        (binarized_net.Config.preset("cifar10"), [3, 3, 5, 6, 6, 10, 10, 14, 16, 16]),
        (pooling_cnn.Config(pooling="mixed"), [3, 3]),
    ],
    ids=lambda value: getattr(value, "name", ""),
)
def test_layers_of_other_kinds_tell_their_windows(config, expected):
    shape = (32, 32, 3) if config.name == "binarized_net" else (28, 28, 1)
    graphdef, variables = shapes_of(config, shape)
    nodes = layer_graph.trace(graphdef, variables, shape)
    found = [field.size for field in receptive_field.fields(nodes)]
    assert found[: len(expected)] == expected
    assert None not in found[: found.index(max(filter(None, found)))]


def test_the_papers_capsnet():
    """Its parameters, layer by layer, and 9 and 17 pixels; without any memory."""
    graphdef, variables = shapes_of(capsnet.Config(), (28, 28, 1))
    nodes = layer_graph.trace(graphdef, variables, (28, 28, 1))
    by_name = {node.name: node.parameters for node in nodes}
    assert by_name == {
        "conv1": 81 * 256 + 256,
        "primary_capsules": 81 * 256 * 256 + 256,
        "class_capsules": 1152 * 10 * 16 * 8,
        "decoder.layers.0": 160 * 512 + 512,
        "decoder.layers.1": 512 * 1024 + 1024,
        "decoder.layers.2": 1024 * 784 + 784,
    }
    assert sum(by_name.values()) == 8_215_568
    assert [field.size for field in receptive_field.fields(nodes)] == [
        9,
        17,
        *[None] * 4,
    ]
    rows = receptive_field.rows(nodes)
    assert rows[1]["sees_pixels"] == "17"
    assert rows[2]["sees_pixels"] == "all"


def test_a_layer_takes_from_all_that_is_summed():
    """A residual block's convolution: the block below and what goes around it."""
    config = resnet.Config(channels=(2,), blocks=2)
    graphdef, variables = shapes_of(config, (8, 8, 1))
    nodes = layer_graph.trace(graphdef, variables, (8, 8, 1))
    names = [node.name for node in nodes]
    before = {node.name: {names[i] for i in node.before} for node in nodes}
    assert before["conv"] == set()
    assert before["blocks.0.conv1"] == {"norm"}
    assert before["blocks.0.conv2"] == {"blocks.0.norm1"}
    assert before["blocks.1.conv1"] == {"norm", "blocks.0.norm2"}


def test_the_textbooks_stacks():
    assert [receptive_field.stack_weights(n) for n in (1, 2, 3, 5)] == [
        (9, 9),
        (18, 25),
        (27, 49),
        (45, 121),
    ]
    assert receptive_field.stacks()[1]["ratio"] == "0.72"
