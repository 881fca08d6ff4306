"""A report on runs: differences, results, learning curves and provenance.

Only the files of the run folders are read, and the figures and tables beside them.
"""

import datetime
import itertools
import math
import pathlib
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence, Sized
from typing import Any

import pandas as pd
from markupsafe import Markup

from capsjax.errors import UserError
from capsjax.reports import document, extras, figures
from capsjax.reports.document import Picture
from capsjax.reports.extras import Extra
from capsjax.reports.runs import SPLITS, Group, Run, find, group, number, value_text
from capsjax.runs import results

_MAX_NAMES = 6
_MAX_ROWS = 100  # Of the summary; a group each.
_MAX_SECTIONS = 50  # On single runs.
_MAX_PICTURES = 20  # Of a run.
_NONE = "–"  # noqa: RUF001


def write(
    given: Sequence[pathlib.Path],
    output: pathlib.Path,
    title: str | None = None,
    *,
    each_run: bool = True,
) -> str:
    """Reads runs and writes a report on them, as an HTML page and as Markdown.

    Args:
        given: run folders, or folders that hold some at any depth, with figures and
            tables beside them.
        output: the HTML file. The Markdown has the suffix ``.md``, and its pictures
            are in the folder ``NAME_figures`` beside it.
        title: title of the report; by default made from the names of the folders.
        each_run: switch for a section on each run, often most of the report.

    Returns:
        A line about the files and their content.

    Raises:
        UserError: there are no runs; or ``output`` does not end in ``.html``, is a file
            that is not a report, or cannot be written.
    """
    if output.suffix != ".html":
        raise UserError(f"--output={output} does not end in .html")
    text = output.with_suffix(".md")
    folder = output.with_name(f"{output.stem}_figures")
    for path in (output, text):
        try:
            old = path.read_text(errors="replace") if path.exists() else None
        except OSError as error:
            raise UserError(f"cannot read {path}: {error.strerror}") from error
        if old is not None and not document.is_report(old):
            raise UserError(
                f"{path} exists and is not a report; choose another --output"
            )
    runs = find(given)
    beside = list(dict.fromkeys(path.resolve() for path in given))
    names = [path.name for path in beside]
    title = title or f"Runs in {results.listed(names, _MAX_NAMES)}"
    content = _content(runs, beside)
    markdown, pictures = document.to_markdown(
        folder.name, title=title, each_run=each_run, **content
    )
    files = {folder / name: picture.png for name, picture in pictures.items()}
    size = sum(map(len, files.values()))
    files[output] = document.to_html(title, markdown, pictures).encode()
    files[text] = markdown.encode()
    try:
        for path, data in files.items():
            path.parent.mkdir(parents=True, exist_ok=True)
            temporary = path.with_name(path.name + ".tmp")
            temporary.write_bytes(data)
            temporary.replace(path)
    except OSError as error:
        raise UserError(
            f"cannot write {error.filename or output}: {error.strerror}"
        ) from error
    notes = content["notes"]
    return (
        f"{_count(runs, 'run')} in {_count(content['groups'], 'group')}: {output} "
        f"({len(files[output]) / 1e6:.1f} MB) and {text}, with "
        f"{_count(pictures, 'picture')} ({size / 1e6:.1f} MB as PNG)"
        f"{f'; {_count(notes, "note")} at its top' if notes else ''}"
    )


def _content(runs: Sequence[Run], folders: Sequence[pathlib.Path]) -> dict[str, Any]:
    """Variables of the template ``report.md.j2`` that come from runs."""
    columns, groups = group(runs)
    sessions = [
        [{**env, "device": results.device_name(env)} for env in run.sessions()]
        for run in runs
    ]
    values = {
        name: [sorted({value_text(env[name]) for env in envs}) for envs in sessions]
        for name in ("commit", "device", "data")
    }
    ended = sum(run.ended for run in runs)
    about = {
        "made": f"{datetime.datetime.now(datetime.UTC):%Y-%m-%d %H:%M} UTC",
        "runs": f"{len(runs)}, {ended} of them ended, in {_count(groups, 'group')}",
        **{name: "; ".join(_counted(found)) for name, found in values.items()},
    }
    beside = [(folder.name, *extras.read(folder)) for folder in folders]
    problems = [f"In {name}, {text}." for name, _, found in beside for text in found]
    drawn = groups[: figures.MAX_GROUPS]
    any_ended = any(some.ended for some in drawn)
    sections, without_group = _sections(groups, runs)
    return {
        "about": {name: value for name, value in about.items() if value},
        "notes": [*_notes(runs, groups, values), *problems],
        "num_runs": len(runs),
        "groups": groups,
        "sections": sections,
        "without_group": without_group,
        "summary": _summary(columns, groups[:_MAX_ROWS]),
        "other_metrics": _other_metrics(groups[:_MAX_ROWS]),
        "final_errors": any_ended and figures.png(figures.final_errors(drawn)),
        "learning_curves": groups and figures.png(figures.learning_curves(drawn)),
        "groups_listed": _left_out(len(groups), _MAX_ROWS, "groups"),
        "groups_drawn": _left_out(len(groups), figures.MAX_GROUPS, "groups"),
        "runs_listed": _left_out(len(runs), _MAX_SECTIONS, "runs"),
        "extras": [(name, found) for name, found, _ in beside if found],
        # Called by the template.
        "picture": Picture,
        "headline": _headline,
        "last_metrics": _last_metrics,
        "device_name": results.device_name,
        "command": _command,
        "plots": _plots,
        "inspection": _inspection,
    }


