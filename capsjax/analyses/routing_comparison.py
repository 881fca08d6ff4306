"""Routing algorithms side by side: one network, one budget, each algorithm, over seeds.

Every algorithm takes the place of the network's routing with its own defaults, and is
trained with the network's loss if that suits its scores. The control is uniform
routing, which does not route at all: an algorithm that is not better than it has not
helped.

References:
    Paik, Kwak and Kim 2019, "Capsule Networks Need an Improved Routing Algorithm".
"""

import itertools
import pathlib
import statistics
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from capsjax import config as config_lib
from capsjax import fields, figures
from capsjax.analyses import intervals
from capsjax.analyses.figures import routing_comparison as plots
from capsjax.analyses.intervals import Interval
from capsjax.config import Config
from capsjax.data import Dataset
from capsjax.errors import UserError
from capsjax.losses import LOSSES
from capsjax.losses import Config as LossConfig
from capsjax.routings import ROUTINGS
from capsjax.routings import Config as RoutingConfig
from capsjax.runs import results
from capsjax.runs.folder import RunFolder, write_json
from capsjax.runs.grid import Run
from capsjax.runs.progress import Progress
from capsjax.runs.results import Row
from capsjax.training.trained import evaluate, restore

CONTROL = "uniform"
# EM routing with the paper's cost does not learn where children are few.
ALL = tuple("em:few_children" if name == "em" else name for name in ROUTINGS)
"""All algorithms, in the form of `routing_config`."""


class Cost(NamedTuple):
    """What a train step costs.

    Attributes:
        parameters: number of learned parameters.
        step_ms: median milliseconds of a train step.
        peak_mb: memory of arguments, results and temporaries by XLA's account, in MB.
    """

    parameters: int
    step_ms: float
    peak_mb: float


def routing_config(name: str) -> RoutingConfig:
    """The config of an algorithm.

    Args:
        name: its name, for its defaults; or ``NAME:PRESET``, for a preset of it.

    Raises:
        UserError: there is no such algorithm or preset.
    """
    algorithm, _, preset = name.partition(":")
    if algorithm not in ROUTINGS:
        raise UserError(
            f"unknown routing {name!r} in --routings; choose from {', '.join(ROUTINGS)}"
        )
    config = ROUTINGS[algorithm]
    if not preset:
        return config()
    if preset not in config.PRESETS:
        raise UserError(
            f"{algorithm} routing has no preset {preset!r}, named in --routings; "
            f"choose from {', '.join(config.PRESETS) or 'none'}"
        )
    return config.preset(preset)


def routed(config: Config, name: str) -> Config:
    """The config with another routing algorithm, and with a loss that suits it.

    Args:
        config: config of a run.
        name: see `routing_config`.

    Raises:
        UserError: the network has no routing, or does not work with this one.
    """
    if config.model.routing is None:
        raise UserError(
            f"config.model.name is {config.model.name!r}, which has no routing to "
            "compare; choose a network of capsules"
        )
    config = config.replace(
        model=config.model.replace(routing=routing_config(name)), loss=config.loss
    )
    if config.model.scores not in config.loss.takes:
        config.loss = _suitable_loss(config)
    config_lib.check(config)
    return config


def _suitable_loss(config: Config) -> LossConfig:
    """The first loss that takes the scores, as important as the network's own."""
    suitable = next(
        loss for loss in LOSSES.values() if config.model.scores in loss.takes
    )
    return suitable(reconstruction_weight=config.loss.reconstruction_weight)


def run_name(routing: str, seed: int) -> str:
    """Name of a run's folder."""
    return f"{folder_name(routing)}_seed{seed}"


def folder_name(routing: str) -> str:
    """An algorithm, in the form of `routing_config`, in names of folders."""
    return routing.replace(":", "_")


def runs(
    config: Config, routings: Sequence[str], seeds: int, words: Sequence[str]
) -> list[Run]:
    """The trainings: all algorithms with seed 0, then with the next of as many seeds.

    Args:
        config: the config that the words make.
        routings: routing algorithms, see `routing_config`.
        seeds: number of trainings of each.
        words: the flags of experiments.train that all of them share.
    """
    made = []
    for seed, name in itertools.product(range(seeds), routings):
        flags = routing_flags(config, routed(config, name))
        made.append(
            Run(run_name(name, seed), [*words, *flags, f"--config.seed={seed}"])
        )
    return made


