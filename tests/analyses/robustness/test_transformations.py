"""Accuracies on moved and corrupted images, and the launcher that measures them."""

import json
import pathlib
import shutil
from types import SimpleNamespace

import numpy as np
import pytest
import scipy.ndimage

from capsjax.analyses.robustness import (
    transformations,
    transformations_table,
    viewpoints,
)
from capsjax.analyses.robustness.cells import Cells
from capsjax.analyses.robustness.subjects import Subject, choose
from capsjax.analyses.robustness.transformations import Curve
from capsjax.analyses.robustness.warps import WARPS, curve_of, warped
from capsjax.data import Dataset, ImageSet
from capsjax.data.corruptions import corrupted
from capsjax.errors import UserError
from capsjax.losses import cross_entropy
from capsjax.models.cnns import baseline_cnn
from capsjax.reports import extras
from capsjax.runs import results
from capsjax.runs.folder import RunFolder
from capsjax.training.train import train
from capsjax.training.trained import evaluate, restore
from experiments.configs import digits
from experiments.run_flags import RunsFlags
from tests.launching import run

IMAGES = np.random.default_rng(0).integers(0, 256, (300, 9, 12, 2), np.uint8)


@pytest.mark.parametrize("name", WARPS)
def test_the_identity_changes_no_pixel(name):
    found = warped(IMAGES, name, WARPS[name].identity)
    np.testing.assert_array_equal(found, IMAGES)
    assert WARPS[name].identity in WARPS[name].curve
    # An image's number among the others does not matter.
    amount = WARPS[name].small[1]
    moved = warped(IMAGES, name, amount)
    np.testing.assert_array_equal(moved[290:], warped(IMAGES[290:], name, amount))
    assert np.mean(moved != IMAGES) > 0.5


def test_turns_and_shifts_are_those_of_numpy():
    square = IMAGES[:, :, :9]
    for quarters in (1, 2):
        turned = np.rot90(square, quarters, axes=(1, 2))
        np.testing.assert_array_equal(
            warped(square, "rotation", 90.0 * quarters), turned
        )
    for pixels in (3, -2):
        rolled = np.roll(IMAGES, pixels, axis=2)
        empty = slice(0, 3) if pixels > 0 else slice(-2, None)
        rolled[:, :, empty] = 0
        np.testing.assert_array_equal(warped(IMAGES, "shift", pixels), rolled)
    assert curve_of("shift", 8) == tuple(range(-4, 5))


@pytest.mark.parametrize(
    ("name", "amount", "matrix"),
    [
        ("rotation", 20.0, [[0.9396926, 0.3420201], [-0.3420201, 0.9396926]]),
        ("scale", 1.4, [[1 / 1.4, 0], [0, 1 / 1.4]]),
        ("scale", 0.7, [[1 / 0.7, 0], [0, 1 / 0.7]]),
        ("shear", 0.6, [[1, 0], [-0.6, 1]]),
    ],
)
def test_movements_are_those_of_scipy(name, amount, matrix):
    """``matrix`` leads from a place after the movement to the one before it."""
    image = IMAGES[0, :, :, 0].astype(float)
    centre = (np.array(image.shape) - 1) / 2
    offset = centre - np.array(matrix) @ centre
    expected = scipy.ndimage.affine_transform(
        image, np.array(matrix), offset, order=1, mode="grid-constant"
    )
    found = warped(IMAGES[:1], name, amount)[0, :, :, 0]
    np.testing.assert_allclose(found, expected, atol=0.51)


def curve(accuracies, part="rotation", count=100, changes=None):
    """A curve with given shares of right images, the first ones."""
    right = np.arange(count) < np.array(accuracies)[:, None] * count
    changes = changes or (0.0, 10.0, 20.0, 30.0)
    return Curve("run", part, changes, right, "commit")


def network(*curves, name="run"):
    return transformations.Network(name, curves)


