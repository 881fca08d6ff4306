"""Trainings as tasks of a Slurm job array, through submitit.

In the folder of the grid, beside the runs and their logs::

    slurm/jobs.json       job and flags of each run that was submitted
    slurm/JOB_0_log.out   what its task said, apart from the training
    slurm/JOB_*           files of submitit

Jobs do not depend on the process that has submitted them: if that is killed, they go
on, and the same command waits for them instead of submitting them again. `slurm_task`
says what happens in a task.
"""

import collections
import dataclasses
import functools
import hashlib
import json
import pathlib
import re
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from capsjax.errors import UserError
from capsjax.runs.executors.base import End, Executor, MakeExecutor, Run, Task
from capsjax.runs.folder import write_json

# Of sbatch, which the settings or this file give.
_TAKEN = {
    *("array", "chdir", "cpus-per-task", "error", "gpus-per-node", "job-name", "mem"),
    *("nodes", "ntasks", "ntasks-per-node", "open-mode", "output", "partition"),
    *("requeue", "no-requeue", "signal", "time", "wrap"),
}
_COMMANDS = ("sbatch", "srun", "squeue", "scancel", "scontrol")
# A run that needs more jobs than this for its steps would never end.
_MOST_TIME_LIMITS = 1_000
_ALL_AT_ONCE = 1_000_000
_SECONDS_BETWEEN_QUESTIONS = 30.0
_SECONDS_FOR_FILES = 15.0


@dataclasses.dataclass(frozen=True)
class Settings:
    """What each training asks of the cluster.

    Attributes:
        partition: name of the partition; the cluster's default if empty.
        minutes: time limit of a job. A run that needs longer takes several jobs.
        save_seconds: how long before the limit the run is told to save its state.
        cpus: CPUs of a training.
        gpus: GPUs of a training.
        memory_gb: memory of a training; the cluster's default if None.
        options: further options of sbatch by their names, such as ``account``.
    """

    partition: str = ""
    minutes: int = 240
    save_seconds: int = 90
    cpus: int = 2
    gpus: int = 0
    memory_gb: float | None = None
    options: Mapping[str, str] = dataclasses.field(default_factory=dict)

    def parameters(self) -> dict[str, Any]:
        """The settings as parameters of submitit's executor."""
        found = {
            "partition": self.partition or None,
            "time": self.minutes,
            "signal_delay_s": self.save_seconds,
            "cpus_per_task": self.cpus,
            # Since Slurm 22.05, srun does not take it from the job.
            "srun_args": [f"--cpus-per-task={self.cpus}"],
            "gpus_per_node": self.gpus or None,
            "mem": f"{round(1024 * self.memory_gb)}MB" if self.memory_gb else None,
            "additional_parameters": {"requeue": True, **self.options},
        }
        return {name: value for name, value in found.items() if value is not None}


def executor(settings: Settings) -> MakeExecutor:
    """Returns what makes executors with these settings.

    Raises:
        UserError: the settings do not fit together, or submitit or Slurm's commands
            are missing.
    """
    if settings.save_seconds >= 60 * settings.minutes:
        raise UserError(
            f"a time limit of {settings.minutes} minutes leaves no time to train when "
            f"states are saved {settings.save_seconds} seconds before it; give more "
            "--slurm_minutes or fewer --slurm_save_seconds"
        )
    if taken := sorted(_TAKEN & settings.options.keys()):
        raise UserError(
            f"--slurm_option={taken[0]} is set by this launcher; --help lists the "
            "flags of the cluster"
        )
    try:
        import submitit  # noqa: F401
    except ImportError as error:
        raise UserError(
            "--launcher=slurm needs submitit; install it with: pip install submitit"
        ) from error
    if missing := [name for name in _COMMANDS if shutil.which(name) is None]:
        raise UserError(
            f"there is no {missing[0]} on the PATH; start this on a machine of a Slurm "
            "cluster, such as its login node, or use --launcher=local"
        )
    return functools.partial(Jobs, settings=settings)