def routing_flags(config: Config, own: Config) -> list[str]:
    """The flags that make ``own``, see `routed`, of the config."""
    assert own.model.routing is not None
    # A field that two algorithms have would keep the value of the network's own.
    flags = [f"--config.model.routing.name={own.model.routing.name}"]
    flags += [
        f"--config.model.routing.{path}={value}"
        for path, value in fields.flatten(own.model.routing).items()
        if value is not None
    ]
    if own.loss.name != config.loss.name:
        weight = own.loss.reconstruction_weight
        flags += [
            f"--config.loss.name={own.loss.name}",
            f"--config.loss.reconstruction_weight={weight}",
        ]
    return flags


def rightly_classified(
    workdir: pathlib.Path, rows: Sequence[Row], data: Dataset
) -> dict[tuple[str, str], npt.NDArray[np.bool_]]:
    """Which test images each run classifies rightly, by routing and seed."""
    found = {}
    total = len(rows) * len(data.test)
    with Progress("testing", total, unit="images") as progress:
        for row in rows:
            folder = RunFolder(workdir / run_name(row["routing"], int(row["seed"])))
            predictions = evaluate(
                restore(folder, data), data.test, progress.advance
            ).predictions
            found[row["routing"], row["seed"]] = predictions == data.test.labels
    return found


def differences(
    right: Mapping[tuple[str, str], npt.NDArray[np.bool_]], routing: str
) -> tuple[Interval | None, Interval | None]:
    """Error of an algorithm less that of the control, in percent points.

    Args:
        right: from `rightly_classified`.
        routing: name of the algorithm.

    Returns:
        The mean difference, with the interval that holds for these trainings and other
        test images; and with the interval that holds for these test images and other
        seeds. None without the control, or with one seed.
    """
    seeds = [
        seed for name, seed in right if name == routing and (CONTROL, seed) in right
    ]
    if not seeds or routing == CONTROL:
        return None, None
    mine, control = (
        np.stack([right[name, seed] for seed in seeds]).astype(np.float64)
        for name in (routing, CONTROL)
    )
    # Of wrong ones, so that less is better, as in the other columns.
    by_image = 100 * np.mean(control - mine, axis=0)
    over_images = intervals.mean(by_image)
    by_seed = 100 * np.mean(control - mine, axis=1)
    return over_images, intervals.mean(by_seed) if len(seeds) > 1 else None


def rows(workdir: pathlib.Path, routings: Sequence[str], seeds: int) -> list[Row]:
    """The rows of the runs that have ended; ``routing`` is the name given here."""
    return [
        results.training_row(
            folder, {"routing": name, "loss": folder.load_config().loss.name}
        )
        for name, seed in itertools.product(routings, range(seeds))
        if (folder := RunFolder(workdir / run_name(name, seed))).result.exists()
    ]


def write(
    workdir: pathlib.Path,
    output: pathlib.Path,
    routings: Sequence[str],
    seeds: int,
    data: Dataset,
    costs: Mapping[str, Cost],
) -> str:
    """Writes rows, table and figure of the runs that have ended.

    The files are ``routings.csv`` with a row for each run, ``routings_table.csv``,
    ``routings.md``, ``routings.png`` and ``captions.json``.

    Args:
        workdir: folder of the runs.
        output: folder of the files.
        routings: routing algorithms, see `routing_config`.
        seeds: number of trainings of each.
        data: data set of the runs.
        costs: cost of a step of each algorithm.

    Returns:
        The table as Markdown.

    Raises:
        UserError: a file of a run cannot be read.
    """
    output.mkdir(parents=True, exist_ok=True)
    found = rows(workdir, routings, seeds)
    right = rightly_classified(workdir, found, data)
    lines = [_line(name, found, right, costs) for name in routings]
    results.write(output / "routings.csv", found)
    results.write(
        output / "routings_table.csv",
        [results.as_row(line) for line in lines],
    )
    text = _markdown(lines, found, seeds, data)
    (output / "routings.md").write_text(text)
    if found:
        figures.save(plots.errors(lines, data.title), output / "routings.png")
        caption = (
            f"Test error on {data.title} by routing algorithm, in the same network and "
            "after the same number of steps. Each seed is a dot, the mean a line. "
            "Right, the difference to uniform routing with its 95 % interval over the "
            "test images."
        )
        write_json(output / "captions.json", {"routings.png": caption})
    return text


