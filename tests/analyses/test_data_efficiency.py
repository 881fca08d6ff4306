"""Errors against the number of training images."""

import numpy as np
import pytest

from capsjax.analyses import data_efficiency
from capsjax.analyses.data_efficiency import Cell
from capsjax.analyses.power_law import fit
from capsjax.errors import UserError
from capsjax.runs import results
from capsjax.runs.results import Row
from capsjax.training.train import train
from experiments import launch
from tests.launching import assert_one_line, run

TINY = [
    "--config=digits:quick",
    "--config.model.decoder_units=()",
    "--config.model.conv1_channels=4",
    "--config.model.primary_types=2",
]


def test_a_power_law_is_found_again():
    images = [1, 2, 10, 50]
    assert fit(images, [40 * n**-0.7 for n in images]) == pytest.approx((40, 0.7))
    assert fit([1, 2, 4, 8], [8.0, 4.0, 2.0, 0.0]) == pytest.approx((8, 1))
    assert fit([5, 5], [1.0, 2.0]) is None


def test_runs_differ_in_images_and_seeds_alone():
    cells = data_efficiency.cells(["a:b", "c"], data_efficiency.counts(["20", "5"]))
    assert [cell.images for cell in cells] == [5, 20, 5, 20]
    made = data_efficiency.runs(cells, 2, {"a:b": TINY, "c": TINY})
    assert len({one.name for one in made}) == 8
    assert made[0].name == "a_b_5_images_seed0"
    config = launch.config_of(made[-1].flags)
    assert (config.data.train_per_class, config.data.train_choice) == (20, 1)
    assert config.seed == 1
    with pytest.raises(UserError, match=r"--images_per_class=0,1 is not numbers"):
        data_efficiency.counts(["0", "1"])


def test_curves_are_means_with_students_intervals():
    rows = [
        Row(network="a", images_per_class=n, test_error_percent=error)
        for n, error in [("10", "4"), ("10", "8"), ("2", "30")]
    ]
    (curve,) = data_efficiency.curves(rows)
    assert curve.images == (2, 10)
    assert [error.value for error in curve.errors] == [30, 6]
    # Of two values: t(0.975, 1) = 12.706 times half of their distance.
    assert curve.errors[1].high == pytest.approx(6 + 12.706 * 2, rel=1e-3)
    assert np.isinf(curve.errors[0].high)


def test_the_table_of_runs(digits_data, tmp_path):
    cells = [Cell("tiny", 1), Cell("tiny", 8)]
    for one in data_efficiency.runs(cells[:1], 2, {"tiny": TINY}):
        config = launch.config_of(one.flags)
        config.max_steps = 1
        # The network alone is of interest here, not its images.
        train(config, digits_data, tmp_path / one.name)
    text = data_efficiency.write(tmp_path, tmp_path / "out", cells, 2)
    assert "Unfinished: 2 of 4 runs" in text
    assert "missing" in text
    rows = results.read(tmp_path / "out/data_efficiency.csv")
    assert [(row["network"], row["seed"]) for row in rows] == [
        ("tiny", "0"),
        ("tiny", "1"),
    ]
    assert (tmp_path / "out/data_efficiency.png").stat().st_size > 10_000


def test_the_launcher(tmp_path):
    folder = f"--workdir={tmp_path}"
    shown = run(
        "data_efficiency",
        folder,
        "--networks=mnist:paper:cpu,deep_convnet",
        "--images_per_class=1,5",
        "--seeds=2",
        "--quick",
        "--dry_run",
    )
    assert shown.returncode == 0, shown.stderr
    assert len(shown.stdout.splitlines()) == 8
    assert "--config=mnist:paper,quick" in shown.stdout
    assert "--config=deep_convnet:quick" in shown.stdout
    other = run("data_efficiency", folder, "--networks=mnist,cifar10")
    assert_one_line(other, "cifar10 and mnist", "other data")
