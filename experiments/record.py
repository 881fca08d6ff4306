"""Appends finished runs to a file of results and renews its table.

python -m experiments.record --workdirs=runs/a,runs/b --output=results/training.csv

writes into the committed ``results/training.csv`` a row for each run with its
provenance, and from all its rows ``results/training.md``.
"""

import pathlib

from absl import flags

from capsjax.runs import results
from capsjax.runs.folder import RunFolder
from experiments import launch

_WORKDIRS = flags.DEFINE_list(
    "workdirs", None, "Folders of finished runs, separated by commas.", required=True
)
_OUTPUT = flags.DEFINE_string(
    "output",
    "runs/benchmarks/training.csv",
    "The CSV file; the table goes beside it. results/training.csv is the committed "
    "one.",
)


def main() -> None:
    """Appends the rows and writes the table."""
    path = pathlib.Path(_OUTPUT.value)
    rows = [results.training_row(RunFolder(workdir)) for workdir in _WORKDIRS.value]
    new = results.append(path, rows)
    table = path.with_suffix(".md")
    table.write_text(results.training_table(results.read(path)) + "\n")
    print(f"{new} new rows in {path}; table in {table}")


if __name__ == "__main__":
    launch.run(main)
