"""A report on runs: what differs, what came out, how it got there, where it is from.

Only the files of the run folders are read, and the figures and tables beside them.
"""

import dataclasses
import datetime
import math
import pathlib
import statistics
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from capsjax.errors import UserError
from capsjax.reports import document
from capsjax.reports import extras as report_extras
from capsjax.reports import figures as plots_report
from capsjax.reports.document import (
    Block,
    Details,
    Facts,
    Gallery,
    Heading,
    Notes,
    Paragraph,
    Picture,
    Preformatted,
    Table,
)
from capsjax.reports.runs import (
    Group,
    Run,
    find,
    group,
    number,
    spread,
    value_text,
    without_paths,
)
from capsjax.runs import results

_MAX_NAMES = 6
_NONE = "–"  # noqa: RUF001


@dataclasses.dataclass(frozen=True)
class Written:
    """What `write` has written.

    Attributes:
        page: the HTML file.
        text: the Markdown file.
        figures: the folder of its pictures.
        num_runs: in the report.
        num_groups: of runs that differ in nothing but their seeds and the like.
        num_notes: what its readers must know first.
        num_pictures: in either file.
        picture_bytes: their size together.
    """

    page: pathlib.Path
    text: pathlib.Path
    figures: pathlib.Path
    num_runs: int
    num_groups: int
    num_notes: int
    num_pictures: int
    picture_bytes: int

    def __str__(self) -> str:
        notes = f"; {_count(self.num_notes, 'note')} at its top"
        return (
            f"{_count(self.num_runs, 'run')} in {_count(self.num_groups, 'group')}: "
            f"{self.page} ({self.page.stat().st_size / 1e6:.1f} MB) and {self.text}, "
            f"with {_count(self.num_pictures, 'picture')} "
            f"({self.picture_bytes / 1e6:.1f} MB as PNG)"
            f"{notes if self.num_notes else ''}"
        )


def write(
    given: Sequence[pathlib.Path],
    output: pathlib.Path,
    title: str | None = None,
    *,
    each_run: bool = True,
) -> Written:
    """Reads runs and writes a report on them, as an HTML page and as Markdown.

    Args:
        given: run folders, or folders that hold some at any depth, with figures and
            tables of their own.
        output: the HTML file. The Markdown has the suffix ``.md``, and its pictures
            are in the folder ``NAME_figures`` beside it.
        title: of the report; by default made from the names of the folders.
        each_run: whether each run has a part of its own, with its provenance and its
            figures, which may be most of the report.

    Raises:
        UserError: there are no runs; or ``output`` does not end in ``.html``, is a file
            that no report has written, or cannot be written.
    """
    if output.suffix != ".html":
        raise UserError(f"--output={output} does not end in .html")
    text, figures = (
        output.with_suffix(".md"),
        output.with_name(f"{output.stem}_figures"),
    )
    _check_replaceable(output, text)
    runs = find(given)
    columns, groups = group(runs)
    if title is None:
        title = f"Runs in {', '.join(path.resolve().name for path in given)}"
    extras, notes = _extras(given)
    notes = [*_notes(runs, groups), *notes]
    blocks = [
        *_introduction(runs, groups, notes),
        *_results(columns, groups),
        *extras,
        *(_details(runs, groups) if each_run else []),
    ]
    markdown, pictures = document.to_markdown(title, blocks, figures.name)
    try:
        output.parent.mkdir(parents=True, exist_ok=True)
        _replace(output, document.to_html(title, blocks).encode())
        if pictures:
            figures.mkdir(exist_ok=True)
        for name, png in pictures.items():
            _replace(figures / name, png)
        _replace(text, markdown.encode())
    except OSError as error:
        raise UserError(
            f"cannot write {error.filename or output}: {error.strerror}"
        ) from error
    return Written(
        page=output,
        text=text,
        figures=figures,
        num_runs=len(runs),
        num_groups=len(groups),
        num_notes=len(notes),
        num_pictures=len(pictures),
        picture_bytes=sum(map(len, pictures.values())),
    )


def _check_replaceable(*paths: pathlib.Path) -> None:
    for path in paths:
        try:
            with path.open(errors="replace") as file:
                beginning = file.read(1000)
        except FileNotFoundError:
            continue
        except OSError as error:
            raise UserError(f"cannot read {path}: {error.strerror}") from error
        if document.MARK not in beginning:
            raise UserError(
                f"{path} is there and was written by no report; choose another --output"
            )


def _replace(path: pathlib.Path, content: bytes) -> None:
    temporary = path.with_name(path.name + ".tmp")
    temporary.write_bytes(content)
    temporary.replace(path)


