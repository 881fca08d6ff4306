"""What holds for every routing plug-in, and that one can be added."""

import dataclasses
import gc
import itertools
import json
from typing import ClassVar

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from capsjax import config as config_lib
from capsjax import fields, losses, models, routings
from capsjax.config import Config
from capsjax.data import TrainBatches
from capsjax.errors import SettingsError, UserError
from capsjax.layers import RoutedCapsules
from capsjax.models.capsules import capsnet
from capsjax.routings import ROUTINGS, Capsules, Sizes, Transform, dynamic, uniform
from capsjax.training import step as train_step
from kernels import routing
from tests.kernels.routing import reference
from tests.stepping import take_steps

SIZES = Sizes(in_capsules=7, in_dim=5, out_capsules=3, out_dim=6)
I, P, J, Q = SIZES
B = 4


def arguments(bias=True):
    """Poses, transformation matrices and a bias, float64."""
    rng = np.random.default_rng(0)
    u, W = rng.normal(size=(B, I, P)), rng.normal(size=(I, J, Q, P))
    return u, W, rng.normal(size=(J, Q)) if bias else None


def given(dtype=jnp.float32, bias=True, activations=False):
    """The same as a plug-in takes them, perhaps with activations."""
    u, W, b = arguments(bias)
    transform = Transform(
        jnp.asarray(W, dtype), None if b is None else jnp.asarray(b, dtype)
    )
    a = np.random.default_rng(1).uniform(size=(B, I))
    return (
        Capsules(jnp.asarray(u, dtype), jnp.float32(a) if activations else None),
        transform,
    )


def given_to(config, dtype=jnp.float32, bias=True):
    """What suits a routing: activations, and a bias, for those that take them."""
    return given(dtype, bias and config.has_bias, config.needs_activations)


def build(config):
    """A plug-in whose parameters are not where they start, such as at zero."""
    plug_in = config.build(SIZES, nnx.Rngs(params=0))
    rng = np.random.default_rng(2)
    params = jax.tree.map(
        lambda x: x + jnp.asarray(rng.normal(size=x.shape) / 3, x.dtype),
        nnx.state(plug_in, nnx.Param),
    )
    nnx.update(plug_in, params)
    return plug_in


def run_with(config):
    """A CapsNet's config with a routing, and with a loss of the scores that it has."""
    model = capsnet.Config(routing=config)
    suitable = [loss for loss in losses.LOSSES.values() if model.scores in loss.takes]
    return Config(model=model, loss=suitable[0]())


# Every plug-in.


@pytest.fixture(params=ROUTINGS)
def config(request) -> routings.Config:
    """A routing's config with its defaults."""
    config = ROUTINGS[request.param]()
    assert config.name == request.param
    return config


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_output_capsules(config, dtype, bias):
    """Activations are float32 and of the kind that the config declares."""
    poses, activations = build(config)(*given_to(config, dtype, bias), step=0)
    assert poses.shape == (B, J, Q)
    assert poses.dtype == dtype
    assert config.activations in ("lengths", "activations", "logits", None)
    if config.activations is None:
        assert activations is None
        return
    assert activations.shape == (B, J)
    assert activations.dtype == jnp.float32
    if config.activations == "lengths":
        lengths = np.linalg.norm(np.asarray(poses, np.float64), axis=2)
        np.testing.assert_allclose(activations, lengths, rtol=1e-5)
    if config.activations != "logits":
        # Poses that are rounded to half precision can be a little longer than 1.
        rounding = float(jnp.finfo(dtype).eps)
        assert 0 <= activations.min() <= activations.max() <= 1 + rounding
    assert np.ptp(activations) > 0.01


