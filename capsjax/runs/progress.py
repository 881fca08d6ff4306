"""Progress of long work: a bar on a terminal, occasional lines elsewhere."""

import contextlib
import os
import re
import sys
import time
from collections.abc import Iterator, Sequence
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
        self._started = self._last_line = time.monotonic()
        self._shown = shown
        self._bar = None
        if shown and stream.isatty():
            self._bar = tqdm(
                desc=what,
                total=total,
                initial=done,
                file=stream,
                bar_format="{desc} {percentage:.0f}% {n_fmt}/{total_fmt} "
                "[{elapsed}<{remaining}]{postfix}",
                ncols=_columns(stream),
            )

    def __enter__(self) -> "Progress":
        return self

    def __exit__(self, *exception) -> None:
        if self._bar is not None:
            self._bar.close()
        elif self._last_line > self._started:
            self.line()

    @contextlib.contextmanager
    def preparing(self, doing: str) -> Iterator[None]:
        """Says that something comes before the work; speed and time left start after.

        Args:
            doing: the name of the preparation, such as "compiling".
        """
        if self._bar is not None:
            self._bar.set_description_str(f"{self._what} ({doing})")
        yield
        self._started = time.monotonic()
        if self._bar is not None:
            self._bar.unpause()
            self._bar.set_description_str(self._what)

    def advance(self, count: int = 1) -> None:
        """Adds to the amount that is done."""
        self._done += count
        if self._bar is not None:
            self._bar.set_postfix_str(self._text(), refresh=False)
            self._bar.update(count)
        elif self._shown and time.monotonic() >= self._last_line + _SECONDS:
            self.line()

    def show(self, **numbers: str) -> None:
        """Sets numbers to show beside the progress, by name, and keeps the others."""
        self._numbers |= numbers

    def line(self) -> None:
        """Prints a line; `done_of` reads it."""
        self._last_line = time.monotonic()
        rate = self._rate()
        left = tqdm.format_interval((self._total - self._done) / rate) if rate else "?"
        numbers = ", ".join(f"{name} {n}" for name, n in self._numbers.items())
        line = (
            f"{self._what}: {self._done}/{self._total} "
            f"({self._speed()}, {left} left) {numbers}"
        )
        print(line.rstrip(), file=self._stream, flush=True)

    def _rate(self) -> float:
        seconds = time.monotonic() - self._started
        return (self._done - self._done_before) / seconds if seconds else 0.0

    def _speed(self) -> str:
        speed = self._rate() * self._scale
        rounded = f"{speed:.2g}" if 0 < speed < 1 else f"{speed:.0f}"
        return f"{rounded} {self._unit}/s"

    def _text(self) -> str:
        """The text beside a bar: the newest numbers first, since the end is cut off."""
        numbers = [f"{name} {n}" for name, n in reversed(self._numbers.items())]
        return ", ".join([*numbers, self._speed()])


def done_of(lines: Sequence[str], what: str) -> str:
    """Finds ``done/total`` in the last line of a work's progress, or ""."""
    found = [line.split()[1] for line in lines if re.match(rf"{what}: \d+/\d+ ", line)]
    return found[-1] if found else ""


def _columns(stream: TextIO) -> int | None:
    """Width of a terminal; 80 if it does not tell; None for one without a number."""
    try:
        return os.get_terminal_size(stream.fileno()).columns or 80
    except (OSError, ValueError):
        return None
