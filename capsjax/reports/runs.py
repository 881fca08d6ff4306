"""Runs as a report shows them: read from their folders, and grouped over seeds."""

import contextlib
import dataclasses
import itertools
import math
import pathlib
import re
from collections import Counter
from collections.abc import Callable, Container, Iterator, Sequence
from typing import Any

import numpy as np
import pandas as pd

from capsjax import fields
from capsjax.config import Config
from capsjax.errors import UserError
from capsjax.runs import data_record
from capsjax.runs.folder import RunFolder
from capsjax.runs.metrics import read_metrics
from capsjax.runs.results import as_text

SPLITS = ["train", "validation", "test"]
# Settings in which repetitions of a run may differ.
_IMMATERIAL = frozenset(
    path for path, meta in fields.facts(Config()).items() if not meta.changes_result
)
# Settings that come first in labels and tables.
_FIRST = ("data.name", "model.name")
_ENV_FIELDS = {"commit", "device", "num_devices", "cpu", "num_cpus", "started", "data"}
_PATH = re.compile(r"(?<![\w.~:/<])~?(?:/[\w.@%+~-]+)+/?")


@dataclasses.dataclass(frozen=True)
class Run:
    """Content of the files in a run's folder; empty where a file cannot be read.

    Attributes:
        name: path relative to the folder that was given.
        folder: folder of the run.
        settings: config by names such as ``"model.name"``.
        env: environment from `capsjax.runs.provenance.environment`.
        result: content of ``result.json``.
        metrics: numbers by ``split``, one of `SPLITS`, and ``step``.
        problems: defects of the files.
    """

    name: str
    folder: RunFolder
    settings: dict[str, Any]
    env: dict[str, Any]
    result: dict[str, Any]
    metrics: pd.DataFrame
    problems: Sequence[str] = ()

    @property
    def ended(self) -> bool:
        """True if there is a result, readable or not."""
        return self.folder.result.exists()

    @property
    def steps(self) -> float:
        """Steps of the whole run, or those in its metrics so far, or NaN."""
        return number(self.result.get("steps", self.metrics["step"].max()))

    @property
    def test_error(self) -> float:
        """Error on the test images in percent, or NaN."""
        error = number(self.result.get("test_error_percent"))
        accuracy = number(self.result.get("test_accuracy"))
        return 100 * (1 - accuracy) if math.isnan(error) else error

    def sessions(self) -> list[dict[str, Any]]:
        """Environments at the start and at each resume."""
        resumes = self.env.get("resumes")
        envs = [self.env, *(resumes if isinstance(resumes, list) else [])]
        return list(filter(_is_env, envs))

    def curve(self, split: str, metric: str) -> pd.Series:
        """A metric by the step."""
        rows = self.metrics[self.metrics["split"] == split]
        rows = rows.drop_duplicates("step", keep="last").set_index("step")
        return rows[metric].astype(float).dropna()

    def last_metrics(self) -> pd.DataFrame:
        """Last numbers by the metrics' names, each split in a column."""
        last = self.metrics.groupby("split").tail(1).set_index("split")
        return last.drop(columns="step").T.reindex(columns=SPLITS).dropna(how="all")


@dataclasses.dataclass(frozen=True)
class Group:
    """Runs that differ only in the seed and in settings that change no result.

    Attributes:
        number: position among the groups, from 1.
        label: a few words that no other group has.
        settings: settings that its runs share, without those that change no result.
        runs: members by seed.
    """

    number: int
    label: str
    settings: dict[str, Any]
    runs: tuple[Run, ...]

    @property
    def ended(self) -> tuple[Run, ...]:
        """Runs whose test error is known."""
        return tuple(run for run in self.runs if not math.isnan(run.test_error))

    @property
    def test_errors(self) -> pd.Series:
        """Test errors of the runs that have ended, in percent."""
        return pd.Series([run.test_error for run in self.ended], dtype=float)

    def results(self, name: str) -> pd.Series:
        """A number in the results of the runs that have ended."""
        return pd.Series(
            [number(run.result.get(name)) for run in self.ended], dtype=float
        )


