"""Two processes with two CPU devices each, on this machine, train as one does."""

import os
import re
import signal

import pytest

from capsjax.runs.folder import RunFolder
from tests.launching import (
    SGD,
    TINY,
    TRAIN,
    assert_one_line,
    assert_same_run,
    finish,
    free_port,
    rows_written,
    run,
    start,
    train_to_end,
    wait_until,
)


def start_two(folder: RunFolder, *flags: str, in_slurm: bool = False):
    """Starts two processes, told their places by flags or as by Slurm."""
    shared = (
        *TRAIN,
        *TINY,
        *SGD,
        *flags,
        f"--workdir={folder.path}",
        "--cpu_devices=2",
    )
    if in_slurm:
        # JAX takes the port of the first process from the job's number.
        job = {
            "SLURM_JOB_ID": str(os.getpid()),
            "SLURM_STEP_NODELIST": "localhost",
            "SLURM_NTASKS": "2",
        }
        return [
            start(
                *shared,
                "--distributed",
                env={**job, "SLURM_PROCID": str(i), "SLURM_LOCALID": str(i)},
            )
            for i in range(2)
        ]
    first = f"--coordinator_address=localhost:{free_port()}"
    return [
        start(*shared, first, "--num_processes=2", f"--process_id={i}")
        for i in range(2)
    ]


def finish_two(two):
    first, second = map(finish, two)
    assert first.returncode == second.returncode == 0, first.stderr + second.stderr
    return first, second


@pytest.fixture(scope="module")
def on_one_device(tmp_path_factory) -> RunFolder:
    folder = RunFolder(tmp_path_factory.mktemp("runs") / "one")
    train_to_end(folder, *SGD)
    return folder


@pytest.mark.parametrize(("mode", "in_slurm"), [("jit", False), ("pmap", True)])
def test_two_processes_equal_one(mode, in_slurm, tmp_path, on_one_device):
    folder = RunFolder(tmp_path / "run")
    first, second = finish_two(
        start_two(folder, f"--config.parallelism={mode}", in_slurm=in_slurm)
    )
    assert "4 x cpu in 2 processes" in first.stdout
    assert second.stdout == ""
    assert "Gloo" not in first.stdout
    assert_same_run(folder, on_one_device)
    assert folder.load_env()["num_devices"] == 4


@pytest.mark.parametrize("victim", [0, 1])
def test_where_one_process_dies_the_other_ends_with_an_error(victim, tmp_path):
    folder = RunFolder(tmp_path / "run")
    endless = ("--config.max_steps=0", "--config.num_epochs=10000")
    two = start_two(folder, *endless, "--heartbeat_timeout=15")
    wait_until(lambda: rows_written(folder) > 3, two[0])
    two[victim].kill()
    survivor = finish(two[1 - victim])
    finish(two[victim])
    assert survivor.returncode != 0
    assert "another task died" in survivor.stderr


def test_an_error_in_one_process_ends_both(tmp_path):
    """The first finds the folder occupied; the second must not wait for it."""
    (tmp_path / "thesis.tex").write_text("years of work")
    two = start_two(RunFolder(tmp_path))
    first, second = [finish(process) for process in two]
    assert first.returncode == 1
    assert "error: " in first.stderr
    assert "is not empty" in first.stderr
    assert second.returncode != 0


def test_sigterm_to_one_process_saves_and_ends_both(tmp_path, on_one_device):
    """They agree on a step, and go on later as if nothing had been."""
    folder = RunFolder(tmp_path / "run")
    long = ("--config.max_steps=100000", "--config.num_epochs=10000")
    two = start_two(folder, *long)
    wait_until(lambda: rows_written(folder) > 0, two[0])
    two[1].send_signal(signal.SIGTERM)
    first, second = finish_two(two)
    assert "--resume" in first.stdout
    assert "stopped" not in second.stdout
    match = re.search(
        r"stopped by SIGTERM after step (\d+), which is saved", first.stdout
    )
    assert match
    saved = int(match[1])
    assert (folder.checkpoints / "last" / str(saved)).is_dir()

    more = (f"--config.max_steps={saved + 3}", "--config.num_epochs=10000", "--resume")
    first, second = finish_two(start_two(folder, *more))
    assert f"resumed at step {saved}" in first.stdout
    assert folder.load_result()["steps"] == saved + 3


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--process_id=0"], "belong together"),
        (["--distributed"], "cannot start as one of several processes"),
    ],
)
def test_incomplete_settings_are_one_clear_line(flags, words, tmp_path):
    done = run("train", *TINY, f"--workdir={tmp_path / 'run'}", *flags)
    assert_one_line(done, words)
