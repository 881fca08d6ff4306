"""Trainings as processes of this machine."""

import collections
import contextlib
import itertools
import os
import pathlib
import re
import shutil
import signal
import subprocess
from collections.abc import Iterator, Sequence

from capsjax.runs.executors.base import End, Executor, Run, Task


class Processes(Executor):
    """Runs each training in a process; each process has one of the GPUs."""

    seconds_between_looks = 0.1

    def __init__(self, folder: pathlib.Path, command: Sequence[str], jobs: int | None):
        """Looks for the GPUs.

        Args:
            folder: folder of the grid.
            command: words that train, without flags.
            jobs: number of processes; by default the number of GPUs, or one on a CPU.
                With more jobs than GPUs, several runs share a GPU and its memory.
        """
        gpus = visible_gpus()
        jobs = jobs or len(gpus) or 1
        self._folder, self._command, self._shared = folder, command, jobs > len(gpus)
        self._free = collections.deque(
            itertools.islice(itertools.cycle(gpus or [""]), jobs)
        )
        self._children: list[_Child] = []

    def take(self, waiting: collections.deque[Run]) -> Iterator[Task]:
        """Starts a process for each free GPU, or as many as there are jobs."""
        while waiting and self._free:
            child = _Child(
                waiting.popleft(),
                self._folder,
                self._command,
                self._free.popleft(),
                shared=self._shared,
            )
            self._children.append(child)
            yield child

    def ended(self) -> list[tuple[Task, End]]:
        """The tasks whose processes have ended; their GPUs are free again."""
        found: list[tuple[Task, End]] = []
        for child in [*self._children]:
            if (status := child.process.poll()) is not None:
                self._children.remove(child)
                self._free.append(child.gpu)
                found.append((child, child.end(status)))
        return found

    def stop(self) -> None:
        """Sends SIGTERM to the processes."""
        for child in self._children:
            child.process.terminate()

    def kill(self) -> None:
        """Kills the processes and those that they have started."""
        for child in self._children:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(child.process.pid, signal.SIGKILL)
            child.process.wait()


class _Child(Task):
    """A training process on a GPU, or on the CPU if that is ""."""

    def __init__(
        self,
        run: Run,
        folder: pathlib.Path,
        command: Sequence[str],
        gpu: str,
        *,
        shared: bool,
    ):
        super().__init__(run, folder, f"started{f' on GPU {gpu}' * bool(gpu)}")
        self.gpu = gpu
        environment = dict(os.environ)
        if gpu:
            environment["CUDA_VISIBLE_DEVICES"] = gpu
            if shared:  # Otherwise the first run reserves most of the GPU's memory.
                environment.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")
        with self.log.open("ab") as file:
            self.process = subprocess.Popen(
                [*command, *run.words(folder)],
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=file,
                stderr=subprocess.STDOUT,
                start_new_session=True,  # A terminal's Ctrl-C does not reach it.
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