def find(given: Sequence[pathlib.Path]) -> list[Run]:
    """Reads the runs in folders at any depth, each once.

    Raises:
        UserError: a folder does not exist, or there are no runs.
    """
    names: dict[pathlib.Path, str] = {}
    for parent in given:
        if not parent.is_dir():
            raise UserError(f"there is no folder {parent}")
        root = parent.resolve()
        for path in _run_folders(root):
            base = root.parent if len(given) > 1 or path == root else root
            if path not in names:
                name = path.relative_to(base).as_posix()
                names[path] = unique(name, names.values())
    if not names:
        raise UserError(
            f"there are no runs in {', '.join(map(str, given))}; give folders of runs "
            "(the --workdir of experiments.train), or folders that hold some"
        )
    return [read(path, name) for path, name in names.items()]


def unique(name: str, taken: Container[str], suffix: str = "") -> str:
    """A name and its suffix, with a number between them if it is taken."""
    numbers = itertools.chain([""], (f"-{count}" for count in itertools.count(2)))
    candidates = (f"{name}{number}{suffix}" for number in numbers)
    return next(candidate for candidate in candidates if candidate not in taken)


def _run_folders(root: pathlib.Path) -> Iterator[pathlib.Path]:
    """Folders in which a run, maybe damaged, was begun; r2 comes before r10."""
    for path, below, _ in root.walk():
        below.sort(
            key=lambda name: [
                int(part) if part.isdecimal() else part
                for part in re.split(r"(\d+)", name)
            ]
        )
        folder = RunFolder(path)
        if folder.config.exists() or folder.metrics.exists():
            below.clear()
            yield path


def read(path: pathlib.Path, name: str) -> Run:
    """Reads a run's files; notes defects instead of raising errors."""
    folder = RunFolder(path)
    problems: list[str] = []

    def load(
        path: pathlib.Path, loader: Callable[[], Any], is_whole: Callable[[Any], bool]
    ) -> dict[str, Any]:
        problem = f"{path.name} does not hold what a run's does"
        try:
            content = loader()
            if is_whole(content):
                return content
        except UserError as error:
            problem += f": {error}"
            if error.__cause__ is not None:
                problem = f"{path.name} cannot be read: {error.__cause__}"
            if not path.exists():
                problem = f"there is no {path.name}"
        problems.append(problem)
        return {}

    settings = load(folder.config, lambda: fields.flatten(folder.load_config()), bool)
    env = load(folder.env, folder.load_env, _is_env)
    result = {}
    if folder.result.exists():
        result = load(folder.result, folder.load_result, _is_result)
    rows = []
    try:
        rows = read_metrics(folder.metrics)
    except (OSError, ValueError) as error:
        problems.append(f"metrics.jsonl cannot be read: {error}")
    run = Run(name, folder, settings, env, result, numbers(rows), problems)
    if result and run.metrics.empty:
        problems.append("there are no metrics in metrics.jsonl")
    if result and math.isnan(run.test_error):
        problems.append("result.json holds no test error")
    return run


def _is_env(content: Any) -> bool:
    match content:
        case {"command": list(), "versions": dict()}:
            return content.keys() >= _ENV_FIELDS
    return False


def _is_result(content: Any) -> bool:
    return isinstance(content, dict) and isinstance(content.get("steps"), int | float)


def numbers(rows: Sequence[Any]) -> pd.DataFrame:
    """Rows of metrics, with NaN for anything else than numbers.

    ``"error_percent"`` comes from the accuracy where it is missing.
    """
    frame = pd.DataFrame(
        {name: number(value) for name, value in row.items()} | {"split": row["split"]}
        for row in rows
        if isinstance(row, dict) and row.get("split") in SPLITS
    )
    needed = ["accuracy", "error_percent", "loss", "split", "step"]
    frame = frame.reindex(columns=frame.columns.union(needed)).dropna(subset="step")
    error = 100 * (1 - frame["accuracy"])
    return frame.assign(error_percent=frame["error_percent"].fillna(error))


def number(value: Any) -> float:
    """A finite number, or NaN for anything else."""
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    return float(value) if is_number and math.isfinite(value) else math.nan


