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
from tests.runs.grid_child import SCRIPT, starts

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
    """Stand-ins for trainings: one fails, two are killed, one gets to its limit."""
    kinds = {"a": "fast", "b": "fail", "c": "die", "d": "slow", "e": "slow"}
    runs = [Run(name, [f"--what={kind}"]) for name, kind in kinds.items()]
    folder = tmp_path / "a grid"
    bad = executors.executor(executors.Settings(partition="absent"))
    with pytest.raises(UserError, match=r"^Slurm refuses .*nvalid partition") as error:
        grid.run_all(runs, folder, command=SCRIPT, executor=bad)
    assert "\n" not in str(error.value)

    def interrupt() -> None:
        jobs = folder / "slurm" / "jobs.json"
        for name in "de":
            begun = folder / name / "starts"
            wait_for(lambda begun=begun: begun.exists() and begun.read_text())
        wait_for(jobs.exists)
        limited = json.loads(jobs.read_text())["d"]["job"]
        slurm_says("scancel", "--signal=USR2", limited)
        # As where memory is short: the process that watches the training is killed.
        status = pathlib.Path(f"/proc/{starts(folder / 'e')[0]['pid']}/status")
        (watcher,) = re.findall(r"^PPid:\t(\d+)$", status.read_text(), re.MULTILINE)
        os.kill(int(watcher), signal.SIGKILL)

    interruptions = threading.Thread(target=interrupt)
    interruptions.start()
    lines: list[str] = []
    on_slurm = executors.executor(ONE_CPU)
    outcomes = grid.run_all(
        runs, folder, report=lines.append, command=SCRIPT, executor=on_slurm
    )
    interruptions.join()
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

    # Saved, and put back into the queue.
    assert (folder / "d.log").read_text().count("\nstopped\n") == 1
    assert len(starts(folder / "d")) == 2

    again = grid.run_all(
        runs, folder, jobs=1, command=SCRIPT, executor=on_slurm, report=lines.append
    )
    statuses = [outcome.status for outcome in again]
    assert statuses == [SKIPPED, FINISHED, FAILED, SKIPPED, FINISHED]


class Sweep:
    """A launcher of one training, which is interrupted again and again."""

    # So many steps that it can be caught in the middle.
    words = (
        *TINY,
        "--config.max_steps=300",
        "--config.num_epochs=1000",
        "--config.log_every_steps=5",
        "--config.checkpoint_every_steps=10000",
    )

    def __init__(self, folder: pathlib.Path):
        self.folder, self.name = folder, "r1_decoder_seed0"
        self.run = RunFolder(folder / self.name)

    def start(self) -> subprocess.Popen[str]:
        """Starts the launcher; returns when it is about to submit."""
        process = start(
            *("-m", "experiments.sweep_routing", *self.words, "--iterations=1"),
            *("--reconstruction=true", "--seeds=1", f"--workdir={self.folder}"),
            *("--launcher=slurm", "--slurm_cpus=1"),
        )
        lock = self.folder / ".lock"
        wait_until(
            lambda: lock.exists() and f"pid {process.pid} " in lock.read_text(), process
        )
        return process

    def hold(self) -> int:
        """Suspends the process of the training; returns its number."""
        before = self._rows()
        wait_for(lambda: self._rows() > before + 2)
        process = int((self.run.path / ".lock").read_text().split()[1])
        os.kill(process, signal.SIGSTOP)
        assert not self.run.result.exists()
        return process

    def job(self) -> str:
        record = json.loads((self.folder / "slurm" / "jobs.json").read_text())
        return record[self.name]["job"]

    def log_of_task(self) -> str:
        return (self.folder / "slurm" / f"{self.job()}_0_log.out").read_text()

    def states_saved(self) -> int:
        log = (self.folder / f"{self.name}.log").read_text()
        return log.count(", which is saved; go on with")

    def _rows(self) -> int:
        return rows_written(self.run) if self.run.metrics.exists() else 0


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
def test_an_interrupted_training_ends_bit_by_bit_as_a_local_one(tmp_path):
    sweep = Sweep(tmp_path / "grid")
    launcher = sweep.start()
    sweep.hold()
    launcher.kill()  # Its job goes on, and the next launcher finds it.
    launcher.communicate()
    launcher = sweep.start()

    # Slurm itself continues processes to which it sends SIGTERM.
    slurm_says("scontrol", "requeue", sweep.job())
    wait_for(lambda: sweep.states_saved() == 1)

    process = sweep.hold()
    bring_the_limit_near(sweep.job())
    wait_for(lambda: "Caught signal SIGUSR2" in sweep.log_of_task())
    os.kill(process, signal.SIGCONT)
    wait_for(lambda: "Requeued job" in sweep.log_of_task())
    assert sweep.states_saved() == 2
    slurm_says("scontrol", "update", f"JobId={sweep.job()}", "TimeLimit=240")

    sweep.hold()
    launcher.send_signal(signal.SIGINT)
    done = finish(launcher)
    assert done.returncode == 130, done.stderr
    assert f"{sweep.name}: in the queue as job" in done.stdout
    assert "stopped by SIGINT after 0 of 1 runs and parts of others" in done.stdout
    assert sweep.states_saved() == 3
    assert slurm_says("squeue", "--noheader") == ""

    done = finish(sweep.start())
    assert done.returncode == 0, done.stderr
    assert (sweep.folder / "sweep.md").exists()
    (flags,) = json.loads((sweep.folder / "grid.json").read_text()).values()
    local = RunFolder(tmp_path / "local")
    run("train", *flags, f"--workdir={local.path}")
    assert comparable(sweep.run) == comparable(local)
