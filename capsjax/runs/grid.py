"""Many trainings, each in a process of its own, so that none takes others along.

A grid's folder holds a run's folder and its log for each name::

    grid.json     the flags of each run whose folder the grid has made
    <name>/       a run's folder, see capsjax.runs.folder
    <name>.log    what its training printed
    .lock         held by the process that runs them

The same call again goes on where the last one ended: finished runs are left as they
are, others are resumed.
"""

import contextlib
import json
import os
import pathlib
import queue
import re
import shlex
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent import futures
from typing import NamedTuple

from tqdm import tqdm

from capsjax.config import current_flag
from capsjax.errors import UserError
from capsjax.runs.folder import RunFolder, locked, write_json
from capsjax.runs.progress import Progress
from capsjax.runs.stop import Stopped, StopRequests

FINISHED, SKIPPED, FAILED = "finished", "skipped", "failed"

TRAIN = (sys.executable, "-u", "-m", "experiments.train")

# What may differ between two calls: where the data lies, not which.
_MAY_CHANGE = "--data_dir="
_SECONDS_BETWEEN_LOOKS = 0.1
_TAIL_BYTES = 4_096
# Of runs that were asked to stop, or killed.
_STATUS_OF_STOPPED = (0, -signal.SIGTERM, -signal.SIGKILL)


class Run(NamedTuple):
    """A training.

    Attributes:
        name: of its folder and its log; no two runs of a grid have the same.
        flags: of experiments.train, without ``--workdir`` and ``--resume``.
    """

    name: str
    flags: Sequence[str]


class Outcome(NamedTuple):
    """How a run ended.

    Attributes:
        name: name of the run.
        status: `FINISHED`, `SKIPPED` (it had finished before) or `FAILED`.
        error: reason of a failure, else empty.
    """

    name: str
    status: str
    error: str = ""


def commands(runs: Sequence[Run], workdir: str | os.PathLike) -> list[str]:
    """What `run_all` would run, as lines for a shell."""
    python = ("python", "-m", "experiments.train")
    return [shlex.join([*python, *_words(run, pathlib.Path(workdir))]) for run in runs]


def run_all(
    runs: Sequence[Run],
    workdir: str | os.PathLike,
    *,
    jobs: int | None = None,
    report: Callable[[str], None] | None = None,
    command: Sequence[str] = TRAIN,
) -> list[Outcome]:
    """Runs all that have not finished before, each to its end, whatever others do.

    This process leaves the GPUs to the runs, which get one each. When it ends, however
    it ends, none of them is left; only SIGKILL and SIGHUP, which it does not take,
    leave them to themselves.

    Args:
        runs: trainings in the order in which they are started.
        workdir: folder of the grid.
        jobs: number of runs at the same time; by default that of the GPUs, one on a
            CPU. With more than GPUs, several share one and its memory.
        report: function that is given a line, from one thread at a time, when a run
            starts and when it ends; prints it by default.
        command: words that train, without flags.

    Returns:
        For each run how it ended, in their order; see `refuse_failures`.

    Raises:
        UserError: the folder cannot be written, another process runs a grid in it, or
            it holds a run of the same name with other flags.
        Stopped: SIGTERM or Ctrl-C came; the runs have saved their state.
    """
    if len({run.name for run in runs}) < len(runs):
        raise ValueError(f"two runs have the same name: {[run.name for run in runs]}")
    folder = pathlib.Path(workdir)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with locked(folder, "runs trainings"):
            return _run_all(runs, folder, jobs, report or _print, command)
    except OSError as error:
        raise UserError(
            f"cannot write to {error.filename or folder}: {error.strerror}"
        ) from error
    except json.JSONDecodeError as error:
        raise UserError(f"cannot read grid.json in {folder}: {error}") from error


def refuse_failures(outcomes: Sequence[Outcome], workdir: str | os.PathLike) -> None:
    """Ends a launcher some of whose runs failed, once it has done what it could.

    Raises:
        UserError: names the runs that failed and where their logs are.
    """
    failed = [outcome.name for outcome in outcomes if outcome.status == FAILED]
    if failed:
        raise UserError(
            f"{len(failed)} of {len(outcomes)} runs failed: {', '.join(failed)}; see "
            f"the log of each, NAME.log in {workdir}; the same command goes on with "
            "them"
        )


