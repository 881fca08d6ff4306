"""The routing sweep: its trainings, and what they have shown.

References:
    Sabour, Frosst and Hinton 2017, table 1 and appendix A.
"""

import itertools
import pathlib
import re
import statistics
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from capsjax import config as config_lib
from capsjax import fields, figures
from capsjax.analyses.figures import routing_sweep as plots_sweep
from capsjax.config import Config
from capsjax.errors import UserError
from capsjax.runs import data_record, results
from capsjax.runs.folder import RunFolder, write_json
from capsjax.runs.grid import Run
from capsjax.runs.metrics import read_metrics
from capsjax.runs.results import Row

_ITERATIONS = "model.routing.iterations"
_SEED = "seed"
_DIAGNOSE = "diagnose_routing"
_MAX_LINES = 40  # Of the table.


class Cell(NamedTuple):
    """A setting that is compared, over its seeds.

    Attributes:
        iterations: number of routing iterations.
        reconstruction: True with a decoder.
    """

    iterations: int
    reconstruction: bool

    def name(self, seed: int) -> str:
        """Name of the run's folder."""
        decoder = "decoder" if self.reconstruction else "no_decoder"
        return f"r{self.iterations}_{decoder}_seed{seed}"


def cells(iterations: Sequence[str], reconstruction: Sequence[str]) -> list[Cell]:
    """All combinations of the words of both flags, in ascending order.

    Raises:
        UserError: a word is not a number of iterations, or not true or false; or it
            comes twice; or there are no words.
    """
    _check_words("iterations", iterations, r"[1-9]\d*", "numbers from 1 with commas")
    wanted = "false, true or false,true"
    _check_words("reconstruction", reconstruction, "false|true", wanted)
    numbers = sorted(map(int, iterations))
    decoders = sorted(word == "true" for word in reconstruction)
    return [Cell(*values) for values in itertools.product(numbers, decoders)]


def _check_words(flag: str, words: Sequence[str], pattern: str, wanted: str) -> None:
    given = f"--{flag}={','.join(words)}"
    if not words or not all(re.fullmatch(pattern, word) for word in words):
        raise UserError(f"{given} is not {wanted}")
    if len(set(words)) < len(words):
        raise UserError(f"{given} names something twice")


def check(config: Config, words: Sequence[str], cells: Sequence[Cell]) -> None:
    """Checks a sweep's config, and the ``words`` of its flags, before any training.

    Raises:
        UserError: the config has an invalid value, no routing iterations, or no decoder
            where one is wanted; or a flag sets what the sweep sets.
    """
    config_lib.check(config)
    routing = config.model.routing
    if routing is None or routing.iterations is None:
        raise UserError(
            f"config.model.name is {config.model.name!r}, which has no routing "
            "iterations; choose a --config whose model is a capsnet"
        )
    paths = {_path(config, word) for word in words}
    for path, flag in {_ITERATIONS: "iterations", _SEED: "seeds"}.items():
        if path in paths:
            raise UserError(f"the sweep sets --config.{path}; use --{flag} instead")
    if any(cell.reconstruction for cell in cells) and not config.model.has_decoder:
        raise UserError(
            f"the {config.model.name} of this config has no decoder, so that there is "
            "no reconstruction; give it one, or --reconstruction=false"
        )


def runs(
    config: Config, cells: Sequence[Cell], seeds: int, words: Sequence[str]
) -> list[Run]:
    """The trainings: all cells with seed 0, then with the next of as many seeds.

    ``words`` are the flags of experiments.train that all of them share.
    """
    made = []
    for seed, cell in itertools.product(range(seeds), cells):
        own = {_ITERATIONS: str(cell.iterations), _SEED: str(seed)}
        if not cell.reconstruction:
            off = config.model.decoder_off
            own |= {f"model.{name}": str(value) for name, value in off.items()}
        if _DIAGNOSE not in (_path(config, word) for word in words):
            own[_DIAGNOSE] = "true"
        shared = [word for word in words if _path(config, word) not in own]
        flags = [*shared, *(f"--config.{path}={value}" for path, value in own.items())]
        made.append(Run(cell.name(seed), flags))
    return made


def _path(config: Config, word: str) -> str:
    """Path of the field that a flag sets, or an empty text."""
    match = re.fullmatch(r"--?(?:no)?config\.([\w.]+)(?:=.*)?", word, re.DOTALL)
    return fields.current_path(config, match[1]) if match else ""


def rows(workdir: pathlib.Path, cells: Sequence[Cell], seeds: int) -> list[Row]:
    """The rows of the runs that have ended."""
    return [
        results.training_row(folder, {"reconstruction": _word(cell.reconstruction)})
        for cell, seed in itertools.product(cells, range(seeds))
        if (folder := RunFolder(workdir / cell.name(seed))).result.exists()
    ]


