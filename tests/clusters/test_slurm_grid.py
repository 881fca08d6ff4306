"""Grids of trainings on a real Slurm."""

import json
import os
import pathlib
import re
import signal
import subprocess
import threading
import time

import pytest

from capsjax.errors import UserError
from capsjax.runs import grid
from capsjax.runs.executors import slurm as executors
from capsjax.runs.folder import RunFolder
from capsjax.runs.grid import FAILED, FINISHED, SKIPPED, Run
from tests.launching import (
    PATIENCE_S,
    TINY,
    comparable,
    finish,
    rows_written,
    run,
    start,
    wait_until,
)
from tests.runs.grid_child import SCRIPT

ONE_CPU = executors.Settings(cpus=1)


def slurm_says(*command: str) -> str:
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return done.stdout


def wait_for(condition) -> None:
    give_up = time.monotonic() + PATIENCE_S
    while not condition():
        assert time.monotonic() < give_up
        time.sleep(0.02)


@pytest.mark.usefixtures("slurm")
def test_runs_end_as_those_of_local_processes_do(tmp_path):
    """Stand-ins for trainings: two succeed, one fails, and two are killed."""
    kinds = {"a": "fast", "b": "fail", "c": "die", "d": "fast", "e": "slow"}
    runs = [Run(name, [f"--what={kind}"]) for name, kind in kinds.items()]
    folder = tmp_path / "a grid"
    bad = executors.executor(executors.Settings(partition="absent"))
    with pytest.raises(UserError, match=r"^Slurm refuses .*nvalid partition") as error:
        grid.run_all(runs, folder, command=SCRIPT, executor=bad)
    assert "\n" not in str(error.value)

    def kill_task() -> None:
        wait_for(lambda: (folder / "e" / "starts").exists())
        record = json.loads((folder / "slurm" / "jobs.json").read_text())
        slurm_says("scancel", "--signal=KILL", record["e"]["job"])

    killer = threading.Thread(target=kill_task)
    killer.start()
    lines: list[str] = []
    on_slurm = executors.executor(ONE_CPU)
    outcomes = grid.run_all(
        runs, folder, report=lines.append, command=SCRIPT, executor=on_slurm
    )
    killer.join()
    statuses = [outcome.status for outcome in outcomes]
    assert statuses == [FINISHED, FAILED, FAILED, FINISHED, FAILED]
    assert outcomes[1].error == "error: there is no data"
    assert outcomes[2].error == "ended by signal 9 (Killed)"
    assert re.search(r"^job \d+_4: .*error: .*[Kk]illed", outcomes[4].error)
    said = "\n".join(lines)
    for name in kinds:
        pattern = rf"{name}: submitted as job \d+_\d, log in (.*)"
        (log,) = re.findall(pattern, said)
        assert "training: " in pathlib.Path(log).read_text()
    assert re.search(r"a: 1\.50 % test error after \d+ s", said)

    again = grid.run_all(
        runs, folder, jobs=1, command=SCRIPT, executor=on_slurm, report=lines.append
    )
    statuses = [outcome.status for outcome in again]
    assert statuses == [SKIPPED, FINISHED, FAILED, SKIPPED, FINISHED]


