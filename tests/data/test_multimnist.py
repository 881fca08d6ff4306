"""Pairs of overlapping digits: what they are made of, and what a run makes of them."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from capsjax import data, losses, models
from capsjax.analyses.figures import run as figures
from capsjax.data import Dataset, ImageSet, Source
from capsjax.data.derived import multimnist
from capsjax.errors import UserError
from capsjax.losses import classification, cross_entropy, margin
from capsjax.runs.folder import RunFolder
from capsjax.training import step as train_step
from capsjax.training.train import train
from experiments.configs import multimnist as config_file

SIDE, SHIFT = 12, 2


@pytest.fixture(scope="module")
def singles() -> Dataset:
    return data.load("digits", validation_examples=100)


@pytest.fixture(scope="module")
def pairs() -> Dataset:
    return data.load(
        "multimnist",
        base="digits",
        validation_examples=100,
        canvas=SIDE,
        shift=SHIFT,
        versions_per_digit=2,
    )


def made_of(part: np.ndarray, digits: np.ndarray) -> list[int]:
    """Which digits a part of a pair may be: those that it shows, somewhere."""
    rows, columns = np.flatnonzero(part.any(axis=1)), np.flatnonzero(part.any(axis=0))
    ink = part[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
    found = []
    for index, digit in enumerate(digits):
        rows = np.flatnonzero(digit.any(axis=1))
        columns = np.flatnonzero(digit.any(axis=0))
        own = digit[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
        if own.shape == ink.shape and (own == ink).all():
            found.append(index)
    return found


def test_an_image_is_the_clipped_sum_of_its_parts(pairs):
    batch = data.TrainBatches(pairs.train, 64, seed=0).batch(0)
    assert batch["image"].shape == (64, SIDE, SIDE, 1)
    assert batch["parts"].shape == (64, 2, SIDE, SIDE, 1)
    assert batch["image"].dtype == batch["parts"].dtype == np.uint8
    total = batch["parts"].astype(int).sum(axis=1)
    assert total.max() > 255  # The clipping has something to do.
    np.testing.assert_array_equal(batch["image"], np.minimum(total, 255))


def test_two_different_classes(pairs):
    for step in range(5):
        labels = data.TrainBatches(pairs.train, 256, seed=1).batch(step)["label"]
        assert labels.shape == (256, 2)
        assert (labels[:, 0] != labels[:, 1]).all()
    for part in (pairs.validation, pairs.test):
        assert (part.labels[:, 0] != part.labels[:, 1]).all()


def test_parts_are_digits_of_their_label_and_of_their_own_split(pairs, singles):
    """Training pairs are made of training digits alone, test pairs of test digits."""
    drawn = data.TrainBatches(pairs.train, 30, seed=2).batch(3)
    for batch, own in (
        (drawn, singles.train),
        (pairs.test.batch(np.arange(0, 700, 70)), singles.test),
        (pairs.validation.batch(np.arange(0, 200, 20)), singles.validation),
    ):
        for parts, labels in zip(batch["parts"], batch["label"], strict=True):
            for part, label in zip(parts, labels, strict=True):
                found = made_of(part[:, :, 0], own.images[:, :, :, 0])
                # Nothing is cut off here: 8 + 2 * 2 is the canvas.
                assert label in own.labels[found]


def test_each_test_digit_is_first_as_often_as_asked(pairs, singles):
    assert len(pairs.test) == 2 * len(singles.test)
    np.testing.assert_array_equal(
        pairs.test.labels[:, 0], np.tile(singles.test.labels, 2)
    )
    again = data.load(
        "multimnist", base="digits", canvas=SIDE, shift=SHIFT, versions_per_digit=2
    )
    np.testing.assert_array_equal(again.test.images, pairs.test.images)


def test_partners_and_shifts_are_all_equally_likely():
    labels = np.repeat(np.arange(4), 10).astype(np.int32)
    digits = ImageSet(np.zeros((40, 5, 5, 1), np.uint8), labels)
    drawn = multimnist.Pairs(digits, 1, np.random.default_rng(0), versions=1_000)
    first, second = drawn.members.T
    np.testing.assert_array_equal(np.bincount(first), np.full(40, 1_000))
    # 30 partners each, drawn 40,000 times together: 5 standard deviations.
    counts = np.bincount(second, minlength=40)
    assert np.abs(counts - 1_000).max() < 5 * 1_000**0.5
    shifts, counts = np.unique(drawn.shifts.reshape(-1, 2), axis=0, return_counts=True)
    assert shifts.tolist() == [[i, j] for i in (-1, 0, 1) for j in (-1, 0, 1)]
    assert np.abs(counts - 80_000 / 9).max() < 5 * (80_000 / 9) ** 0.5


def test_every_epoch_has_other_pairs_and_a_resumed_run_the_same(pairs):
    batches = data.TrainBatches(pairs.train, 64, seed=0)
    early = batches.batch(1)
    late = batches.batch(1 + batches.steps_per_epoch)
    assert sorted(early["label"][:, 0]) != sorted(late["label"][:, 0])
    resumed = data.TrainBatches(pairs.train, 64, seed=0)
    for name, values in resumed.batch(1 + batches.steps_per_epoch).items():
        np.testing.assert_array_equal(values, late[name])
    # Another process's rows are those of the whole batch.
    for name, values in resumed.batch(1, slice(16, 48)).items():
        np.testing.assert_array_equal(values, early[name][16:48])


def test_an_epochs_first_digits_are_all_digits(pairs, singles):
    batches = data.TrainBatches(pairs.train, len(singles.train), seed=0)
    first = batches.batch(7)["label"][:, 0]
    np.testing.assert_array_equal(np.bincount(first), np.bincount(singles.train.labels))


def test_the_papers_overlap_of_80_percent():
    """Frames of 28x28 pixels, each shifted by up to 4: 80 %, as the paper says."""
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (2_000, 28, 28, 1), dtype=np.uint8)
    digits = ImageSet(images, np.arange(2_000, dtype=np.int32) % 10)
    base = Dataset("made", digits, digits, digits, tuple("0123456789"), "")
    found = multimnist.derive(base, Source(canvas=36, shift=4))
    assert "frames overlap by 80 %" in found.provenance
    # Here all of a frame is ink: the boxes are the frames, now as they were drawn.
    frames, ink = multimnist.overlap(
        found.test.batch(np.arange(2_000))["parts"], (28, 28), Source(shift=4)
    )
    assert frames == pytest.approx(0.8, abs=0.001)
    assert ink == pytest.approx(frames, abs=0.01)


def test_ink_overlap_by_hand():
    """Boxes of 2x2 and 2x4 that share 2x1 pixels; and two that share nothing."""
    parts = np.zeros((2, 2, 6, 6, 1), np.uint8)
    parts[0, 0, 1:3, 1:3], parts[0, 1, 1:3, 2:6] = 9, 9
    parts[1, 0, 0, 0], parts[1, 1, 5, 5] = 9, 9
    _, ink = multimnist.overlap(parts, (4, 4), Source(shift=1))
    assert ink == pytest.approx((2 / 6 + 0) / 2)


def test_what_does_not_fit_is_refused(singles):
    with pytest.raises(UserError, match=r"canvas is 6.*8x8.*at least 8"):
        data.load("multimnist", base="digits", canvas=6, shift=1)
    with pytest.raises(UserError, match=r"shift is 7.*0..6"):
        data.load("multimnist", base="digits", canvas=12, shift=7)
    with pytest.raises(UserError, match=r"base 'multimnist'.*digits"):
        data.load("multimnist", base="multimnist")
    ones = singles.test.take(np.flatnonzero(singles.test.labels == 1))
    alike = Dataset("ones", ones, ones, ones, singles.class_names, "")
    with pytest.raises(UserError, match="one class"):
        multimnist.derive(alike, Source(canvas=12, shift=1))


# Losses, predictions and models of images that show two classes.


def test_margin_loss_of_two_classes_by_hand():
    """Lengths 0.95, 0.3 and 0.05, where the first two classes are there."""
    loss = margin.Config().classification(
        jnp.float32([[0.95, 0.3, 0.05], [0.95, 0.3, 0.3]]),
        jnp.int32([[1, 0], [0, 1]]),
    )
    np.testing.assert_allclose(loss, [0.6**2, 0.6**2 + 0.5 * 0.2**2], rtol=1e-6)


def test_sigmoid_cross_entropy_in_float64():
    logits = np.array([[2.0, -1.0, 0.5]])
    p = 1 / (1 + np.exp(-logits))
    expected = -(np.log(p[0, 0]) + np.log(1 - p[0, 1]) + np.log(p[0, 2]))
    found = losses.per_example(
        config_file.get_config("baseline").loss,
        jnp.float32(logits),
        jnp.int32([[2, 0]]),
    )
    np.testing.assert_allclose(found["loss"], [expected], rtol=1e-6)


def test_both_digits_must_be_right():
    """No half credit: one right digit of two is an error."""
    scores = jnp.float32([[0.9, 0.1, 0.8], [0.9, 0.1, 0.8], [0.1, 0.2, 0.3]])
    labels = jnp.int32([[2, 0], [0, 1], [0, 1]])
    predictions = classification.predict(scores, labels)
    np.testing.assert_array_equal(predictions, [[0, 2], [0, 2], [1, 2]])
    found = classification.metrics(predictions, labels)
    np.testing.assert_array_equal(found["accuracy"], [1, 0, 0])
    np.testing.assert_array_equal(found["digit_accuracy"], [1, 0.5, 0.5])
    right = classification.is_right(np.asarray(predictions), np.asarray(labels))
    np.testing.assert_array_equal(right, [True, False, False])


def test_the_decoder_draws_each_digit_from_its_own_capsule(tiny_config):
    graphdef, state = train_step.create(tiny_config, (8, 8, 1), 10)
    images = jax.random.uniform(jax.random.key(0), (3, 8, 8, 1))
    classes = jnp.int32([[0, 1], [5, 2], [9, 9]])

    @jax.jit
    def draw(classes):
        output, _ = models.apply(graphdef, state.variables, images, classes, "float32")
        return output.reconstructions

    both = draw(classes)
    assert both.shape == (3, 2, 8, 8, 1)
    for k in range(2):
        np.testing.assert_allclose(both[:, k], draw(classes[:, k]), rtol=1e-5)


def test_reconstructions_are_compared_each_with_its_digit():
    rng = np.random.default_rng(0)
    drawn, parts = rng.uniform(size=(2, 3, 2, 4, 4, 1))
    found = losses.reconstruction_loss(jnp.float32(drawn), jnp.float32(parts))
    expected = [
        sum(((drawn[b, k] - parts[b, k]) ** 2).sum() for k in range(2))
        for b in range(3)
    ]
    np.testing.assert_allclose(found, expected, rtol=1e-5)


# Runs.


@pytest.mark.parametrize("preset", ["paper", "baseline"])
def test_a_run(tmp_path, pairs, tiny_config, preset):
    """Trains, counts exact matches, and leaves the figures of pairs."""
    config = config_file.get_config(f"{preset},quick")
    if preset == "paper":
        config.model = tiny_config.model
    config.batch_size, config.max_steps, config.log_every_steps = 16, 4, 2
    config.num_devices = 2
    folder = RunFolder(tmp_path / "run")
    trained = train(config, pairs, folder)
    assert trained is not None
    result = trained.record
    figures.write_all(folder, pairs, trained)
    assert result["test_examples"] == len(pairs.test)
    wrong = result["test_error_percent"] / 100 * len(pairs.test)
    assert wrong == pytest.approx(round(wrong))
    assert {path.name for path in folder.plots.iterdir()} == {
        "curves.png",
        "segmentations.png",
    }


def test_augmentation_that_would_spoil_pairs_is_refused(tmp_path, pairs):
    config = config_file.get_config("paper,quick")
    config.augment.shift = 2
    with pytest.raises(UserError, match=r"augment\.shift.*config\.data\.shift"):
        train(config, pairs, RunFolder(tmp_path / "run"))
    config = config_file.get_config("baseline,quick")
    config.loss = cross_entropy.Softmax()
    with pytest.raises(UserError, match="sigmoid_cross_entropy"):
        train(config, pairs, RunFolder(tmp_path / "run"))
