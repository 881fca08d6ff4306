"""Any number of trainings that end at the same accuracy."""

import numpy as np
import pytest
import scipy.stats

from capsjax.analyses import matched
from capsjax.analyses.matched import Cell, Outcome
from capsjax.runs import grid, results
from capsjax.runs.folder import RunFolder, write_json
from capsjax.training.train import train
from experiments import launch
from tests.analyses.test_affnist import training
from tests.runs.test_results import made_run

A0, B0, A1, B1 = matched.cells(["a", "b"], 2)


@pytest.mark.parametrize(
    ("reachable", "again"),
    [
        ([0.999] * 4, None),
        ([0.999, 0.98, 0.97, 0.995], {A0: 0.97, B0: 0.97, B1: 0.97}),
        ([0.97] * 4, None),
    ],
)
def test_the_weakest_of_all_cells_sets_the_accuracy(tmp_path, reachable, again):
    cells = [A0, B0, A1, B1]
    assert cells == [("a", 0), ("b", 0), ("a", 1), ("b", 1)]
    fake, calls = training(tmp_path, dict(zip(cells, reachable, strict=True)))
    folders = matched.train_to_same_accuracy(fake, cells, 0.99)
    assert calls == [dict.fromkeys(cells, 0.99), *([again] if again else [])]
    common = min(0.99, *reachable)
    for cell in cells:
        best = matched.best_accuracy(folders[cell])
        assert common <= best <= common + 0.01


def test_runs_differ_in_seed_and_accuracy_alone():
    words = ["--config=digits:quick", "--config.max_steps=7"]
    runs = [Cell("x:y", 0).run(0.9, words), Cell("x:y", 1).run(0.9, words)]
    assert [run.name for run in runs] == [
        "x_y_seed0_until_90.00",
        "x_y_seed1_until_90.00",
    ]
    config = launch.config_of(runs[1].flags)
    assert (config.seed, config.stop_at_validation_accuracy) == (1, 0.9)
    assert config.max_steps == 7


@pytest.mark.parametrize(
    ("paths", "expected"),
    [
        (
            ["a/x_seed0_until_98.50", "a/x_seed12_until_99.00", "a/y_seed0"],
            {"x": [0, 1], "y": [2]},
        ),
        (["a/cnn/seed3", "a/cnn_seed0_plain"], {"cnn": [0], "cnn_plain": [1]}),
        # Networks of the same name in different folders are not one network.
        (
            ["plain/cnn_seed0", "defended/cnn_seed0", "plain/cnn_seed1"],
            {"plain/cnn": [0, 2], "defended/cnn": [1]},
        ),
    ],
)
def test_trainings_of_one_network_are_found_by_their_names(tmp_path, paths, expected):
    folders = {str(n): RunFolder(tmp_path / path) for n, path in enumerate(paths)}
    found = matched.by_network(folders)
    assert found == {name: [*map(str, runs)] for name, runs in expected.items()}


def test_all_trainings_of_a_grid(tmp_path, monkeypatch):
    """The second call has the second accuracy, and each cell its network's flags."""
    asked = []

    def run_all(runs, workdir, *, jobs, executor):
        asked.append([(run.name, run.flags[0]) for run in runs])
        for run in runs:
            folder = made_run(tmp_path / run.name)
            weak = run.name.startswith("b")
            result = folder.load_result() | {
                "best_validation_accuracy": 0.5 if weak else 0.9
            }
            write_json(folder.result, result)
        return [grid.Outcome(run.name, grid.FINISHED) for run in runs]

    monkeypatch.setattr(grid, "run_all", run_all)
    words = {"a": ["--config=one"], "b": ["--config=two"]}
    folders = matched.train_all([A0, B0], words, 0.8, tmp_path)
    assert asked == [
        [
            ("a_seed0_until_80.00", "--config=one"),
            ("b_seed0_until_80.00", "--config=two"),
        ],
        [("a_seed0_until_50.00", "--config=one")],
    ]
    assert folders[A0].path.name == "a_seed0_until_50.00"


def test_rows_and_means(tmp_path):
    outcomes = [
        Outcome(
            Cell(network, seed),
            made_run(
                tmp_path / f"{network}{seed}", seed, stop_at_validation_accuracy=0.9
            ),
            0.91,
            40,
            np.arange(200) >= wrong,
        )
        for network, seed, wrong in [("a", 0, 10), ("b", 0, 4), ("a", 1, 20)]
    ]
    text = matched.write(tmp_path, outcomes, "some digits")
    rows = results.read(tmp_path / "matched.csv")
    assert [row.number("test_error_percent") for row in rows] == [5, 2, 10]
    low, high = scipy.stats.binomtest(10, 200).proportion_ci(method="wilson")
    assert rows[0].number("test_error_percent_low") == pytest.approx(
        100 * low, rel=1e-4
    )
    assert rows[0].number("test_error_percent_high") == pytest.approx(
        100 * high, rel=1e-4
    )
    assert [row["seed"] for row in rows] == ["0", "0", "1"]
    assert rows[0]["target_validation_accuracy"] == "0.9"
    # Of two values: t(0.975, 1) = 12.706 times half of their distance.
    assert "a 7.50 ± 31.77" in text
    assert "b 2" not in text  # One training has no mean.
    assert "some digits" in text


def test_the_best_checkpoint_is_tested(tmp_path, digits_data, tiny_config):
    tiny_config.evaluate_every_steps = 2
    tiny_config.optimizer.learning_rate = 0.01
    folder = RunFolder(tmp_path / "run")
    trained = train(tiny_config, digits_data, folder)
    assert trained is not None
    (outcome,) = matched.test({A0: folder}, digits_data)
    result = trained.record
    assert outcome.validation == pytest.approx(result["best_validation_accuracy"])
    assert outcome.step == result["best_validation_step"]
    assert len(outcome.right) == len(digits_data.test)