class Sweep:
    """A launcher of two trainings."""

    names = ("r1_decoder_seed0", "r1_decoder_seed1")
    # So many steps that a training can be caught in the middle.
    words = (
        *TINY,
        "--config.max_steps=300",
        "--config.num_epochs=1000",
        "--config.log_every_steps=5",
        "--config.checkpoint_every_steps=10000",
    )

    def __init__(self, folder: pathlib.Path):
        self.folder = folder

    def start(self) -> subprocess.Popen[str]:
        """Starts the launcher; returns when it is about to submit."""
        process = start(
            *("-m", "experiments.sweep_routing", *self.words, "--iterations=1"),
            *("--reconstruction=true", "--seeds=2", f"--workdir={self.folder}"),
            *("--launcher=slurm", "--jobs=2", "--slurm_cpus=1"),
        )
        lock = self.folder / ".lock"
        wait_until(
            lambda: lock.exists() and f"pid {process.pid} " in lock.read_text(), process
        )
        return process

    def log(self, name: str) -> str:
        path = self.folder / f"{name}.log"
        return path.read_text() if path.exists() else ""

    def job(self, name: str) -> str:
        record = json.loads((self.folder / "slurm" / "jobs.json").read_text())
        return record[name]["job"]

    def log_of_task(self, name: str) -> str:
        return (self.folder / "slurm" / f"{self.job(name)}_0_log.out").read_text()

    def rows(self, name: str) -> int:
        folder = RunFolder(self.folder / name)
        return rows_written(folder) if folder.metrics.exists() else 0

    def hold(self, name: str) -> int:
        """Suspends the process of a training in the middle; returns its number."""
        before = self.rows(name)
        wait_for(lambda: self.rows(name) > before + 2)
        process = int((self.folder / name / ".lock").read_text().split()[1])
        os.kill(process, signal.SIGSTOP)
        assert not self.has_ended(name)
        return process

    def has_ended(self, name: str) -> bool:
        return RunFolder(self.folder / name).result.exists()


def bring_the_limit_near(job: str) -> None:
    """Gives a job that runs so little time that it is told of the end at once.

    With a short limit from the start, it would depend on the machine's speed whether
    the training had begun.
    """
    shown = slurm_says("scontrol", "show", "job", job)
    match = re.search(r"RunTime=(\d+):(\d+):\d+", shown)
    assert match
    minutes = 60 * int(match[1]) + int(match[2]) + 2
    slurm_says("scontrol", "update", f"JobId={job}", f"TimeLimit={minutes}")


@pytest.mark.usefixtures("slurm")
def test_interrupted_trainings_end_bit_by_bit_as_local_ones(tmp_path):
    """One is put back into the queue, then cancelled; one gets to its time limit."""
    sweep = Sweep(tmp_path / "grid")
    requeued, limited = sweep.names
    launcher = sweep.start()
    sweep.hold(requeued)
    process = sweep.hold(limited)
    launcher.kill()  # Its jobs go on, and the next launcher finds them.
    launcher.communicate()

    launcher = sweep.start()
    # Slurm itself continues processes to which it sends SIGTERM.
    slurm_says("scontrol", "requeue", sweep.job(requeued))
    wait_for(lambda: sweep.log(requeued).count("which is saved") == 1)
    bring_the_limit_near(sweep.job(limited))
    wait_for(lambda: "Caught signal SIGUSR2" in sweep.log_of_task(limited))
    os.kill(process, signal.SIGCONT)
    wait_for(lambda: "Requeued job" in sweep.log_of_task(limited))
    assert sweep.log(limited).count("which is saved") == 1
    slurm_says("scontrol", "update", f"JobId={sweep.job(limited)}", "TimeLimit=240")

    sweep.hold(requeued)
    wait_for(lambda: sweep.has_ended(limited))
    launcher.send_signal(signal.SIGINT)
    done = finish(launcher)
    assert done.returncode == 130, done.stderr
    assert f"{requeued}: in the queue as job" in done.stdout
    assert re.search(r"stopped by SIGINT after [01] of 2 runs and", done.stdout)
    assert sweep.log(requeued).count("which is saved") == 2
    assert slurm_says("squeue", "--noheader") == ""

    done = finish(sweep.start())
    assert done.returncode == 0, done.stderr
    assert "1 of 2 runs have finished before" in done.stdout
    assert (sweep.folder / "sweep.md").exists()
    flags = json.loads((sweep.folder / "grid.json").read_text())
    for name in sweep.names:
        local = RunFolder(tmp_path / "local" / name)
        run("train", *flags[name], f"--workdir={local.path}")
        assert comparable(RunFolder(sweep.folder / name)) == comparable(local)
        assert "resumed at step" in sweep.log(name)
