"""Reconstructions as a detector of attacks, and the attack that knows of it."""

import dataclasses

import numpy as np
import pytest

from capsjax.analyses.robustness import attack_runs, detection
from capsjax.analyses.robustness.attack_cells import Cell
from capsjax.analyses.robustness.attack_runs import Outcome
from capsjax.analyses.robustness.victims import Victim
from capsjax.inference.predict import predict
from tests.analyses.robustness.random_victims import fitting, untrained
from tests.models.test_every_model import SMALL

PGD = Cell("pgd", "linf", 0.3, steps=4, keep=True)


def distances(victim, pixels):
    """To the reconstructions of the classes that an evaluation predicts."""
    scores = predict(victim.model, pixels)["scores"]
    seen, drawn = victim.model.reconstruct(pixels, np.argmax(scores, axis=1))
    return np.sqrt(np.sum((np.asarray(seen) - np.asarray(drawn)) ** 2, axis=(1, 2, 3)))


def test_most_validation_images_pass(victim, digits_data):
    pixels = digits_data.validation.images
    expected = distances(victim, pixels)
    assert np.sum(expected <= victim.threshold) == 95
    assert np.min(np.abs(expected - victim.threshold)) > 1e-4
    unit = pixels.astype(np.float32) / np.float32(255)
    found = victim.distances(unit, 50)
    np.testing.assert_allclose(found, expected, rtol=1e-4)


def test_networks_without_a_decoder_stay_as_they_are(digits_data):
    victim = untrained(fitting(SMALL["capsnet"].without_decoder()))
    assert detection.with_threshold(victim, digits_data.validation.images, 50) is victim


@pytest.mark.parametrize(
    ("attacked", "auc"),
    [
        ([5.0, 6, 7, 8, 9], 1.0),
        ([0.5, 0.6, 0.7, 0.5, 0.5], 0.0),
        # Of 4 times 5 pairs, not those of 1.5 with 2, 2, 3 and 4, and of 3.5 with 4.
        ([1.5, 3.5, 9, 9, 9], 0.75),
    ],
)
def test_the_area_under_the_curve_is_the_share_of_pairs(
    victim, images, monkeypatch, attacked, auc
):
    """The last of five images is wrong without an attack, too."""
    some = dataclasses.replace(
        images,
        pixels=images.pixels[:5],
        labels=images.labels[:5],
        numbers=images.numbers[:5],
    )
    wrong = np.array([False] * 4 + [True])

    def outcome(success):
        return Outcome(
            success=np.array(success),
            success_8_bits=np.array(success),
            distances=np.zeros(5, np.float32),
            predictions=np.where(success, (some.labels + 1) % 10, some.labels),
            trace=np.zeros(2),
            images=np.ones_like(some.values),
            seconds=0.0,
        )

    def made_up(_, given, batch_size):
        is_clean = np.array_equal(given, some.values)
        return np.array([1.0, 2, 3, 4, 2] if is_clean else attacked)

    monkeypatch.setattr(Victim, "distances", made_up)
    network = dataclasses.replace(victim, threshold=3.0)
    nothing = dataclasses.replace(PGD, steps=1)
    outcomes = {
        PGD: outcome([True] * 5),
        nothing: outcome([False] * 4 + [True]),
        dataclasses.replace(PGD, keep=False): outcome([True] * 5),
        dataclasses.replace(PGD, targeted=True): outcome([True] * 5),
    }
    found = detection.detected(network, outcomes, some, wrong, 5)
    assert [*found] == [None, PGD, nothing]
    # Only images that were turned count, all of them against all clean ones.
    pairs = [(a > c) + 0.5 * (a == c) for a in attacked[:4] for c in (1, 2, 3, 4, 2)]
    assert found[PGD].auc == pytest.approx(np.mean(pairs))
    assert found[PGD].auc == pytest.approx(auc)
    assert np.isnan(found[nothing].auc)
    assert np.isnan(found[None].auc)
    np.testing.assert_array_equal(found[None].refused, [0, 0, 0, 1, 0])
    np.testing.assert_array_equal(found[None].undetected, wrong)
    undetected = np.array(attacked) <= 3
    np.testing.assert_array_equal(found[PGD].undetected, undetected)


def test_what_the_knowing_attack_finds_passes(victim, images):
    # After a few steps of training, 95 % would be all images.
    median = np.median(victim.distances(images.values, 5))
    victim = dataclasses.replace(victim, threshold=0.9 * float(median))
    base = dataclasses.replace(PGD, radius=0.15)
    knowing = detection.knowing(base, weights=(0.1,))[1]
    found = attack_runs.run(victim, knowing, images, 5)
    seen = victim.predictions(found.images, 5)
    away = victim.distances(found.images, 5)
    passes = away <= victim.threshold
    # Some err without passing: a success is both.
    assert np.any((seen != images.labels) & ~passes)
    assert np.any(found.success)
    np.testing.assert_array_equal(found.success, (seen != images.labels) & passes)

    levels = attack_runs.in_8_bits(found.images, images.values)
    pixels = np.round(levels * 255).astype(np.uint8)
    errs = np.argmax(predict(victim.model, pixels)["scores"], axis=1) != images.labels
    passes = distances(victim, pixels) <= victim.threshold
    assert np.any(errs & ~passes)
    np.testing.assert_array_equal(found.success_8_bits, errs & passes)
