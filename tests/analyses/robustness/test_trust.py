"""Each check passes on what should pass, and fails on what should fail."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from capsjax.analyses.robustness import trust
from capsjax.analyses.robustness.attack_cells import Cell
from capsjax.analyses.robustness.attack_runs import Outcome
from capsjax.analyses.robustness.trust import Evidence, Gradients
from capsjax.analyses.robustness.victims import Victim
from capsjax.attacks.balls import Norm

N = 200
PGD = Cell("pgd", "linf", 0.1, steps=40, restarts=3, keep=True)
RISING = np.linspace(1.0, 5.0, 41)
GOOD = Gradients("cross_entropy", 0.01, 0.0, 0.1, 0.999)


def outcome(share, trace=RISING, distances=0.1, count=N):
    """An attack that breaks a share of the images, the first ones."""
    success = np.arange(count) < share * count
    return Outcome(
        success=success,
        success_8_bits=success,
        distances=np.full(count, distances, np.float32),
        predictions=np.zeros(count, int),
        trace=np.asarray(trace),
        images=np.zeros((count, 2, 2, 1), np.float32),
        seconds=1.0,
    )


def at(attack, radius=0.1, **settings):
    return Cell(attack, "linf", radius, **settings)


# An evaluation that can be believed: 10 % wrong without an attack.
OUTCOMES = {
    at("noise"): outcome(0.15),
    at("fgsm", 0.05): outcome(0.3),
    at("fgsm"): outcome(0.5),
    at("bim"): outcome(0.65),
    dataclasses.replace(PGD, radius=0.05, keep=False): outcome(0.4),
    PGD: outcome(0.7),
    dataclasses.replace(PGD, radius=0.5, keep=False): outcome(1.0),
    at("square"): outcome(0.6),
    Cell("deepfool", "l2", steps=50, keep=True): outcome(1.0),
    Cell("pixels_1", "l2", steps=100, count=50): outcome(0.2, count=50),
    dataclasses.replace(PGD, targeted=True, keep=False): outcome(0.2),
    dataclasses.replace(PGD, gradient="votes", keep=False): outcome(0.71),
    dataclasses.replace(PGD, steps=80, keep=False): outcome(0.705),
    dataclasses.replace(PGD, restarts=6, keep=False): outcome(0.7),
    dataclasses.replace(PGD, evades=True, distance_weight=0.1): outcome(0.3),
}
EVIDENCE = Evidence(
    OUTCOMES,
    wrong=np.arange(N) < 0.1 * N,
    focus={"linf": 0.1},
    transferred={("linf", "other by PGD"): np.arange(N) < 0.5 * N},
    gradients=[GOOD, dataclasses.replace(GOOD, objective="margin", zero=0.9)],
)


def with_outcome(cell, **settings):
    return OUTCOMES | {cell: outcome(**settings)}


def without(*attacks):
    return {c: o for c, o in OUTCOMES.items() if c.attack not in attacks}


def failed(evidence):
    return [check.name for check in trust.checks(evidence) if check.passed is False]


def test_all_checks_pass():
    found = trust.checks(EVIDENCE)
    assert all(check.passed is True for check in found)
    assert len({check.name for check in found}) == len(found) == 11
    assert trust.verdict(found) == "All 11 checks passed."


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"gradients": [dataclasses.replace(GOOD, zero=0.06)]}, "is not zero"),
        ({"gradients": [dataclasses.replace(GOOD, not_finite=0.01)]}, "is not zero"),
        ({"gradients": [dataclasses.replace(GOOD, agreement=0.9)]}, "finite diff"),
        (
            {"outcomes": with_outcome(at("fgsm", 0.05), share=0.45)},
            "at least as many images as FGSM, linf",
        ),
        (
            {"outcomes": with_outcome(at("noise"), share=0.45)},
            "noise is far weaker than PGD, linf",
        ),
        (
            {"outcomes": with_outcome(at("square"), share=0.71)},
            "attacks that do not see the network, linf",
        ),
        (
            {"transferred": {("linf", "other by PGD"): np.arange(N) < 0.71 * N}},
            "attacks that do not see the network, linf",
        ),
        (
            {
                "outcomes": with_outcome(
                    dataclasses.replace(PGD, steps=80, keep=False), share=0.71
                )
            },
            "twice the steps",
        ),
        (
            {
                "outcomes": with_outcome(
                    dataclasses.replace(PGD, restarts=6, keep=False), share=0.71
                )
            },
            "twice the starts",
        ),
        (
            {
                "outcomes": with_outcome(
                    dataclasses.replace(PGD, radius=0.5, keep=False), share=0.98
                )
            },
            "at a radius of 0.5, linf",
        ),
        (
            {
                "outcomes": with_outcome(
                    Cell("deepfool", "l2", steps=50, keep=True), share=0.98
                )
            },
            "DeepFool without a bound",
        ),
        (
            {"outcomes": with_outcome(at("bim"), share=0.65, trace=RISING[::-1])},
            "rises from step to step, linf",
        ),
        (
            {"outcomes": with_outcome(at("bim"), share=0.65, trace=[1, 4, 3.7, 5])},
            "rises from step to step, linf",
        ),
        (
            {"outcomes": with_outcome(at("bim"), share=0.65, trace=[1, np.nan, 5])},
            "rises from step to step, linf",
        ),
        (
            {"outcomes": with_outcome(at("bim"), share=0.65, trace=[2.0, 2.0])},
            "rises from step to step, linf",
        ),
    ],
)
def test_one_check_fails(changed, words):
    evidence = dataclasses.replace(EVIDENCE, **changed)
    (name,) = failed(evidence)
    assert words in name
    verdict = trust.verdict(trust.checks(evidence))
    assert verdict.startswith(f"1 of 11 checks FAILED: {name}. The numbers may over")


def test_success_that_falls_with_the_radius():
    outcomes = without("fgsm") | {
        dataclasses.replace(PGD, radius=0.05, keep=False): outcome(0.72)
    }
    falls = dataclasses.replace(EVIDENCE, outcomes=outcomes)
    assert failed(falls) == ["PGD's success grows with the radius, linf"]
    # One image is always allowed.
    outcomes[dataclasses.replace(PGD, radius=0.05, keep=False)] = outcome(0.705)
    assert failed(falls) == []


def test_noise_is_not_held_responsible_for_what_is_wrong_anyway():
    wrong = dataclasses.replace(EVIDENCE, wrong=np.arange(N) < 0.4 * N)
    noise = with_outcome(at("noise"), share=0.45)
    assert failed(dataclasses.replace(wrong, outcomes=noise)) == []


def test_what_was_not_run_is_not_known():
    few = {dataclasses.replace(PGD, radius=r): outcome(0.9) for r in (0.1, 0.2)}
    found = trust.checks(dataclasses.replace(EVIDENCE, outcomes=few, gradients=[]))
    unknown = [check.name for check in found if check.passed is None]
    words = ("FGSM", "radius of 0.5", "noise", "steps change", "starts change")
    for word, name in zip(words, unknown, strict=True):
        assert word in name
    assert trust.verdict(found).endswith("passed; 5 could not be made.")
    for nothing in ([], [c for c in found if c.passed is None]):
        assert trust.verdict(nothing) == "No check could be made."


def test_the_worst_of_all_attacks_within_a_radius():
    def worst(radius, evidence=EVIDENCE):
        return np.mean(evidence.worst("linf", radius))

    # Nothing targeted, of few images, or of another norm counts.
    assert worst(0.1) == pytest.approx(0.71)
    assert worst(0.05) == pytest.approx(0.4)
    assert worst(0.01) == pytest.approx(0.1)
    more: dict[tuple[Norm, str], np.ndarray]
    more = {("linf", "x"): np.arange(N) >= 0.9 * N, ("l2", "y"): np.ones(N, bool)}
    moved = dataclasses.replace(EVIDENCE, transferred=more)
    assert worst(0.1, moved) == pytest.approx(0.81)
    assert worst(0.09, moved) == pytest.approx(0.4)
    # Attacks without a bound count where their change is small.
    near = dataclasses.replace(EVIDENCE, focus={"l2": 1.0}, transferred={})
    outcomes = {
        Cell("deepfool", "l2"): dataclasses.replace(
            outcome(1.0), distances=np.linspace(0, 2, N)
        )
    }
    near = dataclasses.replace(near, outcomes=outcomes)
    assert np.mean(near.worst("l2", 0.5)) == pytest.approx(0.25)


class Sharp(Victim):
    """A network whose lengths are nearly all beyond both margins."""

    def output(self, variables, images, gradient="routing"):
        found = super().output(variables, images, gradient)
        two, _ = jax.lax.top_k(found.scores, 2)
        middle = jax.lax.stop_gradient(jnp.mean(two, axis=1, keepdims=True))
        scores = jax.nn.sigmoid(60 * (found.scores - middle))
        return dataclasses.replace(found, scores=scores)


def test_a_saturated_training_loss_has_no_gradient(victim, images):
    sharp = Sharp(victim.name, victim.model, victim.image_shape, 10)
    lengths = jax.jit(lambda *x: sharp.output(*x).scores)(
        victim.variables, images.values
    )
    own = np.eye(10, dtype=bool)[images.labels]
    beyond = np.where(own, lengths > 0.9, lengths < 0.1).all(axis=1)
    assert 0.2 < np.mean(beyond) < 1
    cross_entropy, loss = trust.gradients(sharp, images, ("cross_entropy", "loss"), 10)
    assert loss.zero == pytest.approx(np.mean(beyond))
    assert (cross_entropy.zero, cross_entropy.not_finite) == (0, 0)
    assert cross_entropy.agreement > 0.95

    def slopes(*gradients):
        evidence = dataclasses.replace(EVIDENCE, gradients=gradients)
        return [c for c in trust.checks(evidence) if "is not zero" in c.name]

    (first,) = slopes(cross_entropy, loss)
    assert first.passed
    assert f"loss {np.mean(beyond):.1%}" in first.measured
    (first,) = slopes(loss)
    assert first.name == "the gradient of loss is not zero"
    assert first.passed is False
