"""What the benchmarks of training and inference share: programs, times and rows."""

import dataclasses
import functools
import itertools
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

from capsjax import config as config_lib
from capsjax.config import Config
from capsjax.errors import UserError
from capsjax.runs import results
from capsjax.runs.results import Row
from capsjax.training import allocator
from kernels.tools import timing


@dataclasses.dataclass(frozen=True)
class Timing(timing.Timing):
    """Seconds that calls of a program took, and what it needs.

    Attributes:
        compile_s: seconds of tracing and compiling; None of another program.
        peak_mb: memory of arguments, results and temporaries by XLA's account, in MB;
            None of another program.
    """

    compile_s: float | None
    peak_mb: float | None


class Program(NamedTuple):
    """A compiled function with its arguments.

    Attributes:
        stage: what it does, a row's ``stage``.
        mode: how, a row's ``mode``.
        call: calls it and returns its results.
        compile_s: seconds of tracing and compiling.
        peak_mb: memory of arguments, results and temporaries by XLA's account, in MB.
    """

    stage: str
    mode: str
    call: Callable[[], Any]
    compile_s: float
    peak_mb: float


def compile_call(
    stage: str, mode: str, function: jax.stages.Wrapped, arguments: Sequence[Any]
) -> Program:
    """Compiles a function to be called on the same arguments each time."""
    compiled = timing.compile_program(function, *arguments)
    call = functools.partial(compiled.call, *arguments)
    return Program(stage, mode, call, compiled.compile_s, compiled.peak_mb)


def compile_in_place(
    stage: str, mode: str, function: jax.stages.Wrapped, state: Any, argument: Any
) -> Program:
    """Of a function of a donated state, which each call gets from the one before."""
    compiled = timing.compile_program(function, state, argument)
    allocator.release_unused()  # As training does.

    def call() -> Any:
        nonlocal state
        state, extra = compiled.call(state, argument)
        return state, extra

    return Program(stage, mode, call, compiled.compile_s, compiled.peak_mb)


def random_batch(
    config: Config, image_shape: tuple[int, int, int], num_classes: int
) -> dict[str, np.ndarray]:
    """A batch of random images, uint8 [B, H, W, C], and labels, int32 [B]."""
    rng = np.random.default_rng(config.seed)
    return {
        "image": rng.integers(0, 256, (config.batch_size, *image_shape), np.uint8),
        "label": rng.integers(0, num_classes, config.batch_size, np.int32),
    }


def combinations(
    config: Config,
    *,
    routing_implementations: Sequence[str] | None = None,
    batch_sizes: Sequence[str] | None = None,
    dtypes: Sequence[str] | None = None,
) -> list[Config]:
    """A config for each combination; None is what the config says.

    Raises:
        UserError: a batch size or dtype that no run can have, an unknown
            implementation, one that only runs in an interpreter here, or one for a
            model that routes nothing.
    """
    own_routing = config.model.routing
    known = () if own_routing is None else own_routing.implementations
    if routing_implementations and not known:
        raise UserError(
            f"config.model.name is {config.model.name!r}, which has no routing with "
            "several implementations; leave --routing_implementations out"
        )
    for name in routing_implementations or ():
        if name not in known:
            raise UserError(
                f"unknown routing implementation {name!r}; choose from "
                f"{', '.join(known)}"
            )
        if name == "mosaic_gpu" and jax.default_backend() != "gpu":
            raise UserError(
                f"--routing_implementations: without a GPU {name} runs in an "
                "interpreter, whose time says nothing; leave it out"
            )
    for size in batch_sizes or ():
        if not size.isdecimal() or int(size) < 1:
            raise UserError(f"--batch_sizes: {size!r} is not a number of images")
    for dtype in dtypes or ():
        if dtype not in config_lib.DTYPES:
            raise UserError(
                f"unknown dtype {dtype!r}; choose from {', '.join(config_lib.DTYPES)}"
            )
    configs = []
    for implementation, size, dtype in itertools.product(
        routing_implementations or [""],
        batch_sizes or [str(config.batch_size)],
        dtypes or [config.dtype],
    ):
        one = config.replace(batch_size=int(size), dtype=dtype)
        if implementation:
            one.model = one.model.routed_by(implementation)
        config_lib.check(one)
        configs.append(one)
    return configs


def row(
    config: Config,
    image_shape: tuple[int, int, int],
    num_classes: int,
    env: Mapping[str, Any],
    *,
    stage: str,
    mode: str,
    measured: Timing,
    peak_rss_mb: float | None = None,
    **columns: str,
) -> Row:
    """A row of what was measured of a model.

    Args:
        config: that was measured.
        image_shape: (H, W, C) of the images.
        num_classes: number of classes.
        env: from `capsjax.runs.provenance.environment`.
        stage: what was measured.
        mode: how.
        measured: its times, empty if only its memory was measured.
        peak_rss_mb: the most memory that the process had in use, in MB.
        **columns: what is known better than by the config.
    """
    found: dict[str, Any] = {
        **config.model.columns(),
        "image_shape": "x".join(map(str, image_shape)),
        "num_classes": num_classes,
        "batch_size": config.batch_size,
        "dtype": config.dtype,
        "mode": mode,
        "stage": stage,
        **dict.fromkeys(("median_s", "min_s", "max_s", "images_per_s")),
        "repeats": len(measured.seconds),
        "peak_mb": measured.peak_mb,
        "peak_rss_mb": peak_rss_mb,
        "compile_s": measured.compile_s,
    }
    if measured.seconds:
        found["median_s"] = median = measured.median_s
        found["min_s"], found["max_s"] = measured.min_s, measured.max_s
        # Of a difference of times nothing may be left.
        found["images_per_s"] = config.batch_size / median if median else None
    return results.row(env, found | columns)
