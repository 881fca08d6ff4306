"""Finding the line of code that makes a NaN."""

import pathlib
import traceback
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp

from capsjax.errors import UserError
from capsjax.training import parallel
from capsjax.training.step import Metrics, Step, TrainState

_ROOT = pathlib.Path(__file__).parents[2]


def stop_at_nan(
    step_fn: Step,
    state: TrainState,
    batch: Mapping[str, Any],
    metrics: Metrics,
    last_good: str,
) -> None:
    """Raises an error with the line of code that made a step's loss or gradient NaN.

    Repeats the step operation by operation on one device, without compilation.

    Args:
        step_fn: the step, from `capsjax.training.step.step_of_one_device`.
        state: the state before the step.
        batch: the whole batch, in host memory.
        metrics: the step's metrics.
        last_good: words that name the last good checkpoint, for the error.

    Raises:
        UserError: the step made a NaN; names file, line and function.
    """
    if not jnp.isnan(metrics["loss"] + metrics["gradient_norm"]):
        return
    try:
        with jax.debug_nans(True):
            parallel.alone(step_fn)(jax.device_get(state), batch)
        place = "no single operation, run by itself"
    except FloatingPointError as error:
        place = _place(error)
    raise UserError(
        f"step {int(state.step) + 1} makes a NaN; the first comes from {place}; "
        f"training has stopped; {last_good}"
    )


def _place(error: BaseException) -> str:
    """The last line of this project that was running."""
    own = [
        frame
        for frame in traceback.extract_tb(error.__traceback__)
        if pathlib.Path(frame.filename).is_relative_to(_ROOT)
        and "site-packages" not in frame.filename
    ]
    frame = own[-1]
    path = pathlib.Path(frame.filename).relative_to(_ROOT)
    return f"{path}, line {frame.lineno}, {frame.name}: {frame.line}"
