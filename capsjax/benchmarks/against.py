"""Our train step compared with another program's, each in its own process, in turn.

Machines get faster and slower over time, so only times from the same minutes compare.
As its last line of JSON each program must print an object whose keys that end in ``_s``
are seconds, and whose ``batch``, if present, is the number of images. Peak memory is
the system's account of the whole process: interpreter, libraries and compiler.
"""

import contextlib
import json
import pathlib
import shlex
import shutil
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from capsjax.benchmarks import programs as benchmark
from capsjax.benchmarks.programs import AGAINST, Problem, Timing
from capsjax.errors import UserError
from capsjax.runs import results
from capsjax.runs.results import Row

# Runs a command and records its peak memory in KiB. A process inherits its parent's
# peak, so the command gets this small parent.
_WATCH = """
import resource, subprocess, sys
status = subprocess.call(sys.argv[2:])
with open(sys.argv[1], "w") as file:
    file.write(str(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss))
sys.exit(status)
"""


class Report(NamedTuple):
    """The output of one process: batch size, seconds by key, and peak memory in MB."""

    batch: int | None
    seconds: Mapping[str, float]
    peak_rss_mb: float


class Comparison(NamedTuple):
    """Times of two programs that took turns: each has seconds of every round.

    Attributes:
        name: name of the other program.
        ours: our step.
        theirs: the other program's times, one for each of its keys.
    """

    name: str
    ours: Timing
    theirs: list[Timing]

    def ratios(self, their: Timing) -> list[float]:
        """Seconds of our step divided by theirs, in each round."""
        pairs = zip(self.ours.seconds, their.seconds, strict=True)
        return [ours / theirs for ours, theirs in pairs]

    def table(self) -> str:
        """A table of the medians over the rounds, and of the ratios."""
        header = ("", "median s", "peak MB", "our step takes")
        lines = []
        for timing in (self.ours, *self.theirs):
            name, takes = "capsjax", ""
            if timing is not self.ours:
                name = self.name
                ratios = self.ratios(timing)
                takes = (
                    f"{statistics.median(ratios):.2f} times as long "
                    f"({min(ratios):.2f} to {max(ratios):.2f})"
                )
            median, memory = f"{timing.median_s:.4f}", f"{timing.peak_rss_mb:.0f}"
            lines.append([f"{name} {timing.stage}_s", median, memory, takes])
        return results.text_table(header, lines, numeric=header[1:3])

    def rows(self, problem: Problem, env: Mapping[str, Any]) -> list[Row]:
        """Rows of the benchmark: ours, then theirs by the program's name.

        Their ``repeats`` are rounds, each with its own median.
        """
        # Of the other program we know only its output.
        unknown = {"model": self.name, "routing_implementation": "", "dtype": ""}
        return [
            benchmark.row(problem, env, self.ours),
            *(benchmark.row(problem, env, x, **unknown) for x in self.theirs),
        ]


def compare(
    ours: Sequence[str],
    theirs: str,
    *,
    rounds: int,
    on_round: Callable[[], None] = lambda: None,
) -> Comparison:
    """Runs our command, in words, and theirs, as typed in a shell, in turn.

    Each runs ``rounds`` times; ``on_round`` is called after each round.

    Raises:
        UserError: a command cannot be run, fails, or prints no such line; or the batch
            sizes differ.
    """
    words = shlex.split(theirs)
    if not words:
        raise UserError("--against is empty; give the command to compare with")
    scripts = [word for word in words if word.endswith(".py")]
    name = pathlib.Path((scripts or words)[0]).name
    of_ours: list[Report] = []
    of_theirs: list[Report] = []
    for _ in range(rounds):
        # Theirs first: it is more likely to be wrong.
        of_theirs.append(their := run(words))
        of_ours.append(our := run(ours))
        if their.batch not in (None, our.batch):
            raise UserError(
                f"{name} takes batches of {their.batch}, ours are of {our.batch}; "
                "give both the same"
            )
        on_round()
    return Comparison(name, _timings(of_ours)[0], _timings(of_theirs))


def run(words: Sequence[str]) -> Report:
    """Runs a command to its end.

    Raises:
        UserError: it cannot be run, fails, or prints no such line.
    """
    command = shlex.join(words)
    if shutil.which(words[0]) is None:
        raise UserError(f"cannot run {command}: there is no program {words[0]}")
    with tempfile.NamedTemporaryFile("r") as memory:
        process = subprocess.run(
            [sys.executable, "-S", "-c", _WATCH, memory.name, *words],
            capture_output=True,
            text=True,
        )
        if process.returncode:
            last = (process.stderr.strip().splitlines() or ["it printed no error"])[-1]
            raise UserError(
                f"{command} failed with status {process.returncode}: {last}"
            )
        peak_rss_mb = int(memory.read()) * 1024 / 1e6
    found = {}
    for line in process.stdout.splitlines():
        with contextlib.suppress(ValueError):
            if isinstance(value := json.loads(line), dict):
                found = value
    seconds = {
        key: float(value)
        for key, value in found.items()
        if key.endswith("_s") and isinstance(value, int | float)
    }
    if not seconds:
        raise UserError(
            f"{command} printed no line of JSON with a number by a key that ends in _s"
        )
    return Report(found.get("batch"), seconds, peak_rss_mb)


def _timings(reports: Sequence[Report]) -> list[Timing]:
    """The times of all rounds, one for each key of the first."""
    return [
        Timing(
            tuple(report.seconds[key] for report in reports),
            "wall",
            key.removesuffix("_s"),
            AGAINST,
            peak_rss_mb=max(report.peak_rss_mb for report in reports),
        )
        for key in reports[0].seconds
    ]
