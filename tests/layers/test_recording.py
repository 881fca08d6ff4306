"""Calls of layers, caught without the network's help."""

import jax
import jax.numpy as jnp
import pytest
from flax import nnx

from capsjax import layers, models
from capsjax.layers import recording
from capsjax.layers.recording import Window
from capsjax.models.capsules import self_routing_resnet
from capsjax.models.cnns import deep_convnet

TINY = deep_convnet.Config(channels=(2,), dense_units=3)


def on_shapes(config, function):
    """Builds a network on 8x8 images and calls a function of it, without computing."""

    def run(images):
        function(models.build(config, (8, 8, 1), 10, nnx.Rngs(params=0)), images)

    jax.eval_shape(run, jax.ShapeDtypeStruct((2, 8, 8, 1), jnp.float32))


def calls_of(config):
    """Names, methods, windows and shapes of a network's calls."""
    found = []

    def run(model, images):
        for call, result in recording.recorded(model, lambda: model(images)):
            shapes = jax.tree.map(lambda x: x.shape, result)
            found.append((call.name, call.method, call.window, shapes))

    on_shapes(config, run)
    return found


def test_modules_and_functions_are_caught_in_their_order():
    config = deep_convnet.Config(channels=(2, 4), dense_units=3, wide_padding=False)
    conv, pool = Window(3, 1), Window(2, 2)
    assert calls_of(config) == [
        ("pairs.0.0", "__call__", conv, (2, 8, 8, 2)),
        ("pairs.0.1", "__call__", conv, (2, 8, 8, 2)),
        ("max_pool", "", pool, (2, 4, 4, 2)),
        ("pairs.1.0", "__call__", conv, (2, 4, 4, 4)),
        ("pairs.1.1", "__call__", conv, (2, 4, 4, 4)),
        ("max_pool", "", pool, (2, 2, 2, 4)),
        ("dense", "__call__", None, (2, 3)),
        ("logits", "__call__", None, (2, 10)),
    ]


def test_a_layer_that_is_entered_by_another_method_is_caught():
    """The routing has the parameters; the layer around it only hands on."""
    config = self_routing_resnet.Config(
        channels=(2,), blocks=1, capsule_types=2, capsule_dim=4
    )
    last = calls_of(config)[-1]
    assert last == ("head.class_capsules.routing", "activations_only", None, (2, 10))


def test_classes_are_as_before_also_after_an_error():
    before = layers.Conv.__call__

    def around(call):
        assert layers.Conv.__call__ is not before
        raise RuntimeError("stop")

    def run(model, images):
        with recording.intercepted(model, around):
            model(images)

    with pytest.raises(RuntimeError, match="stop"):
        on_shapes(TINY, run)
    assert layers.Conv.__call__ is before
    assert calls_of(TINY)[0][0] == "pairs.0.0"


def test_what_the_function_around_returns_is_used():
    shapes = []

    def around(call):
        result = call()
        return result[:, :5] if call.name == "logits" else result

    def run(model, images):
        with recording.intercepted(model, around):
            shapes.append(model(images).scores.shape)
            with pytest.raises(ValueError, match="already"):
                recording.recorded(model, lambda: model(images))
        shapes.append(model(images).scores.shape)

    on_shapes(TINY, run)
    assert shapes == [(2, 5), (2, 10)]
