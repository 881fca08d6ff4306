"""README's section on speed, written from the rows of the training benchmark.

No number is copied by hand, and a test compares README with the rows.
"""

from collections.abc import Callable, Mapping, Sequence

from capsjax.benchmarks.programs import AGAINST, INFERENCE, MEMORY, STEP, TRAIN
from capsjax.errors import UserError
from capsjax.runs import results
from capsjax.runs.results import Row

BEGIN = "<!-- speed: written by python -m experiments.speed -->"
END = "<!-- end of speed -->"

# Of rows that are equal in these columns the last one counts.
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
    """A document with the section between its two marks replaced.

    Raises:
        UserError: the marks are missing or in the wrong order.
    """
    before, begin, rest = text.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise UserError(f"there are no lines {BEGIN} and {END} to write between")
    return f"{before}{begin}\n\n{section}\n\n{end}{after}"


def section(rows: Sequence[Row]) -> str:
    """The newest measurements on each device, in Markdown.

    Args:
        rows: of `capsjax.benchmarks.programs.row`, the oldest first.
    """
    newest = [members[-1] for members in results.grouped(rows, *_SAME).values()]
    parts = []
    for here in results.grouped(newest, "device").values():
        machines = dict.fromkeys(results.device_name(row) for row in here)
        parts.append(f"Measured on {' and '.join(machines)}.")
        for heading, mode, measured in (
            ("Train steps", TRAIN, ("ms", "images/s", "MB")),
            ("In turn with another program", AGAINST, ()),
            ("Inference", INFERENCE, ("ms", "images/s")),
            ("Memory of a train step", MEMORY, ("classes", "MB")),
        ):
            chosen = [
                row
                for row in here
                if row["mode"] == mode and (mode != TRAIN or row["stage"] == STEP)
            ]
            if chosen:
                table = _models(chosen, measured) if measured else _against(chosen)
                parts.append(f"{heading}:\n\n{table}")
    return "\n\n".join(parts)


def _models(rows: Sequence[Row], measured: Sequence[str]) -> str:
    header = ("model", "routing", "images", "batch", "dtype", *measured)
    cells = [[_CELLS[name](row) for name in header] for row in rows]
    return results.markdown_table(header, cells, numeric=("batch", *measured))


def _against(rows: Sequence[Row]) -> str:
    """Our steps, each followed by the programs that it took turns with."""
    lines = []
    ours = float("nan")
    for row in rows:
        what = f"{row['model']}, {row['stage'].replace('_', ' ')}"
        if row["dtype"]:  # Unknown for other programs.
            ours = row.number("median_s")
            what = f"capsjax, {row['routing_implementation']} routing, whole step"
        lines.append(
            [
                what,
                row["batch_size"],
                _milliseconds(row),
                f"{ours / row.number('median_s'):.2f}",
                f"{row.number('peak_rss_mb'):.0f}",
            ]
        )
    header = ("program", "batch", "ms", "ratio (ours / theirs)", "process's peak MB")
    return results.markdown_table(header, lines, numeric=header[1:])


def _milliseconds(row: Row) -> str:
    times = [1e3 * row.number(column) for column in ("median_s", "min_s", "max_s")]
    return "{} ({} to {})".format(
        *(f"{ms:.3g}" if ms < 1000 else f"{ms:.0f}" for ms in times)
    )


_CELLS: Mapping[str, Callable[[Row], str]] = {
    "model": lambda row: row["model"],
    "routing": lambda row: row["routing_implementation"],
    "images": lambda row: row["image_shape"],
    "batch": lambda row: row["batch_size"],
    "dtype": lambda row: row["dtype"],
    "classes": lambda row: row["num_classes"],
    "ms": _milliseconds,
    "images/s": lambda row: f"{row.number('images_per_s'):.0f}",
    "MB": lambda row: f"{row.number('peak_mb'):.0f}",
}