def without_paths(text: str) -> str:
    """A text in which absolute paths are cut down to their last part."""
    return _PATH.sub(lambda path: path[0].rstrip("/").rpartition("/")[2], text)


def value_text(value: Any) -> str:
    """A setting's value in words."""
    if isinstance(value, tuple | list):
        comma = "," if len(value) == 1 else ""
        return f"({', '.join(map(value_text, value))}{comma})"
    return "none" if value in (None, "") else without_paths(as_text(value))


def group(runs: Sequence[Run]) -> tuple[list[str], list[Group]]:
    """Groups runs that differ only in the seed and settings that change no result.

    Returns:
        The names of the settings in which the groups differ, and the groups in the
        order of these settings. Runs without a config are left out.
    """
    runs = [run for run in runs if run.settings]
    if not runs:
        return [], []
    runs.sort(key=lambda run: _order(run.settings.get("seed")))
    settings = [_material(run.settings) for run in runs]
    # As text, since pandas equates 1, 1.0 and True.
    texts = pd.DataFrame(
        {name: repr(value) for name, value in some.items()} for some in settings
    ).fillna("")
    columns = _differing(texts)
    in_label = _telling(columns, texts.drop_duplicates())
    members = sorted(
        texts.groupby(list(texts)).indices.values(),
        key=lambda some: [_order(settings[some[0]].get(name)) for name in columns],
    )
    return columns, [
        Group(
            number=position,
            label=_label(runs[some[0]], settings[some[0]], in_label),
            settings=settings[some[0]],
            runs=tuple(runs[index] for index in some),
        )
        for position, some in enumerate(members, 1)
    ]


def _material(settings: dict[str, Any]) -> dict[str, Any]:
    """Settings by name, without those that change no result."""
    names = settings.keys() - _IMMATERIAL
    # A run that ends at some accuracy ends at an evaluation.
    if not settings.get("stop_at_validation_accuracy"):
        names.discard("evaluate_every_steps")
    return {name: settings[name] for name in sorted(names)}


def _differing(texts: pd.DataFrame) -> list[str]:
    """Names of the settings that differ, unless ``model.name`` implies it."""

    def differs(name: str) -> bool:
        kinds = texts.get(f"{name.rpartition('.')[0]}.name", pd.Series("", texts.index))
        present = texts[name][texts[name] != ""]
        return present.nunique() > 1 or texts[name].groupby(kinds).nunique().max() > 1

    found = [name for name in map(str, texts) if differs(name)]
    return sorted(found, key=lambda name: (name not in _FIRST, name))


def _telling(columns: Sequence[str], texts: pd.DataFrame) -> list[str]:
    """Data and model if they differ, and enough columns to tell all rows apart."""
    chosen = [name for name in columns if name in _FIRST]
    while len(chosen) < len(columns) and (not chosen or texts.duplicated(chosen).any()):
        rest = [name for name in columns if name not in chosen]
        counts = [len(texts.drop_duplicates([*chosen, name])) for name in rest]
        chosen.append(rest[np.argmax(counts)])
    return [name for name in columns if name in chosen]


def _order(value: Any) -> tuple[int, float, str]:
    """A key that sorts absent values first, then numbers, then words."""
    if isinstance(value, int | float):
        return 1, float(value), ""
    return 0 if value is None else 2, 0.0, value_text(value)


def _label(run: Run, settings: dict[str, Any], names: Sequence[str]) -> str:
    """Values of the named settings, or model and data if there are none."""
    values = {name: value_text(value) for name, value in settings.items()}
    with contextlib.suppress(UserError):  # Then it has the setting's value.
        values["data.name"] = data_record.title(run.folder)
    last = Counter(name.rpartition(".")[2] for name in names)
    words = []
    for name in filter(values.__contains__, names):
        short = name.rpartition(".")[2]
        short = short if last[short] == 1 and short != "name" else name
        words.append(values[name] if name in _FIRST else f"{short}={values[name]}")
    model = values.get("model.name", "?")
    return ", ".join(words) or f"{model} on {values['data.name']}"
