"""Many trainings, each in a separate process, so that a failure ends only one of them.

A grid's folder holds a run's folder and its log for each name::

    grid.json     the flags of each run whose folder the grid has created
    <name>/       a run's folder, see capsjax.runs.folder
    <name>.log    what its training printed
    .lock         held by the process that runs them

Calling it again continues where the last call ended: finished runs are skipped, others
are resumed.
"""

import collections
import contextlib
import itertools
import json
import os
import pathlib
import re
import shlex
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from typing import NamedTuple

from tqdm import tqdm

from capsjax.config import current_flag
from capsjax.errors import UserError
from capsjax.runs import results
from capsjax.runs.folder import RunFolder, locked, write_json
from capsjax.runs.progress import Progress, done_of
from capsjax.runs.stop import Stopped, StopRequests

FINISHED, SKIPPED, FAILED = "finished", "skipped", "failed"

TRAIN = (sys.executable, "-u", "-m", "experiments.train")

_SECONDS_BETWEEN_LOOKS = 0.1
_TAIL_BYTES = 4_096
# Exit statuses of runs that were asked to stop, or killed.
_STATUS_OF_STOPPED = (0, -signal.SIGTERM, -signal.SIGKILL)


class Run(NamedTuple):
    """A training.

    Attributes:
        name: the name of its folder and log; unique in the grid.
        flags: flags of experiments.train, without ``--workdir`` and ``--resume``.
    """

    name: str
    flags: Sequence[str]


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
    python = ("python", "-m", "experiments.train")
    return [shlex.join([*python, *_words(run, pathlib.Path(workdir))]) for run in runs]


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
) -> list[Outcome]:
    """Runs all trainings that have not finished before, whether or not others fail.

    This process leaves the GPUs to the runs, which get one each. However it ends, it
    ends all of them; only after SIGKILL or SIGHUP, which it does not handle, do they
    continue.

    Args:
        runs: trainings in the order in which they are started.
        workdir: folder of the grid.
        jobs: number of runs at the same time; by default the number of GPUs, or one on
            a CPU. With more jobs than GPUs, several runs share a GPU and its memory.
        report: function that receives a line when a run starts and when it ends; prints
            it by default.
        command: words that train, without flags.

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
            return _run_all(runs, folder, jobs, report, command)
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


def visible_gpus() -> list[str]:
    """Returns the names of the GPUs for ``CUDA_VISIBLE_DEVICES``; empty on a CPU.

    They are found without JAX, which would reserve their memory for this process.
    """
    platforms = os.environ.get("JAX_PLATFORMS", "")
    if platforms and not {"cuda", "gpu"} & set(platforms.split(",")):
        return []
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is not None:
        listed = [name.strip() for name in visible.split(",")]
        return [name for name in listed if name not in ("", "-1")]
    if shutil.which("nvidia-smi") is None:
        return []
    found = subprocess.run(
        ["nvidia-smi", "-L"], capture_output=True, text=True, check=False
    )
    return re.findall(r"^GPU (\d+):", found.stdout, re.MULTILINE)


def _run_all(
    runs: Sequence[Run],
    folder: pathlib.Path,
    jobs: int | None,
    report: Callable[[str], None],
    command: Sequence[str],
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
    gpus = visible_gpus()
    jobs = jobs or len(gpus) or 1
    free_gpus = collections.deque(itertools.islice(itertools.cycle(gpus or [""]), jobs))
    children: list[_Child] = []

    def start(run: Run) -> None:
        gpu = free_gpus.popleft()
        child = _Child(run, gpu, folder, command, shared=jobs > len(gpus))
        children.append(child)
        report(f"{run.name}: started{f' on GPU {gpu}' * bool(gpu)}, log in {child.log}")

    def end(child: _Child, status: int) -> None:
        name, result = child.run.name, RunFolder(folder / child.run.name)
        after = f"after {time.monotonic() - child.started:.0f} s"
        children.remove(child)
        free_gpus.append(child.gpu)
        if status == 0 and result.result.exists():
            outcomes[name] = Outcome(name, FINISHED)
            remember(child.run)
            percent = result.load_result()["test_error_percent"]
            report(f"{name}: {percent:.2f} % test error {after}")
        elif not (asked_to_stop and status in _STATUS_OF_STOPPED):
            outcomes[name] = Outcome(name, FAILED, child.error(status))
            report(f"{name}: failed {after}: {outcomes[name].error}")

    asked_to_stop = None
    with (
        StopRequests() as stop,
        Progress("runs", len(runs), unit="runs", done=len(outcomes)) as progress,
    ):
        try:
            while children or (waiting and not asked_to_stop):
                while waiting and free_gpus and not asked_to_stop:
                    start(waiting.popleft())
                time.sleep(_SECONDS_BETWEEN_LOOKS)
                before = len(outcomes)
                for child in [*children]:
                    if (status := child.process.poll()) is not None:
                        end(child, status)
                progress.show(running=", ".join(map(str, children)))
                progress.advance(len(outcomes) - before)
                if not asked_to_stop and (asked_to_stop := stop.received(0)):
                    report(f"waiting for {len(children)} runs to save their state")
                    for child in children:
                        child.process.terminate()
        finally:
            for child in children:
                child.kill()
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


def _words(run: Run, folder: pathlib.Path) -> list[str]:
    return [*run.flags, f"--workdir={folder / run.name}", "--resume"]


class _Child:
    """A training process and its log; as a string, its name and progress."""

    def __init__(
        self,
        run: Run,
        gpu: str,
        folder: pathlib.Path,
        command: Sequence[str],
        *,
        shared: bool,
    ):
        self.run, self.gpu, self.started = run, gpu, time.monotonic()
        self.log = folder / f"{run.name}.log"
        environment = dict(os.environ)
        if gpu:
            environment["CUDA_VISIBLE_DEVICES"] = gpu
            if shared:  # Otherwise the first run reserves most of the GPU's memory.
                environment.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")
        with self.log.open("ab") as file:
            self._log_begin = file.tell()
            self.process = subprocess.Popen(
                [*command, *_words(run, folder)],
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=file,
                stderr=subprocess.STDOUT,
                start_new_session=True,  # A terminal's Ctrl-C does not reach it.
            )

    def kill(self) -> None:
        """Kills the process and those that it has started."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()

    def error(self, status: int) -> str:
        """The reason why it failed."""
        if status < 0:
            return f"ended by signal {-status} ({signal.strsignal(-status)})"
        lines = self._last_lines()
        return lines[-1] if lines else f"it ended with status {status}"

    def __str__(self) -> str:
        return f"{self.run.name} {done_of(self._last_lines(), 'training')}".rstrip()

    def _last_lines(self) -> list[str]:
        with self.log.open("rb") as log:
            log.seek(max(self._log_begin, log.seek(0, os.SEEK_END) - _TAIL_BYTES))
            return log.read().decode(errors="replace").strip().splitlines()
