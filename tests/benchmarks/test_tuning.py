"""The search for the fastest config, without a GPU: its times are made up."""

import dataclasses

import pytest

from capsjax.benchmarks import tuning as tune_routing
from capsjax.benchmarks.routing import BOTH, Combination
from capsjax.errors import UserError
from kernels import gpu
from kernels.routing.dynamic.mosaic_gpu.config import (
    Config,
    Problem,
    candidates,
    heuristic,
)

PROBLEM = Problem(512, 1152, 8, 10, 16, "float32")


def made_up_seconds(config: Config) -> float:
    """Fastest are passes with 6 groups, shared, and a last kernel with 2 and 4."""
    groups, slots, scaled_inputs, *last = dataclasses.astuple(config)
    passes = abs(groups - 6) + abs(slots - 3) + (scaled_inputs == "registers")
    return passes + abs(last[0] - 2) + abs(last[1] - 4)


def test_the_best_of_passes_and_last_kernel_are_put_together():
    best = Config(6, 3, "shared", 2, 4)
    assert best not in set(candidates(PROBLEM))
    assert tune_routing.find(PROBLEM, made_up_seconds) == best


def test_configs_that_fail_are_left_out():
    def measure(config):
        return None if config.scaled_inputs == "shared" else made_up_seconds(config)

    assert tune_routing.find(PROBLEM, measure) == Config(6, 3, "registers", 2, 4)

    only = dataclasses.replace(heuristic(PROBLEM), final_chunk=1, final_row_blocks=1)
    assert tune_routing.find(PROBLEM, lambda c: 1 if c == only else None) == only

    with pytest.raises(UserError, match="no config of the kernels runs"):
        tune_routing.find(PROBLEM, lambda config: None)


def test_the_fastest_measured_wins_even_if_the_combination_is_slow():
    fast = heuristic(PROBLEM)

    def measure(config):
        return 0.5 if config == fast else 1 + made_up_seconds(config)

    assert tune_routing.find(PROBLEM, measure) == fast


def test_tuning_needs_a_gpu():
    if not gpu.interpreted():
        pytest.skip("there is a GPU")
    with pytest.raises(UserError, match="Hopper GPU, and there is only a CPU"):
        tune_routing.tune(Combination("mnist", 64, "float32", BOTH), print)
