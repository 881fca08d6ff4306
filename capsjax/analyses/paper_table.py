"""Table 1 of the paper, ours beside theirs.

References:
    Sabour, Frosst and Hinton 2017, table 1: test error in percent on MNIST and on
    MultiMNIST, mean and standard deviation of three trainings.
"""

import itertools
import pathlib
from collections.abc import Sequence
from typing import NamedTuple

from capsjax.data import names
from capsjax.runs import results
from capsjax.runs.folder import RunFolder
from capsjax.runs.results import Row

FULL_STEPS = 300_000
"""Steps of the released code; fewer make a run a short one."""

_MAX_FACTS = 5  # Of a kind, below the table; each run's are in its row.


class Cell(NamedTuple):
    """A cell of the table.

    Attributes:
        data: "mnist" or "multimnist".
        iterations: number of routing iterations; 0 for the baseline CNN.
        reconstruction: True with a decoder.
        paper: the paper's test error in percent, with its spread if given.
    """

    data: str
    iterations: int
    reconstruction: bool
    paper: str

    @property
    def name(self) -> str:
        """Name of its runs' folders, without the seed."""
        if not self.iterations:
            return f"{self.data}_baseline"
        decoder = "decoder" if self.reconstruction else "no_decoder"
        return f"{self.data}_r{self.iterations}_{decoder}"


CELLS = (
    Cell("mnist", 0, False, "0.39"),
    Cell("mnist", 1, False, "0.34 ± 0.032"),
    Cell("mnist", 1, True, "0.29 ± 0.011"),
    Cell("mnist", 3, False, "0.35 ± 0.036"),
    Cell("mnist", 3, True, "0.25 ± 0.005"),
    Cell("multimnist", 0, False, "8.1"),
    Cell("multimnist", 1, True, "7.5"),
    Cell("multimnist", 3, True, "5.2"),
)
"""All cells that the paper fills."""


def run_name(cell: Cell, seed: int) -> str:
    """The folder of a run."""
    return f"{cell.name}_seed{seed}"


def write(
    workdir: pathlib.Path,
    output: pathlib.Path,
    cells: Sequence[Cell],
    seeds: int,
    images: str,
    scale: str,
) -> str:
    """Writes ``table1.csv`` and ``table1.md``, of the runs that have ended.

    Args:
        workdir: folder of the runs' folders.
        output: folder of the files.
        cells: lines of the table.
        seeds: number of runs that each cell should have.
        images: training images, "mnist" or others in their place.
        scale: scale of the runs, "paper" or a smaller one.

    Returns:
        The table: a line for each cell, with steps and seeds, ours beside the paper's.
        Notes below it say what differs from the paper: images, networks or steps.
    """
    rows = [
        results.training_row(
            folder, {"cell": cell.name, "images": images, "scale": scale}
        )
        for cell, seed in itertools.product(cells, range(seeds))
        if (folder := RunFolder(workdir / run_name(cell, seed))).result.exists()
    ]
    text = _markdown(rows, cells, seeds, images)
    results.write(output / "table1.csv", rows)
    (output / "table1.md").write_text(text)
    return text


def _markdown(
    rows: Sequence[Row], cells: Sequence[Cell], seeds: int, images: str
) -> str:
    """The table and its notes."""
    stand_in = images != "mnist"
    lines = []
    for cell in cells:
        name = images if cell.data == "mnist" else cell.data
        members = [row for row in rows if row["cell"] == cell.name]
        errors = [float(row["test_error_percent"]) for row in members]
        steps = [f"{step:,}" for step in results.steps(members)]
        parameters = dict.fromkeys(f"{int(row['num_parameters']):,}" for row in members)
        decoder = "yes" if cell.reconstruction else "no"
        lines.append(
            [
                names.in_words(name, images),
                "CapsNet" if cell.iterations else "baseline CNN",
                str(cell.iterations or "-"),
                decoder if cell.iterations else "-",
                ", ".join(parameters) or "-",
                results.count_of(len(errors), seeds),
                " to ".join(dict.fromkeys([*steps[:1], *steps[-1:]])) or "-",
                results.mean_and_std(errors) if errors else "not run",
                cell.paper,
            ]
        )
    header = [
        *("data", "model", "routing", "reconstruction", "parameters", "runs", "steps"),
        *(
            "ours, error %",
            "the paper's, on MNIST or MultiMNIST" if stand_in else "the paper's",
        ),
    ]
    numeric = {*header} - {"data", "model", "reconstruction"}
    table = results.markdown_table(header, lines, numeric=numeric)
    return "\n\n".join([table, *_notes(rows, len(cells))]) + "\n"


def _notes(rows: Sequence[Row], total: int) -> list[str]:
    notes = []
    if others := sorted({row["images"] for row in rows} - {"mnist"}):
        words = ", ".join(map(names.in_words, others))
        notes.append(f"**Not MNIST**: the images are {words}.")
    short = {row["cell"] for row in rows if int(row["steps"]) < FULL_STEPS}
    if short:
        notes.append(
            f"**Not the paper's experiment**: {len(short)} of {total} cells are of "
            f"runs shorter than the released code's {FULL_STEPS:,} steps."
        )
    if scales := sorted({row["scale"] for row in rows} - {"paper"}):
        notes.append(
            f"Scale {', '.join(scales)}: the networks are smaller than the paper's, "
            "too; their errors can be compared with each other, not with the paper's."
        )
    facts = {
        "Data": [row["data"] for row in rows],
        "Commit": [row["commit"] for row in rows],
        "Device": [results.device_name(row) for row in rows],
    }
    return notes + [
        f"{name}: {results.listed([*dict.fromkeys(values)], _MAX_FACTS, comma='; ')}."
        for name, values in facts.items()
        if values
    ]