def _introduction(
    runs: Sequence[Run], groups: Sequence[Group], notes: Sequence[str]
) -> list[Block]:
    now = datetime.datetime.now(datetime.UTC)
    ended = sum(run.ended for run in runs)
    count = f"1, {'ended' if ended else 'not ended'}"
    if len(runs) > 1:
        count = (
            f"{len(runs)}, {ended} of them ended, in {_count(len(groups), 'group')} "
            "that differ in more than the seed"
        )
    facts = [
        ("made", f"{now:%Y-%m-%d %H:%M} UTC"),
        ("runs", count),
        ("commit", "; ".join(_counted(runs, _commits))),
        ("device", "; ".join(_counted(runs, _devices))),
        ("data", "; ".join(_counted(runs, _data))),
    ]
    blocks: list[Block] = [Facts([fact for fact in facts if fact[1]])]
    if notes:
        blocks.append(Notes("Before you compare", notes))
    elif len(runs) > 1:
        blocks.append(
            Paragraph(
                "All runs have ended, and agree in commit, number of steps, data and "
                "device."
            )
        )
    return blocks


def _notes(runs: Sequence[Run], groups: Sequence[Group]) -> list[str]:
    """What makes runs hard to compare, or a number less than it seems."""
    notes = [
        f"Run {run.name} is damaged: {'; '.join(run.problems)}. What can be read of it "
        "is used."
        for run in runs
        if run.problems
    ]
    open_runs = [run for run in runs if not run.ended]
    if open_runs:
        notes.append(
            f"Not ended, still training or stopped: {_names(open_runs)}. Such runs are "
            "in no mean."
        )
    ended = [run for run in runs if run.result is not None]
    several: list[tuple[str, Sequence[Run], Callable[[Run], list[str]]]] = [
        ("numbers of steps", ended, lambda run: [f"{run.steps:,}"]),
        ("commits", runs, _commits),
        ("data", runs, _data),
        ("devices", runs, _devices),
    ]
    for what, compared, values in several:
        found = _counted(compared, values)
        if len(found) > 1:
            notes.append(f"The runs differ in their {what}: {'; '.join(found)}.")
    for some in groups:
        lengths = {run.steps for run in some.ended}
        if len(lengths) > 1:
            notes.append(
                f"The mean of group {some.number} is over runs of different lengths: "
                f"{_range(lengths)} steps."
            )
        seeds = [value_text(run.setting("seed")) for run in some.ended]
        repeated = sorted({seed for seed in seeds if seeds.count(seed) > 1})
        if repeated:
            notes.append(
                f"Group {some.number} holds more than one run of seed "
                f"{', '.join(repeated)}: they do not count as independent."
            )
    dirty = [run for run in runs if any("-dirty" in name for name in _commits(run))]
    if dirty:
        notes.append(
            f"Changes that are in no commit (-dirty) were made before: {_names(dirty)}."
        )
    return notes


def _results(columns: Sequence[str], groups: Sequence[Group]) -> list[Block]:
    blocks: list[Block] = [Heading("Results")]
    if not groups:
        return [*blocks, Paragraph("No run has a config that can be read.")]
    blocks += [
        _summary(columns, groups),
        Paragraph(
            "Runs that differ in nothing but the seed, and in what changes no result, "
            "are one group; ± is the standard deviation over its runs (n - 1). The "
            "test error is that of the parameters after the last step."
        ),
    ]
    if any(some.ended for some in groups):
        figure = plots_report.final_errors(groups)
        caption = "Test error: each run (dots), mean ± standard deviation (bars)"
        blocks.append(Picture("test_error.png", caption, plots_report.png(figure)))
    other = _other_metrics(groups)
    if other.rows:
        blocks.append(Details("Other means over the test images", [other]))
    figure = plots_report.learning_curves(groups)
    caption = (
        "Thick: mean over the group's ended runs, at the steps that all of them have; "
        "thin: each run; dashed: not ended"
    )
    picture = Picture("learning_curves.png", caption, plots_report.png(figure))
    return [*blocks, Heading("Learning curves"), picture]


