"""Runs as a report shows them: read from their folders, and grouped over seeds."""

import dataclasses
import json
import math
import os
import pathlib
import re
import statistics
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from capsjax import fields
from capsjax.config import Config
from capsjax.errors import UserError
from capsjax.runs.folder import RunFolder
from capsjax.runs.metrics import read_metrics
from capsjax.runs.results import as_text

SPLITS = ("train", "validation", "test")
# Where runs differ in nothing else, they are repetitions.
_IMMATERIAL = frozenset(
    path for path, meta in fields.facts(Config()).items() if not meta.changes_result
)
# The settings that a reader asks for first.
_FIRST = ("data.name", "model.name")
_ENV_FIELDS = ("commit", "device", "num_devices", "cpu", "num_cpus", "started", "data")
_ABSENT = object()
_PATH = re.compile(r"(?<![\w.~:/<])~?(?:/[\w.@%+~-]+)+/?")


@dataclasses.dataclass(frozen=True)
class Run:
    """What the files of a run's folder say.

    Attributes:
        name: relative to the folder that was given.
        folder: the run's.
        settings: the config by names such as ``"model.name"``; None if unreadable.
        env: see `capsjax.runs.provenance.environment`; None if unreadable or not whole.
        result: None if the run has not ended, or it is unreadable.
        rows: of metrics, of the splits in `SPLITS`.
        problems: what is wrong with the files.
    """

    name: str
    folder: RunFolder
    settings: dict[str, Any] | None
    env: dict[str, Any] | None
    result: dict[str, Any] | None
    rows: list[dict[str, Any]]
    problems: tuple[str, ...]

    @property
    def ended(self) -> bool:
        """Whether there is a result, be it readable or not."""
        return self.folder.result.exists()

    @property
    def steps(self) -> int | None:
        """Steps of the whole run, or of what its metrics tell so far."""
        if self.result is not None:
            steps = number(self.result.get("steps"))
            return None if steps is None else int(steps)
        return max((row["step"] for row in self.rows), default=None)

    @property
    def test_error(self) -> float | None:
        """In percent."""
        if self.result is None:
            return None
        error = number(self.result.get("test_error_percent"))
        accuracy = number(self.result.get("test_accuracy"))
        if error is None and accuracy is not None:
            return 100 * (1 - accuracy)
        return error

    def setting(self, name: str) -> Any:
        """A setting, or None."""
        return (self.settings or {}).get(name)

    def sessions(self) -> list[dict[str, Any]]:
        """Where the run was started, and each time that it was resumed."""
        if self.env is None:
            return []
        resumes = self.env.get("resumes")
        resumes = resumes if isinstance(resumes, list) else []
        return [self.env, *(env for env in resumes if _is_env(env))]

    def curve(self, split: str, metric: str) -> tuple[list[int], list[float]]:
        """Steps and values of a metric; ``"error_percent"`` also from the accuracy."""
        steps, values = [], []
        for row in self.rows:
            if row["split"] != split:
                continue
            value = number(row.get(metric))
            if value is None and metric == "error_percent":
                accuracy = number(row.get("accuracy"))
                value = None if accuracy is None else 100 * (1 - accuracy)
            if value is not None:
                steps.append(row["step"])
                values.append(value)
        return steps, values


@dataclasses.dataclass(frozen=True)
class Group:
    """Runs that are equal but for the seed and what changes no result.

    Attributes:
        number: from 1.
        label: a few words that no other group has.
        settings: what its runs have in common, without what changes no result.
        runs: by seed.
    """

    number: int
    label: str
    settings: dict[str, Any]
    runs: tuple[Run, ...]

    @property
    def ended(self) -> tuple[Run, ...]:
        """The runs whose test error is known."""
        return tuple(run for run in self.runs if run.test_error is not None)

    @property
    def test_errors(self) -> list[float]:
        """Of the runs that have ended, in percent."""
        return [error for run in self.runs if (error := run.test_error) is not None]


@dataclasses.dataclass(frozen=True)
class Spread:
    """Mean and standard deviation of a sample (n - 1); None for a single value."""

    mean: float
    std: float | None


def spread(values: Sequence[float]) -> Spread:
    """Mean and standard deviation of at least one value."""
    std = statistics.stdev(values) if len(values) > 1 else None
    return Spread(statistics.mean(values), std)


