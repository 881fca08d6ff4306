"""Many trainings, each in a process of its own, so that none takes others along.

A grid's folder holds a run's folder and its log for each name::

    grid.json     the flags of each run
    <name>/       a run's folder, see capsjax.runs.folder
    <name>.log    what its training printed
    .lock         held by the process that runs them

The same call again goes on where the last one ended: finished runs are left as they
are, others are resumed.
"""

import collections
import contextlib
import fcntl
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
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import NamedTuple

from tqdm import tqdm

from capsjax.errors import UserError
from capsjax.runs.folder import RunFolder, write_json
from capsjax.runs.progress import Progress
from capsjax.runs.stop import Stopped, StopRequests

FINISHED, SKIPPED, FAILED = "finished", "skipped", "failed"

TRAIN = (sys.executable, "-u", "-m", "experiments.train")

# What may differ between two calls: where the data lies, not which.
_MAY_CHANGE = "--data_dir="
_SECONDS_BETWEEN_LOOKS = 0.1
_TAIL_BYTES = 4_096


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
        name: of the run.
        status: `FINISHED`, `SKIPPED` (it had finished before) or `FAILED`.
        seconds: that it took in this call.
        error: why it failed, else empty.
    """

    name: str
    status: str
    seconds: float
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
        runs: in the order in which they are started.
        workdir: the grid's folder.
        jobs: how many run at the same time; by default as many as there are GPUs, one
            on a CPU. With more than GPUs, several share one and its memory.
        report: is given a line when a run starts and when it ends; printed by default.
        command: that trains, without flags.

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
        with _locked(folder):
            return _run_all(runs, folder, jobs, report or _print, command)
    except OSError as error:
        raise UserError(
            f"cannot write to {error.filename or folder}: {error.strerror}"
        ) from error


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


class _Child:
    """A run under way."""

    def __init__(
        self,
        run: Run,
        folder: pathlib.Path,
        command: Sequence[str],
        environment: Mapping[str, str],
    ):
        self.name = run.name
        self.folder = RunFolder(folder / run.name)
        self.log = folder / f"{run.name}.log"
        self._begun = time.monotonic()
        with self.log.open("ab") as log:
            self._log_begin = log.tell()
            # In a session of its own, so that a terminal's Ctrl-C does not reach it.
            self.process = subprocess.Popen(
                [*command, *_words(run, folder)],
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    def ask_to_stop(self) -> None:
        self.process.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        """Ends it and what it has started."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()

    def outcome(self) -> Outcome:
        """To be called when the process has ended."""
        seconds, status = time.monotonic() - self._begun, self.process.returncode
        if status == 0 and self.folder.result.exists():
            return Outcome(self.name, FINISHED, seconds)
        lines = self._tail().strip().splitlines()
        error = lines[-1] if lines else f"it ended with status {status}"
        if status < 0:
            error = f"ended by signal {-status} ({signal.strsignal(-status)})"
        return Outcome(self.name, FAILED, seconds, error)

    def where(self) -> str:
        """Its name, and how far it is if it has said so."""
        steps = re.findall(r"^training: (\d+/\d+) ", self._tail(), re.MULTILINE)
        return f"{self.name} {steps[-1]}" if steps else self.name

    def _tail(self) -> str:
        """The last of what it has printed in this call."""
        with self.log.open("rb") as log:
            end = log.seek(0, os.SEEK_END)
            log.seek(max(self._log_begin, end - _TAIL_BYTES))
            return log.read().decode(errors="replace")


