"""Training metrics, from the device to files and the progress display."""

import math
import time

import jax
import numpy as np

from capsjax.config import Config
from capsjax.errors import UserError
from capsjax.runs.metrics import MetricsWriter
from capsjax.runs.progress import Progress
from capsjax.training.optim import schedule
from capsjax.training.step import Metrics


class TrainLog:
    """Collects the metrics of steps and writes their means.

    Metrics stay on the device until `flush`, so that the host does not wait for each
    step. Call `restart_timer` before the first one.
    """

    def __init__(
        self,
        config: Config,
        steps_per_epoch: int,
        writer: MetricsWriter,
        progress: Progress,
    ):
        self._config = config
        self._steps_per_epoch = steps_per_epoch
        self._learning_rate = schedule(config.optimizer)
        self._writer = writer
        self._progress = progress
        self._pending: list[tuple[int, Metrics]] = []
        self.restart_timer()

    def add(self, step: int, metrics: Metrics) -> None:
        """Adds the metrics of one step, counted from 0."""
        self._pending.append((step, metrics))
        self._timed_steps += 1

    def restart_timer(self) -> None:
        """Excludes the time since the last `flush` from the speed."""
        self._timer = time.monotonic()
        self._timed_steps = 0

    def flush(self, last_good: str) -> None:
        """Writes and shows the means of the collected metrics.

        Args:
            last_good: words that name the last good checkpoint, for the error.

        Raises:
            UserError: a loss or a gradient is not finite; names the first such step.
        """
        if not self._pending:
            return
        steps, rows = zip(*self._pending, strict=True)
        rows = jax.device_get(rows)
        for step, row in zip(steps, rows, strict=True):
            for name in ("loss", "gradient_norm"):
                if not math.isfinite(row[name]):
                    raise UserError(
                        f"the {name.replace('_', ' ')} of step {step + 1} is "
                        f"{row[name]}; training has stopped; {last_good}; a lower "
                        "--config.optimizer.learning_rate often helps"
                    )
        means = {
            name: float(np.mean([row[name] for row in rows], dtype=np.float64))
            for name in rows[0]
        }
        taken = steps[-1] + 1
        means["epoch"] = taken / self._steps_per_epoch
        means["learning_rate"] = float(self._learning_rate(steps[-1]))
        if self._timed_steps:
            seconds = time.monotonic() - self._timer
            images = self._timed_steps * self._config.batch_size
            means["images_per_s"] = images / seconds
        self._writer.write(taken, "train", means)
        self._progress.show(
            loss=f"{means['loss']:.4f}", accuracy=f"{means['accuracy']:.4f}"
        )
        self._pending.clear()
        self.restart_timer()
