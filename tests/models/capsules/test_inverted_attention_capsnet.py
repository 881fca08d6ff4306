"""Inverted attention as a network: its schedules against the authors' code."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from capsjax import models
from capsjax.errors import UserError
from capsjax.models.capsules.inverted_attention_capsnet import Config
from capsjax.routings import ROUTINGS, Capsules, inverted_attention
from tests.kernels.routing import comparisons

TINY: dict[str, Any] = {
    "channels": (2, 4),
    "blocks": (1, 1),
    "primary_types": 3,
    "capsule_types": (4, 3),
    "pose_size": 2,
}


def shapes(config, image_shape=(32, 32, 3), num_classes=10):
    return nnx.eval_shape(
        lambda: models.build(config, image_shape, num_classes, nnx.Rngs(0))
    )


@pytest.mark.parametrize(
    ("preset", "num_classes", "expected"),
    [("cifar10", 10, 1_828_817), ("cifar100", 100, 2_799_629)],
)
def test_numbers_of_parameters(preset, num_classes, expected):
    """Of the authors' code."""
    model = shapes(Config.preset(preset), num_classes=num_classes)
    assert models.num_parameters(model) == expected


@pytest.mark.parametrize("schedule", ["concurrent", "sequential"])
def test_published_code(schedule, routing_fixture):
    """From the features to the logits, with the authors' parameters."""
    fixture = routing_fixture("attention_net")
    config = Config(
        **TINY,
        schedule=schedule,
        routing=inverted_attention.Config(iterations=fixture["meta"]["iterations"]),
    )
    graphdef, state = nnx.split(shapes(config, (14, 14, 3), 5))

    @jax.jit
    def results(state, images, kernel, bias, poses):
        model = nnx.merge(graphdef, state)
        features = jax.lax.conv_general_dilated(
            images,
            kernel,
            (2, 2),
            [(1, 1), (1, 1)],
            dimension_numbers=("NHWC", "HWIO", "NHWC"),
        )
        features = jax.nn.relu(features + bias[None, None, None])
        primary = model.primary(features)
        layers = model.route(Capsules(poses.reshape(primary.poses.shape)))
        return primary.poses, layers[-1].activations

    with jax.enable_x64(True):
        zeros = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), state)
        model = nnx.merge(graphdef, zeros)
        set_to(model.primary_capsules.poses.kernel, fixture["primary_kernel"])
        set_to(model.primary_norm.norm.scale, fixture["primary_norm_scale"])
        set_to(model.primary_norm.norm.bias, fixture["primary_norm_bias"])
        for index, layer in enumerate([*model.hidden_capsules, model.class_capsules]):
            set_to(layer.weights, fixture[f"weights_{index}"])
            set_to(layer.routing.norm_scale, fixture[f"norm_scale_{index}"])
            set_to(layer.routing.norm_bias, fixture[f"norm_bias_{index}"])
        readout = model.class_capsules.readout
        set_to(readout.kernel, fixture["classifier_weight"][:, None])
        set_to(readout.bias, fixture["classifier_bias"])
        names = ("image", "backbone_kernel", "backbone_bias", "primary_poses")
        given = [jnp.asarray(fixture[name]) for name in names]
        primary, logits = results(nnx.state(model), *given)
    expected = fixture["primary_poses"].reshape(primary.shape)
    comparisons.assert_close(primary, expected, 1e-9)
    comparisons.assert_close(logits, fixture[f"logits_{schedule}"], 1e-9)


def set_to(param, value):
    assert param.get_value().shape == value.shape
    param.set_value(jnp.asarray(value))


def test_schedules_differ_from_the_second_pass_on():
    """A single pass leaves nothing to make together."""
    rng = np.random.default_rng(0)
    poses = rng.normal(size=(2, 5, 5, 3, 2, 2)).astype(np.float32)
    plain = Config(**TINY).replace(capsule_strides=(1, 1))
    params = jax.tree.map(
        lambda x: jnp.asarray(rng.normal(size=x.shape), x.dtype),
        nnx.state(shapes(plain, (10, 10, 1), 3)),
    )
    for iterations, equal in ((1, True), (2, False)):
        routing = inverted_attention.Config(iterations=iterations)
        found = []
        for schedule in ("concurrent", "sequential"):
            config = plain.replace(schedule=schedule, routing=routing)
            model = shapes(config, (10, 10, 1), 3)
            nnx.update(model, params)
            route = jax.jit(lambda x, m=model: m.route(Capsules(x))[-1].poses)
            found.append(route(poses))
        assert np.allclose(found[0], found[1], atol=1e-5) == equal


@pytest.mark.parametrize("name", ROUTINGS)
def test_other_routings_are_sequential_or_refused(name):
    routing = ROUTINGS[name]()
    config = Config(**TINY, schedule="sequential", routing=routing)
    if routing.needs_activations:
        message = rf"routing\.name '{name}' needs activations.*choose one of dynamic,"
        for schedule in ("concurrent", "sequential"):
            config.schedule = schedule
            with pytest.raises(UserError, match=message):
                shapes(config)
        return
    assert config.scores == (routing.activations or "logits")
    model = shapes(config)
    found = nnx.eval_shape(lambda m: m(jnp.zeros((2, 32, 32, 3))), model)
    assert found.scores.shape == (2, 10)
    assert found.poses.shape == (2, 10, 4)
    config.schedule = "concurrent"
    if routing.concurrent:
        shapes(config)
        return
    message = r"set schedule to sequential, or routing\.name to inverted_attention"
    with pytest.raises(UserError, match=message):
        shapes(config)


def test_routing_to_the_class_capsules_is_diagnosed():
    routing = ROUTINGS["dynamic"]()
    model = shapes(Config(**TINY, schedule="sequential", routing=routing))
    found = nnx.eval_shape(
        lambda m: m.diagnose_routing(jnp.zeros((3, 32, 32, 3))), model
    )
    assert found.logit_changes.shape == (routing.iterations,)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"channels": (4,)}, "1 channels and 2 blocks; give each"),
        ({"channels": (), "blocks": ()}, "0 channels and 0 blocks"),
        (
            {"capsule_kernels": (3,)},
            "2 capsule_types, 1 capsule_kernels and 2 capsule_",
        ),
        ({"capsule_kernels": (3, 9)}, "grid of 7x7 capsules has no 9x9 window"),
        ({"schedule": "both"}, "unknown config.model.schedule 'both'"),
    ],
)
def test_settings_that_do_not_fit(changes, message):
    with pytest.raises(UserError, match=message):
        shapes(Config(**(TINY | changes)))
