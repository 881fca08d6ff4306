import jax
import jax.numpy as jnp
import numpy as np
import pytest

from capsjax.attacks import objectives
from capsjax.losses import cross_entropy, margin, squared_hinge
from kernels.routing.squash import squash

SCORES = np.array([[0.2, 0.7, 0.5], [0.9, 0.05, 0.3]], np.float32)
LABELS = jnp.array([1, 2])
LOGITS = np.log(SCORES / (1 - SCORES))


def value(name, kind="lengths", loss=None, **settings):
    of_scores = objectives.of_name(name, kind, loss or margin.Config(), **settings)
    return of_scores(jnp.asarray(SCORES), LABELS)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("margin", [0.5 - 0.7, 0.9 - 0.3]),
        ("logit_margin", [LOGITS[0, 2] - LOGITS[0, 1], LOGITS[1, 0] - LOGITS[1, 2]]),
        ("probability", [-0.7, -0.3]),
        # (0.9 - 0.7)^2 + (0.1^2 + 0.4^2) / 2, and 0.6^2 + 0.8^2 / 2.
        ("loss", [0.04 + 0.085, 0.36 + 0.32]),
        (
            "cross_entropy",
            [
                np.log(np.sum(np.exp(LOGITS[0]))) - LOGITS[0, 1],
                np.log(np.sum(np.exp(LOGITS[1]))) - LOGITS[1, 2],
            ],
        ),
    ],
)
def test_objectives_of_lengths(name, expected):
    np.testing.assert_allclose(value(name), expected, rtol=1e-5)
    np.testing.assert_allclose(value(name, targeted=True), -np.array(expected), 1e-5)


def test_probabilities_of_logits_are_those_of_the_softmax():
    shares = np.exp(SCORES) / np.exp(SCORES).sum(axis=1, keepdims=True)
    found = value("probability", "logits", cross_entropy.Softmax())
    np.testing.assert_allclose(found, [-shares[0, 1], -shares[1, 2]], rtol=1e-5)


def test_the_logit_of_a_squashed_capsule_is_that_of_its_total_input():
    s = np.random.default_rng(0).normal(size=(4, 3, 8)).astype(np.float32)
    lengths = jnp.linalg.norm(squash(jnp.asarray(s)), axis=2)
    found = objectives.logits(lengths, "lengths")
    np.testing.assert_allclose(found, 2 * np.log(np.linalg.norm(s, axis=2)), rtol=1e-4)


def test_a_sure_network_hides_from_the_cross_entropy_not_from_the_margin():
    def slope(name):
        of_scores = objectives.of_name(name, "logits", cross_entropy.Softmax())
        sure = jnp.array([[120.0, 0.0, -3.0]])
        return jax.grad(lambda z: jnp.sum(of_scores(z, jnp.array([0]))))(sure)

    np.testing.assert_array_equal(slope("cross_entropy"), [[0, 0, 0]])
    np.testing.assert_array_equal(slope("logit_margin"), [[-1, 1, 0]])


def test_no_two_objectives_of_a_network_are_the_same():
    softmax, hinge = cross_entropy.Softmax(), squared_hinge.Config()
    assert objectives.for_gradients("lengths", margin.Config())[0] == "logit_margin"
    assert "loss" not in objectives.for_gradients("logits", softmax)
    assert "loss" in objectives.for_gradients("logits", hinge)
    assert "margin" not in objectives.for_gradients("logits", hinge)


def test_unknown_objectives_are_refused():
    with pytest.raises(ValueError, match="no objective 'hope'; known: cross_entropy"):
        value("hope")
