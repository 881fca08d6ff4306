"""Rows of committed results and the table made from them."""

import csv
import json
import multiprocessing
import pathlib
import shutil

import pytest
from filelock import FileLock

from capsjax import fields
from capsjax.config import Config
from capsjax.errors import UserError
from capsjax.runs import results
from capsjax.runs.folder import RunFolder, write_json
from tests.launching import ROOT
from tests.tables import committed_columns, unpadded

COMMAND = [
    *("python", "-m", "experiments.train", "--config=mnist.py"),
    *("--workdir=/home/me/run", "--data_dir=/home/me/data"),
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
    "best_validation_step": None,
    "reached_validation_accuracy": None,
    "test_examples": 100,
    "test_accuracy": 0.99,
    "test_error_percent": 1.0,
    "test_loss": 0.25,
    "test_margin_loss": 0.125,
    "test_reconstruction_loss": 20.5,
    "params_l2": 3.5,
    "params_sha256": "0123",
}


def made_run(
    path, seed=0, error=1.0, *, steps=10, decoder=True, rows=(), env=None, **changes
) -> RunFolder:
    """The folder of a run that has ended, made without any training."""
    folder = RunFolder(path)
    config = Config()
    fields.update(config, {"seed": seed} | changes)
    if not decoder:
        config.model = config.model.without_decoder()
    with folder.open(config, resume=False):
        pass
    command = [*COMMAND, f"--config.seed={seed}"]
    folder.record_env(ENV | {"command": command} | (env or {}), resumed_at=None)
    folder.metrics.write_text("".join(json.dumps(row) + "\n" for row in rows))
    write_json(folder.result, RESULT | {"test_error_percent": error, "steps": steps})
    return folder


def test_a_row_has_provenance_and_no_paths(tmp_path):
    row = results.training_row(made_run(tmp_path / "run"))
    # Each loss has a column of its own.
    common = {name for name in committed_columns("training.csv") if "_loss" not in name}
    assert row.keys() >= common
    expected = {
        "jax": "1",
        "train_examples_seen": "1280",
        "best_validation_accuracy": "",
    }
    assert row.items() >= expected.items()
    assert row["command"] == (
        "python -m experiments.train --config=mnist.py --workdir=DIR --data_dir=DIR "
        "--config.seed=0"
    )


def test_append_keeps_old_rows_and_adds_each_once(tmp_path):
    path = tmp_path / "results" / "training.csv"
    rows = [results.training_row(made_run(tmp_path / str(s), s)) for s in (0, 1)]
    assert results.append(path, rows[:1]) == 1
    assert results.append(path, rows) == 1
    with path.open() as file:
        assert list(csv.DictReader(file)) == rows


def test_a_file_grows_the_columns_of_new_rows(tmp_path):
    path = tmp_path / "rows.csv"
    path.write_text("a,b\n1,2\n")
    new = [{"c": "5", "a": '3, "x"\ny'}, {"b": "4", "d": "6"}]
    assert results.append(path, new) == 2
    assert path.read_text() == 'a,b,c,d\n1,2,,\n"3, ""x""\ny",,5,\n,4,,6\n'
    # Once more, also with columns that were not measured then.
    assert results.append(path, [*new, {"a": "1", "b": "2", "e": "7"}]) == 0
    assert results.append(path, [{"a": "1"}]) == 1
    assert results.read(path)[0] == {"a": "1", "b": "2", "c": "", "d": ""}


def _append_many(path: pathlib.Path, first: int, start) -> None:
    """Appends 25 rows, one by one, each with a column of its own."""
    start.wait()
    for number in range(first, first + 25):
        results.append(path, [{"n": str(number), f"c{number}": "1"}])


def _write_many(path: pathlib.Path, first: int, start) -> None:
    """Writes 100 rows anew 50 times."""
    start.wait()
    for _ in range(50):
        results.write(path, [{"n": str(first + n)} for n in range(100)])


