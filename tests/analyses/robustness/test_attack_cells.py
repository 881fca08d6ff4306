"""What an attack on images finds, in batches of any size, and how it is kept."""

import dataclasses

import numpy as np
import pytest

from capsjax.analyses.robustness import attack_cells, attack_runs
from capsjax.analyses.robustness.attack_cells import Cell
from capsjax.analyses.robustness.attack_runs import Images, Outcome
from capsjax.analyses.robustness.cells import Cells
from capsjax.runs import provenance
from tests.analyses.robustness.random_victims import SHAPE, fitting, untrained
from tests.models.test_every_model import SMALL

PGD = Cell("pgd", "linf", 0.1, steps=3, keep=True)
CELLS = [
    PGD,
    dataclasses.replace(PGD, targeted=True, restarts=3),
    Cell("noise", "l2", 1.5, steps=10, keep=True),
    Cell("deepfool", "l2", steps=10, keep=True),
    Cell("pixels_3", "l2", steps=1, objective="probability", count=4, keep=True),
]
# Dropout, batch normalisation, and capsules of all kinds.
MODELS = (
    "baseline_cnn",
    "vgg",
    "binarized_net",
    "matrix_capsules",
    "self_routing_resnet",
)


def some(images, places):
    return dataclasses.replace(
        images,
        pixels=images.pixels[places],
        labels=images.labels[places],
        numbers=images.numbers[places],
    )


def sizes(changes, norm):
    flat = np.abs(changes.astype(np.float64)).reshape(len(changes), -1)
    return flat.max(axis=1) if norm == "linf" else np.linalg.norm(flat, axis=1)


@pytest.fixture(scope="module")
def victim():
    """A network whose programs are small."""
    noise = np.random.default_rng(1)
    return untrained(fitting(SMALL["baseline_cnn"]), noise=noise)


@pytest.fixture
def images(images, victim):
    """What the network sees in them is right, but for one image."""
    labels = victim.predictions(images.values, 3).astype(np.int32)
    labels[4] = (labels[4] + 1) % 10
    return dataclasses.replace(images, labels=labels)


@pytest.fixture
def attack(victim):
    def attack(cell, images, batch_size=3):
        return attack_runs.run(victim, cell, images, batch_size)

    return attack


@pytest.mark.parametrize("cell", CELLS, ids=lambda cell: cell.name)
def test_an_image_is_attacked_alike_in_any_company(attack, images, victim, cell):
    count = cell.count or 10
    images = some(images, np.arange(count))
    found = attack(cell, images)
    changes = found.images - images.values
    # At other places and with other images: its number determines what is drawn.
    places = np.random.default_rng(0).permutation(count)[: count - 1]
    others = [(attack(cell, some(images, places)), places)]
    if cell == PGD:  # Another size is another program.
        others.append((attack(cell, images, 7), np.arange(10)))
    for other, places in others:
        np.testing.assert_array_equal(other.success, found.success[places])
        np.testing.assert_array_equal(other.predictions, found.predictions[places])
        np.testing.assert_allclose(other.images, found.images[places], atol=1e-4)
        np.testing.assert_allclose(other.distances, found.distances[places], atol=1e-4)

    # Exactly in the ball and in the range.
    assert found.images.dtype == np.float32
    assert found.images.min() >= 0
    assert found.images.max() <= 1
    if cell.radius:
        assert sizes(changes, cell.norm).max() <= np.float32(cell.radius)
    assert np.any(changes)
    np.testing.assert_allclose(found.distances, sizes(changes, cell.norm), rtol=1e-5)

    # What is said of them is so.
    seen = victim.predictions(found.images, 3)
    np.testing.assert_array_equal(found.predictions, seen)
    wanted = seen == images.targets if cell.targeted else seen != images.labels
    np.testing.assert_array_equal(found.success, wanted)
    if cell.attack == "pixels_3":
        counts = np.sum(np.any(changes, axis=3), axis=(1, 2))
        assert counts.max() <= 3
    if cell.attack == "deepfool":
        assert np.all(found.success)


def test_the_seed_and_the_number_determine_random_starts(attack, images):
    found = attack(PGD, images).images
    for changed in (
        dataclasses.replace(images, seed=6),
        dataclasses.replace(images, numbers=images.numbers + 1),
    ):
        other = attack(PGD, changed).images
        # Where steps do not lead to the same corner of the ball.
        assert np.mean(np.any(other != found, axis=(1, 2, 3))) > 0.6


def test_starts_are_added(attack, images):
    """A success is kept as it is; where none is, the first start's images are."""
    weak = dataclasses.replace(PGD, radius=0.06)
    one, two, four = (
        attack(dataclasses.replace(weak, restarts=count), images) for count in (1, 2, 4)
    )
    assert 0 < np.sum(one.success) < 10
    for first, second in ((one, two), (two, four)):
        kept = first.success
        assert np.all(second.success[kept])
        np.testing.assert_array_equal(second.images[kept], first.images[kept])
    again = ~four.success
    assert np.any(again)
    np.testing.assert_array_equal(four.images[again], one.images[again])
    np.testing.assert_array_equal(four.trace, one.trace)
    assert len(one.trace) == 4


def test_targets_are_other_classes():
    numbers = np.arange(500)
    labels = (numbers % 3).astype(np.int32)
    images = Images(np.zeros((500, *SHAPE), np.uint8), labels, numbers, 3, seed=0)
    targets = images.targets
    assert np.all(targets != labels)
    for label in range(3):
        own = np.bincount(targets[labels == label], minlength=3)
        # Each of both with an even chance: a standard deviation of 6.5.
        assert np.all(np.abs(np.delete(own, label) - 250 / 3) < 26)
    np.testing.assert_array_equal(
        some(images, np.arange(90, 99)).targets, targets[90:99]
    )
    assert np.any(dataclasses.replace(images, seed=1).targets != targets)