def _line(
    name: str,
    rows: Sequence[Row],
    right: Mapping[tuple[str, str], npt.NDArray[np.bool_]],
    costs: Mapping[str, Cost],
) -> dict[str, object]:
    members = [row for row in rows if row["routing"] == name]
    errors = [row.number("test_error_percent") for row in members]
    images, seeds = differences(right, name)
    cost = costs.get(name)
    return {
        "routing": name,
        "iterations": members[0]["routing_iterations"] if members else "",
        "loss": members[0]["loss"] if members else "",
        "n": len(errors),
        "errors_percent": " ".join(f"{error:.4g}" for error in errors),
        "mean_error_percent": statistics.mean(errors) if errors else None,
        "std_error_percent": statistics.stdev(errors) if len(errors) > 1 else None,
        "difference": images.value if images else None,
        "difference_low": images.low if images else None,
        "difference_high": images.high if images else None,
        "difference_low_over_seeds": seeds.low if seeds else None,
        "difference_high_over_seeds": seeds.high if seeds else None,
        "steps": " ".join(map(str, results.steps(members))),
        "parameters": cost.parameters if cost else None,
        "step_ms": cost.step_ms if cost else None,
        "peak_mb": cost.peak_mb if cost else None,
    }


def _markdown(
    lines: Sequence[Mapping[str, object]],
    rows: Sequence[Row],
    seeds: int,
    data: Dataset,
) -> str:
    header = [
        "routing",
        "loss",
        "runs",
        "test error, %",
        f"less {CONTROL}, points",
        "95 % over images",
        "95 % over seeds",
        "parameters",
        "ms a step",
        "peak MB",
    ]
    cells = []
    for line in lines:
        errors = [float(x) for x in str(line["errors_percent"]).split()]
        low, high = line["difference_low"], line["difference_high"]
        seed_low = line["difference_low_over_seeds"]
        seed_high = line["difference_high_over_seeds"]
        cells.append(
            [
                f"{line['routing']}"
                + (f", r = {line['iterations']}" if line["iterations"] else ""),
                str(line["loss"]),
                results.count_of(len(errors), seeds),
                results.mean_and_std(errors) if errors else "missing",
                _signed(line["difference"]),
                f"{_signed(low)} to {_signed(high)}" if low is not None else "",
                f"{_signed(seed_low)} to {_signed(seed_high)}"
                if seed_low is not None
                else "",
                f"{line['parameters']:,}" if line["parameters"] else "",
                f"{line['step_ms']:.3g}" if line["step_ms"] else "",
                f"{line['peak_mb']:.4g}" if line["peak_mb"] else "",
            ]
        )
    table = results.markdown_table(header, cells, numeric={*header[2:]})
    notes = []
    if rows:
        commits = results.listed(sorted({row["commit"] for row in rows}))
        devices = results.listed(sorted({results.device_name(row) for row in rows}))
        steps = results.listed(list(map(str, results.steps(rows))))
        notes.append(
            f"Mean ± standard deviation over the seeds, on {len(data.test):,} test "
            f"images of {data.title}; {steps} steps of {rows[0]['batch_size']} images. "
            f"Commit {commits}, on {devices}."
        )
        notes.append(
            "Differences are of errors, so that less is better. The interval over "
            "images holds for these trainings on other test images, the one over seeds "
            "for other seeds on these test images; a difference is established only "
            "where neither contains 0."
        )
    if missing := seeds * len(lines) - len(rows):
        notes.append(f"Unfinished: {missing} of {seeds * len(lines)} runs are missing.")
    return "\n\n".join([table, *notes]) + "\n"


def _signed(value: object) -> str:
    return f"{value:+.2f}" if isinstance(value, float) else ""
