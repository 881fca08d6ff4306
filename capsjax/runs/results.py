"""Committed results: rows of CSV files with their provenance, and tables from them."""

import csv
import io
import pathlib
import re
import statistics
from collections.abc import Iterable, Sequence
from typing import Any

from capsjax.errors import UserError
from capsjax.runs.folder import RunFolder

# Where a row comes from; see capsjax.runs.provenance.
PROVENANCE_COLUMNS = (
    "started",
    "commit",
    "device",
    "num_devices",
    "cpu",
    "num_cpus",
    "jax",
)
TRAINING_COLUMNS = (
    *PROVENANCE_COLUMNS,
    "flax",
    "data",
    "model",
    "routing_iterations",
    "num_parameters",
    "seed",
    "batch_size",
    "train_examples_seen",
    "steps",
    "seconds",
    "seconds_per_step",
    "final_train_loss",
    "best_validation_accuracy",
    "test_examples",
    "test_accuracy",
    "test_error_percent",
    "params_sha256",
    "command",
)


def training_row(folder: RunFolder) -> dict[str, str]:
    """The row of a run that has ended: its provenance, settings and result.

    Raises:
        UserError: the folder holds no run, or one that has not ended.
    """
    config, env = folder.load_config(), folder.load_env()
    result = folder.load_result()
    known: dict[str, Any] = {
        **env,
        **env["versions"],
        **result,
        "data": env["data"],
        **config.model.columns(),
        "seed": config.seed,
        "batch_size": config.batch_size,
        "train_examples_seen": config.batch_size * result["steps"],
        "command": portable(env["command"]),
    }
    return {column: as_text(known[column]) for column in TRAINING_COLUMNS}


def append(
    path: pathlib.Path, rows: Iterable[dict[str, str]], columns: Sequence[str]
) -> int:
    """Appends rows to a CSV file, leaving out those that it has.

    Returns:
        How many were new.

    Raises:
        UserError: the file has other columns.
    """
    old = read(path, columns)
    new = [row for row in rows if row not in old]
    write(path, [*old, *new], columns)
    return len(new)


def write(
    path: pathlib.Path, rows: Iterable[dict[str, str]], columns: Sequence[str]
) -> None:
    """Writes rows to a CSV file, replacing it as a whole."""
    path.parent.mkdir(parents=True, exist_ok=True)
    text = io.StringIO()
    writer = csv.DictWriter(text, columns, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    temporary = path.with_name(path.name + ".tmp")
    temporary.write_text(text.getvalue())
    temporary.replace(path)


def read(path: pathlib.Path, columns: Sequence[str]) -> list[dict[str, str]]:
    """Rows of a CSV file; none where there is no file.

    Raises:
        UserError: the file has other columns.
    """
    if not path.exists():
        return []
    with path.open(newline="") as file:
        reader = csv.DictReader(file)
        if list(reader.fieldnames or ()) != list(columns):
            raise UserError(
                f"{path} has other columns than this version writes; rename it and "
                "start a new one"
            )
        return list(reader)


def latest_run(rows: Sequence[dict[str, str]], device: str) -> list[dict[str, str]]:
    """Rows of the last run on a device, such as ``"cpu"``."""
    rows = [row for row in rows if row["device"] == device]
    last = max((row["started"] for row in rows), default="")
    return [row for row in rows if row["started"] == last]


def training_table(rows: Sequence[dict[str, str]]) -> str:
    """A Markdown table with a line for each command, over its seeds.

    Runs belong together if they differ in nothing but the seed: command, steps and
    commit are the same.
    """
    groups: dict[tuple[str, ...], list[dict[str, str]]] = {}
    for row in rows:
        command = re.sub(r" --config\.seed=\d+", "", row["command"])
        groups.setdefault((command, row["steps"], row["commit"]), []).append(row)
    lines = [
        "| command | commit | device | seeds | steps | s per step | test error, % |",
        "|--|--|--|--|--|--|--|",
    ]
    for (command, steps, commit), members in groups.items():
        errors = [float(row["test_error_percent"]) for row in members]
        error = f"{statistics.mean(errors):.2f}"
        if len(errors) > 1:
            each = ", ".join(f"{e:.2f}" for e in errors)
            error += f" ± {statistics.stdev(errors):.2f} ({each})"
        seconds = [
            float(row["seconds_per_step"]) for row in members if row["seconds_per_step"]
        ]
        speed = f"{statistics.median(seconds):.3g}" if seconds else ""
        seeds = ", ".join(row["seed"] for row in members)
        device = device_name(members[0])
        lines.append(
            f"| `{command}` | {commit} | {device} | {seeds} | {steps} | {speed} "
            f"| {error} |"
        )
    return "\n".join(lines) + "\n"


def device_name(row: dict[str, str]) -> str:
    """The device of a row's run, in words."""
    if row["device"] == "cpu":
        return f"{row['num_cpus']} cores of {row['cpu']}"
    return f"{row['num_devices']} x {row['device']}"


def portable(command: Sequence[str]) -> str:
    """The command without the paths of the machine that it ran on.

    Of programs named in a command that is part of it, the names are kept.
    """
    paths = re.compile(r"^(--(?:workdir|data_dir|output|config\.data\.path)=).*")
    words = [paths.sub(r"\1DIR", word) for word in command]
    return " ".join(
        re.sub(r"(?<=[=\s])\S*/", "", word) if word.startswith("--against=") else word
        for word in words
    )


def as_text(value: Any) -> str:
    """A value as it stands in a CSV file; six digits of a float, nothing for None."""
    if value is None:
        return ""
    return f"{value:.6g}" if isinstance(value, float) else str(value)