def find(given: Sequence[pathlib.Path]) -> list[Run]:
    """Reads the runs in folders, each once.

    Args:
        given: run folders, or folders that hold some at any depth.

    Raises:
        UserError: a folder does not exist, or there is no run in any.
    """
    runs: dict[pathlib.Path, Run] = {}
    names: set[str] = set()
    for parent in given:
        if not parent.is_dir():
            raise UserError(f"there is no folder {parent}")
        root = parent.resolve()
        for path in _run_folders(root):
            if path in runs:
                continue
            name = path.relative_to(root).as_posix()
            if path == root:
                name = root.name
            elif len(given) > 1:
                name = f"{root.name}/{name}"
            runs[path] = read(path, unique(name, names))
    if not runs:
        raise UserError(
            f"there are no runs in {', '.join(map(str, given))}; give folders of runs "
            "(the --workdir of experiments.train), or folders that hold some"
        )
    return list(runs.values())


def unique(name: str, taken: set[str]) -> str:
    """A name, with a number if it is taken, which it then is."""
    count, candidate = 1, name
    while candidate in taken:
        count += 1
        candidate = f"{name}-{count}"
    taken.add(candidate)
    return candidate


def is_run(path: pathlib.Path) -> bool:
    """Whether a run was begun in a folder; it may be damaged."""
    folder = RunFolder(path)
    return folder.config.exists() or folder.metrics.exists()


def _run_folders(root: pathlib.Path) -> Iterable[pathlib.Path]:
    for directory, below, _ in os.walk(root):
        path = pathlib.Path(directory)
        below.sort(key=_natural)
        if is_run(path):
            below.clear()
            yield path


def _natural(name: str) -> list[tuple[int, str]]:
    """Orders r2 before r10."""
    return [
        (int(digits), "") if digits else (-1, word)
        for digits, word in re.findall(r"([0-9]+)|([^0-9]+)", name)
    ]


def read(path: pathlib.Path, name: str) -> Run:
    """Reads a run's files; what is wrong with them is noted, not raised."""
    folder = RunFolder(path)
    problems: list[str] = []
    settings = _load(folder.config, lambda: _settings(folder), problems)
    env = _load(folder.env, folder.load_env, problems)
    if env is not None and not _is_env(env):
        problems.append("env.json does not hold what a run's does")
        env = None
    result = None
    if folder.result.exists():
        result = _load(folder.result, folder.load_result, problems)
        if result is not None and number(result.get("steps")) is None:
            problems.append("result.json does not hold what a run's does")
            result = None
    rows: list[dict[str, Any]] = []
    try:
        rows = [row for row in read_metrics(folder.metrics) if _is_row(row)]
    except (OSError, ValueError) as error:
        problems.append(f"metrics.jsonl cannot be read: {without_paths(str(error))}")
    if result is not None and not rows:
        problems.append("there are no metrics in metrics.jsonl")
    run = Run(name, folder, settings, env, result, rows, tuple(problems))
    if result is not None and run.test_error is None:
        missing = "result.json holds no test error"
        run = dataclasses.replace(run, problems=(*problems, missing))
    return run


def _settings(folder: RunFolder) -> dict[str, Any]:
    return fields.flatten(folder.load_config())


def _load(
    path: pathlib.Path, load: Callable[[], dict[str, Any]], problems: list[str]
) -> dict[str, Any] | None:
    if not path.exists():
        problems.append(f"there is no {path.name}")
        return None
    try:
        content = load()
    except UserError as error:
        if error.__cause__ is None:
            problems.append(
                f"{path.name} does not hold what a run's does: "
                f"{without_paths(str(error))}"
            )
        else:
            reason = without_paths(str(error.__cause__))
            problems.append(f"{path.name} cannot be read: {reason}")
        return None
    if not isinstance(content, dict):
        problems.append(f"{path.name} does not hold what a run's does")
        return None
    return content


def _is_env(env: Any) -> bool:
    return (
        isinstance(env, dict)
        and all(field in env for field in _ENV_FIELDS)
        and isinstance(env.get("command"), list)
        and isinstance(env.get("versions"), dict)
    )


def _is_row(row: Any) -> bool:
    return (
        isinstance(row, dict)
        and row.get("split") in SPLITS
        and isinstance(row.get("step"), int)
    )


