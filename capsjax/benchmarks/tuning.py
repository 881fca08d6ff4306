"""Finds the fastest config of the fused routing kernels for a problem."""

import dataclasses
import functools
import pathlib
from collections.abc import Callable

import jax

from capsjax.benchmarks.routing import ERROR_BOUNDS, expected_results, max_error
from capsjax.errors import UserError
from kernels import gpu
from kernels.routing import WORKLOADS
from kernels.routing.dynamic import mosaic_gpu
from kernels.routing.dynamic.mosaic_gpu.config import (
    Config,
    Problem,
    candidates,
    heuristic,
    save_tuned,
)
from kernels.tools import timing

_REPEATS = 10


def find(problem: Problem, measure: Callable[[Config], float | None]) -> Config:
    """The fastest config.

    The passes and the last kernel do not influence each other. So `candidates` varies
    the one or the other, and the best of both are put together.

    Args:
        problem: sizes and dtype.
        measure: seconds of a config, or None if it does not run or is wrong.

    Raises:
        UserError: no config runs.
    """
    start = heuristic(problem)
    times = {config: measure(config) for config in dict.fromkeys(candidates(problem))}
    good = {config: seconds for config, seconds in times.items() if seconds is not None}
    if not good:
        raise UserError(f"no config of the kernels runs on {problem}")

    def best(fields: tuple[str, ...]) -> dict[str, object]:
        """Of the configs that differ from the heuristic's in these fields at most."""
        others = {field.name for field in dataclasses.fields(Config)} - set(fields)
        alike = [
            config
            for config in good
            if all(getattr(config, name) == getattr(start, name) for name in others)
        ]
        fastest = min(alike or good, key=good.__getitem__)
        return {name: getattr(fastest, name) for name in fields}

    together = Config(
        **best(("groups_per_block", "slots", "scaled_inputs")),  # type: ignore[arg-type]
        **best(("final_chunk", "final_row_blocks")),  # type: ignore[arg-type]
    )
    if together not in good and (seconds := measure(together)) is not None:
        good[together] = seconds
    return min(good, key=good.__getitem__)


def tune(
    workload_name: str, batch_size: int, dtype: str, report: Callable[[str], None]
) -> tuple[Problem, Config]:
    """Measures all candidates of a named workload, forward and backward, on this GPU.

    Args:
        workload_name: from `kernels.routing.WORKLOADS`.
        batch_size: examples.
        dtype: of the arguments.
        report: is given a line for each config.

    Raises:
        UserError: there is no GPU that the kernels run on.
    """
    reason = "there is only a CPU" if gpu.interpreted() else gpu.without_hopper()
    if reason is not None:
        raise UserError(f"--tune measures on a Hopper GPU, and {reason}")
    workload = WORKLOADS[workload_name]
    arguments, expected = expected_results(workload_name, batch_size, dtype)
    problem = Problem.of(*arguments[:2])

    def measure(config: Config) -> float | None:
        @jax.jit
        def call(u, W, bias, cotangent):
            run = functools.partial(
                mosaic_gpu.route,
                num_iterations=workload.num_iterations,
                leaky=workload.leaky,
                stop_gradient=False,
                config=config,
            )
            poses, vjp = jax.vjp(run, u, W, bias)
            return poses, *vjp(cotangent)

        try:
            compiled = call.lower(*arguments).compile()
            off = max_error(compiled(*arguments), expected)
        except (RuntimeError, ValueError) as error:
            report(f"{config}: {str(error).splitlines()[0]}")
            return None
        if not off <= ERROR_BOUNDS[dtype]:
            report(f"{config}: off by {off:.2g}")
            return None
        seconds = timing.measure(
            functools.partial(compiled, *arguments), repeats=_REPEATS
        ).median_s
        report(f"{config}: {1e6 * seconds:.1f} us")
        return seconds

    return problem, find(problem, measure)


def save(problem: Problem, config: Config) -> pathlib.Path:
    """Makes a config the one that this GPU uses for a problem; returns its file."""
    return save_tuned(gpu.device_kind(), {problem: config})
