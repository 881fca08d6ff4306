"""Where metrics go: ``metrics.jsonl`` and TensorBoard, always the same numbers."""

import json
import pathlib
from collections.abc import Mapping

import tensorboardX

from capsjax.runs.folder import RunFolder


class MetricsWriter:
    """Appends rows of numbers; use it as a context manager.

    A row of ``metrics.jsonl`` is ``{"step": ..., "split": "train" | "validation" |
    "test" | "routing", name: number, ...}``; TensorBoard shows it as ``split/name``.
    """

    def __init__(self, folder: RunFolder, *, resume_step: int, enabled: bool = True):
        """Opens the files; rows after ``resume_step`` are dropped, to be made again.

        Args:
            folder: the run's.
            resume_step: of the state to go on from.
            enabled: otherwise nothing is written; for the processes that write nothing.
        """
        self._enabled = enabled
        if not enabled:
            return
        _drop_rows_after(folder.metrics, resume_step)
        self._jsonl = folder.metrics.open("a")
        self._tensorboard = tensorboardX.SummaryWriter(
            str(folder.tensorboard), purge_step=resume_step + 1, write_to_disk=True
        )

    def __enter__(self) -> "MetricsWriter":
        return self

    def __exit__(self, *exception) -> None:
        if self._enabled:
            self._jsonl.close()
            self._tensorboard.close()

    def write(self, step: int, split: str, metrics: Mapping[str, float]) -> None:
        """Writes one row and hands it to the operating system."""
        if not self._enabled:
            return
        row = {"step": step, "split": split, **metrics}
        self._jsonl.write(json.dumps(row) + "\n")
        self._jsonl.flush()
        for name, value in metrics.items():
            self._tensorboard.add_scalar(f"{split}/{name}", value, step)


def read_metrics(path: pathlib.Path) -> list[dict]:
    """Rows of a ``metrics.jsonl``; a last line that was cut short is left out."""
    rows = []
    for line in path.read_text().splitlines() if path.exists() else []:
        try:
            rows.append(json.loads(line))
        except ValueError:
            break
    return rows


def _drop_rows_after(path: pathlib.Path, step: int) -> None:
    # The test comes after the last checkpoint: it too will be made again.
    rows = [
        row
        for row in read_metrics(path)
        if row["step"] <= step and row["split"] != "test"
    ]
    temporary = path.with_name(path.name + ".tmp")
    temporary.write_text("".join(json.dumps(row) + "\n" for row in rows))
    temporary.replace(path)
