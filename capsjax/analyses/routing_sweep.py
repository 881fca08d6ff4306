"""The routing sweep: which trainings it is made of, and what they have shown.

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
from capsjax.runs import results
from capsjax.runs.folder import RunFolder, write_json
from capsjax.runs.grid import Run
from capsjax.runs.metrics import read_metrics
from capsjax.runs.results import Row

_ITERATIONS = "model.routing.iterations"
_SEED = "seed"
_DIAGNOSE = "diagnose_routing"


class Cell(NamedTuple):
    """What is compared, over its seeds.

    Attributes:
        iterations: r, of the routing.
        reconstruction: whether there is a decoder.
    """

    iterations: int
    reconstruction: bool

    def name(self, seed: int) -> str:
        """Of the run's folder."""
        decoder = "decoder" if self.reconstruction else "no_decoder"
        return f"r{self.iterations}_{decoder}_seed{seed}"


def parse_iterations(words: Sequence[str]) -> list[int]:
    """Numbers of routing iterations, in growing order.

    Raises:
        UserError: a word is no such number or comes twice, or there are none.
    """
    if not words or not all(re.fullmatch(r"[1-9]\d*", word) for word in words):
        raise UserError(
            f"--iterations={','.join(words)} is not numbers from 1 with commas between"
        )
    _refuse_doubles("iterations", words)
    return sorted(map(int, words))


def parse_reconstruction(words: Sequence[str]) -> list[bool]:
    """Whether there is a decoder: without first.

    Raises:
        UserError: a word is not true or false or comes twice, or there are none.
    """
    if not words or not set(words) <= {"false", "true"}:
        raise UserError(
            f"--reconstruction={','.join(words)} is not false, true or false,true"
        )
    _refuse_doubles("reconstruction", words)
    return sorted(word == "true" for word in words)


def _refuse_doubles(flag: str, words: Sequence[str]) -> None:
    if len(set(words)) < len(words):
        raise UserError(f"--{flag}={','.join(words)} names something twice")


def cells(iterations: Sequence[int], reconstruction: Sequence[bool]) -> list[Cell]:
    """All combinations."""
    return [Cell(*values) for values in itertools.product(iterations, reconstruction)]


def check(config: Config, words: Sequence[str], cells: Sequence[Cell]) -> None:
    """Refuses a config that the sweep's trainings would refuse, before the first one.

    Args:
        config: the one that the sweep's runs start from.
        words: ``--config`` and the fields that were changed by further flags.
        cells: of the sweep.

    Raises:
        UserError: the config is not one of a CapsNet, has a value that no run can have,
            or none for a decoder that is asked for; or a flag sets what the sweep does.
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
            raise UserError(
                f"--config.{path} is what the sweep sets; use --{flag} instead"
            )
    if any(cell.reconstruction for cell in cells) and not config.model.has_decoder:
        raise UserError(
            f"the {config.model.name} of this config has no decoder, so that there is "
            "no reconstruction; give it one, or --reconstruction=false"
        )


def runs(
    config: Config, cells: Sequence[Cell], seeds: int, words: Sequence[str]
) -> list[Run]:
    """The trainings: all cells with the first seed, then with the next.

    Args:
        config: the one that the sweep's runs start from.
        cells: of the sweep.
        seeds: how many; they count from 0.
        words: flags of experiments.train for all of them, each one word.
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
    """Path of the field that a flag sets; empty for flags that set none."""
    match = re.fullmatch(r"--?(?:no)?config\.([\w.]+)(?:=.*)?", word, re.DOTALL)
    return fields.current_path(config, match[1]) if match else ""


def rows(workdir: pathlib.Path, cells: Sequence[Cell], seeds: int) -> list[Row]:
    """The rows of the runs that have ended."""
    found = []
    for cell, seed in itertools.product(cells, range(seeds)):
        folder = RunFolder(workdir / cell.name(seed))
        if folder.result.exists():
            decoder = folder.load_config().model.has_decoder
            own = {"reconstruction": _word(decoder)}
            found.append(results.training_row(folder, own))
    return found


def table(rows: Sequence[Row], cells: Sequence[Cell], seeds: int) -> list[Row]:
    """A line for each cell, also for those without any run.

    Args:
        rows: from `rows`.
        cells: of the sweep.
        seeds: how many runs of each cell there should be.
    """
    lines = []
    for cell in cells:
        members = [row for row in rows if _cell(row) == cell]
        errors = [float(row["test_error_percent"]) for row in members]
        line = {
            "routing_iterations": cell.iterations,
            "reconstruction": _word(cell.reconstruction),
            "n": len(errors),
            "missing": seeds - len(errors),
            "mean_error_percent": statistics.mean(errors) if errors else None,
            "std_error_percent": statistics.stdev(errors) if len(errors) > 1 else None,
            "steps": " ".join(map(str, _steps(members))),
        }
        lines.append(Row({name: results.as_text(line[name]) for name in line}))
    return lines