def _notes(
    runs: Sequence[Run], groups: Sequence[Group], values: dict[str, list[list[str]]]
) -> Iterator[str]:
    """Reasons why runs are hard to compare, or numbers say less than they seem to."""
    damaged = [run for run in runs if run.problems]
    for run in damaged[:_MAX_NAMES]:
        problems = "; ".join(run.problems)
        yield f"Run {run.name} is damaged: {problems}. What can be read is used."
    if others := results.listed([run.name for run in damaged[_MAX_NAMES:]], _MAX_NAMES):
        yield f"Damaged too: {others}."
    if names := results.listed([run.name for run in runs if not run.ended], _MAX_NAMES):
        yield f"Not ended, still training or stopped, and in no mean: {names}."
    steps = [[_text(run.steps, ",.0f")] for run in runs if run.result]
    for name, of_runs in {"number of steps": steps, **values}.items():
        found = _counted(of_runs)
        if len(found) > 1:
            yield f"The runs differ in {name}: {'; '.join(found)}."
    yield from _few(_notes_on_means(groups), "notes on the means of groups")
    commits = zip(runs, map("".join, values["commit"]), strict=True)
    if names := results.listed(
        [run.name for run, text in commits if "-dirty" in text], _MAX_NAMES
    ):
        yield f"Changes that are in no commit (-dirty) were made before: {names}."


def _notes_on_means(groups: Sequence[Group]) -> Iterator[str]:
    """Reasons why the mean over a group's runs says less than it seems to."""
    for some in groups:
        mean = f"The mean of group {some.number} is over"
        lengths = {run.steps for run in some.ended}
        if len(lengths) > 1:
            yield f"{mean} runs of different lengths: {_range(lengths)} steps."
        seeds = Counter(value_text(run.settings.get("seed")) for run in some.ended)
        if repeated := [seed for seed, count in seeds.items() if count > 1]:
            named = results.listed(repeated, _MAX_NAMES)
            yield f"{mean} more than one run of seed {named}: not independent."


def _few(notes: Iterable[str], what: str) -> list[str]:
    found = list(notes)
    more = len(found) - _MAX_NAMES
    return found[:_MAX_NAMES] + [f"{more:,} more {what} are left out."] * (more > 0)


def _sections(
    groups: Sequence[Group], runs: Sequence[Run]
) -> tuple[list[tuple[Group, list[Run]]], list[Run]]:
    """The first runs by their groups, and those without a group."""
    room = itertools.count(_MAX_SECTIONS, -1)

    def fitting(some: Iterable[Run]) -> list[Run]:
        return [run for run in some if next(room) > 0]

    sections = [(some, fitting(some.runs)) for some in groups]
    return (
        [(some, members) for some, members in sections if members],
        fitting(run for run in runs if not run.settings),
    )


def _left_out(count: int, most: int, what: str) -> str:
    """A sentence on those left out, if there are any."""
    if count <= most:
        return ""
    return (
        f"The first {most} of {count:,} {what}; a report on some of the folders alone "
        "shows the others."
    )


