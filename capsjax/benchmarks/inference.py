"""Latency and throughput of a model that answers, as its users deploy it.

A call begins with images in host memory and ends with scores there, so the transfers to
a GPU and back are in its time, by the wall clock. Small batches show the latency, large
ones the throughput.
"""

from collections.abc import Callable, Sequence
from typing import Any

import jax
from jaxtyping import Array

from capsjax.benchmarks import programs as benchmark
from capsjax.benchmarks.programs import Program, Timing
from capsjax.config import Config
from capsjax.inference.predict import make_predict
from capsjax.models import Variables
from capsjax.training import step as train_step
from kernels.tools.timing import compile_program, wall_in_turn

STAGE, MODE = "predict", "inference"


def compile_predictor(
    config: Config, image_shape: tuple[int, int, int], num_classes: int
) -> Program:
    """Compiles a model's answer to ``config.batch_size`` random images.

    Args:
        config: the run's.
        image_shape: (H, W, C) of the images.
        num_classes: number of classes.
    """
    images = benchmark.random_batch(config, image_shape, num_classes)["image"]
    graphdef, state = train_step.create(config, image_shape, num_classes)
    predict = make_predict(graphdef, config)

    def scores(variables: Variables, images: Array) -> Array:
        return predict(variables, images)["scores"]

    program = compile_program(jax.jit(scores), state.variables, images)

    def call() -> Any:
        return jax.device_get(program.call(state.variables, images))

    return Program(STAGE, MODE, call, program.compile_s, program.peak_mb)


def measure(
    programs: Sequence[Program],
    *,
    repeats: int,
    on_call: Callable[[], None] = lambda: None,
) -> list[Timing]:
    """Times programs in turn; see `kernels.tools.timing.wall_in_turn`."""
    found = wall_in_turn(
        [program.call for program in programs], repeats=repeats, on_call=on_call
    )
    return [
        Timing(times.seconds, times.clock, program.compile_s, program.peak_mb)
        for times, program in zip(found, programs, strict=True)
    ]
