"""The files of metrics, ``metrics.jsonl`` and TensorBoard's, with the same numbers."""

import json
import pathlib
from collections.abc import Mapping

import tensorboardX

from capsjax.runs.folder import RunFolder, write_whole


class MetricsWriter:
    """Appends rows of numbers; use it as a context manager.

    A row of ``metrics.jsonl`` is ``{"step": ..., "split": "train" | "validation" |
    "test" | "routing", name: number, ...}``; TensorBoard shows it as ``split/name``.
    """

    def __init__(self, folder: RunFolder, *, resume_step: int, enabled: bool = True):
        """Opens the files.

        Args:
            folder: the run's folder.
            resume_step: the step to continue from; later rows are dropped, because the
                run writes them again.
            enabled: whether this process writes anything.
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
        """Writes and flushes one row."""
        if not self._enabled:
            return
        row = {"step": step, "split": split, **metrics}
        self._jsonl.write(json.dumps(row) + "\n")
        self._jsonl.flush()
        for name, value in metrics.items():
            self._tensorboard.add_scalar(f"{split}/{name}", value, step)


def read_metrics(path: pathlib.Path) -> list[dict]:
    """Reads the rows of a ``metrics.jsonl``, without a truncated last line."""
    rows = []
    for line in path.read_text().splitlines() if path.exists() else []:
        try:
            rows.append(json.loads(line))
        except ValueError:
            break
    return rows


def _drop_rows_after(path: pathlib.Path, step: int) -> None:
    # The test follows the last checkpoint, so it will be repeated too.
    rows = [
        json.dumps(row) + "\n"
        for row in read_metrics(path)
        if row["step"] <= step and row["split"] != "test"
    ]
    write_whole(path, "".join(rows).encode())
