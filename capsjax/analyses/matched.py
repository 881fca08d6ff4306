"""Networks that were stopped at the same validation accuracy, so as to compare them.

Whatever is asked of networks that differ in their error answers for the error, too.
Here each training ends at a target. If some do not get there, the best that all reach
is the new target, to which the others are trained again. What counts is the best
checkpoint of each run.

References:
    Sabour, Frosst and Hinton 2017, section 5.2, compares so on affNIST.
"""

import dataclasses
import itertools
import os
import pathlib
import re
from collections.abc import Callable, Hashable, Mapping, Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from capsjax.analyses import intervals
from capsjax.analyses.intervals import Interval
from capsjax.data import Dataset
from capsjax.errors import UserError
from capsjax.losses.classification import is_right
from capsjax.runs import grid, results
from capsjax.runs.executors.base import MakeExecutor
from capsjax.runs.executors.local import Processes
from capsjax.runs.folder import RunFolder
from capsjax.runs.progress import Progress
from capsjax.runs.results import Row
from capsjax.training.trained import evaluate, restore


class Cell(NamedTuple):
    """A training that is compared with others.

    Attributes:
        network: name of the network, unique among those compared.
        seed: seed of the training.
    """

    network: str
    seed: int

    def run(self, until: float, words: Sequence[str]) -> grid.Run:
        """The training up to a validation accuracy.

        Args:
            until: the accuracy.
            words: flags of experiments.train.
        """
        network = self.network.replace(":", "_")
        name = f"{network}_seed{self.seed}_until_{100 * until:.2f}"
        ends = f"--config.stop_at_validation_accuracy={until}"
        return grid.Run(name, [*words, f"--config.seed={self.seed}", ends])


def by_network(folders: Mapping[str, RunFolder]) -> dict[str, list[str]]:
    """Which runs are trainings of one network, as `train_all` names them.

    Those are in one folder, and their names differ in ``seedN`` and the accuracy alone.
    A run that is named after its seed alone has the name of the folder that it is in.

    Args:
        folders: folders of runs by their names.

    Returns:
        For each network the names of its runs, in order. Where networks in different
        folders have the same name, these come before it.
    """
    groups: dict[pathlib.Path, list[str]] = {}
    for run, folder in folders.items():
        path = folder.path.resolve()
        own = re.sub(r"_?seed\d+(_until_[\d.]+)?", "", path.name)
        groups.setdefault(path.with_name(own) if own else path.parent, []).append(run)
    for length in itertools.count(1):
        names = ["/".join(path.parts[-length:]) for path in groups]
        if len({*names}) == len(names):
            break
    return dict(zip(names, groups.values(), strict=True))


@dataclasses.dataclass(frozen=True, eq=False)
class Outcome:
    """The best checkpoint of a training, and its predictions of the test images.

    Attributes:
        cell: network and seed.
        folder: folder of its run.
        validation: its validation accuracy.
        step: its training step.
        right: bool [N], the recognised ones of the test images.
    """

    cell: Cell
    folder: RunFolder
    validation: float
    step: int
    right: npt.NDArray[np.bool_]


def train_to_same_accuracy[K: Hashable](
    train: Callable[[Mapping[K, float]], Mapping[K, RunFolder]],
    keys: Sequence[K],
    target: float,
) -> dict[K, RunFolder]:
    """Trains to a validation accuracy, or to the best that all reach.

    Args:
        train: function that trains each of some keys until its validation accuracy is
            the given one, as far as it gets.
        keys: what stands for the trainings.
        target: the accuracy.

    Returns:
        The run of each key. Its best checkpoint is the one to compare.
    """
    folders = dict(train(dict.fromkeys(keys, target)))
    best = {key: best_accuracy(folder) for key, folder in folders.items()}
    common = min(target, *best.values())
    # One that got no further than this has its best checkpoint there.
    again = {key: common for key in best if best[key] > common < target}
    return folders | dict(train(again)) if again else folders


def best_accuracy(folder: RunFolder) -> float:
    """The best validation accuracy of a run that has ended.

    Raises:
        UserError: it has not ended, or had no validation images.
    """
    best = folder.load_result()["best_validation_accuracy"]
    if best is None:
        raise UserError(f"the run in {folder.path} had no validation images")
    return best


def cells(networks: Sequence[str], seeds: int) -> list[Cell]:
    """All networks with seed 0, then with the next of as many seeds."""
    return [
        Cell(network, seed)
        for seed, network in itertools.product(range(seeds), networks)
    ]


