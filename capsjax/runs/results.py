"""Committed results: rows of CSV files with their provenance, and tables from them.

A row has columns for its provenance and for whatever was measured. A file has the
columns of all its rows; those that a row lacks are empty there.
"""

import contextlib
import csv
import functools
import pathlib
import re
import statistics
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from typing import Any, NoReturn

from filelock import FileLock, Timeout
from tabulate import tabulate

from capsjax.errors import UserError
from capsjax.runs.folder import RunFolder

# Columns that each row takes from capsjax.runs.provenance.environment.
_PROVENANCE = ("started", "commit", "device", "num_devices", "cpu", "num_cpus")
# Writing takes far less; a process that holds a file for longer hangs.
_MAX_WAIT_SECONDS = 60


class Row(dict[str, str]):
    """Measurements and their provenance: text by column, empty if unknown."""

    def __missing__(self, column: str) -> NoReturn:
        raise UserError(
            f"the row of {self.get('started') or 'an unknown time'} has no {column}; "
            "measure it again with this version, or remove it from its file"
        )

    def number(self, column: str) -> float:
        """The number in a column; a `UserError` if there is none."""
        return float(self[column] or self.__missing__(column))


def row(env: Mapping[str, Any], measured: Mapping[str, Any]) -> Row:
    """A row that begins with its provenance and ends with the command.

    ``env`` comes from `capsjax.runs.provenance.environment`; measured values replace
    the provenance of the same name.
    """
    known = {name: env[name] for name in _PROVENANCE} | {"jax": env["versions"]["jax"]}
    known |= {**measured, "command": portable(env["command"])}
    return as_row(known)


def training_row(folder: RunFolder, own: Mapping[str, Any] = {}) -> Row:
    """The row of a run: its provenance, settings, result and ``own`` columns.

    Raises:
        UserError: the folder holds no run, or one that has not ended.
    """
    config, env = folder.load_config(), folder.load_env()
    result = folder.load_result()
    measured = {
        "flax": env["versions"]["flax"],
        "data": env["data"],
        **config.model.columns(),
        "seed": config.seed,
        "batch_size": config.batch_size,
        "train_examples_seen": config.batch_size * result["steps"],
        **result,
        **own,
    }
    return row(env, measured)


def append(path: pathlib.Path, rows: Iterable[Mapping[str, str]]) -> int:
    """Appends new rows to a CSV file; returns their number.

    A row that only adds columns to one in the file is not new. If several processes
    append to a file at the same time, it has the rows of all of them.

    Raises:
        UserError: the file cannot be read, or another process does not let go of it.
    """
    with _locked(path):
        old = read(path)
        known = [{c: text for c, text in row.items() if text}.items() for row in old]
        new = [row for row in rows if not any(old <= row.items() for old in known)]
        _replace(path, [*old, *new])
    return len(new)


def write(path: pathlib.Path, rows: Sequence[Mapping[str, str]]) -> None:
    """Writes rows to a CSV file, replacing it as a whole.

    If other processes write or append to it at the same time, it is never a mixture.

    Raises:
        UserError: another process does not let go of the file.
    """
    with _locked(path):
        _replace(path, rows)


@contextlib.contextmanager
def _locked(path: pathlib.Path) -> Iterator[None]:
    """Waits until no other process changes a file, then keeps them waiting."""
    path.parent.mkdir(parents=True, exist_ok=True)
    lock = path.with_name(f".{path.name}.lock")
    try:
        # filelock's soft lock would remain when the process is killed.
        held = FileLock(lock, _MAX_WAIT_SECONDS, fallback_to_soft=False).acquire()
    except Timeout as error:
        raise UserError(
            f"another process has been writing to {path} for {_MAX_WAIT_SECONDS} s; "
            "stop it, or choose another file"
        ) from error
    with held:
        yield