def number(value: Any) -> float | None:
    """A finite number as such, anything else as None."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    return float(value) if math.isfinite(value) else None


def without_paths(text: str) -> str:
    """A text with the absolute paths in it cut down to their last part."""
    return _PATH.sub(lambda path: path[0].rstrip("/").rpartition("/")[2], text)


def value_text(value: Any) -> str:
    """A setting's value as people read it."""
    if isinstance(value, tuple | list):
        comma = "," if len(value) == 1 else ""
        return f"({', '.join(map(value_text, value))}{comma})"
    if value in (None, ""):
        return "none"
    return without_paths(as_text(value))


def group(runs: Sequence[Run]) -> tuple[list[str], list[Group]]:
    """Takes runs together that differ in nothing but seeds and the like.

    Returns:
        The names of the settings in which the groups differ, and the groups in the
        order of these settings. Runs without a config are in none.
    """
    members: dict[str, list[Run]] = {}
    settings: dict[str, dict[str, Any]] = {}
    for run in runs:
        if run.settings is None:
            continue
        common = {
            name: value
            for name, value in sorted(run.settings.items())
            if not _is_immaterial(name, run.settings)
        }
        key = json.dumps(common, default=str)
        members.setdefault(key, []).append(run)
        settings[key] = common
    columns = _differing(list(settings.values()))
    keys = sorted(
        settings,
        key=lambda key: [_order(settings[key].get(name, _ABSENT)) for name in columns],
    )
    labels = _labels([settings[key] for key in keys], columns)
    groups = [
        Group(
            number=index,
            label=label,
            settings=settings[key],
            runs=tuple(
                sorted(members[key], key=lambda run: _order(run.setting("seed")))
            ),
        )
        for index, (key, label) in enumerate(zip(keys, labels, strict=True), 1)
    ]
    return columns, groups


def _is_immaterial(name: str, settings: dict[str, Any]) -> bool:
    # How often a run is evaluated decides where it ends if the accuracy does.
    if name == "evaluate_every_steps":
        return not settings.get("stop_at_validation_accuracy")
    return name in _IMMATERIAL


def _differing(settings: Sequence[dict[str, Any]]) -> list[str]:
    """Names of the settings that differ, without those that another implies.

    A field that only some models have is implied by ``model.name``, unless its values
    differ.
    """
    found = []
    for name in sorted({name for some in settings for name in some}):
        kind = f"{name.rpartition('.')[0]}.name"
        values: dict[Any, set[str]] = {}
        for some in settings:
            value = repr(some[name]) if name in some else ""
            values.setdefault(some.get(kind), set()).add(value)
        present = set().union(*values.values()) - {""}
        if len(present) > 1 or any(len(of_kind) > 1 for of_kind in values.values()):
            found.append(name)
    first = [name for name in _FIRST if name in found]
    return first + [name for name in found if name not in first]


def _order(value: Any) -> tuple[int, float, str]:
    """Sorts what is absent first, then numbers, then words."""
    if value is _ABSENT:
        return 0, 0.0, ""
    if isinstance(value, int | float):
        return 1, float(value), ""
    return 2, 0.0, value_text(value)


def _labels(settings: Sequence[dict[str, Any]], columns: Sequence[str]) -> list[str]:
    """For each group the values of a few settings that tell it from all others."""
    if not columns:
        return [_whole_label(some) for some in settings]

    def told_apart(names: Sequence[str]) -> int:
        return len({repr([some.get(name, "") for name in names]) for some in settings})

    chosen: list[str] = []
    while told_apart(chosen) < told_apart(columns):
        rest = [name for name in columns if name not in chosen]
        chosen.append(max(rest, key=lambda name: told_apart([*chosen, name])))
    chosen = [name for name in columns if name in chosen]
    return [
        ", ".join(
            value_text(some[name])
            if name in _FIRST
            else f"{short_name(name, chosen)}={value_text(some[name])}"
            for name in chosen
            if name in some
        )
        or _whole_label(some)
        for some in settings
    ]


def _whole_label(settings: dict[str, Any]) -> str:
    model, data = settings.get("model.name", "?"), settings.get("data.name", "?")
    return f"{value_text(model)} on {value_text(data)}"


def short_name(name: str, among: Sequence[str]) -> str:
    """The last part of a setting's name, if no other has the same."""
    last = name.rpartition(".")[2]
    same = sum(other.rpartition(".")[2] == last for other in among)
    return last if same == 1 and last != "name" else name
