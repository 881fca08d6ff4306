"""Many trainings, each in a separate process, so that a failure ends only one of them.

The processes are those of this machine, or another executor's (see
`capsjax.runs.executors`). A grid's folder holds, for each name, a run's folder and its
log::

    grid.json     the flags of each run whose folder the grid has created
    <name>/       a run's folder, see capsjax.runs.folder
    <name>.log    what its training printed
    .lock         held by the process that runs them

Calling it again continues where the last call ended: finished runs are skipped, others
are resumed.
"""

import collections
import json
import os
import pathlib
import signal
import sys
import time
from collections.abc import Callable, Sequence
from typing import NamedTuple

from tqdm import tqdm

from capsjax.config import current_flag
from capsjax.errors import UserError
from capsjax.runs import results
from capsjax.runs.executors.base import TRAIN, End, Executor, MakeExecutor, Run, Task
from capsjax.runs.executors.local import Processes
from capsjax.runs.folder import RunFolder, locked, write_json
from capsjax.runs.progress import Progress
from capsjax.runs.stop import Stopped, StopRequests

FINISHED, SKIPPED, FAILED = "finished", "skipped", "failed"

# Exit statuses of runs that were asked to stop, or killed.
_STATUS_OF_STOPPED = (0, -signal.SIGTERM, -signal.SIGKILL)


class Outcome(NamedTuple):
    """The end of a run.

    Attributes:
        name: name of the run.
        status: `FINISHED`, `SKIPPED` (it had finished before) or `FAILED`.
        error: reason of a failure, else empty.
    """

    name: str
    status: str
    error: str = ""


def commands(runs: Sequence[Run], workdir: str | os.PathLike) -> list[str]:
    """The commands that `run_all` would run, as lines for a shell."""
    return [run.line(pathlib.Path(workdir)) for run in runs]


def _print(line: str) -> None:
    tqdm.write(line)  # Above a progress bar, if there is one.
    sys.stdout.flush()


def run_all(
    runs: Sequence[Run],
    workdir: str | os.PathLike,
    *,
    jobs: int | None = None,
    report: Callable[[str], None] = _print,
    command: Sequence[str] = TRAIN,
    executor: MakeExecutor = Processes,
) -> list[Outcome]:
    """Runs all trainings that have not finished before, whether or not others fail.

    This process leaves the GPUs to the runs, which get one each. However it ends, it
    ends all of them; only after SIGKILL or SIGHUP, which it does not handle, do they
    continue.

    Args:
        runs: trainings in the order in which they are started.
        workdir: folder of the grid.
        jobs: number of runs at the same time; by default the executor decides.
        report: function that receives a line when a run starts and when it ends; prints
            it by default.
        command: words that train, without flags.
        executor: what runs them; by default processes of this machine.

    Returns:
        The outcome of each run, in the order of ``runs``; see `refuse_failures`.

    Raises:
        UserError: the folder cannot be written, another process runs a grid in it, or
            it holds a run of the same name with other flags.
        Stopped: SIGTERM or Ctrl-C was received; the runs have saved their state.
    """
    if len({run.name for run in runs}) < len(runs):
        raise ValueError(f"two runs have the same name: {[run.name for run in runs]}")
    folder = pathlib.Path(workdir)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with locked(folder, "runs trainings"):
            started = executor(folder, command, jobs)
            return _run_all(runs, folder, started, report)
    except OSError as error:
        raise UserError(
            f"cannot write to {error.filename or folder}: {error.strerror}"
        ) from error


def refuse_failures(outcomes: Sequence[Outcome], workdir: str | os.PathLike) -> None:
    """Ends a launcher with an error if runs failed, after it has done what it could.

    Raises:
        UserError: names the runs that failed and where their logs are.
    """
    failed = [outcome.name for outcome in outcomes if outcome.status == FAILED]
    if failed:
        raise UserError(
            f"{len(failed)} of {len(outcomes)} runs failed: {results.listed(failed)}; "
            f"see the log of each, NAME.log in {workdir}; the same command continues "
            "them"
        )


def _run_all(
    runs: Sequence[Run],
    folder: pathlib.Path,
    executor: Executor,
    report: Callable[[str], None],
) -> list[Outcome]:
    record = folder / "grid.json"
    try:
        flags = json.loads(record.read_text()) if record.exists() else {}
    except ValueError as error:
        raise UserError(
            f"cannot read {record}: {error}; repair it, or choose another --workdir"
        ) from error

    def remember(*started: Run) -> None:
        flags.update({run.name: list(run.flags) for run in started})
        write_json(record, flags)

    for run in runs:
        if (folder / run.name).exists():
            _refuse_changes(run, flags.get(run.name, run.flags), folder)
    outcomes = {
        run.name: Outcome(run.name, SKIPPED)
        for run in runs
        if run.name in flags and RunFolder(folder / run.name).result.exists()
    }
    waiting = collections.deque(run for run in runs if run.name not in outcomes)
    # An existing folder without a record, such as one copied from another machine, is
    # recorded only after its training, which checks the config itself, has succeeded.
    remember(*(run for run in waiting if not (folder / run.name).exists()))
    if outcomes:
        report(f"{len(outcomes)} of {len(runs)} runs have finished before")
    tasks: list[Task] = []

    def settle(task: Task, end: End) -> None:
        name, result = task.run.name, RunFolder(folder / task.run.name)
        after = f"after {time.monotonic() - task.since:.0f} s"
        tasks.remove(task)
        if end.status == 0 and result.result.exists():
            outcomes[name] = Outcome(name, FINISHED)
            remember(task.run)
            percent = result.load_result()["test_error_percent"]
            report(f"{name}: {percent:.2f} % test error {after}")
        elif not (asked_to_stop and end.status in _STATUS_OF_STOPPED):
            outcomes[name] = Outcome(name, FAILED, end.reason)
            report(f"{name}: failed {after}: {end.reason}")

    asked_to_stop = None
    with (
        StopRequests() as stop,
        Progress("runs", len(runs), unit="runs", done=len(outcomes)) as progress,
    ):
        try:
            while tasks or waiting:
                for task in executor.take(waiting):
                    tasks.append(task)
                    report(f"{task.run.name}: {task.taken}, log in {task.log}")
                time.sleep(executor.seconds_between_looks)
                before = len(outcomes)
                for task, end in executor.ended():
                    settle(task, end)
                running = [str(task) for task in tasks if task.running]
                progress.show(running=", ".join(running))
                progress.advance(len(outcomes) - before)
                if not asked_to_stop and (asked_to_stop := stop.received(0)):
                    report(f"waiting for {len(tasks)} runs to save their state")
                    waiting.clear()
                    executor.stop()
        finally:
            executor.kill()
    if asked_to_stop and len(outcomes) < len(runs):
        raise Stopped(
            asked_to_stop, f"{len(outcomes)} of {len(runs)} runs and parts of others"
        )
    return [outcomes[run.name] for run in runs]


def _refuse_changes(run: Run, flags: Sequence[str], folder: pathlib.Path) -> None:
    """Raises UserError if a run was started with other flags."""
    before, now = (
        # The location of the data may change, and earlier versions renamed fields.
        {current_flag(word) for word in words if not word.startswith("--data_dir=")}
        for words in (flags, run.flags)
    )
    if before != now:
        old, new = (
            " ".join(sorted(words)) or "nothing"
            for words in (before - now, now - before)
        )
        raise UserError(
            f"the run {run.name} in {folder} was started with {old} in place of {new}; "
            "give the same flags, or choose another --workdir"
        )