def visible_gpus() -> list[str]:
    """What ``CUDA_VISIBLE_DEVICES`` calls the GPUs that runs can have; none on a CPU.

    Found without JAX, which would take their memory for this process.
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

    def remember(*made: Run) -> None:
        flags.update({run.name: list(run.flags) for run in made})
        write_json(record, flags)

    for run in runs:
        _refuse_changes(run, flags.get(run.name, run.flags), folder)
    outcomes = {
        run.name: Outcome(run.name, SKIPPED)
        for run in runs
        if run.name in flags and RunFolder(folder / run.name).result.exists()
    }
    waiting = [run for run in runs if run.name not in outcomes]
    # A folder that is there, made by the command on another machine for one, is
    # remembered once its training, which checks its config itself, has gone on.
    remember(*(run for run in waiting if not (folder / run.name).exists()))
    if outcomes:
        report(f"{len(outcomes)} of {len(runs)} runs have finished before")
    gpus = visible_gpus()
    jobs = jobs or max(len(gpus), 1)
    next_run, free_gpus = iter(waiting), queue.SimpleQueue[str | None]()
    for place in range(jobs):
        free_gpus.put(gpus[place % len(gpus)] if gpus else None)
    children: dict[str, _Child] = {}
    changing, ending = threading.Lock(), threading.Event()

    def train_next() -> int:
        """Returns how many runs have come to their end."""
        with changing:
            if ending.is_set():
                return 0
            run, gpu = next(next_run), free_gpus.get()
            words = [*command, *_words(run, folder)]
            environment = _environment(gpu, shared=jobs > len(gpus))
            log = folder / f"{run.name}.log"
            children[run.name] = child = _Child(words, environment, log)
            on_gpu = "" if gpu is None else f" on GPU {gpu}"
            report(f"{run.name}: started{on_gpu}, log in {log}")
        begun, result = time.monotonic(), RunFolder(folder / run.name)
        status = child.process.wait()
        with changing:
            del children[run.name]
            free_gpus.put(gpu)
            after = f"after {time.monotonic() - begun:.0f} s"
            if status == 0 and result.result.exists():
                outcomes[run.name] = Outcome(run.name, FINISHED)
                remember(run)
                percent = result.load_result()["test_error_percent"]
                report(f"{run.name}: {percent:.2f} % test error {after}")
            elif ending.is_set() and status in _STATUS_OF_STOPPED:
                return 0
            else:
                outcomes[run.name] = Outcome(run.name, FAILED, child.error())
                report(f"{run.name}: failed {after}: {child.error()}")
        return 1

    def in_thread() -> int:
        try:
            return train_next()
        except BaseException:
            ending.set()  # No other run begins.
            raise

    asked_to_stop = None
    with (
        StopRequests() as stop,
        futures.ThreadPoolExecutor(jobs) as pool,
        Progress("runs", len(runs), unit="runs", done=len(outcomes)) as progress,
    ):
        pending = {pool.submit(in_thread) for _ in waiting}
        try:
            while pending:
                done, pending = futures.wait(
                    pending, _SECONDS_BETWEEN_LOOKS, futures.FIRST_COMPLETED
                )
                where = [name + child.steps() for name, child in [*children.items()]]
                progress.show(running=", ".join(where))
                progress.advance(sum(future.result() for future in done))
                if asked_to_stop is None and (asked_to_stop := stop.received(0)):
                    with changing:
                        ending.set()
                        report(f"waiting for {len(children)} runs to save their state")
                        for child in children.values():
                            child.process.terminate()
        finally:
            with changing:
                ending.set()
                for child in children.values():
                    child.kill()
    if asked_to_stop and len(outcomes) < len(runs):
        raise Stopped(
            asked_to_stop, f"{len(outcomes)} of {len(runs)} runs and parts of others"
        )
    return [outcomes[run.name] for run in runs]


def _refuse_changes(run: Run, flags: Sequence[str], folder: pathlib.Path) -> None:
    """Raises UserError where a run that has begun had other flags."""
    before, now = (
        # Grids of earlier versions have some flags under other names.
        {current_flag(word) for word in words if not word.startswith(_MAY_CHANGE)}
        for words in (flags, run.flags)
    )
    if before != now and (folder / run.name).exists():
        old, new = (
            " ".join(sorted(words)) or "nothing"
            for words in (before - now, now - before)
        )
        raise UserError(
            f"the run {run.name} in {folder} was started with {old} in place of {new}; "
            "give the same flags, or choose another --workdir"
        )


def _environment(gpu: str | None, *, shared: bool) -> dict[str, str]:
    if gpu is None:
        return dict(os.environ)
    # Else the first run on a shared GPU takes most of its memory.
    memory = {"XLA_PYTHON_CLIENT_PREALLOCATE": "false"} if shared else {}
    return {**memory, **os.environ, "CUDA_VISIBLE_DEVICES": gpu}


def _words(run: Run, folder: pathlib.Path) -> list[str]:
    return [*run.flags, f"--workdir={folder / run.name}", "--resume"]


def _print(line: str) -> None:
    tqdm.write(line)  # Above a progress bar, if there is one.
    sys.stdout.flush()


class _Child:
    """A process, and what it prints to its log."""

    def __init__(
        self, words: Sequence[str], environment: Mapping[str, str], log: pathlib.Path
    ):
        self._log = log
        with log.open("ab") as file:
            self._log_begin = file.tell()
            # In a session of its own, so that a terminal's Ctrl-C does not reach it.
            self.process = subprocess.Popen(
                words,
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=file,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    def kill(self) -> None:
        """Ends it and what it has started."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()

    def error(self) -> str:
        """Why it failed."""
        status = self.process.returncode
        if status < 0:
            return f"ended by signal {-status} ({signal.strsignal(-status)})"
        *_, last = ["", *self._last_lines()]
        return last or f"it ended with status {status}"

    def steps(self) -> str:
        """How far it is, if it has said so."""
        lines = self._last_lines()
        steps = [line.split()[1] for line in lines if line.startswith("training: ")]
        return f" {steps[-1]}" if steps else ""

    def _last_lines(self) -> list[str]:
        with self._log.open("rb") as log:
            log.seek(max(self._log_begin, log.seek(0, os.SEEK_END) - _TAIL_BYTES))
            return log.read().decode(errors="replace").strip().splitlines()
