"""Test error against the number of training images of each class.

Capsules are said to need fewer images than convolutions with pooling, since they keep
poses. Each network is trained on the first n images of each class, for many n, with the
same number of steps and batches of the same size; the images of a seed are nested.

References:
    Hestness et al. 2017, "Deep Learning Scaling is Predictable, Empirically", for the
    law ``error = a * n^-b``.
"""

import itertools
import pathlib
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from capsjax import figures
from capsjax.analyses import intervals
from capsjax.analyses.figures import data_efficiency as plots
from capsjax.analyses.intervals import Interval
from capsjax.analyses.power_law import Curve, fit
from capsjax.errors import UserError
from capsjax.runs import data_record, results
from capsjax.runs.folder import RunFolder, write_json
from capsjax.runs.grid import Run
from capsjax.runs.results import Row


class Cell(NamedTuple):
    """A network and its training images, over the seeds.

    Attributes:
        network: name of the network, unique among those compared.
        images: training images of each class.
    """

    network: str
    images: int

    def name(self, seed: int) -> str:
        """Name of the run's folder."""
        return f"{self.network.replace(':', '_')}_{self.images}_images_seed{seed}"


def counts(words: Sequence[str]) -> list[int]:
    """The words of a flag as ascending numbers of images.

    Raises:
        UserError: a word is not a number from 1, or there are none.
    """
    if not words or not all(word.isdecimal() and int(word) for word in words):
        raise UserError(
            f"--images_per_class={','.join(words)} is not numbers from 1 with commas"
        )
    return sorted(set(map(int, words)))


def cells(networks: Sequence[str], images: Sequence[int]) -> list[Cell]:
    """All combinations."""
    return [Cell(*values) for values in itertools.product(networks, images)]


def runs(
    cells: Sequence[Cell], seeds: int, words: Mapping[str, Sequence[str]]
) -> list[Run]:
    """The trainings: all cells with seed 0, then with the next of as many seeds.

    Args:
        cells: networks and numbers of images.
        seeds: trainings of each.
        words: flags of experiments.train by the network's name.
    """
    return [
        Run(
            cell.name(seed),
            [
                *words[cell.network],
                f"--config.data.train_per_class={cell.images}",
                f"--config.data.train_choice={seed}",
                f"--config.seed={seed}",
            ],
        )
        for seed, cell in itertools.product(range(seeds), cells)
    ]


def rows(workdir: pathlib.Path, cells: Sequence[Cell], seeds: int) -> list[Row]:
    """The rows of the runs that have ended."""
    return [
        results.training_row(
            folder, {"network": cell.network, "images_per_class": cell.images}
        )
        for cell, seed in itertools.product(cells, range(seeds))
        if (folder := RunFolder(workdir / cell.name(seed))).result.exists()
    ]


def curves(rows: Sequence[Row]) -> list[Curve]:
    """The curve of each network, in the order of the rows."""
    found = []
    for network in dict.fromkeys(row["network"] for row in rows):
        members = [row for row in rows if row["network"] == network]
        images = sorted({int(row["images_per_class"]) for row in members})
        errors = [
            intervals.mean(
                np.array(
                    [
                        row.number("test_error_percent")
                        for row in members
                        if int(row["images_per_class"]) == n
                    ]
                )
            )
            for n in images
        ]
        law = fit(images, [error.value for error in errors])
        found.append(Curve(network, tuple(images), tuple(errors), law))
    return found


def write(
    workdir: pathlib.Path, output: pathlib.Path, cells: Sequence[Cell], seeds: int
) -> str:
    """Writes rows, table and figure of the runs that have ended.

    The files are ``data_efficiency.csv`` with a row for each run,
    ``data_efficiency.md``, ``data_efficiency.png`` and ``captions.json``.

    Returns:
        The table as Markdown.

    Raises:
        UserError: a file of a run cannot be read.
    """
    output.mkdir(parents=True, exist_ok=True)
    found = rows(workdir, cells, seeds)
    results.write(output / "data_efficiency.csv", found)
    drawn = curves(found)
    title = ""
    if found:
        first = next(
            RunFolder(workdir / cell.name(seed))
            for cell, seed in itertools.product(cells, range(seeds))
            if RunFolder(workdir / cell.name(seed)).result.exists()
        )
        title = data_record.title(first)
    text = _markdown(drawn, found, cells, seeds, title)
    (output / "data_efficiency.md").write_text(text)
    if found:
        figures.save(plots.errors(drawn, title), output / "data_efficiency.png")
        caption = (
            f"Test error on {title} against the number of training images of each "
            "class, after the same number of steps: mean over the seeds, its 95 % "
            "interval, and the fitted a n^-b, dotted."
        )
        write_json(output / "captions.json", {"data_efficiency.png": caption})
    return text


def _markdown(
    curves: Sequence[Curve],
    rows: Sequence[Row],
    cells: Sequence[Cell],
    seeds: int,
    title: str,
) -> str:
    images = sorted({cell.images for cell in cells})
    lines = []
    for curve in curves:
        errors = dict(zip(curve.images, curve.errors, strict=True))
        law = f"{curve.law[0]:.3g} n^-{curve.law[1]:.2f}" if curve.law else ""
        shown = [_shown(errors[n]) if n in errors else "missing" for n in images]
        lines.append([curve.network, *shown, law])
    header = ["test error, %, with images of each class:", *map(str, images), "fit"]
    parts = [results.markdown_table(header, lines, numeric={*header[1:-1]})]
    if rows:
        steps = results.listed(list(map(str, results.steps(rows))))
        commits = results.listed(sorted({row["commit"] for row in rows}))
        devices = results.listed(sorted({results.device_name(row) for row in rows}))
        count = f"{seeds} seed{'s' * (seeds > 1)}"
        parts.append(
            f"Mean over {count} and its 95 % interval, on {title}; {steps} steps. "
            f"Commit {commits}, on {devices}."
        )
    if missing := seeds * len(cells) - len(rows):
        parts.append(f"Unfinished: {missing} of {seeds * len(cells)} runs are missing.")
    return "\n\n".join(parts) + "\n"


def _shown(error: Interval) -> str:
    if not np.isfinite(error.low):
        return f"{error.value:.2f}"
    return f"{error.value:.2f} ± {error.high - error.value:.2f}"