def test_a_bias_shifts_the_outputs_or_is_refused(config):
    if not config.has_bias:
        zeros = jax.nn.initializers.zeros
        with pytest.raises(SettingsError, match=f"{config.name} routing has no bias"):
            RoutedCapsules(
                SIZES,
                routing=config,
                weights_init=zeros,
                bias_init=zeros,
                rngs=nnx.Rngs(0),
            )
        return
    plug_in, (capsules, transform) = build(config), given_to(config)
    without = plug_in(capsules, Transform(transform.weights), step=0)
    change = plug_in(capsules, transform, step=0).poses - without.poses
    assert np.abs(change).max() > 1e-2


def test_examples_do_not_depend_on_each_other(config):
    plug_in, (capsules, transform) = build(config), given_to(config)
    together = plug_in(capsules, transform, step=0)
    for b in range(B):
        one = jax.tree.map(lambda x, b=b: x[b : b + 1], capsules)
        alone = plug_in(one, transform, step=0)
        np.testing.assert_allclose(alone.poses[0], together.poses[b], atol=1e-5)


def test_gradients_of_all_arguments_and_parameters_are_finite(config):
    graphdef, params, *others = nnx.split(build(config), nnx.Param, ...)

    def total(params, capsules, transform):
        found = nnx.merge(graphdef, params, *others)(capsules, transform, step=0)
        return sum(jnp.sum(jnp.sin(x)) for x in jax.tree.leaves(found))

    gradient = jax.jit(jax.grad(total, argnums=(0, 1, 2)))
    numbers = given_to(config)
    for each in (numbers, jax.tree.map(jnp.zeros_like, numbers)):
        found = jax.tree.leaves(gradient(params, *each))
        assert all(np.all(np.isfinite(x)) for x in found)
    found = jax.tree.leaves(gradient(params, *numbers))
    assert all(np.any(x) for x in found)


def test_arguments_that_do_not_agree_are_refused(config):
    plug_in, (capsules, transform) = build(config), given_to(config)
    for wrong in (capsules.poses[:, :6], capsules.poses[:, :, :4]):
        with pytest.raises(ValueError, match=rf"\({wrong.shape[0]}, {wrong.shape[1]}"):
            plug_in(capsules._replace(poses=wrong), transform, step=0)


def test_activations_are_asked_for_where_they_are_needed(config):
    if not config.needs_activations:
        pytest.skip("needs none")
    inputs, transform = given(bias=False)
    with pytest.raises(ValueError, match=f"{config.name} routing needs .* activations"):
        build(config)(inputs, transform, step=0)
    layer = RoutedCapsules(
        SIZES,
        routing=config,
        weights_init=jax.nn.initializers.ones,
        rngs=nnx.Rngs(0),
    )
    field = rf"config\.model\.routing\.name '{config.name}' needs activations"
    with pytest.raises(SettingsError, match=f"{field}.* choose one of dynamic, inv"):
        layer(inputs)


def test_activations_alone_are_those_of_a_call(config):
    """In networks whose last layer has no transformation matrices."""
    plug_in, (capsules, transform) = build(config), given_to(config, bias=False)
    if config.activations_need_votes:
        with pytest.raises(NotImplementedError, match="needs votes"):
            plug_in.activations_only(capsules)
        return
    expected = plug_in(capsules, transform, step=0).activations
    np.testing.assert_allclose(plug_in.activations_only(capsules), expected, rtol=1e-5)
    with pytest.raises(ValueError, match="needs capsules with activations"):
        plug_in.activations_only(capsules._replace(activations=None))
    with pytest.raises(ValueError, match=rf"\({B}, {I - 1}\)"):
        plug_in.activations_only(jax.tree.map(lambda x: x[:, 1:], capsules))


def test_passes_one_by_one_are_a_call(config):
    """In networks whose layers make each pass together."""
    plug_in, (capsules, transform) = build(config), given_to(config, bias=False)
    if not config.concurrent:
        with pytest.raises(NotImplementedError, match="no separate passes"):
            plug_in.make_pass(capsules, transform)
        return
    found = plug_in.make_pass(capsules, transform)
    for _ in range(config.iterations - 1):
        found = plug_in.make_pass(capsules, transform, found)
    expected = plug_in(capsules, transform, step=0)
    np.testing.assert_allclose(found.poses, expected.poses, rtol=1e-5, atol=1e-6)