def _run_all(
    runs: Sequence[Run],
    folder: pathlib.Path,
    jobs: int | None,
    report: Callable[[str], None],
    command: Sequence[str],
) -> list[Outcome]:
    record = _Record(folder)
    record.refuse_changes(runs)
    outcomes = {
        run.name: Outcome(run.name, SKIPPED, 0.0)
        for run in runs
        if record.has(run) and RunFolder(folder / run.name).result.exists()
    }
    waiting = collections.deque(run for run in runs if run.name not in outcomes)
    record.add(run for run in waiting if not (folder / run.name).exists())
    if outcomes:
        report(f"{len(outcomes)} of {len(runs)} runs have finished before")
    by_name = {run.name: run for run in runs}
    gpus = visible_gpus()
    jobs = jobs or max(len(gpus), 1)
    places = list(range(jobs))
    children: dict[int, _Child] = {}
    asked_to_stop = None

    with contextlib.ExitStack() as stack:
        stop = stack.enter_context(StopRequests())
        stack.callback(_kill, children)
        progress = stack.enter_context(
            Progress("runs", len(runs), unit="runs", done=len(outcomes))
        )
        while waiting or children:
            if asked_to_stop is None and (asked_to_stop := stop.received(0)):
                waiting.clear()
                for child in children.values():
                    child.ask_to_stop()
                report(f"waiting for {len(children)} runs to save their state")
            while waiting and len(children) < jobs:
                place = min(set(places) - children.keys())
                environment = _environment(place, gpus, jobs)
                child = _Child(waiting.popleft(), folder, command, environment)
                children[place] = child
                on_gpu = f" on GPU {gpus[place % len(gpus)]}" if gpus else ""
                report(f"{child.name}: started{on_gpu}, log in {child.log}")
            for place, child in list(children.items()):
                if child.process.poll() is None:
                    continue
                del children[place]
                outcome = child.outcome()
                if asked_to_stop and _obeyed(child, outcome):
                    continue
                outcomes[child.name] = outcome
                if outcome.status == FINISHED:
                    record.add([by_name[child.name]])
                report(_ending(child, outcome))
                progress.advance()
            if children:
                progress.show(running=", ".join(c.where() for c in children.values()))
                progress.advance(0)
                time.sleep(_SECONDS_BETWEEN_LOOKS)
    if asked_to_stop and len(outcomes) < len(runs):
        raise Stopped(
            asked_to_stop, f"{len(outcomes)} of {len(runs)} runs and parts of others"
        )
    return [outcomes[run.name] for run in runs]


def _kill(children: Mapping[int, _Child]) -> None:
    for child in children.values():
        child.kill()


def _obeyed(child: _Child, outcome: Outcome) -> bool:
    """Whether a run that was asked to stop did so, before its end."""
    stopped = child.process.returncode in (0, -signal.SIGTERM)
    return outcome.status == FAILED and stopped


def _ending(child: _Child, outcome: Outcome) -> str:
    after = f"after {outcome.seconds:.0f} s"
    if outcome.status == FAILED:
        return f"{child.name}: failed {after}: {outcome.error}"
    error = child.folder.load_result()["test_error_percent"]
    return f"{child.name}: {error:.2f} % test error {after}"


def _environment(place: int, gpus: Sequence[str], jobs: int) -> dict[str, str]:
    environment = dict(os.environ)
    if gpus:
        environment["CUDA_VISIBLE_DEVICES"] = gpus[place % len(gpus)]
        if jobs > len(gpus):
            # Else the first run on a GPU takes most of its memory.
            environment.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")
    return environment


def _words(run: Run, folder: pathlib.Path) -> list[str]:
    return [*run.flags, f"--workdir={folder / run.name}", "--resume"]


def _print(line: str) -> None:
    tqdm.write(line)  # Above a progress bar, if there is one.
    sys.stdout.flush()


class _Record:
    """``grid.json``: the flags of each run whose folder this grid has made.

    A folder that was there before, made by the command on another machine for one, is
    named in it once its training has gone on with these flags: the training checks its
    config itself.
    """

    def __init__(self, folder: pathlib.Path):
        self._path = folder / "grid.json"
        self._flags: dict[str, list[str]] = {}
        if self._path.exists():
            try:
                self._flags = json.loads(self._path.read_text())
            except ValueError as error:
                raise UserError(f"cannot read {self._path}: {error}") from error

    def has(self, run: Run) -> bool:
        return run.name in self._flags

    def add(self, runs: Iterable[Run]) -> None:
        self._flags |= {run.name: list(run.flags) for run in runs}
        write_json(self._path, self._flags)

    def refuse_changes(self, runs: Sequence[Run]) -> None:
        """Raises UserError where a run that has begun had other flags."""
        for run in runs:
            if not (self._path.parent / run.name).exists():
                continue
            old = _that_count(self._flags.get(run.name, run.flags))
            new = _that_count(run.flags)
            if sorted(old) != sorted(new):
                before = " ".join(word for word in old if word not in new)
                now = " ".join(word for word in new if word not in old)
                raise UserError(
                    f"the run {run.name} in {self._path.parent} was started "
                    f"{f'with {before}' if before else f'without {now}'}"
                    f"{f' and not with {now}' if before and now else ''}; give the "
                    "same flags, or choose another --workdir"
                )


def _that_count(flags: Sequence[str]) -> list[str]:
    return [word for word in flags if not word.startswith(_MAY_CHANGE)]


@contextlib.contextmanager
def _locked(folder: pathlib.Path) -> Iterator[None]:
    """Keeps a second process out of the folder."""
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / ".lock").open("a") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise UserError(
                f"another process runs trainings in {folder}; wait for it to end, stop "
                "it, or choose another --workdir"
            ) from error
        yield
