"""Timing of the train step beside its convolutions alone, in one process.

Absolute times differ between machines and minutes; the ratio of two functions timed in
turn does not, which is why they alternate.
"""

import dataclasses
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx
from ml_collections import ConfigDict

from capsjax import augment, layers, models, optim, parallel, results, train_step
from capsjax.errors import UserError
from kernels.timing import compile_program

COLUMNS = (
    *results.PROVENANCE_COLUMNS,
    "model",
    "routing_implementation",
    "batch_size",
    "dtype",
    "mode",
    "stage",
    "median_s",
    "min_s",
    "max_s",
    "repeats",
    "images_per_s",
    "peak_mb",
    "compile_s",
    "command",
)


@dataclasses.dataclass(frozen=True)
class Timing:
    """Seconds that a function took, and what it needs.

    Attributes:
        seconds: of each call after the first.
        compile_s: seconds of tracing and compiling.
        peak_mb: memory of arguments, results and temporaries by XLA's account, in MB.
    """

    seconds: Sequence[float]
    compile_s: float
    peak_mb: float

    @property
    def median_s(self) -> float:
        """Median seconds of a call."""
        return statistics.median(self.seconds)

    @property
    def min_s(self) -> float:
        """Seconds of the fastest call."""
        return min(self.seconds)


class Loop:
    """A compiled function of state and batch that is called on its own state.

    Attributes:
        seconds: that each call took by the wall clock, until its results were there.
        compile_s: seconds of tracing and compiling.
        peak_mb: as in `Timing`.
    """

    def __init__(self, function: jax.stages.Wrapped, state: Any, batch: Any):
        """Compiles a function that returns the next state and anything else."""
        program = compile_program(function, state, batch)
        self._call, self.compile_s = program.call, program.compile_s
        self.peak_mb = program.peak_mb
        self._state, self._batch = state, batch
        self.seconds: list[float] = []

    def __call__(self) -> None:
        """Calls the function and keeps its time."""
        started = time.perf_counter()
        self._state, extra = self._call(self._state, self._batch)
        jax.block_until_ready((self._state, extra))
        self.seconds.append(time.perf_counter() - started)


def train_step_and_convolutions(
    config: ConfigDict,
    image_shape: tuple[int, int, int],
    num_classes: int,
    *,
    repeats: int,
    on_call: Callable[[], None] = lambda: None,
) -> dict[str, Timing]:
    """Times a CapsNet's train step and its two convolutions alone, in turn.

    Args:
        config: the run's; the model is a CapsNet.
        image_shape: (H, W, C) of the (random) images.
        num_classes: number of classes.
        repeats: timed calls of each.
        on_call: called after each call.

    Returns:
        ``"step"``: the whole train step. ``"convolutions"``: conv1, ReLU and the
        primary capsules' convolution, forward and backward, with the optimizer's
        update.

    Raises:
        UserError: the model is no CapsNet.
    """
    if config.model.name != "capsnet":
        raise UserError(
            f"config.model.name is {config.model.name!r}; the convolutions are timed "
            "for a capsnet"
        )
    batch = random_batch(config, image_shape, num_classes)
    graphdef, state = train_step.create(config, image_shape, num_classes)
    devices = parallel.Devices(jax.devices()[:1])
    step = train_step.make_train_step(graphdef, config, devices)
    model = nnx.merge(graphdef, state.params)
    loops = {
        "convolutions": _convolutions(model, config, batch),
        "step": Loop(step, devices.replicate(state), devices.shard(batch)),
    }
    for _ in range(repeats + 1):
        for loop in loops.values():
            loop()
            on_call()
    return {
        name: Timing(loop.seconds[1:], loop.compile_s, loop.peak_mb)
        for name, loop in loops.items()
    }


def random_batch(
    config: ConfigDict, image_shape: tuple[int, int, int], num_classes: int
) -> dict[str, np.ndarray]:
    """A batch of random images, uint8 [B, H, W, C], and labels, int32 [B]."""
    rng = np.random.default_rng(config.seed)
    return {
        "image": rng.integers(0, 256, (config.batch_size, *image_shape), np.uint8),
        "label": rng.integers(0, num_classes, config.batch_size, np.int32),
    }


def rows(
    config: ConfigDict,
    timings: Mapping[str, Timing],
    env: Mapping[str, Any],
    *,
    mode: str = "train",
) -> list[dict[str, str]]:
    """Rows of `COLUMNS`, one for each timing.

    Args:
        config: that was timed.
        timings: from `train_step_and_convolutions`.
        env: from `capsjax.provenance.environment`.
        mode: what the functions do.
    """
    known = {
        **env,
        **env["versions"],
        "model": config.model.name,
        "routing_implementation": config.model.routing_implementation or "default",
        "batch_size": config.batch_size,
        "dtype": config.dtype,
        "mode": mode,
        "command": results.portable(env["command"]),
    }
    return [
        {
            column: results.as_text(value)
            for column, value in {
                **known,
                "stage": stage,
                "median_s": timing.median_s,
                "min_s": timing.min_s,
                "max_s": max(timing.seconds),
                "repeats": len(timing.seconds),
                # Of a difference of times nothing may be left.
                "images_per_s": config.batch_size / timing.median_s
                if timing.median_s
                else None,
                "peak_mb": timing.peak_mb,
                "compile_s": timing.compile_s,
            }.items()
            if column in COLUMNS
        }
        for stage, timing in timings.items()
    ]


def _convolutions(model: nnx.Module, config: ConfigDict, batch: Any) -> Loop:
    assert isinstance(model, models.CapsNet)
    graphdefs, params = zip(
        *(nnx.split(conv) for conv in (model.conv1, model.primary_capsules.conv)),
        strict=True,
    )
    tx = optim.build(config.optimizer)
    images = augment.for_evaluation(jnp.asarray(batch["image"]), config)

    def loss(params, images):
        conv1, primary = map(nnx.merge, graphdefs, params)
        return jnp.mean(jnp.square(primary(layers.relu(conv1(images)))))

    def update(state, images):
        params, opt_state = state
        value, gradients = jax.value_and_grad(loss)(params, images)
        with jax.numpy_dtype_promotion("standard"):  # See make_train_step.
            updates, opt_state = tx.update(gradients, opt_state, params)
        return (optax.apply_updates(params, updates), opt_state), value

    # Copies: the train step, which donates its state, starts from the same arrays.
    params = jax.tree.map(jnp.copy, params)
    return Loop(jax.jit(update, donate_argnums=0), (params, tx.init(params)), images)