def test_a_config_comes_back_from_json(config):
    """In a run's config too, of which it is a part."""
    run = Config(model=capsnet.Config(routing=config))
    for one in (config, run):
        tree = json.loads(json.dumps(fields.to_json(one)))
        assert fields.from_json(type(one), tree) == one
    assert fields.flatten(run)["model.routing.name"] == config.name
    assert config.columns()["routing"] == config.name


def test_its_implementations_are_those_that_it_names(config):
    for name in config.implementations:
        assert config.implemented_by(name).implementation == name
        assert config.implementation is None  # The config itself is as it was.
    with pytest.raises(ValueError, match=f"{config.name} routing .*'fastest'; known"):
        config.implemented_by("fastest")


def test_portable_routing_is_the_same_routing(config):
    found, expected = (
        build(one)(*given_to(config), step=0) for one in (config.portable(), config)
    )
    np.testing.assert_allclose(found.poses, expected.poses, atol=1e-5)


def test_diagnosis_is_offered_where_it_works(config):
    plug_in, run = build(config), run_with(config)
    run.diagnose_routing = True
    if config.diagnosable:
        config_lib.check(run)
        found = plug_in.diagnose(*given_to(config))
        assert len(found.logit_changes) == config.iterations
        return
    with pytest.raises(UserError, match="diagnose_routing is on"):
        config_lib.check(run)
    with pytest.raises(NotImplementedError, match="cannot be diagnosed"):
        plug_in.diagnose(*given_to(config))


def test_a_capsnet_takes_any_routing_by_its_name(config, tiny_config):
    fields.override(tiny_config, "model.routing.name", config.name)
    assert type(tiny_config.model.routing) is type(config)
    tiny_config.loss = run_with(config).loss
    config_lib.check(tiny_config)
    graphdef, state = train_step.create(tiny_config, (8, 8, 1), 10)
    images = jnp.asarray(np.random.default_rng(0).uniform(size=(B, 8, 8, 1)), "float32")

    @jax.jit
    def scores(variables):
        output, _ = models.apply(graphdef, variables, images, None, "float32")
        return output.scores

    assert scores(state.variables).shape == (B, 10)


# Each of them computes what it should.


@pytest.mark.parametrize("leaky", [False, True])
@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize(
    ("config", "iterations"),
    [
        (dynamic.Config(iterations=1), 1),
        (dynamic.Config(iterations=3), 3),
        (dynamic.Config(iterations=3, implementation="reference"), 3),
        (uniform.Config(), 1),
    ],
)
def test_poses_in_float64(config, iterations, bias, leaky):
    config = config.replace(leaky=leaky)
    expected, _ = reference.route(
        *arguments(bias), num_iterations=iterations, leaky=leaky
    )
    found = build(config)(*given(bias=bias), step=0)
    np.testing.assert_allclose(found.poses, expected, atol=1e-5)


def test_dynamic_routing_stops_the_gradient_where_told():
    capsules, transform = given()

    def gradient(stop_gradient):
        plug_in = build(dynamic.Config(stop_gradient=stop_gradient))

        def total(poses):
            return jnp.sum(plug_in(Capsules(poses), transform, step=0).poses)

        return jax.jit(jax.grad(total))(capsules.poses)

    assert np.abs(gradient(True) - gradient(False)).max() > 1e-2


def test_votes_in_float64():
    capsules, transform = given()
    u, W, _ = arguments()
    expected = [
        [[W[i, j] @ u[b, i] for j in range(J)] for i in range(I)] for b in range(B)
    ]
    np.testing.assert_allclose(transform.votes(capsules), expected, atol=1e-5)
    half, in_half = given("bfloat16")
    assert in_half.votes(half).dtype == jnp.bfloat16


# A plug-in of one's own.