class Jobs(Executor):
    """Runs each training in a task of a job array."""

    seconds_between_looks = 0.5

    def __init__(
        self,
        folder: pathlib.Path,
        command: Sequence[str],
        jobs: int | None,
        settings: Settings,
    ):
        """Takes the settings; submits nothing yet.

        Args:
            folder: folder of the grid, which all machines of the cluster see.
            command: words that train, without flags.
            jobs: number of tasks that run at the same time; all by default.
            settings: what each task asks of the cluster.
        """
        self._folder = folder.absolute()
        self._command, self._jobs, self._settings = command, jobs, settings
        self._submissions = self._folder / "slurm"
        self._record = self._submissions / "jobs.json"
        # Other users' jobs, and numbers that the cluster gives again, are not ours.
        digest = hashlib.sha256(str(self._folder).encode()).hexdigest()[:8]
        self._name = f"{re.sub(r'[^\w.-]', '_', self._folder.name)}-{digest}"
        self._tasks: list[_Submitted] = []
        self._states: dict[str, str] = {}
        self._asked = self._submitted = 0.0
        self._stopping = False

    def take(self, waiting: collections.deque[Run]) -> Iterator[Task]:
        """Submits all runs as one job array, but those that are in the queue already.

        Raises:
            UserError: Slurm refuses them, or a run is in the queue with other flags.
        """
        if not waiting:
            return
        runs = [*waiting]
        waiting.clear()
        recorded = self._recorded()
        self._ask(at_once=True)
        queued = {
            run.name: recorded[run.name]["job"]
            for run in runs
            if run.name in recorded and recorded[run.name]["job"] in self._states
        }
        for run in runs:
            if run.name in queued and recorded[run.name]["flags"] != list(run.flags):
                raise UserError(
                    f"the run {run.name} in {self._folder} is in the queue with other "
                    f"flags; cancel it (scancel {queued[run.name]}), give the same "
                    "flags, or choose another --workdir"
                )
        new = [run for run in runs if run.name not in queued]
        submitted = self._submit(new) if new else {}
        for run in new:
            recorded[run.name] = {"job": submitted[run.name], "flags": list(run.flags)}
        write_json(self._record, recorded)
        for run in runs:
            taken = "in the queue" if run.name in queued else "submitted"
            job = {**queued, **submitted}[run.name]
            task = _Submitted(run, self._folder, f"{taken} as job {job}", job)
            self._tasks.append(task)
        yield from [*self._tasks]

    def ended(self) -> list[tuple[Task, End]]:
        """The tasks that are no longer in the queue."""
        self._ask()
        found: list[tuple[Task, End]] = []
        for task in [*self._tasks]:
            state = self._states.get(task.job)
            task.running = state not in (None, "PENDING")
            if state is None and (end := self._end(task)) is not None:
                self._tasks.remove(task)
                found.append((task, end))
        return found

    def stop(self) -> None:
        """Cancels the jobs. Slurm sends SIGTERM first, then kills what does not end."""
        self._stopping = True
        self._cancel()

    def kill(self) -> None:
        """Cancels the jobs, but does not wait for them."""
        self._cancel()

    def _recorded(self) -> dict[str, Any]:
        try:
            self._submissions.mkdir(exist_ok=True)
            return json.loads(self._record.read_text()) if self._record.exists() else {}
        except ValueError as error:
            raise UserError(
                f"cannot read {self._record}: {error}; remove it if no job of this "
                "grid is in the queue"
            ) from error

    def _submit(self, runs: Sequence[Run]) -> dict[str, str]:
        """Submits runs; returns the job of each by its name."""
        import submitit
        from submitit.core.utils import FailedJobError, FailedSubmissionError

        from capsjax.runs.executors.slurm_task import Training

        through = submitit.SlurmExecutor(
            self._submissions, max_num_timeout=_MOST_TIME_LIMITS
        )
        through.update_parameters(
            **self._settings.parameters(),
            job_name=self._name,
            array_parallelism=self._jobs or _ALL_AT_ONCE,
            stderr_to_stdout=True,
        )
        trainings = [
            Training(
                [*self._command, *run.words(self._folder)],
                str(self._folder / f"{run.name}.log"),
            )
            for run in runs
        ]
        try:
            jobs = through.submit_array(trainings)
        except (FailedJobError, FailedSubmissionError) as error:
            *_, line = str(error).strip().splitlines() or [""]
            raise UserError(
                "Slurm refuses the trainings: "
                f"{line.removeprefix('sbatch: error: ') or 'sbatch does not say why'}"
            ) from error
        self._submitted, self._asked = time.monotonic(), 0.0
        return {run.name: job.job_id for run, job in zip(runs, jobs, strict=True)}

    def _ask(self, *, at_once: bool = False) -> None:
        """Asks for the states of this grid's jobs, but not all the time."""
        now = time.monotonic()
        pause = min(1 + (now - self._submitted) / 60, _SECONDS_BETWEEN_QUESTIONS)
        if now < self._asked + pause and not at_once:
            return
        self._asked = now
        done = _slurm(
            *("squeue", "--me", f"--name={self._name}", "--array", "--noheader"),
            "--format=%i %T",
        )
        # A controller that is busy, or is started again, answers later.
        if done.returncode == 0:
            self._states = dict(line.split() for line in done.stdout.splitlines())
        elif at_once:
            raise UserError(f"squeue does not answer: {done.stderr.strip()}")

    def _cancel(self) -> None:
        if jobs := [task.job for task in self._tasks]:
            _slurm("scancel", "--quiet", *jobs)

    def _end(self, task: "_Submitted") -> End | None:
        """The end of a task that has left the queue; None if it may tell it yet."""
        import submitit

        job: submitit.SlurmJob[int] = submitit.SlurmJob(self._submissions, task.job)
        if job.paths.result_pickle.exists():
            if (failure := job.exception()) is None:
                return task.end(job.result())
            errors = re.findall(r"^[\w.]*Error: (.+)$", str(failure), re.MULTILINE)
            return End(1, errors[-1] if errors else f"see {job.paths.stdout}")
        now = time.monotonic()
        task.left = task.left or now
        # Files of another machine may take some seconds to appear on this one.
        if now < task.left + _SECONDS_FOR_FILES and not self._stopping:
            return None
        # It was killed: Slurm says why in the log of the task, the training never.
        said = job.paths.stdout
        lines = said.read_text(errors="replace").splitlines() if said.exists() else []
        errors = [line for line in lines if "error: " in line]
        words = errors or task.last_lines() or lines
        reason = words[-1] if words else "it ended without a word"
        return End(-signal.SIGKILL, f"job {task.job}: {reason}")


class _Submitted(Task):
    """A training in the queue or on a machine of the cluster.

    Attributes:
        job: number of the job, or of its array and its task.
        left: time at which it was no longer in the queue, or 0.
    """

    def __init__(self, run: Run, folder: pathlib.Path, taken: str, job: str):
        super().__init__(run, folder, taken)
        self.job, self.left, self.running = job, 0.0, False


def _slurm(*command: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command,
        capture_output=True,
        text=True,
        check=False,
        start_new_session=True,  # A terminal's Ctrl-C does not reach it.
    )