def test_8_bits_are_rounded_towards_the_clean_image():
    levels = np.arange(256) / np.float32(255)
    grid = levels.astype(np.float32)
    np.testing.assert_array_equal(attack_runs.in_8_bits(grid, grid[::-1]), grid)
    rng = np.random.default_rng(0)
    clean = grid[rng.integers(0, 256, 5000)]
    radius = np.float32(0.1)
    moved = np.clip(clean + rng.uniform(-radius, radius, 5000), 0, 1)
    moved = moved.astype(np.float32)
    found = attack_runs.in_8_bits(moved, clean)
    assert found.dtype == np.float32
    assert np.all(np.isin(found, grid))
    assert np.all(np.abs(found - clean) <= np.abs(moved - clean) + 1e-6)
    assert np.all(np.abs(found - moved) < 1 / 255 + 1e-6)
    # Nowhere on the clean value's other side.
    assert np.all((found - clean) * (moved - clean) >= 0)
    np.testing.assert_array_equal(attack_runs.in_8_bits(clean, clean), clean)


def test_success_in_8_bits_is_that_of_rounded_images(attack, victim, images):
    # Less than one level: nothing is left of it.
    tiny = attack(dataclasses.replace(PGD, radius=0.9 / 255), images)
    clean = victim.predictions(images.values, 3)
    np.testing.assert_array_equal(tiny.success_8_bits, clean != images.labels)
    found = attack(PGD, images)
    rounded = attack_runs.in_8_bits(found.images, images.values)
    np.testing.assert_array_equal(
        found.success_8_bits, victim.predictions(rounded, 3) != images.labels
    )


def test_errors_without_an_attack_count_as_broken(attack, victim, images):
    """Also where the attack leads from an error to the label."""
    cell = Cell("noise", "linf", 0.5, steps=1, keep=True)
    drawn = attack(cell, images)
    clean = victim.predictions(images.values, 3)
    # A single draw does not depend on the labels.
    labels = drawn.predictions.astype(np.int32)
    lost = labels != clean
    assert 0 < np.sum(lost) < 10
    found = attack(cell, dataclasses.replace(images, labels=labels))
    np.testing.assert_array_equal(found.success, lost)
    np.testing.assert_array_equal(found.images[lost], images.values[lost])
    np.testing.assert_array_equal(found.distances == 0, lost)
    np.testing.assert_array_equal(found.predictions, np.where(lost, clean, labels))


def test_a_part_of_the_images_is_kept(victim, images, attack, monkeypatch):
    monkeypatch.setattr(attack_runs, "_SHOWN", 2)
    few = attack(dataclasses.replace(PGD, count=5, keep=False), images)
    assert len(few.success) == len(few.distances) == 5
    np.testing.assert_array_equal(few.images, attack(PGD, images).images[:2])


def test_outcomes_are_kept_bit_by_bit(attack, images, tmp_path):
    found = attack(PGD, images)
    kept = Cells(tmp_path)
    kept.write("run", "pgd", {"seed": 1}, found.arrays)
    arrays = kept.read("run", "pgd", {"seed": 1})
    assert arrays is not None
    again = Outcome.of(arrays)
    assert again.commit == provenance.commit()
    found = dataclasses.replace(found, commit=again.commit)
    for field in dataclasses.fields(Outcome):
        first, second = getattr(found, field.name), getattr(again, field.name)
        assert type(first) is type(second)
        np.testing.assert_array_equal(first, second)
        if field.name not in ("seconds", "commit"):
            assert first.dtype == second.dtype


def test_no_two_cells_of_a_plan_share_a_name():
    plan = attack_cells.plan(
        [*attack_cells.ATTACKS],
        {"linf": (0.05, 0.1), "l2": (0.5, 1.0)},
        {"linf": 0.1, "l2": 1.0},
        ("cross_entropy", "logit_margin", "margin", "loss"),
        ("held", "votes"),
        steps=40,
        restarts=3,
        pixel_images=50,
    )
    assert len({cell.name for cell in plan}) == len(plan) == 41
    # What takes long, or is for comparisons, is at the focus alone.
    for cell in plan:
        if cell.attack in ("square", "mi_fgsm") or cell.targeted or cell.steps == 80:
            assert cell.radius == {"linf": 0.1, "l2": 1.0}[cell.norm]
    norms = {cell.norm for cell in plan if cell.attack == "square"}
    assert norms == {"linf"}


@pytest.mark.parametrize("name", MODELS)
def test_every_network_can_be_attacked(name):
    config = fitting(SMALL[name])
    config.preprocess.standardize = name == "baseline_cnn"
    rng = np.random.default_rng(0)
    # At first, what comes before parameters that are zero has no gradient.
    victim = untrained(config, noise=rng)
    pixels = rng.integers(0, 256, (2, *SHAPE), np.uint8)
    blank = Images(pixels, np.zeros(2, np.int32), np.arange(2), 10, seed=0)
    labels = victim.predictions(blank.values, 2).astype(np.int32)
    images = dataclasses.replace(blank, labels=labels)
    found = attack_runs.run(victim, dataclasses.replace(PGD, steps=2), images, 2)
    assert np.all(np.isfinite(found.trace))
    assert found.trace[-1] > found.trace[0]
    assert found.distances.max() <= np.float32(0.1)
    seen = victim.predictions(found.images, 2)
    np.testing.assert_array_equal(found.success, seen != labels)
