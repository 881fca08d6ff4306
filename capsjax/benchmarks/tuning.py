"""Finds the fastest config of the fused routing kernels for a problem."""

import dataclasses
import functools
import pathlib
from collections.abc import Callable
from typing import Any

from capsjax.benchmarks.routing import Combination, check, expected_results
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

# Fields that only the passes use, and those that only the last kernel uses.
_PASSES = ("groups_per_block", "slots", "scaled_inputs")
_LAST = ("final_chunk", "final_row_blocks")


def find(problem: Problem, measure: Callable[[Config], float | None]) -> Config:
    """The fastest config.

    The passes and the last kernel are independent: `candidates` varies one or the
    other, and the best of both are combined. ``measure`` returns a config's seconds, or
    None if it fails or is wrong.

    Raises:
        UserError: no config runs.
    """
    start = heuristic(problem)
    times = {config: measure(config) for config in dict.fromkeys(candidates(problem))}
    good = {config: seconds for config, seconds in times.items() if seconds is not None}
    if not good:
        raise UserError(f"no config of the kernels runs on {problem}")

    def values(config: Config, fields: tuple[str, ...]) -> dict[str, Any]:
        return {name: getattr(config, name) for name in fields}

    def best(fields: tuple[str, ...]) -> Config:
        """The best config that differs from the heuristic's in these fields only."""
        alike = [
            config
            for config in good
            if dataclasses.replace(config, **values(start, fields)) == start
        ]
        return min(alike or good, key=good.__getitem__)

    together = dataclasses.replace(best(_PASSES), **values(best(_LAST), _LAST))
    if together not in good and (seconds := measure(together)) is not None:
        good[together] = seconds
    return min(good, key=good.__getitem__)


def tune(
    combination: Combination, report: Callable[[str], None]
) -> tuple[Problem, Config]:
    """Measures all candidates on this GPU, and reports a line for each.

    Raises:
        UserError: there is no GPU that the kernels run on.
    """
    reason = "there is only a CPU" if gpu.interpreted() else gpu.without_hopper()
    if reason is not None:
        raise UserError(f"--tune measures on a Hopper GPU, and {reason}")
    arguments = combination.arguments()
    expected = expected_results(combination, arguments)
    options = WORKLOADS[combination.workload].options | {"stop_gradient": False}

    def measure(config: Config) -> float | None:
        route = functools.partial(mosaic_gpu.route, **options, config=config)
        columns, call = check(route, combination, arguments, expected)
        if call is None:
            report(f"{config}: {columns['reason']}")
            return None
        (found,) = timing.measure_in_turn([call], repeats=10)
        report(f"{config}: {1e6 * found.median_s:.1f} us")
        return found.median_s

    problem = Problem.of(*arguments[:2])
    return problem, find(problem, measure)


def save(problem: Problem, config: Config) -> pathlib.Path:
    """Makes a config the one that this GPU uses for a problem; returns its file."""
    return save_tuned(gpu.device_kind(), {problem: config})