def _at_once(*calls) -> None:
    """Runs functions in a process each, which begin together."""
    server = multiprocessing.get_context("forkserver")
    server.set_forkserver_preload(["tests.launching_preload"])
    start = server.Barrier(len(calls))
    processes = [
        server.Process(target=function, args=(*arguments, start))
        for function, *arguments in calls
    ]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    assert not any(process.exitcode for process in processes)


def test_two_processes_that_append_at_once_lose_no_row(tmp_path):
    path = tmp_path / "results" / "rows.csv"
    _at_once((_append_many, path, 0), (_append_many, path, 25))
    rows = results.read(path)
    assert sorted(int(row["n"]) for row in rows) == list(range(50))
    assert all(row[f"c{row['n']}"] == "1" for row in rows)


def test_two_processes_that_write_at_once_leave_one_whole_file(tmp_path):
    path = tmp_path / "results" / "rows.csv"
    _at_once((_write_many, path, 0), (_write_many, path, 100))
    numbers = [int(row["n"]) for row in results.read(path)]
    assert numbers in (list(range(100)), list(range(100, 200)))


@pytest.mark.parametrize("change", [results.append, results.write])
def test_a_file_that_another_process_holds_is_left_alone(tmp_path, monkeypatch, change):
    monkeypatch.setattr(results, "_MAX_WAIT_SECONDS", 0)
    path = tmp_path / "rows.csv"
    with (
        FileLock(tmp_path / ".rows.csv.lock"),
        pytest.raises(
            UserError, match=r"rows\.csv for 0 s; stop it, or choose another"
        ),
    ):
        change(path, [{"a": "1"}])
    assert not path.exists()
    change(path, [{"a": "1"}])
    assert results.read(path) == [{"a": "1"}]


@pytest.mark.parametrize("path", sorted((ROOT / "results").rglob("*.csv")), ids=str)
def test_committed_files_stay_as_they_are(path, tmp_path):
    copy = tmp_path / path.name
    shutil.copy(path, copy)
    rows = results.read(copy)
    assert rows
    assert results.append(copy, rows) == 0
    assert copy.read_bytes() == path.read_bytes()


@pytest.mark.parametrize("text", ["a,b\n1\n", "a,b\n1,2,3\n", 'a,b\n1,"2\n', "\xff"])
def test_a_damaged_file_is_refused_and_left_alone(tmp_path, text):
    path = tmp_path / "rows.csv"
    path.write_bytes(text.encode("latin-1"))
    with pytest.raises(UserError, match=r"rows\.csv.*repair it or choose another"):
        results.append(path, [{"a": "1"}])
    assert path.read_bytes() == text.encode("latin-1")


def test_a_file_without_rows(tmp_path):
    path = tmp_path / "rows.csv"
    for text in ("", "\n", "a,b\n"):
        path.write_text(text)
        assert results.read(path) == []
    results.write(path, [])
    assert results.append(path, [{"a": "1"}]) == 1
    assert path.read_text() == "a\n1\n"


def test_what_a_table_misses_in_a_row_is_one_clear_line():
    row = results.Row(started="today", steps="", seconds="1.5")
    assert row.number("seconds") == 1.5
    for column in ("steps", "commit"):
        with pytest.raises(UserError, match=f"row of today has no {column}; measure"):
            row.number(column)
    with pytest.raises(UserError, match="has no command"):
        results.training_table([row])


def test_the_table_takes_seeds_together(tmp_path):
    rows = [
        results.training_row(made_run(tmp_path / str(seed), seed, error))
        for seed, error in enumerate((1.0, 2.0, 3.0))
    ]
    header, _, *lines = unpadded(results.training_table(rows)).splitlines()
    assert "seeds" in header
    (line,) = lines
    errors = "2.00 ± 1.000 (1.00, 2.00, 3.00)"
    for words in ("| 0, 1, 2 |", errors, "2 cores of a cpu"):
        assert words in line


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


def test_runs_in_a_command_keep_their_names():
    command = ["python", "--workdirs=/data/a/seed0,runs/b/seed1", "--quarters=/x/y"]
    assert results.portable(command) == "python --workdirs=seed0,seed1 --quarters=y"