def markdown(lines: Sequence[Row], rows: Sequence[Row]) -> str:
    """The table as Markdown, with what is to be known before numbers are compared.

    Args:
        lines: from `table`.
        rows: that it was made from.
    """
    cells = []
    for line in lines:
        n, missing = int(line["n"]), int(line["missing"])
        error = "missing"
        if n:
            error = f"{line.number('mean_error_percent'):.2f}"
        if n > 1:
            error += f" ± {line.number('std_error_percent'):.3f}"
        cells.append(
            [
                line["routing_iterations"],
                "with" if line["reconstruction"] == "true" else "without",
                f"{n} of {n + missing}" if missing else str(n),
                error,
                line["steps"].replace(" ", ", "),
            ]
        )
    header = ["routing iterations", "reconstruction", "runs", "test error, %", "steps"]
    numeric = {*header} - {"reconstruction"}
    table = results.markdown_table(header, cells, numeric=numeric)
    return "\n\n".join([table, *_notes(lines, rows)]) + "\n"


def _notes(lines: Sequence[Row], rows: Sequence[Row]) -> list[str]:
    notes = []
    if rows:
        first = rows[0]
        commits = ", ".join(sorted({row["commit"] for row in rows}))
        devices = ", ".join(sorted({results.device_name(row) for row in rows}))
        notes.append(
            f"Mean ± standard deviation over the seeds, on {first['test_examples']} "
            f"test images. Data: {first['data']}. Commit {commits}, on {devices}."
        )
    missing = sum(int(line["missing"]) for line in lines)
    if missing:
        total = missing + len(rows)
        notes.append(f"Unfinished: {missing} of {total} runs are missing here.")
    if len(steps := _steps(rows)) > 1:
        notes.append(
            f"The runs took different numbers of steps, {steps[0]} to {steps[-1]}: "
            "their errors differ for that reason too."
        )
    return notes


def write(workdir: pathlib.Path, cells: Sequence[Cell], seeds: int) -> str:
    """Writes rows, table, figures and their captions to the sweep's folder.

    ``sweep.csv``, ``sweep_table.csv``, ``sweep.md``, ``captions.json`` and, of runs
    that have ended, ``sweep_error.png``, ``sweep_loss.png`` and ``sweep_logits.png``.

    Args:
        workdir: of the runs, each in the folder that `Cell.name` says.
        cells: of the sweep.
        seeds: how many.

    Returns:
        The table as Markdown.

    Raises:
        UserError: a file of a run cannot be read.
    """
    found = rows(workdir, cells, seeds)
    lines = table(found, cells, seeds)
    text = markdown(lines, found)
    results.write(workdir / "sweep.csv", found)
    results.write(workdir / "sweep_table.csv", lines)
    (workdir / "sweep.md").write_text(text)
    captions = {}
    if found:
        metrics: dict[tuple[int, bool], list[list[dict]]] = {}
        for row in found:
            folder = RunFolder(workdir / _cell(row).name(int(row["seed"])))
            metrics.setdefault(_cell(row), []).append(read_metrics(folder.metrics))
        data = folder.load_config().data.name  # The same in all of them.
        captions = _draw(workdir, data, found, metrics)
    write_json(workdir / "captions.json", captions)
    return text


def _draw(
    workdir: pathlib.Path,
    data: str,
    rows: Sequence[Row],
    metrics: Mapping[tuple[int, bool], Sequence[Sequence[dict]]],
) -> dict[str, str]:
    """Writes the figures; returns the caption of each."""
    steps = _steps(rows)
    length = f"{steps[0]} to {steps[-1]}" if len(steps) > 1 else f"{steps[0]}"
    trained = f"on {data}, {length} training steps"
    figures.save(plots_sweep.errors(rows), workdir / "sweep_error.png")
    captions = {
        "sweep_error.png": "Test error against the number of routing iterations, "
        f"{trained}: mean and standard deviation over the seeds, and each seed as a "
        "faint dot."
    }
    figures.save(plots_sweep.losses(metrics), workdir / "sweep_loss.png")
    captions["sweep_loss.png"] = (
        f"Margin loss in training, few routing iterations against more, {trained}: "
        "moving average of the mean over the seeds. It leaves out the reconstruction "
        "loss, so that the panels can be compared."
    )
    diagnosed = [
        cell
        for cell, runs in metrics.items()
        if any(row["split"] == "routing" for row in runs[0])
    ]
    if diagnosed:
        cell = Cell(*max(diagnosed))
        figures.save(plots_sweep.logits(metrics[cell][0]), workdir / "sweep_logits.png")
        with_or_without = "with" if cell.reconstruction else "without"
        captions["sweep_logits.png"] = (
            "What each routing iteration adds to a routing logit, mean of the absolute "
            "values, in training and at its end, and the entropy of the coupling "
            f"coefficients, {trained}: {cell.iterations} routing iterations, "
            f"{with_or_without} reconstruction, one seed. After the paper's figure A.1."
        )
    return captions


def _cell(row: Mapping[str, str]) -> Cell:
    return Cell(int(row["routing_iterations"]), row["reconstruction"] == "true")


def _steps(rows: Sequence[Row]) -> list[int]:
    return sorted({int(row["steps"]) for row in rows})


def _word(value: bool) -> str:
    return "true" if value else "false"