def _summary(columns: Sequence[str], groups: Sequence[Group]) -> Table:
    """One line for each group."""
    header = [
        "group",
        *columns,
        "runs",
        "test error, %",
        "± std",
        "each",
        "steps",
        "examples seen",
        "parameters",
        "s per step",
    ]
    speeds = {some.number: _finite(some.ended, "seconds_per_step") for some in groups}
    middles = {key: statistics.median(found) for key, found in speeds.items() if found}
    digits = _decimals(middles.values())
    rows = []
    for some in groups:
        errors = some.test_errors
        found = spread(errors) if errors else None
        steps = [run.steps for run in some.ended or some.runs if run.steps is not None]
        seen = [
            int(batch_size * run.steps)
            for run in some.ended or some.runs
            if (batch_size := number(run.setting("batch_size"))) and run.steps
        ]
        middle = middles.get(some.number)
        rows.append(
            [
                str(some.number),
                *(
                    value_text(some.settings[name]) if name in some.settings else _NONE
                    for name in columns
                ),
                str(len(errors))
                if len(errors) == len(some.runs)
                else f"{len(errors)} of {len(some.runs)}",
                _NONE if found is None else f"{found.mean:.2f}",
                _NONE if found is None or found.std is None else f"{found.std:.2f}",
                ", ".join(f"{error:.2f}" for error in errors) or _NONE,
                _range(steps) + ("" if some.ended else " so far"),
                _range(seen),
                _range(map(int, _finite(some.ended, "num_parameters"))),
                _NONE if middle is None else f"{middle:.{digits}f}",
            ]
        )
    words = {
        1 + index
        for index, name in enumerate(columns)
        if any(number(some.settings.get(name, 0)) is None for some in groups)
    }
    return Table(header, rows, frozenset(range(len(header))) - words)


def _other_metrics(groups: Sequence[Group]) -> Table:
    """Means of the test images' other metrics, whatever the model reports."""
    values: dict[int, dict[str, list[float]]] = {}
    for some in groups:
        for run in some.ended:
            for name, value in _last(run, "test").items():
                if name in ("accuracy", "error_percent"):  # In the summary already.
                    continue
                values.setdefault(some.number, {}).setdefault(name, []).append(value)
    names = sorted({name for found in values.values() for name in found})
    digits = {
        name: _decimals(v for found in values.values() for v in found.get(name, []))
        for name in names
    }

    def cell(found: Mapping[str, list[float]], name: str) -> str:
        if name not in found:
            return _NONE
        over_runs = spread(found[name])
        text = f"{over_runs.mean:.{digits[name]}f}"
        if over_runs.std is not None:
            text += f" ± {over_runs.std:.{digits[name]}f}"
        return text

    rows = [
        [f"{some.number}: {some.label}", *(cell(values[some.number], n) for n in names)]
        for some in groups
        if some.number in values
    ]
    return Table(["group", *names], rows, frozenset(range(1, len(names) + 1)))


def _extras(given: Sequence[pathlib.Path]) -> tuple[list[Block], list[str]]:
    blocks: list[Block] = []
    notes: list[str] = []
    for folder in dict.fromkeys(path.resolve() for path in given):
        found, problems = report_extras.blocks(folder)
        notes += [f"In {folder.name}, {problem}." for problem in problems]
        if found:
            blocks += [Heading(f"Figures and tables of {folder.name}"), *found]
    return blocks, notes


def _details(runs: Sequence[Run], groups: Sequence[Group]) -> list[Block]:
    blocks: list[Block] = [Heading("Each run")]
    for some in groups:
        settings = [(name, value_text(v)) for name, v in some.settings.items()]
        blocks += [
            Heading(f"Group {some.number}: {some.label}", 3),
            Details("Settings of the group", [Facts(settings)]),
            *(_run(run, some) for run in some.runs),
        ]
    without = [run for run in runs if run.settings is None]
    if without:
        blocks.append(Heading("In no group: the config cannot be read", 3))
        blocks += [_run(run, None) for run in without]
    return blocks


def _run(run: Run, of: Group | None) -> Details:
    """All that is known of one run."""
    own = {
        name: value
        for name, value in (run.settings or {}).items()
        if of is not None
        and name not in of.settings
        and (name == "seed" or len({repr(r.setting(name)) for r in of.runs}) > 1)
    }
    summary = [run.name, *(f"{name}={value_text(v)}" for name, v in own.items())]
    if run.problems:
        summary.append("damaged")
    if run.test_error is not None:
        summary.append(f"test error {run.test_error:.2f} %")
    if not run.ended:
        summary.append("not ended")
    if run.steps is not None:
        summary.append(f"{run.steps:,} steps")
    blocks: list[Block] = []
    if run.problems:
        blocks.append(Notes("Damaged", list(run.problems)))
    blocks.append(Heading("Result", 4))
    if run.result is not None:
        blocks.append(Facts([(n, _text(v)) for n, v in run.result.items()]))
    else:
        blocks.append(Paragraph("There is none that can be read."))
    metrics = [(split, _last(run, split)) for split in ("train", "validation", "test")]
    names = sorted({name for _, last in metrics for name in last})
    if names:
        rows = [
            [
                name,
                *(_text(last[name]) if name in last else _NONE for _, last in metrics),
            ]
            for name in names
        ]
        header = ["last row of metrics", *(split for split, _ in metrics)]
        blocks.append(Table(header, rows, frozenset({1, 2, 3})))
    if run.env is not None:
        blocks += [Heading("Provenance", 4), *_provenance(run)]
    pictures, broken = _pictures(run)
    if pictures:
        blocks += [Heading("Figures", 4), Gallery(pictures)]
    if broken:
        blocks.append(Paragraph(f"Cannot be shown: {', '.join(broken)}."))
    return Details(" · ".join(summary), blocks)


