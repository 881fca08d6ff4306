"""Computes on paper how train steps scale to a thousand GPUs, and what limits them.

python -m experiments.scaling_model

Counts the operations, bytes and sums over devices of each network's train step, and
draws the least time that they take on H100s and H200s, from their data sheets. Writes
rows, a figure, and the tables of docs/scaling.md. No GPU is needed.
"""

import dataclasses
import pathlib

from absl import flags

from capsjax import data, figures
from capsjax.benchmarks import scaling_model
from capsjax.benchmarks.figures import scaling_model as plots
from capsjax.benchmarks.programs import Problem
from capsjax.errors import UserError
from capsjax.runs import provenance, results
from capsjax.runs.progress import Progress
from experiments import launch

_NETWORKS = flags.DEFINE_list(
    "networks",
    ["mnist:authors_code", "efficient_capsnet:mnist", "matrix_capsules"],
    "Configs of networks, NAME or NAME:PRESET.",
)
_DOCUMENT = flags.DEFINE_string(
    "document", "docs/scaling.md", "Document with the tables' marks; it is changed."
)
_OUTPUT = flags.DEFINE_string(
    "output",
    "runs/benchmarks/scaling_model.csv",
    "CSV file of the rows; the picture is its .png. results/scaling_model.csv is the "
    "committed one.",
)


def main() -> None:
    """Counts, and writes rows, figure and tables."""
    document = pathlib.Path(_DOCUMENT.value)
    if not document.exists():
        raise UserError(f"there is no {document}")
    output = pathlib.Path(_OUTPUT.value)
    found = []
    with Progress("counting", len(_NETWORKS.value), unit="networks") as progress:
        for name in _NETWORKS.value:
            config = launch.config_of([f"--config={name}"])
            sizes = data.sizes(**dataclasses.asdict(config.data))
            problem = Problem(config, *sizes)
            found.append(scaling_model.costs(name, problem))
            progress.advance()
    output.parent.mkdir(parents=True, exist_ok=True)
    results.write(output, scaling_model.rows(found, provenance.environment()))
    machine = scaling_model.MACHINES[-1]
    figure = plots.efficiency(found, machine, "bfloat16")
    figures.save(figure, output.with_suffix(".png"))
    text = scaling_model.tables(found, machine)
    begin, end = scaling_model.BEGIN, scaling_model.END
    document.write_text(results.insert(document.read_text(), begin, end, text))
    print(f"{text}\n\nrows in {output}, figure beside it, tables in {document}")


if __name__ == "__main__":
    launch.run(main)
