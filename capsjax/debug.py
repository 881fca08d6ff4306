"""Finding the line of code that makes a NaN."""

import contextlib
import pathlib
import traceback
from collections.abc import Iterator

import jax

from capsjax.errors import UserError

_ROOT = pathlib.Path(__file__).parents[1]


@contextlib.contextmanager
def stop_at_nan(enabled: bool, step: int, last_good: str) -> Iterator[None]:
    """While a step runs, turns a NaN into an error that says where it was made.

    JAX checks the results of compiled functions and, where there is a NaN, runs them
    again operation by operation; a loop (`jax.lax.scan`) or a kernel counts as one.

    Args:
        enabled: otherwise nothing happens.
        step: counted from 0.
        last_good: where the state before is safe, for the error.

    Raises:
        UserError: with file, line and function.
    """
    if not enabled:
        yield
        return
    try:
        with jax.debug_nans(True):
            yield
    except FloatingPointError as error:
        raise UserError(
            f"step {step + 1} makes a NaN{_place(error)}; training has stopped; "
            f"{last_good}"
        ) from error


def _place(error: BaseException) -> str:
    """The last line of this project that was running."""
    own = [
        frame
        for frame in traceback.extract_tb(error.__traceback__)
        if pathlib.Path(frame.filename).is_relative_to(_ROOT)
        and "site-packages" not in frame.filename
    ]
    if not own:
        return ""
    frame = own[-1]
    path = pathlib.Path(frame.filename).relative_to(_ROOT)
    return f" in {path}, line {frame.lineno}, {frame.name}: {frame.line}"
