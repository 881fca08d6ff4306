"""A trace of some steps of training, for TensorBoard, XProf or Perfetto."""

import contextlib
import pathlib
from collections.abc import Iterator
from typing import Any

import jax


class StepTrace:
    """Traces the steps of a range; use it as a context manager."""

    def __init__(self, folder: pathlib.Path, steps: range, *, enabled: bool = True):
        """Prepares the trace.

        Args:
            folder: folder for the trace.
            steps: steps to trace, counted from 0; empty for no trace.
            enabled: whether this process writes traces.
        """
        self._folder = folder
        self._steps = steps if enabled else range(0)
        self._running = False

    def __enter__(self) -> "StepTrace":
        return self

    def __exit__(self, *exception) -> None:
        if self._running:
            self._end()

    @contextlib.contextmanager
    def step(self, step: int) -> Iterator[None]:
        """Surrounds each step."""
        if not self._running and step in self._steps:
            jax.profiler.start_trace(self._folder, create_perfetto_trace=True)
            self._running = True
        with jax.profiler.StepTraceAnnotation("train", step_num=step):
            yield

    def after(self, step: int, results: Any) -> None:
        """Ends the trace after its last step, once the results are computed."""
        if self._running and step + 1 not in self._steps:
            jax.block_until_ready(results)
            self._end()

    def _end(self) -> None:
        jax.profiler.stop_trace()
        self._running = False
        print(
            f"trace of steps {self._steps.start}:{self._steps.stop} in {self._folder}: "
            "open perfetto_trace.json.gz at https://ui.perfetto.dev, or the folder in "
            "TensorBoard",
            flush=True,
        )
