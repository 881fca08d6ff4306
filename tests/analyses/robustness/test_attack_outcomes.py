"""What becomes of outcomes: files that are found again, images tried on others."""

import dataclasses
import re

import numpy as np
import pytest

from capsjax import figures
from capsjax.analyses.robustness import (
    attack_evaluation,
    attack_report,
    attack_runs,
    detection,
    trust,
)
from capsjax.analyses.robustness.attack_evaluation import Settings
from capsjax.analyses.robustness.attack_runs import Outcome
from capsjax.analyses.robustness.victims import Victim
from tests.analyses.robustness.random_victims import fitting, untrained
from tests.models.test_every_model import SMALL

SETTINGS = Settings(
    attacks=("pgd", "mi_fgsm"),
    radii={"linf": (0.1, 0.2)},
    focus={"linf": 0.1},
    steps=2,
    restarts=1,
    pixel_images=3,
    batch_size=5,
)


@pytest.fixture(scope="module")
def victims():
    """A network that has a detector, and one that others' images are tried on."""
    model = SMALL["capsnet"]
    first = dataclasses.replace(untrained(fitting(model)), threshold=1.0)
    return [first, untrained(fitting(SMALL["baseline_cnn"]))]


@pytest.fixture
def images(images):
    """With a pixel that tells the class."""
    pixels = images.pixels.copy()
    pixels[:, 0, 0, 0] = np.round(25.5 * images.labels)
    return dataclasses.replace(images, pixels=pixels)


@pytest.fixture
def evaluate(victims, images, tmp_path, monkeypatch):
    """Evaluates with outcomes that are made up.

    A network sees the class that the pixel tells, and attacks that know of the detector
    find images that nobody errs on.
    """

    def attack(victim, cell, images, batch_size):
        told = images.labels if cell.evades else (images.labels + 1) % 10
        found = np.ones_like(images.values) * told[:, None, None, None] / 10
        wrong = np.full(len(images), not cell.evades)
        return Outcome(
            success=wrong,
            success_8_bits=wrong,
            distances=np.zeros(len(images), np.float32),
            predictions=told,
            trace=np.arange(3.0),
            images=found if cell.keep else found[:2],
            seconds=1.0,
        )

    def see(self, images, batch_size):
        return np.rint(10 * images[:, 0, 0, 0]).astype(int)

    monkeypatch.setattr(attack_runs, "run", attack)
    monkeypatch.setattr(attack_evaluation, "seconds_per_image", lambda *_: 1)
    monkeypatch.setattr(detection, "detected", lambda *_: {})
    monkeypatch.setattr(trust, "gradients", lambda *_: [])
    monkeypatch.setattr(Victim, "predictions", see)

    def evaluate(settings, some=images):
        return attack_evaluation.evaluate(victims, some, settings, tmp_path, print)

    return evaluate


def test_images_for_the_network_are_tried_on_others(evaluate):
    """Not those that also had to pass its detector."""
    _, other = evaluate(SETTINGS)
    transferred = other.evidence.transferred
    assert [*transferred] == [("linf", "capsnet by MI-FGSM")]
    assert np.all(transferred["linf", "capsnet by MI-FGSM"])


def test_another_focus_finds_all_images_it_needs(evaluate, images):
    for settings in (
        SETTINGS,
        dataclasses.replace(SETTINGS, focus={"linf": 0.2}),
        dataclasses.replace(SETTINGS, steps=4),
        SETTINGS,
    ):
        for one in evaluate(settings):
            for cell, outcome in one.evidence.outcomes.items():
                assert len(outcome.images) == (len(images) if cell.keep else 2)


def test_damaged_outcomes_are_made_again(evaluate, tmp_path, capsys):
    evaluate(SETTINGS)
    paths = [*tmp_path.rglob("*.npz")]
    path = paths[3]
    whole = path.read_bytes()
    for damaged in (b"", b"not NumPy's", whole[:100], whole[:-100]):
        path.write_bytes(damaged)
        capsys.readouterr()
        evaluate(SETTINGS)
        said = capsys.readouterr()
        assert said.out.startswith("1 attacks on 2 networks, 10 images;")
        assert f"; {len(paths) - 1} were made before" in said.out
        assert f"{path.stem} of {path.parent.name} is computed again" in said.err


def test_colors_have_no_attack_that_tries_every_pixel(victims, images):
    settings = dataclasses.replace(SETTINGS, attacks=("fgsm", "every_pixel"))
    plan, left_out = attack_evaluation.planned(victims[1], settings)
    assert {cell.attack for cell in plan} == {"fgsm", "every_pixel"}
    assert left_out == []
    colored = dataclasses.replace(victims[1], image_shape=(8, 8, 3))
    plan, left_out = attack_evaluation.planned(colored, settings)
    assert {cell.attack for cell in plan} == {"fgsm"}
    assert left_out == [
        "baseline_cnn, one pixel, all tried: made for images of 1 channel, not of 3"
    ]


@pytest.mark.parametrize(
    ("names", "radii", "words"),
    [
        (["deepfool"], {}, "without a bound breaks every image"),
        (["deepfool"], {"linf": (0.1,)}, "without a bound breaks every image"),
        (["noise"], {"linf": (0.1, 0.2)}, "not both were run"),
        (["square", "mi_fgsm"], {"linf": (0.1,), "l2": (1.0,)}, "square"),
        (["pixels_1"], {}, "1 pixel, evolution"),
        (["pgd"], {"l2": (1.0,)}, "L2, radius 1"),
    ],
)
def test_any_attacks_make_a_report(
    evaluate, images, digits_data, tmp_path, monkeypatch, names, radii, words
):
    # Figures are made, which takes less time than their files.
    monkeypatch.setattr(figures, "save", lambda figure, path: None)
    focus = {norm: some[0] for norm, some in radii.items()}
    settings = dataclasses.replace(
        SETTINGS, attacks=tuple(names), radii=radii, focus=focus
    )
    text = attack_report.write(evaluate(settings), images, digits_data, tmp_path)
    assert words in text
    # No table is without rows.
    assert not re.search(r"^\|[-:|]+\|\n\n", text, re.MULTILINE)