def test_accuracy_halves_between_two_amounts():
    def halving(*given, **kinds):
        return transformations.halving(network(curve(*given, **kinds)))

    # From 0.8 at 0 to 0.4: linear between 0.6 at 10 and 0.2 at 20.
    assert halving([0.8, 0.6, 0.2, 0.5]) == (None, 15.0)
    assert halving([0.8, 0.7, 0.5, 0.41]) == (None, None)
    below, above = halving(
        [0.1, 0.5, 0.9, 0.45], "scale", changes=(0.5, 0.75, 1.0, 1.25)
    )
    assert below == pytest.approx(0.75 - 0.25 * 0.05 / 0.4)
    assert above == 1.25


def test_differences_are_of_the_same_images():
    """Two networks of the same accuracy, which recognise other images."""
    first, second = curve([0.9] * 4), curve([0.9] * 4)
    assert transformations.unmatched([network(first), network(second)]) == []
    flipped = Curve("b", "rotation", first.changes, first.right[:, ::-1], "commit")
    value, low, high = flipped.less(first)[0]
    # 10 images each way: a standard deviation of sqrt(20 / 99), times t / sqrt(100).
    assert value == 0
    assert high == -low == pytest.approx(1.9842 * (20 / 99) ** 0.5 / 10, rel=1e-4)
    worse = curve([0.7, 0.9, 0.9, 0.9])
    (sentence,) = transformations.unmatched([network(first), network(worse, name="b")])
    assert "of b less that of run is -20.00 (-27" in sentence


def test_trainings_of_a_network_are_one_curve(digits_data):
    """Accuracies 0.8 and 0.9, against 0.7 and 0.7: 0.15 more in the mean."""
    first = network(curve([0.7] * 4), curve([0.7] * 4), name="first")
    both = network(curve([0.8, 0.8, 0.2, 0.2]), curve([0.9, 0.9, 0.1, 0.1]), name="b")
    assert [x.value for x in both.accuracies] == pytest.approx([0.85, 0.85, 0.15, 0.15])
    assert both.accuracies[0].high == 1  # Student's t for two trainings is 12.7.
    assert both.less(first)[0].value == pytest.approx(0.15)
    assert transformations.halving(both) == (None, pytest.approx(10 + 10 * 0.425 / 0.7))
    text = transformations_table.table(choose(digits_data, 100), [[first, both]])
    for words in (
        "first |",
        "b less first",
        "Means over 2 trainings of each network",
        "intervals over images and trainings",
    ):
        assert words in text


def test_images_are_chosen_once_for_all(digits_data):
    chosen = choose(digits_data, 50, seed=1, without=["6", "9"])
    assert len(chosen.images) == 50
    assert not np.isin(chosen.images.labels, [6, 9]).any()
    np.testing.assert_array_equal(
        digits_data.test.images[chosen.numbers], chosen.images.images
    )
    other = choose(digits_data, 50, seed=2, without=["6", "9"])
    assert (other.numbers != chosen.numbers).any()
    assert len(choose(digits_data).images) == len(digits_data.test)
    # A corruption depends on the image's number in the data set.
    np.testing.assert_array_equal(
        transformations.changed("corruptions", "fog", chosen),
        corrupted(digits_data.test.images, "fog", seed=1)[chosen.numbers],
    )
    with pytest.raises(UserError, match="no class '11' to leave out"):
        choose(digits_data, without=["11"])
    signals = ImageSet(np.zeros((4, 1, 9, 1), np.uint8), np.zeros(4, np.int32))
    with pytest.raises(UserError, match="signals of one row"):
        choose(Dataset("npz", signals, signals, signals, ("a",), ""))


@pytest.fixture(scope="module")
def runs(digits_data, tmp_path_factory) -> pathlib.Path:
    """Folders ``first`` and ``second`` of runs with seeds 0 and 1, of a few steps."""
    base = tmp_path_factory.mktemp("runs")
    config = digits.get_config("quick")
    config.batch_size, config.max_steps, config.num_devices = 32, 6, 1
    config.data.validation_examples = 100
    config.model = baseline_cnn.Config(
        conv_channels=(4,), kernel_sizes=(3,), dense_units=(20,)
    )
    config.loss = cross_entropy.Softmax()
    for config.seed, name in enumerate(("first", "second")):
        train(config, digits_data, base / name)
    return base


