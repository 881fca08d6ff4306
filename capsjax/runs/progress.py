"""Progress of long work: a bar on a terminal, occasional lines elsewhere."""

import sys
import time
from typing import TextIO

from tqdm import tqdm

_SECONDS = 15.0  # Between lines.


class Progress:
    """Shows the progress of some work, its speed and the time left.

    On a terminal this is a tqdm bar. In a log file or a pipe, where a bar would be
    noise, it prints a line every 15 seconds and one at the end.
    """

    def __init__(
        self,
        what: str,
        total: int,
        *,
        unit: str,
        done: int = 0,
        scale: int = 1,
        stream: TextIO | None = None,
        shown: bool = True,
    ):
        """Starts the display.

        Args:
            what: the name of the work.
            total: the amount of work.
            unit: the unit of the speed.
            done: the amount that was done before, in an earlier run.
            scale: units for each count of ``total`` (images in a step).
            stream: the stream to show it on; standard error by default.
            shown: whether to show anything; only one process of a run does.
        """
        stream = stream or sys.stderr
        self._what, self._total, self._unit = what, total, unit
        self._scale, self._stream = scale, stream
        self._done = self._done_before = done
        self._numbers: dict[str, str] = {}
        self._text = ""
        self._started = self._last_line = time.monotonic()
        self._shown = shown
        self._bar = None
        if shown and stream.isatty():
            self._bar = tqdm(
                desc=what,
                total=total * scale,
                initial=done * scale,
                unit=unit,
                unit_scale=True,
                file=stream,
                dynamic_ncols=True,
            )

    def __enter__(self) -> "Progress":
        return self

    def __exit__(self, *exception) -> None:
        if self._bar is not None:
            self._bar.close()
        elif self._last_line > self._started:
            self._print_line()

    def advance(self, count: int = 1) -> None:
        """Adds to the amount that is done."""
        self._done += count
        if self._bar is not None:
            self._bar.update(count * self._scale)
        elif self._shown and time.monotonic() >= self._last_line + _SECONDS:
            self._print_line()

    def show(self, **numbers: str) -> None:
        """Sets numbers to show beside the progress, by name, and keeps the others."""
        self._numbers |= numbers
        self._text = ", ".join(f"{name} {n}" for name, n in self._numbers.items())
        if self._bar is not None:
            self._bar.set_postfix_str(self._text, refresh=False)

    def _print_line(self) -> None:
        self._last_line = now = time.monotonic()
        rate = (self._done - self._done_before) / (now - self._started)
        left = tqdm.format_interval((self._total - self._done) / rate) if rate else "?"
        speed = rate * self._scale
        rounded = f"{speed:.2g}" if 0 < speed < 1 else f"{speed:.0f}"
        line = (
            f"{self._what}: {self._done}/{self._total} "
            f"({rounded} {self._unit}/s, {left} left) {self._text}"
        )
        print(line.rstrip(), file=self._stream, flush=True)
