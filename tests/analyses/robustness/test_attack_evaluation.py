"""Evaluations that stop and go on, and what they find to attack."""

import dataclasses
import json
from types import SimpleNamespace

import numpy as np
import pytest

from capsjax import figures
from capsjax.analyses.robustness import (
    attack_evaluation,
    attack_report,
    attack_runs,
    detection,
)
from capsjax.analyses.robustness.attack_cells import Cell
from capsjax.analyses.robustness.attack_evaluation import Settings
from capsjax.analyses.robustness.attack_runs import Outcome
from capsjax.analyses.robustness.victims import Victim
from capsjax.runs import results
from tests.analyses.robustness.random_victims import fitting, untrained
from tests.launching import assert_one_line, run
from tests.models.test_every_model import SMALL

SETTINGS = Settings(
    attacks=("noise", "fgsm"),
    radii={"linf": (0.05, 0.2)},
    focus={"linf": 0.2},
    steps=2,
    restarts=1,
    pixel_images=3,
    batch_size=5,
)


@pytest.fixture(scope="module")
def cnn():
    noise = np.random.default_rng(0)
    return untrained(fitting(SMALL["baseline_cnn"]), noise=noise)


def quiet(_):
    pass


def equal(first, second):
    for field in dataclasses.fields(Outcome):
        np.testing.assert_array_equal(
            getattr(first, field.name), getattr(second, field.name), field.name
        )


def test_a_stopped_evaluation_goes_on(cnn, images, digits_data, tmp_path, monkeypatch):
    made = []
    attack = attack_runs.run

    def counted(victim, cell, images, batch_size):
        made.append(cell.name)
        return dataclasses.replace(
            attack(victim, cell, images, batch_size), seconds=2.0
        )

    monkeypatch.setattr(attack_runs, "run", counted)
    monkeypatch.setattr(attack_evaluation, "seconds_per_image", lambda *_: 3)

    def evaluated():
        made.clear()
        said: list[str] = []
        (found,) = attack_evaluation.evaluate(
            [cnn], images, SETTINGS, tmp_path, said.append
        )
        return found, said

    first, said = evaluated()
    plan, left_out = attack_evaluation.planned(cnn, SETTINGS)
    assert made == [cell.name for cell in plan] == [*dict.fromkeys(made)]
    # 2 times 50 draws of 3 s, and 2 times 2 gradients of 12 s, for each of 10 images;
    # and 4 compilations of 3 s.
    assert said == ["4 attacks on 1 networks, 10 images; about 58 minutes at most"]
    # Networks without routing have no gradients of it to leave out.
    assert left_out == first.left_out == []
    np.testing.assert_array_equal(
        first.evidence.wrong, cnn.predictions(images.values, 5) != images.labels
    )
    _, said = evaluated()
    assert made == []
    assert said == [
        "0 attacks on 1 networks, 10 images; 4 were made before; about 0 minutes at "
        "most"
    ]
    (tmp_path / "cells" / cnn.name / f"{plan[2].name}.npz").unlink()
    again, _ = evaluated()
    assert made == [plan[2].name]
    assert again.evidence.outcomes.keys() == first.evidence.outcomes.keys()
    for cell, outcome in first.evidence.outcomes.items():
        equal(again.evidence.outcomes[cell], outcome)

    # Figures are made, which takes less time than their files.
    monkeypatch.setattr(figures, "save", lambda figure, path: None)
    text = attack_report.write([first], images, digits_data, tmp_path / "report")
    assert "baseline_cnn" in text
    rows = results.read(tmp_path / "report" / "attacks.csv")
    assert len(rows) == 4
    for row, outcome in zip(rows, first.evidence.outcomes.values(), strict=True):
        assert row.number("accuracy") == pytest.approx(np.mean(~outcome.success))