def table(
    rows: Sequence[Row], cells: Sequence[Cell], seeds: int
) -> tuple[list[Row], str]:
    """A line for each cell, even without runs, as rows and as Markdown."""
    found, lines = [], []
    for cell in cells:
        members = [row for row in rows if _cell(row) == cell]
        errors = [float(row["test_error_percent"]) for row in members]
        steps = results.steps(members)
        line = {
            "routing_iterations": cell.iterations,
            "reconstruction": _word(cell.reconstruction),
            "n": len(errors),
            "missing": seeds - len(errors),
            "mean_error_percent": statistics.mean(errors) if errors else None,
            "std_error_percent": statistics.stdev(errors) if len(errors) > 1 else None,
            "steps": " ".join(map(str, steps)),
        }
        found.append(results.as_row(line))
        lines.append(
            [
                str(cell.iterations),
                "with" if cell.reconstruction else "without",
                results.count_of(len(errors), seeds),
                results.mean_and_std(errors) if errors else "missing",
                results.listed(list(map(str, steps))),
            ]
        )
    header = ["routing iterations", "reconstruction", "runs", "test error, %", "steps"]
    numeric = {*header} - {"reconstruction"}
    text = results.markdown_table(header, lines[:_MAX_LINES], numeric=numeric)
    notes = _notes(rows, seeds * len(cells))
    if len(lines) > _MAX_LINES:
        notes.insert(
            0,
            f"The first {_MAX_LINES} of {len(lines)} lines; all of them are in "
            "sweep_table.csv.",
        )
    return found, "\n\n".join([text, *notes]) + "\n"


def _notes(rows: Sequence[Row], total: int) -> list[str]:
    notes = []
    if rows:
        commits = results.listed(sorted({row["commit"] for row in rows}))
        devices = results.listed(sorted({results.device_name(row) for row in rows}))
        notes.append(
            f"Mean ± standard deviation over the seeds, on {rows[0]['test_examples']} "
            f"test images. Data: {rows[0]['data']}. Commit {commits}, on {devices}."
        )
    if missing := total - len(rows):
        notes.append(f"Unfinished: {missing} of {total} runs are missing here.")
    if len(steps := results.steps(rows)) > 1:
        notes.append(
            f"The runs took different numbers of steps, {steps[0]} to {steps[-1]}: "
            "their errors differ for that reason too."
        )
    return notes


def write(workdir: pathlib.Path, cells: Sequence[Cell], seeds: int) -> str:
    """Writes rows, table, figures and their captions to the folder of the runs.

    The files are ``sweep.csv``, ``sweep_table.csv``, ``sweep.md``, ``captions.json``
    and, if runs have ended, ``sweep_error.png``, ``sweep_loss.png`` and
    ``sweep_logits.png``.

    Returns:
        The table as Markdown.

    Raises:
        UserError: a file of a run cannot be read.
    """
    found = rows(workdir, cells, seeds)
    lines, text = table(found, cells, seeds)
    results.write(workdir / "sweep.csv", found)
    results.write(workdir / "sweep_table.csv", lines)
    (workdir / "sweep.md").write_text(text)
    write_json(workdir / "captions.json", _draw(workdir, found) if found else {})
    return text


def _draw(workdir: pathlib.Path, rows: Sequence[Row]) -> dict[str, str]:
    """Writes the figures; returns the caption of each."""
    metrics: dict[tuple[int, bool], list[list[dict]]] = {}
    for row in rows:
        folder = RunFolder(workdir / _cell(row).name(int(row["seed"])))
        metrics.setdefault(_cell(row), []).append(read_metrics(folder.metrics))
    steps = results.steps(rows)
    length = " to ".join(str(step) for step in dict.fromkeys((steps[0], steps[-1])))
    data = data_record.title(folder)  # The same in all of them.
    trained = f"on {data}, {length} training steps"
    drawn = {
        "sweep_error.png": (
            plots_sweep.errors(rows, data),
            f"Test error against the number of routing iterations, {trained}: mean and "
            "standard deviation over the seeds, and each seed as a faint dot.",
        ),
        "sweep_loss.png": (
            plots_sweep.losses(metrics, data),
            f"Margin loss in training, few routing iterations against more, {trained}: "
            "moving average of the mean over the seeds. The panels differ in the "
            "networks, without and with a decoder; both leave out the reconstruction "
            "loss, so that they can be compared, and are alike where reconstruction "
            f"hardly changes the margin loss. At the end: {_last_losses(metrics)}.",
        ),
    }
    diagnosed = [
        cell
        for cell, runs in metrics.items()
        if any(row["split"] == "routing" for row in runs[0])
    ]
    if diagnosed:
        cell = Cell(*max(diagnosed))
        named = plots_sweep.named_iterations(metrics[cell][0])
        legend = ""
        if len(named) < cell.iterations:
            legend = f"The legend names {len(named)} of them. "
        drawn["sweep_logits.png"] = (
            plots_sweep.logits(metrics[cell][0], data),
            "What each routing iteration adds to a routing logit, mean of the absolute "
            "values, in training and at its end, and the entropy of the coupling "
            f"coefficients, {trained}: {cell.iterations} routing iterations, "
            f"{'with' if cell.reconstruction else 'without'} reconstruction, one seed. "
            f"{legend}After the paper's figure A.1.",
        )
    for name, (figure, _) in drawn.items():
        figures.save(figure, workdir / name)
    return {name: caption for name, (_, caption) in drawn.items()}


def _last_losses(metrics: Mapping[tuple[int, bool], Sequence[Sequence[dict]]]) -> str:
    """The last margin losses of the curves in the figure of losses, in words."""
    ends = plots_sweep.last_losses(metrics)
    return ", ".join(
        f"{loss:.3g} {'with' if decoder else 'without'} (r = {r})"
        for (r, decoder), loss in ends.items()
    )


def _cell(row: Mapping[str, str]) -> Cell:
    return Cell(int(row["routing_iterations"]), row["reconstruction"] == "true")


def _word(value: bool) -> str:
    return "true" if value else "false"
