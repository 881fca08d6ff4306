"""Our train step beside another program's, each in a process of its own, in turn.

Machines get faster and slower while one looks; what two programs need in the same
minutes can be compared. Both are asked for the same: to print, as their last line of
JSON, an object whose keys that end in ``_s`` are seconds (and whose ``batch``, if it
has one, is the number of images). The most memory that a
process had in use is the system's account, so all of it counts: interpreter, libraries
and compiler.
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
from capsjax.benchmarks.programs import Timing
from capsjax.config import Config
from capsjax.errors import UserError
from capsjax.runs import results
from capsjax.runs.results import Row

# What our own command calls the whole step.
STEP = "step_s"
MODE = "against"  # Of the rows.

# Starts a command and writes down its memory, in KiB. A process counts what the one
# that started it had in use then; this one, in between, has little.
_WATCH = """
import resource, subprocess, sys
status = subprocess.call(sys.argv[2:])
with open(sys.argv[1], "w") as file:
    file.write(str(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss))
sys.exit(status)
"""


class Report(NamedTuple):
    """What one process said.

    Attributes:
        seconds: by key, such as ``"step_s"``.
        batch: number of images, if it said so.
        peak_rss_mb: the most memory it had in use, in MB.
    """

    seconds: Mapping[str, float]
    batch: int | None
    peak_rss_mb: float


class Comparison(NamedTuple):
    """Two programs, of which each round has run one after the other.

    Attributes:
        name: the other program's.
        ours: what ours said in each round.
        theirs: what the other said in each round.
    """

    name: str
    ours: Sequence[Report]
    theirs: Sequence[Report]

    def ratios(self, key: str) -> list[float]:
        """Seconds of our step over theirs by that key, in each round."""
        return [
            ours.seconds[STEP] / theirs.seconds[key]
            for ours, theirs in zip(self.ours, self.theirs, strict=True)
        ]

    def table(self) -> str:
        """Medians over the rounds, and the ratios, as people read them."""
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
        theirs: the other's, as one would type it.
        rounds: how often each is run.
        on_round: called after each round.

    Raises:
        UserError: a command cannot be run, fails, or prints no such line; or the two
            took batches of different sizes.
    """
    words = shlex.split(theirs)
    if not words:
        raise UserError("--against is empty; give the command to compare with")
    scripts = [word for word in words if word.endswith(".py")]
    name = pathlib.Path((scripts or words)[0]).name
    of_ours, of_theirs = [], []
    for _ in range(rounds):
        # Theirs first: it is the one that is likelier to be wrong.
        of_theirs.append(run(words))
        of_ours.append(run(ours))
        theirs_batch, ours_batch = of_theirs[-1].batch, of_ours[-1].batch
        if theirs_batch not in (None, ours_batch):
            raise UserError(
                f"{name} takes batches of {theirs_batch}, ours are of {ours_batch}; "
                "give both the same"
            )
        on_round()
    return Comparison(name, of_ours, of_theirs)


def run(words: Sequence[str]) -> Report:
    """Runs a command to its end.

    Raises:
        UserError: it cannot be run, fails, or prints no such line.
    """
    command = shlex.join(words)
    if shutil.which(words[0]) is None:
        raise UserError(f"cannot run {command}: there is no program {words[0]}")
    with tempfile.TemporaryDirectory() as folder:
        memory = pathlib.Path(folder) / "memory"
        process = subprocess.run(
            [sys.executable, "-S", "-c", _WATCH, str(memory), *words],
            capture_output=True,
            text=True,
        )
        if process.returncode:
            last = (process.stderr.strip().splitlines() or ["it printed no error"])[-1]
            raise UserError(
                f"{command} failed with status {process.returncode}: {last}"
            )
        peak_rss_mb = int(memory.read_text()) * 1024 / 1e6
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


def rows(
    comparison: Comparison,
    config: Config,
    image_shape: tuple[int, int, int],
    num_classes: int,
    env: Mapping[str, Any],
) -> list[Row]:
    """Rows of the benchmarks' columns: ours, then theirs by the program's name.

    Their ``repeats`` are rounds, each with a median of its own.
    """
    found = []
    for name, reports in (
        (config.model.name, comparison.ours),
        (comparison.name, comparison.theirs),
    ):
        # Of the other program we only know what it said.
        unknown = {"model": name, "routing_implementation": "", "dtype": ""}
        for key in reports[0].seconds:
            seconds = tuple(report.seconds[key] for report in reports)
            found.append(
                benchmark.row(
                    config,
                    image_shape,
                    num_classes,
                    env,
                    stage=key.removesuffix("_s"),
                    mode=MODE,
                    measured=Timing(seconds, "wall", None, None),
                    peak_rss_mb=max(report.peak_rss_mb for report in reports),
                    **(unknown if reports is comparison.theirs else {}),
                )
            )
    return found


def _last_object(text: str) -> dict[str, Any]:
    for line in reversed(text.splitlines()):
        try:
            found = json.loads(line)
        except ValueError:
            continue
        if isinstance(found, dict):
            return found
    return {}
