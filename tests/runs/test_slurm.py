"""Slurm as a grid's executor where there is no Slurm; tests/clusters has a real one."""

import os
import pathlib
import re
import signal
import sys
import threading
import time

import pytest
import submitit
from submitit.helpers import DelayedSubmission

from capsjax.errors import UserError
from capsjax.runs.executors import slurm
from capsjax.runs.executors.slurm import Settings
from capsjax.runs.executors.slurm_task import Training
from tests.launching import DIGITS, ROOT, assert_one_line, run
from tests.runs.grid_child import SCRIPT, starts


@pytest.fixture
def commands(tmp_path, monkeypatch):
    """Slurm's commands, which do nothing, are all that is on the PATH."""
    for name in ("sbatch", "srun", "squeue", "scancel", "scontrol"):
        (tmp_path / name).write_text("#!/bin/sh\n")
        (tmp_path / name).chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    return tmp_path


@pytest.mark.parametrize("name", ["sbatch", "scontrol"])
def test_missing_commands_are_named(name, commands):
    (commands / name).unlink()
    with pytest.raises(UserError, match=rf"^there is no {name} on the PATH; .*=local"):
        slurm.executor(Settings())


def test_missing_submitit_is_named(commands, monkeypatch):
    monkeypatch.setitem(sys.modules, "submitit", None)
    with pytest.raises(UserError, match=r"needs submitit; .*pip install submitit$"):
        slurm.executor(Settings())


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        (Settings(minutes=1, save_seconds=60), "1 minutes leaves no time .* 60 sec"),
        (Settings(options={"time": "3"}), "--slurm_option=time is set by"),
        (Settings(options={"qos": "x", "signal": "9"}), "--slurm_option=signal is"),
    ],
)
def test_settings_that_do_not_fit_are_refused(settings, words, commands):
    with pytest.raises(UserError, match=words):
        slurm.executor(settings)


def test_settings_become_lines_of_the_batch_script(commands, tmp_path):
    settings = Settings("long", 90, 45, 3, 2, 1.5, {"account": "vision"})
    through = submitit.SlurmExecutor(tmp_path / "jobs")
    through.update_parameters(**settings.parameters())
    script = through._make_submission_file_text("train", "1")
    for line in (
        *("--partition=long", "--time=90", "--signal=USR2@45", "--cpus-per-task=3"),
        *("--gpus-per-node=2", "--mem=1536MB", "--account=vision", "--requeue"),
    ):
        assert f"#SBATCH {line}\n" in script
    assert " --cpus-per-task=3 train" in script
    through = submitit.SlurmExecutor(tmp_path / "jobs")
    through.update_parameters(**Settings().parameters())
    script = through._make_submission_file_text("train", "1")
    assert not {"partition", "gpus", "mem"} & set(script.replace("-", "=").split("="))


def test_bad_flags_are_one_clear_line(tmp_path):
    shared = (DIGITS, f"--workdir={tmp_path / 'runs'}", "--launcher=slurm")
    bad = run("ensemble", *shared, "--slurm_option=vision")
    assert_one_line(bad, "--slurm_option=vision is not KEY=VALUE", "account=")
    assert not (tmp_path / "runs").exists()
    dry = run("ensemble", *shared, "--dry_run")  # Needs no cluster.
    assert dry.returncode == 0, dry.stderr


def test_every_grid_runs_where_its_flag_says():
    """A launcher that did not pass it on would train on this machine, silently."""
    grids = {
        path.name: path.read_text()
        for path in (ROOT / "experiments").glob("*.py")
        if "= grid_flags.define_jobs()" in path.read_text()
    }
    assert len(grids) >= 9
    for name, text in grids.items():
        passed = re.findall(r"_JOBS\.value, (?:executor=)?_take_up_launcher\(\)", text)
        assert len(passed) == text.count("_JOBS.value"), name


@pytest.fixture
def told_to_save(monkeypatch):
    """What submitit does when its signal comes, but for the queue."""
    before = {x: signal.getsignal(x) for x in (signal.SIGUSR2, signal.SIGTERM)}
    kept: list[DelayedSubmission] = []

    def when_started(folder: pathlib.Path, training: Training) -> None:
        def handle(number, frame):
            kept.append(training.checkpoint())

        def send():
            while not (folder / "starts").exists() or not starts(folder):
                time.sleep(0.01)
            os.kill(starts(folder)[0]["pid"], signal.SIGUSR2)  # As Slurm does.
            os.kill(os.getpid(), signal.SIGUSR2)

        signal.signal(signal.SIGUSR2, handle)
        threading.Thread(target=send).start()

    yield when_started, kept
    for number, handler in before.items():
        signal.signal(number, handler)


def test_a_training_that_is_told_to_save_ends_and_goes_on(tmp_path, told_to_save):
    when_started, kept = told_to_save
    folder, log = tmp_path / "run", tmp_path / "run.log"
    command = [*SCRIPT, "--what=slow", f"--workdir={folder}"]
    training = Training(command, str(log))
    when_started(folder, training)
    assert training() == 0
    assert log.read_text().endswith("\nstopped\n")
    assert not (folder / "result.json").exists()
    assert kept[0].result() == 0
    assert (folder / "result.json").exists()


def test_a_training_that_had_not_begun_does_not_go_on(tmp_path, told_to_save):
    """It would start again and again."""
    when_started, kept = told_to_save
    (tmp_path / "starts").touch()
    program = (
        "import os, json, time; "
        f"open({str(tmp_path / 'starts')!r}, 'w').write("
        "json.dumps({'pid': os.getpid()})); time.sleep(900)"
    )
    training = Training([sys.executable, "-c", program], str(tmp_path / "log"))
    when_started(tmp_path, training)
    with pytest.raises(RuntimeError, match="before the first step; give more --slurm_"):
        training()
    assert kept == []
