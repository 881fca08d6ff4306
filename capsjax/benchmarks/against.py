"""Our train step compared with another program's, each in its own process, in turn.

Machines get faster and slower over time, so only times from the same minutes compare.
As its last line of JSON each program must print an object whose keys that end in ``_s``
are seconds, and whose ``batch``, if present, is the number of images. Peak memory is
the system's account of the whole process: interpreter, libraries and compiler.
"""

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

_OURS = "step_s"  # The key of our own program.

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
    """The output of one process.

    Attributes:
        seconds: seconds by key, such as ``"step_s"``.
        batch: number of images, if reported.
        peak_rss_mb: peak memory of the process, in MB.
    """

    seconds: Mapping[str, float]
    batch: int | None
    peak_rss_mb: float


class Comparison(NamedTuple):
    """Reports of two programs that took turns.

    Attributes:
        name: name of the other program.
        ours: reports of our program, one per round.
        theirs: reports of the other program, one per round.
    """

    name: str
    ours: list[Report]
    theirs: list[Report]

    def ratios(self, key: str) -> list[float]:
        """Seconds of our step divided by theirs of that key, in each round."""
        return [
            ours.seconds[_OURS] / theirs.seconds[key]
            for ours, theirs in zip(self.ours, self.theirs, strict=True)
        ]

    def table(self) -> str:
        """A table of the medians over the rounds, and of the ratios."""
        header = ("", "median s", "peak MB", "our step takes")
        lines = []
        for name, reports in (("capsjax", self.ours), (self.name, self.theirs)):
            memory = max(report.peak_rss_mb for report in reports)
            for key in reports[0].seconds:
                median = statistics.median(report.seconds[key] for report in reports)
                takes = ""
                if reports is self.theirs:
                    ratios = self.ratios(key)
                    takes = (
                        f"{statistics.median(ratios):.2f} times as long "
                        f"({min(ratios):.2f} to {max(ratios):.2f})"
                    )
                lines.append([f"{name} {key}", f"{median:.4f}", f"{memory:.0f}", takes])
        return results.text_table(header, lines, numeric=header[1:3])

    def rows(self, problem: Problem, env: Mapping[str, Any]) -> list[Row]:
        """Rows of the benchmark: ours, then theirs by the program's name.

        Their ``repeats`` are rounds, each with its own median.
        """
        # Of the other program we know only its output.
        unknown = {"model": self.name, "routing_implementation": "", "dtype": ""}
        return [
            benchmark.row(
                problem,
                env,
                Timing(
                    tuple(report.seconds[key] for report in reports),
                    "wall",
                    key.removesuffix("_s"),
                    AGAINST,
                    peak_rss_mb=max(report.peak_rss_mb for report in reports),
                ),
                **columns,
            )
            for reports, columns in ((self.ours, {}), (self.theirs, unknown))
            for key in reports[0].seconds
        ]


def compare(
    ours: Sequence[str],
    theirs: str,
    *,
    rounds: int,
    on_round: Callable[[], None] = lambda: None,
) -> Comparison:
    """Runs our command and another in turn.

    Args:
        ours: words of our command.
        theirs: the other command, as typed in a shell.
        rounds: runs of each.
        on_round: called after each round.

    Raises:
        UserError: a command cannot be run, fails, or prints no such line; or the batch
            sizes differ.
    """
    words = shlex.split(theirs)
    if not words:
        raise UserError("--against is empty; give the command to compare with")
    scripts = [word for word in words if word.endswith(".py")]
    found = Comparison(pathlib.Path((scripts or words)[0]).name, [], [])
    for _ in range(rounds):
        # Theirs first: it is more likely to be wrong.
        their_report, our_report = run(words), run(ours)
        if their_report.batch not in (None, our_report.batch):
            raise UserError(
                f"{found.name} takes batches of {their_report.batch}, ours are of "
                f"{our_report.batch}; give both the same"
            )
        found.theirs.append(their_report)
        found.ours.append(our_report)
        on_round()
    return found


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
    found = _last_object(process.stdout)
    seconds = {
        key: float(value)
        for key, value in found.items()
        if key.endswith("_s") and isinstance(value, int | float)
    }
    if not seconds:
        raise UserError(
            f"{command} printed no line of JSON with a number by a key that ends in _s"
        )
    return Report(seconds, found.get("batch"), peak_rss_mb)


def _last_object(text: str) -> dict[str, Any]:
    for line in reversed(text.splitlines()):
        try:
            found = json.loads(line)
        except ValueError:
            continue
        if isinstance(found, dict):
            return found
    return {}
