"""Writes the tables of docs/speed.md from the rows of the training benchmark.

python -m experiments.speed

after experiments.benchmark_training --output=results/benchmark_training.csv.
"""

import pathlib

from absl import flags

from capsjax.benchmarks import speed_page
from capsjax.errors import UserError
from capsjax.runs import results
from experiments import launch

_ROWS = flags.DEFINE_string(
    "rows", "results/benchmark_training.csv", "The benchmark's CSV file."
)
_DOCUMENT = flags.DEFINE_string(
    "document", "docs/speed.md", "Document with the tables' marks; it is changed."
)
launch.group("Files", "rows", "document")


def main() -> None:
    """Reads the rows and writes the section."""
    rows = results.read(pathlib.Path(_ROWS.value))
    if not rows:
        raise UserError(
            f"there are no rows in {_ROWS.value}; run "
            f"experiments.benchmark_training --output={_ROWS.value} first"
        )
    document = pathlib.Path(_DOCUMENT.value)
    if not document.exists():
        raise UserError(f"there is no {document}")
    text, section = document.read_text(), speed_page.section(rows)
    document.write_text(results.insert(text, speed_page.BEGIN, speed_page.END, section))
    print(f"speed written in {document}")


if __name__ == "__main__":
    launch.run(main)
