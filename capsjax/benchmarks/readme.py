"""README's section on speed, written from the rows of the training benchmark.

Nobody copies a number by hand, and a test compares README with the rows.
"""

from collections.abc import Sequence

from capsjax.benchmarks import against as benchmark_against
from capsjax.benchmarks import inference as benchmark_inference
from capsjax.benchmarks.stages import STEP, TRAIN
from capsjax.errors import UserError
from capsjax.runs import results
from capsjax.runs.results import Row

BEGIN = "<!-- speed: written by python -m experiments.speed -->"
END = "<!-- end of speed -->"

# Rows alike in these are of the same thing; the last one counts.
_SAME = (
    "device",
    "model",
    "routing_implementation",
    "image_shape",
    "num_classes",
    "batch_size",
    "dtype",
    "mode",
    "stage",
)


def insert(text: str, section: str) -> str:
    """A document with another section between its two marks.

    Raises:
        UserError: it does not have the marks, in this order.
    """
    before, begin, rest = text.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise UserError(f"there are no lines {BEGIN} and {END} to write between")
    return f"{before}{begin}\n\n{section}\n\n{end}{after}"


def section(rows: Sequence[Row]) -> str:
    """What was measured last on each device, in Markdown.

    Args:
        rows: of `capsjax.benchmarks.programs.row`, the oldest first.
    """
    newest = {tuple(row[column] for column in _SAME): row for row in rows}
    parts = []
    for device in dict.fromkeys(row["device"] for row in newest.values()):
        here = [row for row in newest.values() if row["device"] == device]
        machines = dict.fromkeys(results.device_name(row) for row in here)
        parts.append(f"Measured on {' and '.join(machines)}.")
        for heading, mode, stage, write in (
            ("Train steps", TRAIN, STEP, _steps),
            ("In turn with another program", benchmark_against.MODE, None, _against),
            ("Answers", benchmark_inference.MODE, None, _answers),
            ("Memory of a train step", "memory", None, _memory),
        ):
            chosen = [
                row
                for row in here
                if row["mode"] == mode and stage in (None, row["stage"])
            ]
            if chosen:
                parts.append(f"{heading}:\n\n{write(chosen)}")
    return "\n\n".join(parts)


def _steps(rows: Sequence[Row]) -> str:
    return _table(
        ["model", "routing", "images", "batch", "dtype", "ms", "images/s", "MB"],
        [
            [
                *_name(row),
                _milliseconds(row),
                f"{float(row['images_per_s']):.0f}",
                f"{float(row['peak_mb']):.0f}",
            ]
            for row in rows
        ],
    )


def _against(rows: Sequence[Row]) -> str:
    """Our steps, each followed by the programs that took turns with it."""
    lines = []
    ours = float("nan")
    for row in rows:
        what = f"{row['model']}, {row['stage'].replace('_', ' ')}"
        if row["dtype"]:  # Of the other programs it is not known.
            ours = row.number("median_s")
            what = f"capsjax, {row['routing_implementation']} routing, whole step"
        lines.append(
            [
                what,
                row["batch_size"],
                _milliseconds(row),
                f"{ours / float(row['median_s']):.2f}",
                f"{float(row['peak_rss_mb']):.0f}",
            ]
        )
    return _table(
        ["program", "batch", "ms", "our step / this", "process's peak MB"], lines
    )


def _answers(rows: Sequence[Row]) -> str:
    return _table(
        ["model", "routing", "images", "batch", "dtype", "ms", "images/s"],
        [
            [*_name(row), _milliseconds(row), f"{float(row['images_per_s']):.0f}"]
            for row in rows
        ],
    )


def _memory(rows: Sequence[Row]) -> str:
    return _table(
        ["model", "routing", "images", "batch", "dtype", "classes", "MB"],
        [
            [*_name(row), row["num_classes"], f"{float(row['peak_mb']):.0f}"]
            for row in rows
        ],
    )


def _name(row: Row) -> list[str]:
    return [
        row["model"],
        row["routing_implementation"],
        row["image_shape"],
        row["batch_size"],
        row["dtype"],
    ]


def _milliseconds(row: Row) -> str:
    median, low, high = (
        f"{ms:.3g}" if ms < 1000 else f"{ms:.0f}"
        for ms in (
            1e3 * row.number(column) for column in ("median_s", "min_s", "max_s")
        )
    )
    return f"{median} ({low} to {high})"


def _table(header: Sequence[str], lines: Sequence[Sequence[str]]) -> str:
    rows = [header, ["--"] * len(header), *lines]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in rows)