def test_the_whole_path(runs, digits_data, tmp_path, monkeypatch, capsys):
    subjects = {
        name: Subject(name, RunFolder(runs / name), restore(runs / name, digits_data))
        for name in ("first", "second")
    }
    chosen = choose(digits_data, 100)
    parts = ["shift", "corruptions", "equivariance"]
    said: list[str] = []
    found = viewpoints.examine(subjects, chosen, parts, tmp_path, said.append)
    # 9 shifts, 16 corruptions with none, 16 movements with none.
    assert said[0].startswith("100 images x 41 changes of them x 2 runs")
    assert "8,200 images" in said[0]
    assert found.left_out == []
    assert "second less first" in found.text

    # The numbers are those of an evaluation of its own.
    rows = results.read(tmp_path / "transformations.csv")
    assert len(rows) == 2 * (9 + 16)
    (row,) = [
        row
        for row in rows
        if (row["run"], row["transformation"], row["change"])
        == ("second", "shift", "2")
    ]
    moved = chosen.with_images(warped(chosen.images.images, "shift", 2))
    again = evaluate(subjects["second"].model, moved)
    assert row.number("accuracy") == pytest.approx(again.metrics["accuracy"])
    assert (
        row["params_sha256"] == subjects["second"].folder.load_result()["params_sha256"]
    )
    assert row["less_than"] == "first"
    assert len(results.read(tmp_path / "equivariance.csv")) == 2 * (15 + 4)
    shown, notes = extras.read(tmp_path)
    assert notes == []
    assert len(shown) == 2 * 3

    # Nothing is computed again, unless something has changed.
    def refuse(*_):
        raise AssertionError("computed again")

    with monkeypatch.context() as patched:
        patched.setattr(Subject, "right", refuse)
        same = viewpoints.examine(subjects, chosen, parts, tmp_path, said.append)
        assert same.text == found.text
        assert said[-1] == "all of it has been measured before"
        with pytest.raises(AssertionError, match="computed again"):
            viewpoints.examine(
                subjects, choose(digits_data, 99), ["shift"], tmp_path, said.append
            )
    printed = capsys.readouterr().err
    assert (
        "shift of second is computed again: changed is its number of images, images"
        in printed
    )
    cell = tmp_path / "cells/second/shift.npz"
    cell.write_bytes(cell.read_bytes()[:100])
    assert Cells(tmp_path / "cells").read("second", "shift", {}) is None
    assert "its file is damaged" in capsys.readouterr().err

    # In a process of its own, where the runs' data are read by the launcher.
    rest = ["--num_images=100", f"--output={tmp_path}"]
    both = f"--workdirs={runs / 'first'},{runs / 'second'}"
    launched = run("transform_test", both, *rest, "--transformations=corruptions")
    assert launched.returncode == 0, launched.stderr
    assert "all of it has been measured before" in launched.stdout
    assert "mean of the corruptions" in launched.stdout


def test_runs_on_other_test_images_are_refused(runs, digits_data, tmp_path):
    test = digits_data.test
    images = 255 - test.images
    np.savez(tmp_path / "other.npz", images=images, labels=test.labels)
    other = tmp_path / "other"
    shutil.copytree(runs / "first", other)
    config = json.loads((other / "config.json").read_text())
    config["data"] |= {"name": "npz", "path": str(tmp_path / "other.npz")}
    (other / "config.json").write_text(json.dumps(config))
    (other / "data.json").unlink()  # As of an early version.
    given = RunsFlags.__new__(RunsFlags)  # Without absl's flags, which are global.
    vars(given)["_checkpoint"] = SimpleNamespace(value="last")
    vars(given)["_data_path"] = SimpleNamespace(value=None)
    vars(given)["folders"] = {"a": RunFolder(runs / "first"), "b": RunFolder(other)}
    with pytest.raises(UserError, match=r"have other test images .* the same data$"):
        given.restored(None)
    vars(given)["folders"].pop("b")
    data, models = given.restored(None)
    assert [*models] == ["a"]
    np.testing.assert_array_equal(data.test.images, test.images)