@dataclasses.dataclass(kw_only=True, slots=True)
class GatedConfig(routings.Config):
    """A toy that weighs each input capsule by a learned gate."""

    name: ClassVar[str] = "gated"

    sharpness: float = fields.field(1.0, "Factor of the gates.", above=0)

    def build(self, sizes: Sizes, rngs: nnx.Rngs) -> "Gated":
        return Gated(self, sizes)


class Gated(routings.Routing):
    def __init__(self, config: GatedConfig, sizes: Sizes):
        self.sharpness = config.sharpness
        self.gates = nnx.Param(jnp.zeros(sizes.in_capsules))

    def __call__(
        self, inputs: Capsules, transform: Transform, *, step=0, train=False
    ) -> Capsules:
        votes = transform.votes(transform.children(inputs))
        gates = jax.nn.softmax(self.sharpness * self.gates[...])
        poses = routing.squash(jnp.einsum("i,bijq->bjq", gates, votes))
        return Capsules(poses, routing.norm(poses))


@pytest.fixture
def gated_is_known(monkeypatch):
    """As if a line in `ROUTINGS` named it."""
    (behind_the_proxy,) = gc.get_referents(ROUTINGS)
    monkeypatch.setitem(behind_the_proxy, GatedConfig.name, GatedConfig)


@pytest.mark.usefixtures("gated_is_known")
def test_a_routing_of_ones_own_is_known_everywhere(tiny_config):
    """To flags, help, checks and config.json, by its line in the registry alone."""
    fields.override(tiny_config, "model.routing.name", "gated")
    fields.override(tiny_config, "model.routing.sharpness", "2")
    assert tiny_config.model.routing == GatedConfig(sharpness=2.0)
    assert "Factor of the gates." in fields.describe(tiny_config)
    config_lib.check(tiny_config)
    assert fields.from_json(Config, fields.to_json(tiny_config)) == tiny_config
    tiny_config.model.routing.sharpness = 0.0
    with pytest.raises(
        UserError, match=r"model\.routing\.sharpness is 0.0; .* above 0"
    ):
        config_lib.check(tiny_config)


@pytest.mark.usefixtures("gated_is_known")
def test_a_routing_of_ones_own_trains(tiny_config, digits_data):
    """It asks for the votes, and its parameters are learned with all others."""
    fields.override(tiny_config, "model.routing.name", "gated")
    tiny_config.model.routing.sharpness = 20.0
    tiny_config.optimizer.name, tiny_config.optimizer.learning_rate = "sgd", 0.5
    tiny_config.augment.shift = 0
    graphdef, state = train_step.create(tiny_config, (8, 8, 1), 10)
    batches = TrainBatches(digits_data.train, tiny_config.batch_size, 0)

    def gates(tree):
        return np.asarray(tree["class_capsules"]["routing"]["gates"][...])

    def loss(params, batch):
        """Of the model in one piece; images are not augmented."""
        images, labels = jnp.float32(batch["image"]) / 255, jnp.asarray(batch["label"])
        variables = state.variables.replace(params=params)
        output, _ = models.apply(graphdef, variables, images, labels, "float32")
        parts = losses.per_example(
            tiny_config.loss,
            output.scores,
            labels,
            reconstructions=output.reconstructions,
            targets=images,
        )
        return jnp.mean(parts["loss"])

    gradient = jax.jit(jax.grad(loss))
    metrics, states = take_steps(tiny_config, digits_data, 2)
    assert all(np.isfinite(row["loss"]) for row in metrics)
    for index, (before, after) in enumerate(itertools.pairwise(states)):
        expected = gates(gradient(before.params, batches.batch(index)))
        assert np.abs(expected).max() > 1e-3
        moved = gates(before.params) - gates(after.params)
        rate = 0.5 * 0.96 ** (index / tiny_config.optimizer.decay_steps)
        np.testing.assert_allclose(moved, rate * expected, rtol=1e-3, atol=1e-6)
