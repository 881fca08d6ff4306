"""The form of everything that can run the trainings of a grid.

An executor belongs to one call of `capsjax.runs.grid.run_all`, which gives it runs,
looks at it from time to time, and keeps the grid's records.
"""

import abc
import collections
import os
import pathlib
import shlex
import signal
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

from capsjax.runs.progress import done_of

TRAIN = (sys.executable, "-u", "-m", "experiments.train")

_TAIL_BYTES = 4_096


class Run(NamedTuple):
    """A training.

    Attributes:
        name: the name of its folder and log; unique in the grid.
        flags: flags of experiments.train, without ``--workdir`` and ``--resume``.
    """

    name: str
    flags: Sequence[str]

    def words(self, folder: pathlib.Path) -> list[str]:
        """All flags of its training, in the folder of a grid."""
        return [*self.flags, f"--workdir={folder / self.name}", "--resume"]

    def line(self, folder: pathlib.Path) -> str:
        """Its command as a line for a shell."""
        return shlex.join(["python", "-m", "experiments.train", *self.words(folder)])


class End(NamedTuple):
    """How a training ended.

    Attributes:
        status: exit status of its process; if a signal ended it, minus its number.
        reason: what to say about it if it failed.
    """

    status: int
    reason: str


class Task:
    """A training that an executor has taken; as a string, its name and progress.

    Attributes:
        run: the training.
        log: the file that holds what it prints, and what it printed earlier.
        taken: what was done with it, such as "started on GPU 0".
        running: whether it runs, or waits for a machine.
        since: time at which it was taken, in seconds.
    """

    def __init__(self, run: Run, folder: pathlib.Path, taken: str):
        self.run, self.taken, self.running = run, taken, True
        self.since = time.monotonic()
        self.log = folder / f"{run.name}.log"
        self._log_begin = self.log.stat().st_size if self.log.exists() else 0

    def last_lines(self) -> list[str]:
        """The end of what it has printed since it was taken."""
        if not self.log.exists():
            return []
        with self.log.open("rb") as log:
            log.seek(max(self._log_begin, log.seek(0, os.SEEK_END) - _TAIL_BYTES))
            return log.read().decode(errors="replace").strip().splitlines()

    def end(self, status: int) -> End:
        """Its end with a status, with the reason that its log gives."""
        if status < 0:
            reason = f"ended by signal {-status} ({signal.strsignal(-status)})"
            return End(status, reason)
        lines = self.last_lines()
        return End(status, lines[-1] if lines else f"it ended with status {status}")

    def __str__(self) -> str:
        return f"{self.run.name} {done_of(self.last_lines(), 'training')}".rstrip()


class Executor(abc.ABC):
    """Runs trainings.

    Attributes:
        seconds_between_looks: how often it should be asked for what has ended.
    """

    seconds_between_looks: float

    @abc.abstractmethod
    def take(self, waiting: collections.deque[Run]) -> Iterator[Task]:
        """Takes runs from the front, as many as it has room for, and starts them.

        Raises:
            UserError: they cannot be started.
            OSError: a log cannot be written.
        """

    @abc.abstractmethod
    def ended(self) -> list[tuple[Task, End]]:
        """The tasks that have ended since the last call."""

    @abc.abstractmethod
    def stop(self) -> None:
        """Asks all tasks to save their state and to end."""

    @abc.abstractmethod
    def kill(self) -> None:
        """Ends all tasks that have not ended, however this executor can."""


# Makes an executor for the folder of a grid, the words that train, and the number of
# trainings at the same time (None: as many as there is room for).
MakeExecutor = Callable[[pathlib.Path, Sequence[str], int | None], Executor]
