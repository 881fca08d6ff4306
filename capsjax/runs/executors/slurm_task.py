"""What a task of a Slurm job does: it starts a training, and passes signals on to it.

It is imported on the machine that trains, in a process beside the training's: so it
imports little, and nothing that looks for devices.
"""

import os
import signal
import subprocess
from collections.abc import Sequence
from types import FrameType

from submitit.core.job_environment import JobEnvironment
from submitit.helpers import Checkpointable, DelayedSubmission


class Training(Checkpointable):
    """Trains in a process of its own; returns its exit status, as of `subprocess`.

    Slurm tells a task to end in two ways. SIGTERM comes when a job is cancelled or
    preempted: the training saves its state and ends, and if it was preempted Slurm
    itself starts the job again. submitit's own signal comes before the time limit,
    after which Slurm would start nothing again: submitit then calls `checkpoint` and
    puts the job back into the queue. The training needs nothing more than that: given
    the same command, it goes on from its state.
    """

    def __init__(self, command: Sequence[str], log: str):
        """Takes the words of the training and the file that gets what it prints."""
        self._command, self._log = list(command), log

    def __call__(self) -> int:
        """Trains to the end, or until it is told to end."""
        # Slurm sends submitit's signal to all processes of a task; it is not the
        # training's, which inherits that it is blocked.
        submitits = {signal.Signals[f"SIG{JobEnvironment.USR_SIG}"]}
        with open(self._log, "ab") as log:
            signal.pthread_sigmask(signal.SIG_BLOCK, submitits)
            try:
                process = subprocess.Popen(
                    self._command,
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=subprocess.STDOUT,
                )
            finally:
                signal.pthread_sigmask(signal.SIG_UNBLOCK, submitits)
        self._pid = process.pid
        signal.signal(signal.SIGTERM, self._pass_on)
        try:
            self._wait()
        finally:  # Also where a signal's handler raises; the training has ended then.
            status = process.wait()
        return status

    def checkpoint(self) -> DelayedSubmission:
        """Ends the training with its state saved; returns how to go on.

        Raises:
            RuntimeError: it had not begun to train. It would get no further next time.
        """
        os.kill(self._pid, signal.SIGTERM)
        if self._wait() == os.CLD_KILLED:
            raise RuntimeError(
                "the time limit came before the first step; give more --slurm_minutes"
            )
        return DelayedSubmission(Training(self._command, self._log))

    def _wait(self) -> int:
        """Waits for its end and leaves its status; returns how it ended (a CLD_)."""
        # Popen.wait in a signal's handler would wait for the lock of the one that it
        # interrupts.
        ended = os.waitid(os.P_PID, self._pid, os.WEXITED | os.WNOWAIT)
        return ended.si_code if ended else 0

    def _pass_on(self, number: int, frame: FrameType | None) -> None:
        os.kill(self._pid, number)