def _summary(columns: Sequence[str], groups: Sequence[Group]) -> Markup:
    """A table with a line for each group."""
    rows = []
    for some in groups:
        errors = some.test_errors
        shown = some.ended or some.runs
        steps = pd.Series([run.steps for run in shown], dtype=float)
        settings = {name: value_text(value) for name, value in some.settings.items()}
        rows.append(
            {
                # What is compared and the result, before what a screen may hide.
                "group": _title(some),
                "test error, %": _text(errors.mean(), ".2f"),
                "± std": _text(errors.std(), ".2f"),
                "runs": results.count_of(len(errors), len(some.runs)),
                "each": results.listed([*errors.map("{:.2f}".format)]) or _NONE,
                **{name: settings.get(name, _NONE) for name in columns},
                "steps": _range(steps) + ("" if some.ended else " so far"),
                "examples seen": _range(steps * number(some.settings["batch_size"])),
                "parameters": _range(some.results("num_parameters")),
                "s per step": _text(some.results("seconds_per_step").median()),
            }
        )
    header = list(rows[0]) if rows else []
    return document.table(header, [list(row.values()) for row in rows])


def _other_metrics(groups: Sequence[Group]) -> Markup | None:
    """Means of all metrics of the test images that the summary lacks."""
    frame = pd.DataFrame(
        {
            (_title(some), run.name): run.last_metrics()["test"]
            for some in groups
            for run in some.ended
        }
    )
    frame = frame.drop(index=["accuracy", "error_percent"], errors="ignore")
    frame = frame.dropna(how="all").T
    if frame.empty:
        return None
    cells = frame.groupby(level=0, sort=False).agg(_mean_and_std)
    rows = cells.reset_index().to_numpy().tolist()
    return document.table(["group", *cells], rows)


def _title(group: Group) -> str:
    return f"{group.number}: {group.label}"


def _headline(run: Run) -> str:
    """Name and outcome of a run."""
    words = [
        run.name,
        f"seed={run.settings['seed']}" if run.settings else "",
        "damaged" if run.problems else "",
        "" if math.isnan(run.test_error) else f"test error {run.test_error:.2f} %",
        "" if run.ended else "not ended",
        "" if math.isnan(run.steps) else f"{run.steps:,.0f} steps",
    ]
    return " · ".join(filter(None, words))


def _last_metrics(run: Run) -> Markup:
    rows = [
        [str(name), *(_text(value, ",.6g") for value in values)]
        for name, *values in run.last_metrics().itertuples()
    ]
    header = ["last row of metrics", *SPLITS]
    return document.table(header, rows) if rows else Markup()


def _command(env: dict[str, Any]) -> Markup:
    words = [str(word) for word in env["command"]]
    return document.preformatted(results.portable(words))


def _plots(run: Run) -> tuple[list[Picture], str, int]:
    """Pictures of a run, names of those that cannot be shown, the number left out."""
    pictures, broken = [], []
    paths = sorted(run.folder.plots.glob("*.png"))
    for path in paths[:_MAX_PICTURES]:
        name = f"{run.name.replace('/', '_')}_{path.name}"
        caption = f"{run.name}: {path.stem.replace('_', ' ')}"
        try:
            pictures.append(Picture(name, caption, path.read_bytes()))
        except (OSError, ValueError):
            broken.append(path.name)
    # Wide ones, which fill a line, come last.
    pictures.sort(key=lambda picture: picture.is_wide)
    return pictures, results.listed(broken), len(paths[_MAX_PICTURES:])


def _inspection(run: Run) -> tuple[list[Extra], list[str]]:
    """What experiments.inspect_network has found of a run, and what cannot be shown."""
    found, broken = extras.read(run.folder.inspection)
    for extra in found:
        if isinstance(extra, Picture):
            extra.name = f"{run.name.replace('/', '_')}_inspection_{extra.name}"
    return found, broken


def _counted(of_runs: Iterable[list[str]]) -> list[str]:
    """Values, most frequent first, each with its number of runs if they differ."""
    counts = Counter(sorted(itertools.chain(*of_runs)))
    if len(counts) == 1:
        return list(counts)
    found = [
        f"{value} ({_count(range(count), 'run')})"
        for value, count in counts.most_common(_MAX_NAMES)
    ]
    more = len(counts) - _MAX_NAMES
    return found + [f"{more:,} others"] * (more > 0)


def _count(counted: Sized, what: str) -> str:
    return f"{len(counted):,} {what}{'' if len(counted) == 1 else 's'}"


def _range(values: Iterable[float]) -> str:
    found = sorted(value for value in values if not math.isnan(value))
    ends = dict.fromkeys(_text(value, ",.0f") for value in (*found[:1], *found[-1:]))
    return " to ".join(ends) or _NONE


def _text(value: float, form: str = ",.4g") -> str:
    return _NONE if math.isnan(value) else format(value, form)


def _mean_and_std(values: pd.Series) -> str:
    std = values.std()
    return _text(values.mean()) + ("" if math.isnan(std) else f" ± {_text(std)}")
