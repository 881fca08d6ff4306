"""Networks as functions of pixels, and the gradients that they offer."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from capsjax import models
from capsjax.analyses.robustness.victims import batches
from capsjax.attacks import Attacked
from capsjax.data import ImageSet
from capsjax.errors import NotApplicableError
from capsjax.inference.predict import predict
from capsjax.models.capsules import capsnet
from capsjax.routings import dynamic
from capsjax.training.trained import evaluate
from tests.analyses.robustness.random_victims import SHAPE, fitting, untrained
from tests.models.test_every_model import SMALL

CAPSULES = capsnet.Config.preset(
    "digits_quick",
    conv1_channels=4,
    decoder_units=(),
    routing=dynamic.Config(iterations=2),
)
COLORED = (9, 9, 2)
RNG = np.random.default_rng(0)
# Far enough from black and white to go a little both ways.
PIXELS = RNG.integers(40, 216, (5, *COLORED), np.uint8)
LABELS = np.arange(5, dtype=np.int32)

# The gradients besides the one through the routing; other networks have neither.
OFFERED = {
    "capsnet": {"held", "votes"},
    "audio_capsnet": {"held", "votes"},
    "matrix_capsules": {"votes"},
    "vb_capsules": {"votes"},
}


def unit(pixels):
    return pixels.astype(np.float32) / np.float32(255)


def scores(victim, images, gradient="routing"):
    def of(variables, images):
        return victim.output(variables, images, gradient).scores

    return np.asarray(jax.jit(of)(victim.variables, images))


@pytest.fixture(scope="module")
def preprocessing():
    """A network that sees a standardised part of images with two channels."""
    config = fitting(CAPSULES)
    config.preprocess.crop, config.preprocess.standardize = 8, True
    config.preprocess.channel_mean, config.preprocess.channel_std = (0.3, 0.1), (0.5, 2)
    return untrained(config, COLORED)


def test_scores_are_those_of_an_evaluation(preprocessing):
    """Preprocessing is part of the network; half precision is not."""
    model = preprocessing.model
    expected = evaluate(model, ImageSet(PIXELS, LABELS))
    found = scores(preprocessing, unit(PIXELS))
    np.testing.assert_allclose(found, expected.scores, rtol=1e-5)
    np.testing.assert_array_equal(
        preprocessing.predictions(unit(PIXELS), 2), expected.predictions
    )
    assert np.ptp(found, axis=0).max() > 1e-3
    half = model.config.replace(dtype="bfloat16")
    rough = dataclasses.replace(
        preprocessing, model=dataclasses.replace(model, config=half)
    )
    assert np.abs(predict(rough.model, PIXELS)["scores"] - found).max() > 1e-4
    np.testing.assert_array_equal(scores(rough, unit(PIXELS)), found)


def test_gradients_are_those_of_pixels(preprocessing):
    """Against what the evaluation makes of images one grey level brighter or darker."""

    attacked = preprocessing.attacked("margin")
    found = jax.jit(Attacked.look)(attacked, unit(PIXELS), LABELS)
    signs = RNG.choice([-1, 1], (3, *PIXELS.shape))
    both = np.concatenate([PIXELS + signs, PIXELS - signs])
    moved = both.reshape(-1, *COLORED).astype(np.uint8)
    scores = predict(preprocessing.model, moved)["scores"].reshape(2, 3, 5, 10)
    own = np.eye(10, dtype=bool)[LABELS]
    others = np.where(own, -np.inf, scores).max(axis=3)
    margins = others - np.where(own, scores, 0).sum(axis=3)
    slopes = (margins[0] - margins[1]) * 255 / 2
    told = np.sum(np.asarray(found.gradients) * signs, axis=(2, 3, 4))
    # But for images where a unit stops or starts.
    error = np.abs(told - slopes) / np.abs(slopes)
    assert np.median(error) < 0.005
    assert np.mean(error < 0.05) > 0.7
    # The crop leaves out a row and a column.
    seen = np.any(np.asarray(found.gradients), axis=(0, 3))
    assert seen.sum() == 64


@pytest.mark.parametrize("name", [n for n in SMALL if SMALL[n].routing is not None])
def test_other_gradients_are_of_the_same_parameters(name):
    config = SMALL[name]

    def shapes(config):
        built = nnx.eval_shape(
            lambda: models.build(config, SHAPE, 10, nnx.Rngs(params=0))
        )
        return [x.shape for x in jax.tree.leaves(models.split(built)[1])]

    for gradient in ("held", "votes"):
        if gradient in OFFERED.get(name, ()):
            assert shapes(config.with_gradient(gradient)) == shapes(config)
        else:
            with pytest.raises(NotApplicableError, match=r"routing (does not|has no)"):
                config.with_gradient(gradient)
    assert config.with_gradient("routing") == config


def test_networks_without_such_gradients_say_why(monkeypatch):
    with pytest.raises(NotApplicableError, match="baseline_cnn has no routing"):
        SMALL["baseline_cnn"].with_gradient("votes")
    victim = untrained(fitting(CAPSULES))
    monkeypatch.setattr(
        capsnet.Config,
        "with_gradient",
        lambda self, name: self if name == "routing" else self.replace(primary_types=2),
    )
    with pytest.raises(NotApplicableError, match="capsnet would have other parameters"):
        victim.graphdef("held")
    assert victim.graphdef("routing") is victim.model.graphdef


def test_a_run_that_held_couplings_is_attacked_through_them(victim, images):
    """The default gradient goes through all of routing, however it was trained."""
    config = victim.model.config
    held = config.model.with_gradient("held")
    assert held.with_gradient("routing") == config.model
    graphdef = victim.graphdef("held")
    model = dataclasses.replace(
        victim.model, config=config.replace(model=held), graphdef=graphdef
    )
    other = dataclasses.replace(victim, model=model)
    for first, second in zip(
        gradients(victim, images.values), gradients(other, images.values), strict=True
    ):
        np.testing.assert_allclose(first, second, rtol=1e-5, atol=1e-7)


def gradients(victim, images, graphdef=None, gradient="routing"):
    """Of a sum of scores with random weights, and the scores."""
    weights = np.random.default_rng(3).normal(size=(len(images), 10))
    variables = victim.variables

    def total(images):
        if graphdef is None:
            found = victim.output(variables, images, gradient)
        else:
            found = models.apply(graphdef, variables, images, None, "float32")[0]
        return jnp.sum(weights.astype(np.float32) * found.scores), found.scores

    return jax.tree.map(np.asarray, jax.jit(jax.grad(total, has_aux=True))(images))


def test_couplings_that_are_held_and_votes_before_routing(victim, images):
    clean = images.values
    config = victim.model.config.model
    full, plain = gradients(victim, clean)

    def other(**settings):
        routing = config.routing.replace(**settings)
        built = untrained(fitting(config.replace(routing=routing)))
        return gradients(victim, clean, built.model.graphdef)

    held, same = gradients(victim, clean, gradient="held")
    np.testing.assert_allclose(same, plain, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(held, other(stop_gradient=True)[0], rtol=1e-5, atol=1e-6)
    size = np.abs(full).max()
    assert np.abs(held - full).max() > 0.01 * size

    votes, before = gradients(victim, clean, gradient="votes")
    expected, scores = other(iterations=1)
    np.testing.assert_allclose(before, scores, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(votes, expected, rtol=1e-5, atol=1e-6)
    assert np.abs(before - plain).max() > 0.01
    assert np.abs(votes - held).max() > 0.01 * size


def test_only_the_objective_is_that_of_the_votes(victim, images):
    """The network itself has to err."""
    # Noise, on which both disagree.
    noise = np.random.default_rng(0).uniform(size=(200, *SHAPE)).astype(np.float32)
    labels = victim.predictions(noise, 200).astype(np.int32)

    attacked = victim.attacked("margin", "votes")
    values, success = jax.jit(Attacked.judge)(attacked, noise, labels)
    assert not np.any(success)
    before = scores(victim, noise, "votes")
    assert np.any(np.argmax(before, axis=1) != labels)
    # A margin is above zero where the scores before routing err.
    np.testing.assert_array_equal(values > 0, np.argmax(before, axis=1) != labels)


def test_batches_are_filled_up():
    parts = [*batches(np.arange(14).reshape(7, 2), 3)]
    assert [real for _, real in parts] == [3, 3, 1]
    np.testing.assert_array_equal(parts[2][0], [[12, 13]] * 3)
    whole = np.concatenate([part[:real] for part, real in parts])
    np.testing.assert_array_equal(whole, np.arange(14).reshape(7, 2))
