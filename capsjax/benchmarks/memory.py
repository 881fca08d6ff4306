"""How much memory a train step takes by the compiler's account, without running it."""

import functools

import jax
import jax.numpy as jnp

from capsjax.benchmarks.programs import Timing
from capsjax.config import Config
from capsjax.training import parallel
from capsjax.training import step as train_step
from kernels.tools.timing import compile_program


def measure(
    config: Config, image_shape: tuple[int, int, int], num_classes: int
) -> Timing:
    """Compiles the train step on one device; parameters and images need not exist.

    Args:
        config: the run's.
        image_shape: (H, W, C) of the images.
        num_classes: number of classes.

    Returns:
        No seconds, but ``peak_mb`` and ``compile_s``.
    """
    create = functools.partial(train_step.create, config, image_shape, num_classes)
    # The structure is no array, so it cannot be traced: it is left outside.
    graphdefs = []

    def start() -> train_step.TrainState:
        graphdef, state = create()
        graphdefs.append(graphdef)
        return state

    state = jax.eval_shape(start)
    batch = {
        "image": jax.ShapeDtypeStruct((config.batch_size, *image_shape), jnp.uint8),
        "label": jax.ShapeDtypeStruct((config.batch_size,), jnp.int32),
    }
    devices = parallel.Devices(jax.devices()[:1])
    step = train_step.make_train_step(graphdefs[0], config, devices)
    program = compile_program(step, state, batch)
    return Timing((), "wall", program.compile_s, program.peak_mb)