def train_all(
    cells: Sequence[Cell],
    words: Mapping[str, Sequence[str]],
    target: float,
    workdir: str | os.PathLike,
    jobs: int | None = None,
    executor: MakeExecutor = Processes,
) -> dict[Cell, RunFolder]:
    """Trains cells as a grid, see `train_to_same_accuracy`.

    Args:
        cells: the trainings.
        words: flags of experiments.train by the network's name.
        target: the accuracy.
        workdir: folder of the grid.
        jobs: number of trainings at the same time, as for `grid.run_all`.
        executor: what runs them, as for `grid.run_all`.

    Raises:
        UserError: a training failed.
    """

    def train(targets: Mapping[Cell, float]) -> dict[Cell, RunFolder]:
        runs = {
            cell: cell.run(until, words[cell.network])
            for cell, until in targets.items()
        }
        outcomes = grid.run_all([*runs.values()], workdir, jobs=jobs, executor=executor)
        grid.refuse_failures(outcomes, workdir)
        return {
            cell: RunFolder(pathlib.Path(workdir, run.name))
            for cell, run in runs.items()
        }

    return train_to_same_accuracy(train, cells, target)


def test(folders: Mapping[Cell, RunFolder], data: Dataset) -> list[Outcome]:
    """Tests the best checkpoint of each run on the test images of its data."""
    found = []
    total = len(folders) * len(data.test)
    with Progress("testing the networks", total, unit="images") as progress:
        for cell, folder in folders.items():
            model = restore(folder, data, "best")
            assert model.best_accuracy is not None  # It is the best one.
            predictions = evaluate(model, data.test, progress.advance).predictions
            right = is_right(predictions, data.test.labels)
            found.append(Outcome(cell, folder, model.best_accuracy, model.step, right))
    return found


def row(outcome: Outcome) -> Row:
    """The row of a training, with its provenance."""
    env, config = outcome.folder.load_env(), outcome.folder.load_config()
    value, low, high = _error(outcome)
    measured = {
        "data": env["data"],
        "network": outcome.cell.network,
        **config.model.columns(),
        "num_parameters": outcome.folder.load_result()["num_parameters"],
        "seed": outcome.cell.seed,
        "batch_size": config.batch_size,
        "steps": outcome.step,
        "target_validation_accuracy": config.stop_at_validation_accuracy,
        "validation_accuracy": outcome.validation,
        "test_examples": len(outcome.right),
        "test_error_percent": value,
        "test_error_percent_low": low,
        "test_error_percent_high": high,
    }
    return results.row(env, measured)


def table(outcomes: Sequence[Outcome], title: str) -> str:
    """A Markdown table with a line for each training, and their means in words.

    Args:
        outcomes: the trainings.
        title: name of the data in words.
    """
    lines, means = [], []
    for outcome in outcomes:
        value, low, high = _error(outcome)
        lines.append(
            [
                outcome.cell.network,
                str(outcome.cell.seed),
                f"{outcome.folder.load_result()['num_parameters']:,}",
                f"{outcome.step:,}",
                f"{100 * outcome.validation:.2f}",
                f"{value:.2f} ({low:.2f} to {high:.2f})",
            ]
        )
    for network in dict.fromkeys(outcome.cell.network for outcome in outcomes):
        errors = [_error(o).value for o in outcomes if o.cell.network == network]
        if len(errors) > 1:
            mean = intervals.mean(np.array(errors))
            means.append(f"{network} {mean.value:.2f} ± {mean.high - mean.value:.2f}")
    header = (
        *("network", "seed", "parameters", "steps"),
        *("validation accuracy, %", "test error, % (95 %)"),
    )
    text = results.markdown_table(header, lines, numeric=header[1:])
    over_seeds = f" Mean over the seeds, %: {', '.join(means)}." if means else ""
    return (
        f"{text}\n\nTested on {title}. Intervals: 95 %, over the test images, or over "
        f"the seeds.{over_seeds}\n"
    )


def write(workdir: pathlib.Path, outcomes: Sequence[Outcome], title: str) -> str:
    """Writes ``matched.csv`` and ``matched.md`` into a folder; returns the table."""
    text = table(outcomes, title)
    results.write(workdir / "matched.csv", list(map(row, outcomes)))
    (workdir / "matched.md").write_text(text)
    return text


def _error(outcome: Outcome) -> Interval:
    """The test error in percent."""
    value, low, high = intervals.accuracy(outcome.right)
    return Interval(100 * (1 - value), 100 * (1 - high), 100 * (1 - low))
