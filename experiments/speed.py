"""Writes README's section on speed from the rows of the training benchmark.

python -m experiments.speed

after experiments.benchmark_training --output=results/benchmark_training.csv.
"""

import pathlib

from absl import flags

from capsjax.benchmarks import readme as speed
from capsjax.errors import UserError
from capsjax.runs import results
from experiments import launch

_ROWS = flags.DEFINE_string(
    "rows", "results/benchmark_training.csv", "The benchmark's CSV file."
)
_README = flags.DEFINE_string(
    "readme", "README.md", "Document with the section's marks; it is changed."
)


def main() -> None:
    """Reads the rows and writes the section."""
    rows = results.read(pathlib.Path(_ROWS.value))
    if not rows:
        raise UserError(
            f"there are no rows in {_ROWS.value}; run "
            f"experiments.benchmark_training --output={_ROWS.value} first"
        )
    readme = pathlib.Path(_README.value)
    if not readme.exists():
        raise UserError(f"there is no {readme}")
    text, section = readme.read_text(), speed.section(rows)
    readme.write_text(results.insert(text, speed.BEGIN, speed.END, section))
    print(f"speed written in {readme}")


if __name__ == "__main__":
    launch.run(main)