def _replace(path: pathlib.Path, rows: Sequence[Mapping[str, str]]) -> None:
    temporary = path.with_name(path.name + ".tmp")
    with temporary.open("w", newline="") as file:
        columns = dict.fromkeys(column for row in rows for column in row)
        writer = csv.DictWriter(file, list(columns), restval="", lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
    temporary.replace(path)


def read(path: pathlib.Path) -> list[Row]:
    """Rows of a CSV file; an empty list if there is no file.

    Raises:
        UserError: it cannot be read, or has lines of different lengths.
    """
    if not path.exists():
        return []
    try:
        with path.open(newline="") as file:
            header, *lines = [*filter(any, csv.reader(file, strict=True))] or [[]]
        return [Row(zip(header, line, strict=True)) for line in lines]
    except (OSError, ValueError, csv.Error) as error:
        raise UserError(
            f"cannot read the rows in {path}: {error}; repair it or choose another file"
        ) from error


def latest_run(rows: Sequence[Row], device: str) -> list[Row]:
    """Rows of the last run on a device, such as ``"cpu"``."""
    rows = [row for row in rows if row["device"] == device]
    last = max((row["started"] for row in rows), default="")
    return [row for row in rows if row["started"] == last]


def grouped(rows: Iterable[Row], *columns: str) -> dict[tuple[str, ...], list[Row]]:
    """Rows that are alike in some columns, by their values there."""
    groups: dict[tuple[str, ...], list[Row]] = {}
    for row in rows:
        groups.setdefault(tuple(row[column] for column in columns), []).append(row)
    return groups


def steps(rows: Iterable[Row]) -> list[int]:
    """The different numbers of training steps, in ascending order."""
    return sorted({int(row["steps"]) for row in rows})


def listed(texts: Sequence[str], most: int = 10, comma: str = ", ") -> str:
    """The first of some texts, ``comma`` between, and the number of those left out."""
    more = f" and {len(texts) - most:,} more" if len(texts) > most else ""
    return comma.join(texts[:most]) + more


def count_of(count: int, wanted: int) -> str:
    """A count of runs, and how many there should be if some are missing."""
    return str(count) if count == wanted else f"{count} of {wanted}"


def training_table(rows: Sequence[Row]) -> str:
    """A Markdown table with a line for runs that differ in nothing but the seed.

    Their commands, steps and commits are the same.
    """
    lines = []
    for (command, steps, commit), members in seedless(rows).items():
        errors = [row.number("test_error_percent") for row in members]
        each = listed([f"{error:.2f}" for error in errors])
        seconds = [float(s) for row in members if (s := row["seconds_per_step"])]
        lines.append(
            [
                f"`{command}`",
                commit,
                device_name(members[0]),
                listed([row["seed"] for row in members]),
                steps,
                f"{statistics.median(seconds):.3g}" if seconds else "",
                mean_and_std(errors) + (f" ({each})" if len(errors) > 1 else ""),
            ]
        )
    numeric = ("steps", "s per step")
    header = ("command", "commit", "device", "seeds", *numeric, "test error, %")
    return markdown_table(header, lines, numeric=numeric)


def mean_and_std(values: Sequence[float]) -> str:
    """The mean and, of several values, their standard deviation."""
    mean = f"{statistics.mean(values):.2f}"
    return f"{mean} ± {statistics.stdev(values):.3f}" if len(values) > 1 else mean


def markdown_table(
    header: Sequence[str],
    rows: Iterable[Sequence[str]],
    *,
    numeric: Collection[str] = (),
    style: str = "pipe",
) -> str:
    """A Markdown table, or one in another style of tabulate.

    The ``numeric`` columns, by name, are aligned at the right.
    """
    align = ["right" if name in numeric else "left" for name in header]
    return tabulate(rows, header, style, disable_numparse=True, colalign=align)


# A table for the terminal, with the same arguments.
text_table = functools.partial(markdown_table, style="plain")


def insert(text: str, begin: str, end: str, section: str) -> str:
    """A document with the section between its two marks replaced.

    Raises:
        UserError: the marks are missing or in the wrong order.
    """
    before, begin_found, rest = text.partition(begin)
    _, end_found, after = rest.partition(end)
    if not begin_found or not end_found:
        raise UserError(f"there are no lines {begin} and {end} to write between")
    return f"{before}{begin}\n\n{section}\n\n{end}{after}"


def seedless(rows: Iterable[Row]) -> dict[tuple[str, ...], list[Row]]:
    """Runs that differ in nothing but the seed, by command, steps and commit."""
    without = [
        Row(row, command=re.sub(r" --config\.seed=\d+", "", row["command"]))
        for row in rows
    ]
    return grouped(without, "command", "steps", "commit")


def device_name(row: Mapping[str, str]) -> str:
    """The device of a row's run, in words."""
    if row["device"] == "cpu":
        count = row["num_cpus"]
        return f"{count} core{'s' * (count != '1')} of {row['cpu']}"
    return f"{row['num_devices']} x {row['device']}"


def portable(command: Sequence[str]) -> str:
    """The command without the machine's paths.

    Programs in ``--against`` and trained networks keep their names.
    """
    paths = re.compile(
        r"^(--(?:workdir|data_dir|data_path|output|config\.data\.path)=).*"
    )
    named = (
        *("--against=", "--init_from=", "--config.init_from=", "--pretrained="),
        *("--workdirs=", "--quarters="),
    )
    words = [paths.sub(r"\1DIR", word) for word in command]
    return " ".join(
        re.sub(r"(?<=[=\s,])[^\s,]*/", "", word) if word.startswith(named) else word
        for word in words
    )


def as_row(columns: Mapping[str, Any]) -> Row:
    """A row of values as text, without a provenance."""
    return Row({column: as_text(value) for column, value in columns.items()})


def as_text(value: Any) -> str:
    """A value in a CSV file: a float with six digits, an empty text for None."""
    if value is None:
        return ""
    return f"{value:.6g}" if isinstance(value, float) else str(value)