def test_what_an_outcome_depends_on_is_in_its_key(cnn, images):
    """So that outcomes of other parameters, images or settings are made again."""
    pixels = images.pixels.copy()
    pixels[0, 0, 0] ^= 1
    params = cnn.model.variables.replace(
        params=untrained(cnn.model.config).model.variables.params
    )
    model = dataclasses.replace(cnn.model, variables=params)
    cell = Cell("pgd", "linf", 0.1, 2, evades=True)
    cnn = dataclasses.replace(cnn, threshold=2.0)
    keys = [
        attack_evaluation._key(network, some, one)
        for network, some, one in (
            (cnn, images, cell),
            (cnn, dataclasses.replace(images, pixels=pixels), cell),
            (cnn, dataclasses.replace(images, labels=images.labels[::-1]), cell),
            (cnn, dataclasses.replace(images, seed=6), cell),
            (cnn, dataclasses.replace(images, numbers=images.numbers + 1), cell),
            (dataclasses.replace(cnn, model=model), images, cell),
            (dataclasses.replace(cnn, threshold=1.0), images, cell),
            (cnn, images, dataclasses.replace(cell, keep=True)),
            (cnn, images, dataclasses.replace(cell, count=3)),
        )
    ]
    assert len({json.dumps(key) for key in keys}) == len(keys)
    assert keys[0] == attack_evaluation._key(cnn, images, cell)


def test_a_network_is_attacked_through_what_it_offers(victim):
    settings = dataclasses.replace(SETTINGS, attacks=("pgd",))

    def offered(network):
        plan, left_out = attack_evaluation.planned(network, settings)
        return {cell.gradient for cell in plan}, {c.objective for c in plan}, left_out

    gradients, objectives, left_out = offered(victim)
    assert gradients == {"routing", "held", "votes"}
    assert objectives == {"cross_entropy", "logit_margin", "margin", "loss"}
    assert left_out == []
    matrices = untrained(fitting(SMALL["matrix_capsules"]))
    gradients, _, left_out = offered(matrices)
    assert gradients == {"routing", "votes"}
    assert left_out == [
        "matrix_capsules, gradient of held: em routing does not hold coupling "
        "coefficients"
    ]


def test_what_knows_of_the_detector_is_only_for_networks_with_one(victim):
    settings = dataclasses.replace(SETTINGS, attacks=("pgd",))
    with_detector, _ = attack_evaluation.planned(victim, settings)
    without, _ = attack_evaluation.planned(
        dataclasses.replace(victim, threshold=None), settings
    )
    knowing = [cell for cell in with_detector if cell.evades]
    assert [cell.distance_weight for cell in knowing] == [0, *detection.WEIGHTS]
    assert {cell.radius for cell in knowing} == {0.2}
    assert [c for c in with_detector if not c.evades] == without


def test_images_are_drawn_without_repetition(digits_data):
    test = digits_data.test

    def drawn(count, seed=0):
        return attack_evaluation.drawn(test.images, test.labels, 10, count, seed)

    some = drawn(50)
    assert len(np.unique(some.numbers)) == len(some) == 50
    np.testing.assert_array_equal(some.pixels, test.images[some.numbers])
    np.testing.assert_array_equal(some.labels, test.labels[some.numbers])
    np.testing.assert_array_equal(drawn(20).numbers, some.numbers[:20])
    assert np.any(drawn(50, 1).numbers != some.numbers)
    for count in (0, len(test), len(test) + 1):
        np.testing.assert_array_equal(drawn(count).numbers, np.arange(len(test)))


def test_passes_are_timed_for_an_image(cnn, images, monkeypatch):
    """Also where there are fewer images than a batch has."""
    now = [0.0]

    def predictions(victim, images, batch_size):
        now[0] += 3 * batch_size

    monkeypatch.setattr(Victim, "predictions", predictions)
    clock = SimpleNamespace(monotonic=lambda: now[0])
    monkeypatch.setattr(attack_evaluation, "time", clock)
    for batch_size in (4, 10, 100):
        found = attack_evaluation.seconds_per_image(cnn, images, batch_size)
        assert found == pytest.approx(3)


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--attacks=pgd,pdg"], ["unknown 'pdg' in --attacks", "noise, fgsm"]),
        (["--linf=0.1,much"], ["--linf=0.1,much is not radii above 0"]),
        (["--linf=0.1,0.2", "--focus=linf=0.3"], ["--linf=0.1,0.2; add linf=0.1"]),
    ],
)
def test_bad_flags_are_one_clear_line(tmp_path, flags, words):
    output = tmp_path / "attacks"
    process = run("attack", "--workdirs=/absent", f"--output={output}", *flags)
    assert_one_line(process, *words)
    assert not output.exists()
