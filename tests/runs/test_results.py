"""Rows of committed results and the table made from them."""

import csv

import pytest

from capsjax.config import Config
from capsjax.errors import UserError
from capsjax.runs import results
from capsjax.runs.folder import RunFolder, write_json

COMMAND = [
    "python",
    "-m",
    "experiments.train",
    "--config=mnist.py",
    "--workdir=/home/me/run",
    "--data_dir=/home/me/data",
]
ENV = {
    "commit": "abc",
    "device": "cpu",
    "num_devices": 1,
    "cpu": "a cpu",
    "num_cpus": 2,
    "started": "2026-01-01T00:00:00+00:00",
    "versions": {"jax": "1", "flax": "2"},
    "data": "MNIST",
}
RESULT = {
    "num_parameters": 5,
    "steps": 10,
    "seconds": 3.0,
    "seconds_per_step": 0.25,
    "final_train_loss": 0.125,
    "best_validation_accuracy": None,
    "test_examples": 100,
    "test_accuracy": 0.99,
    "test_error_percent": 1.0,
    "params_sha256": "0123",
}


def made_run(path, seed=0, error=1.0) -> RunFolder:
    folder = RunFolder(path)
    config = Config()
    config.seed = seed
    with folder.open(config, resume=False):
        pass
    command = [*COMMAND, f"--config.seed={seed}"]
    folder.record_env(ENV | {"command": command}, resumed_at=None)
    write_json(folder.result, RESULT | {"test_error_percent": error})
    return folder


def test_a_row_has_provenance_and_no_paths(tmp_path):
    row = results.training_row(made_run(tmp_path / "run"))
    assert tuple(row) == results.TRAINING_COLUMNS
    assert row["jax"] == "1"
    assert row["train_examples_seen"] == "1280"
    assert row["best_validation_accuracy"] == ""
    assert row["command"] == (
        "python -m experiments.train --config=mnist.py --workdir=DIR --data_dir=DIR "
        "--config.seed=0"
    )


def test_append_keeps_old_rows_and_adds_each_once(tmp_path):
    path = tmp_path / "results" / "training.csv"
    columns = results.TRAINING_COLUMNS
    rows = [results.training_row(made_run(tmp_path / str(s), s)) for s in (0, 1)]
    assert results.append(path, rows[:1], columns) == 1
    assert results.append(path, rows, columns) == 1
    with path.open() as file:
        assert list(csv.DictReader(file)) == rows


def test_other_columns_are_refused(tmp_path):
    path = tmp_path / "training.csv"
    path.write_text("a,b\n1,2\n")
    with pytest.raises(UserError, match="other columns"):
        results.append(path, [], results.TRAINING_COLUMNS)
    assert path.read_text() == "a,b\n1,2\n"


def test_the_table_takes_seeds_together(tmp_path):
    rows = [
        results.training_row(made_run(tmp_path / str(seed), seed, error))
        for seed, error in enumerate((1.0, 2.0, 3.0))
    ]
    header, _, *lines = results.training_table(rows).splitlines()
    assert "seeds" in header
    (line,) = lines
    assert "| 0, 1, 2 |" in line
    assert "2.00 ± 1.00 (1.00, 2.00, 3.00)" in line
    assert "2 cores of a cpu" in line


def test_a_run_that_has_not_ended_is_refused(tmp_path):
    folder = made_run(tmp_path)
    folder.result.unlink()
    with pytest.raises(UserError, match=r"result\.json.*ended"):
        results.training_row(folder)


def test_a_command_within_a_command_keeps_its_names():
    command = ["python", "--against=/a/venv/bin/python3 /b/c/step.py --compile --n=1"]
    assert results.portable(command) == (
        "python --against=python3 step.py --compile --n=1"
    )
