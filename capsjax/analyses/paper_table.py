"""Table 1 of the paper, ours beside theirs.

References:
    Sabour, Frosst and Hinton 2017, table 1: test error in percent on MNIST and on
    MultiMNIST, mean and standard deviation of three trainings.
"""

import pathlib
from collections.abc import Sequence
from typing import NamedTuple

from capsjax.runs import results
from capsjax.runs.folder import RunFolder
from capsjax.runs.results import Row

FULL_STEPS = 300_000
"""Steps of the released code; fewer make a run a short one."""


class Cell(NamedTuple):
    """A cell of the table.

    Attributes:
        data: "mnist" or "multimnist".
        iterations: of the routing; 0 for the baseline CNN.
        reconstruction: whether there is a decoder.
        paper: the paper's test error in percent, with its spread if given.
    """

    data: str
    iterations: int
    reconstruction: bool
    paper: str

    @property
    def name(self) -> str:
        """Of its runs' folders, without the seed."""
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


def rows(
    workdir: pathlib.Path, cells: Sequence[Cell], seeds: int, images: str, scale: str
) -> list[Row]:
    """The rows of the runs that have ended.

    Args:
        workdir: where the runs' folders are.
        cells: wanted.
        seeds: how many runs of each there should be.
        images: that the runs train on, "mnist" or others in their stead.
        scale: of the runs.
    """
    found = []
    for cell in cells:
        for seed in range(seeds):
            folder = RunFolder(workdir / run_name(cell, seed))
            if folder.result.exists():
                own = {"cell": cell.name, "images": images, "scale": scale}
                found.append(results.training_row(folder, own))
    return found


def markdown(rows: Sequence[Row], cells: Sequence[Cell], seeds: int) -> str:
    """The table: a line for each cell, with steps and seeds, ours beside the paper's.

    What is not as in the paper, the images, the networks or the steps, is said below.

    Args:
        rows: from `rows`.
        cells: wanted.
        seeds: how many runs of each there should be.
    """
    lines = []
    short = []
    for cell in cells:
        members = [row for row in rows if row["cell"] == cell.name]
        errors = [float(row["test_error_percent"]) for row in members]
        steps = sorted({int(row["steps"]) for row in members})
        if steps and steps[0] < FULL_STEPS:
            short.append(cell.name)
        runs = str(len(errors))
        if len(errors) < seeds:
            runs += f" of {seeds}"
        model = "CapsNet" if cell.iterations else "baseline CNN"
        decoder = ("yes" if cell.reconstruction else "no") if cell.iterations else "-"
        parameters = ", ".join(
            dict.fromkeys(f"{int(row['num_parameters']):,}" for row in members)
        )
        lines.append(
            [
                *(cell.data, model, str(cell.iterations or "-"), decoder),
                *(parameters or "-", runs, _listed(steps)),
                results.mean_and_std(errors) if errors else "not run",
                cell.paper,
            ]
        )
    header = [
        *("data", "model", "routing", "reconstruction", "parameters", "runs", "steps"),
        *("ours, error %", "the paper's"),
    ]
    numeric = {*header} - {"data", "model", "reconstruction"}
    table = results.markdown_table(header, lines, numeric=numeric)
    return "\n\n".join([table, *_notes(rows, short, len(cells))]) + "\n"


def _listed(steps: Sequence[int]) -> str:
    if not steps:
        return "-"
    return " to ".join(f"{step:,}" for step in dict.fromkeys((steps[0], steps[-1])))


def _notes(rows: Sequence[Row], short: Sequence[str], total: int) -> list[str]:
    notes = []
    others = sorted({row["images"] for row in rows} - {"mnist"})
    if others:
        notes.append(f"**Not MNIST**: the images are {', '.join(others)}.")
    if short:
        notes.append(
            f"**Not the paper's experiment**: {len(short)} of {total} cells are of "
            f"runs shorter than the released code's {FULL_STEPS:,} steps."
        )
    scales = sorted({row["scale"] for row in rows} - {"paper"})
    if scales:
        notes.append(
            f"Scale {', '.join(scales)}: the networks are smaller than the paper's, "
            "too; their errors can be compared with each other, not with the paper's."
        )
    for what, column in (("Data", "data"), ("Commit", "commit")):
        found = dict.fromkeys(row[column] for row in rows)
        if found:
            notes.append(f"{what}: {'; '.join(found)}.")
    if devices := dict.fromkeys(results.device_name(row) for row in rows):
        notes.append(f"Device: {'; '.join(devices)}.")
    return notes


def write(
    workdir: pathlib.Path,
    output: pathlib.Path,
    cells: Sequence[Cell],
    seeds: int,
    images: str,
    scale: str,
) -> str:
    """Writes ``table1.csv`` and ``table1.md`` into a folder; returns the table.

    Args:
        workdir: see `rows`.
        output: the folder of the files.
        cells: see `rows`, as all arguments that follow.
        seeds: of each cell.
        images: that the runs train on.
        scale: of the runs.
    """
    found = rows(workdir, cells, seeds, images, scale)
    text = markdown(found, cells, seeds)
    results.write(output / "table1.csv", found)
    (output / "table1.md").write_text(text)
    return text
