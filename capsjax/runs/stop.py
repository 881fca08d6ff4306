"""Requests to stop, which training handles between two steps."""

import os
import signal
import socket
import sys
import threading
from types import FrameType

import jax
from jax.experimental import multihost_utils

_SIGNALS = (signal.SIGINT, signal.SIGTERM)


class Stopped(Exception):
    """Training has stopped because it was asked to; nothing is lost.

    Attributes:
        signal: the signal that asked for it.
    """

    def __init__(self, signal: signal.Signals, done: int | str):
        """Takes the signal and the number of steps taken, or what is saved in words."""
        after = f"step {done}" if isinstance(done, int) else done
        super().__init__(f"stopped by {signal.name} after {after}")
        self.signal = signal


class StopRequests:
    """Takes SIGTERM and the first Ctrl-C as requests; use it as a context manager.

    A second Ctrl-C interrupts at once. If several processes train together, a request
    to one of them stops all of them after the same step, on which JAX's preemption
    service, which listens for SIGTERM, makes them agree.

    A request is acknowledged at once, in a thread: Python calls signal handlers only
    when the main thread is not busy in other code, such as a compilation.
    """

    def __init__(self) -> None:
        # Asking a lone process for its index would reserve the GPU.
        self._several = jax.distributed.is_initialized() and jax.process_count() > 1
        self._received: signal.Signals | None = None
        self._before: dict[signal.Signals, object] = {}
        self._wakeup_before = -1
        self._wakeup: socket.socket | None = None

    def __enter__(self) -> "StopRequests":
        # Python handles signals only in the main thread; elsewhere there are none.
        if threading.current_thread() is threading.main_thread():
            for number in _SIGNALS:
                if number == signal.SIGTERM and self._several:
                    continue  # It is the service's.
                self._before[number] = signal.signal(number, self._handle)
            heard, self._wakeup = socket.socketpair()
            self._wakeup.setblocking(False)
            self._wakeup_before = signal.set_wakeup_fd(self._wakeup.fileno())
            threading.Thread(target=_acknowledge, args=(heard,), daemon=True).start()
        return self

    def __exit__(self, *exception) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)  # type: ignore[arg-type]
        if self._wakeup:
            signal.set_wakeup_fd(self._wakeup_before)
            self._wakeup.close()  # The thread reads the end of a file and ends.

    def received(self, step: int) -> signal.Signals | None:
        """The signal that asked to stop, or None.

        Args:
            step: increasing number, the same in all processes.
        """
        if not self._several:
            return self._received
        if multihost_utils.reached_preemption_sync_point(step):
            return self._received or signal.SIGTERM
        return None

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if self._received == number == signal.SIGINT:
            raise KeyboardInterrupt
        self._received = signal.Signals(number)
        if self._several:
            os.kill(os.getpid(), signal.SIGTERM)


def _acknowledge(heard: socket.socket) -> None:
    """Says that a signal has arrived, the first time that one does."""
    with heard:
        said = False
        # Read to the end: a signal that nobody reads would be an error.
        while numbers := heard.recv(16):
            for number in {*numbers} & {*_SIGNALS} if not said else ():
                said = True
                again = "; Ctrl-C again stops at once, without saving"
                print(
                    f"{signal.Signals(number).name}: will stop once the state is saved"
                    + again * (number == signal.SIGINT),
                    file=sys.stderr,
                    flush=True,
                )
