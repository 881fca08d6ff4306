"""The tables of docs/speed.md, written from the rows of the training benchmark.

No number is copied by hand, and a test compares the page with the rows.
"""

from collections.abc import Sequence

from capsjax.benchmarks.programs import AGAINST, INFERENCE, MEMORY, STEP, TRAIN
from capsjax.runs import results
from capsjax.runs.results import Row

BEGIN = "<!-- speed: written by python -m experiments.speed -->"
END = "<!-- end of speed -->"

# Columns of the tables and of the rows.
_SETTINGS = {
    "model": "model",
    "routing": "routing_implementation",
    "images": "image_shape",
    "batch": "batch_size",
    "dtype": "dtype",
}
_NUMBERS = {"images/s": "images_per_s", "MB": "peak_mb"}
# Of rows that are equal in these columns the last one counts.
_SAME = ("device", *_SETTINGS.values(), "num_classes", "mode", "stage")


def section(rows: Sequence[Row]) -> str:
    """The newest measurements on each device, in Markdown.

    Args:
        rows: rows of `capsjax.benchmarks.programs.row`, the oldest first.
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
    header = [*_SETTINGS, *measured]
    cells = [[_cell(row, name) for name in header] for row in rows]
    return results.markdown_table(header, cells, numeric=("batch", *measured))


def _cell(row: Row, name: str) -> str:
    if name == "ms":
        times = [1e3 * row.number(column) for column in ("median_s", "min_s", "max_s")]
        texts = [f"{ms:.3g}" if ms < 1000 else f"{ms:.0f}" for ms in times]
        return "{} ({} to {})".format(*texts)
    if name in _NUMBERS:
        return f"{row.number(_NUMBERS[name]):.0f}"
    return row[_SETTINGS.get(name, "num_classes")]


def _against(rows: Sequence[Row]) -> str:
    """Our steps, each followed by the programs that it took turns with."""
    lines = []
    ours = float("nan")
    for row in rows:
        what = f"{row['model']}, {row['stage'].replace('_', ' ')}"
        if row["dtype"]:  # Unknown for other programs.
            ours = row.number("median_s")
            what = f"capsjax, {row['routing_implementation']} routing, whole step"
        ratio = f"{ours / row.number('median_s'):.2f}"
        memory = f"{row.number('peak_rss_mb'):.0f}"
        lines.append([what, row["batch_size"], _cell(row, "ms"), ratio, memory])
    header = ("program", "batch", "ms", "ratio (ours / theirs)", "process's peak MB")
    return results.markdown_table(header, lines, numeric=header[1:])
