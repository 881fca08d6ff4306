"""Capsules on a residual network, and the heads that they are compared with."""

from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from capsjax import models
from capsjax.errors import UserError
from capsjax.models.capsules.self_routing_resnet import CapsuleHead, Config, PooledHead
from capsjax.routings import ROUTINGS

TINY: dict[str, Any] = {
    "channels": (2, 4),
    "blocks": 1,
    "capsule_types": 2,
    "capsule_dim": 4,
}


def shapes(config, image_shape=(32, 32, 3)):
    return nnx.eval_shape(lambda: models.build(config, image_shape, 10, nnx.Rngs(0)))


@pytest.mark.parametrize(
    ("preset", "expected"),
    [
        ("one_layer", 931_664),
        ("two_layers", 3_187_536),
        ("em", 911_204),
        ("dynamic", 5_807_888),
        ("average_pooling", 269_722),
        ("max_pooling", 269_722),
    ],
)
def test_numbers_of_parameters(preset, expected):
    """Of the authors' code."""
    assert models.num_parameters(shapes(Config.preset(preset))) == expected


@pytest.mark.parametrize(("layers", "side"), [(1, 8), (2, 4)])
def test_parameters_of_the_fully_connected_control(layers, side):
    config = Config(head="fully_connected", capsule_layers=layers)
    convolution = 9 * 64 * 512 + 512 + 2 * 512
    expected = 269_722 - 650 + convolution + (side * side * 512 + 1) * 10
    assert models.num_parameters(shapes(config)) == expected


@pytest.mark.parametrize("layers", [1, 3])
@pytest.mark.parametrize("name", ROUTINGS)
def test_every_routing_routes_every_layer(name, layers):
    """Vectors and matrices; the scores are of the kind that the routing declares."""
    routing = ROUTINGS[name]()
    for matrices in (False, True):
        config = Config(
            **TINY, capsule_layers=layers, matrices=matrices, routing=routing
        )
        assert config.scores == (routing.activations or "logits")
        model = shapes(config, (8, 8, 1))
        has_activations = model.head.primary_capsules.activations is not None
        assert has_activations == routing.needs_activations
        assert len(model.head.conv_capsules) == layers - 1
        found = nnx.eval_shape(lambda m: m(jnp.zeros((3, 8, 8, 1))).scores, model)
        assert found.shape == (3, 10)


def test_poses_are_squashed_where_lengths_are_activations_and_else_normalised():
    rng = np.random.default_rng(0)
    features = jnp.asarray(rng.normal(size=(2, 3, 3, 4)) * 5, jnp.float32)
    for name, squashed in (("dynamic", True), ("self_routing", False)):
        config = Config(**TINY, routing=ROUTINGS[name]())
        two_layers = shapes(config.replace(capsule_layers=2), (8, 8, 1))
        assert len(two_layers.head.norms) == (0 if squashed else 1)
        head = CapsuleHead(config, 4, (3, 3), 2, nnx.Rngs(0))
        poses = head.below(features, step=0, train=False).poses
        assert (np.linalg.norm(poses, axis=-1).max() < 1) == squashed


@pytest.mark.parametrize(
    ("head", "pool"), [("average_pooling", np.mean), ("max_pooling", np.max)]
)
def test_pooled_controls(head, pool):
    config = Config(**TINY, head=head)
    assert config.scores == "logits"
    layer = PooledHead(config, 4, 3, nnx.Rngs(0))
    x = np.random.default_rng(0).normal(size=(2, 5, 6, 4)).astype(np.float32)
    found = layer(jnp.asarray(x), step=0, train=False)
    expected = pool(x, axis=(1, 2)) @ np.asarray(layer.logits.kernel[...])
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)


def test_rows_of_results_name_the_control():
    assert Config().columns()["routing"] == "self_routing"
    columns = Config.preset("max_pooling").columns()
    assert columns["routing"] == "max_pooling"
    assert columns.keys() == Config().columns().keys()


def test_routing_to_the_class_capsules_is_diagnosed():
    config = Config(**TINY, routing=ROUTINGS["dynamic"]())
    images = jnp.zeros((3, 8, 8, 1))
    model = shapes(config, (8, 8, 1))
    found = nnx.eval_shape(lambda m: m.diagnose_routing(images), model)
    assert found.logit_changes.shape == (config.routing.iterations,)
    control = shapes(Config(**TINY, head="max_pooling"), (8, 8, 1))
    with pytest.raises(NotImplementedError, match="has no routing"):
        nnx.eval_shape(lambda m: m.diagnose_routing(images), control)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"channels": ()}, "needs channels"),
        ({"matrices": True, "capsule_dim": 15}, "capsule_dim 15 is not d x d.* to 9"),
        ({"head": "none"}, "unknown config.model.head 'none'; choose one of capsules"),
    ],
)
def test_settings_that_do_not_fit(changes, message):
    with pytest.raises(UserError, match=message):
        shapes(Config(**(TINY | changes)), (8, 8, 1))