def _provenance(run: Run) -> list[Block]:
    blocks: list[Block] = []
    for env in run.sessions():
        facts = [
            ("started", _text(env["started"])),
            ("commit", _text(env["commit"])),
            ("device", results.device_name(env)),
            ("data", _text(env["data"])),
            (
                "versions",
                ", ".join(f"{name} {_text(v)}" for name, v in env["versions"].items()),
            ),
        ]
        if "step" in env:
            facts.insert(0, ("resumed at step", _text(env["step"])))
        command = without_paths(
            results.portable([str(word) for word in env["command"]])
        )
        blocks += [Facts(facts), Preformatted(command)]
    return blocks


def _pictures(run: Run) -> tuple[list[Picture], list[str]]:
    pictures, broken = [], []
    for path in sorted(run.folder.plots.glob("*.png")):
        try:
            content = path.read_bytes()
        except OSError:
            content = b""
        if document.is_png(content):
            words = path.stem.replace("_", " ")
            name = f"{run.name.replace('/', '_')}_{path.name}"
            pictures.append(Picture(name, f"{run.name}: {words}", content))
        else:
            broken.append(path.name)
    # Those that take a line of their own come last.
    return sorted(pictures, key=lambda picture: picture.is_wide), broken


def _last(run: Run, split: str) -> dict[str, float]:
    """The numbers of the last row of a split."""
    rows = [row for row in run.rows if row["split"] == split]
    found = {name: number(value) for name, value in rows[-1].items()} if rows else {}
    return {
        name: value
        for name, value in found.items()
        if value is not None and name != "step"
    }


def _finite(runs: Iterable[Run], name: str) -> list[float]:
    values = [number((run.result or {}).get(name)) for run in runs]
    return [value for value in values if value is not None]


def _commits(run: Run) -> list[str]:
    return list(dict.fromkeys(_text(env["commit"]) for env in run.sessions()))


def _devices(run: Run) -> list[str]:
    return list(dict.fromkeys(results.device_name(env) for env in run.sessions()))


def _data(run: Run) -> list[str]:
    return list(dict.fromkeys(_text(env["data"]) for env in run.sessions()))


def _counted(runs: Sequence[Run], values: Callable[[Run], list[str]]) -> list[str]:
    """Values, the most frequent first, with how many runs have each if some differ."""
    counts: dict[str, int] = {}
    for run in runs:
        for value in values(run):
            counts[value] = counts.get(value, 0) + 1
    if len(counts) == 1:
        return list(counts)
    order = sorted(counts, key=lambda value: (-counts[value], value))
    return [f"{value} ({_count(counts[value], 'run')})" for value in order]


def _names(runs: Sequence[Run]) -> str:
    names = [run.name for run in runs[:_MAX_NAMES]]
    left = len(runs) - len(names)
    return ", ".join(names) + (f" and {left} more" if left else "")


def _count(count: int, what: str) -> str:
    return f"{count:,} {what}{'' if count == 1 else 's'}"


def _range(values: Iterable[int | None]) -> str:
    found = sorted({value for value in values if value is not None})
    if not found:
        return _NONE
    first, last = f"{found[0]:,}", f"{found[-1]:,}"
    return first if first == last else f"{first} to {last}"


def _decimals(values: Iterable[float], digits: int = 3) -> int:
    """So many decimals that the smallest number has this many digits."""
    smallest = min((abs(value) for value in values if value), default=1.0)
    return max(0, min(8, digits - 1 - math.floor(math.log10(smallest))))


def _text(value: Any) -> str:
    """A recorded value: fixed-point, with six digits, of at most ten decimals."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return value_text(value)
    if not math.isfinite(value):
        return str(value)
    if isinstance(value, int) or float(value).is_integer():
        return f"{int(value):,}"
    return f"{value:,.{_decimals([value], 6)}f}".rstrip("0").rstrip(".")
