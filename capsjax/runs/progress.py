"""Progress on long work: a bar on a terminal, a line now and then elsewhere."""

import sys
import time
from typing import TextIO

from tqdm import tqdm

_SECONDS_BETWEEN_LINES = 15.0


class Progress:
    """Shows how far some work is, how fast it goes, and when it will be done.

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
            total: how much there is to do.
            unit: what is counted, for the speed.
            done: how much was done before, in an earlier run.
            scale: units for each count of ``total`` (images in a step).
            stream: where to show it; standard error by default.
            shown: otherwise nothing is; for all processes of a run but one.
        """
        stream = stream or sys.stderr
        self._what, self._total, self._unit = what, total, unit
        self._scale, self._stream = scale, stream
        self._done = self._done_before = done
        self._numbers: dict[str, str] = {}
        self._text = ""
        self._started = self._last_line = time.monotonic()
        self._shown = shown
        self._closed = False
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
        self.close()

    def close(self) -> None:
        """Ends the display; what is shown stays."""
        if self._bar is not None:
            self._bar.close()
        elif not self._closed and self._last_line > self._started:
            self._print_line()
        self._closed = True

    def advance(self, count: int = 1) -> None:
        """Notes that so much more is done."""
        self._done += count
        if self._bar is not None:
            self._bar.update(count * self._scale)
        elif (
            self._shown and time.monotonic() - self._last_line >= _SECONDS_BETWEEN_LINES
        ):
            self._print_line()

    def show(self, **numbers: str) -> None:
        """Sets numbers shown beside the progress, by name; others stay."""
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
            f"({rounded} {self._unit}/s, {left} left)"
        )
        text = f" {self._text}" if self._text else ""
        print(line + text, file=self._stream, flush=True)
