"""The programs that the benchmarks of training and inference time, and their rows."""

import dataclasses
import functools
import itertools
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
from jaxtyping import Array

from capsjax import config as config_lib
from capsjax.benchmarks import choices
from capsjax.config import Config
from capsjax.errors import UserError
from capsjax.inference.predict import make_predict
from capsjax.models import Variables
from capsjax.runs import results
from capsjax.runs.results import Row
from capsjax.training import allocator, parallel
from capsjax.training import step as train_step
from kernels.tools import timing

# Values of a row's ``mode`` and, of the whole train step, of its ``stage``.
TRAIN, INFERENCE, MEMORY, AGAINST = "train", "inference", "memory", "against"
STEP = "step"


class Problem(NamedTuple):
    """A run's config, and the shape (H, W, C) and classes of random images."""

    config: Config
    image_shape: tuple[int, int, int]
    num_classes: int

    @property
    def size(self) -> str:
        """The images' shape as text, such as 28x28x1."""
        return "x".join(map(str, self.image_shape))

    def random_batch(self) -> dict[str, np.ndarray]:
        """A batch of random images, uint8 [B, H, W, C], and labels, int32 [B].

        For data whose images show K classes, labels [B, K] and parts [B, K, H, W, C].
        """
        rng = np.random.default_rng(self.config.seed)
        B, K = self.config.batch_size, config_lib.classes_per_image(self.config)
        image = rng.integers(0, 256, (B, *self.image_shape), np.uint8)
        if K == 1:
            label = rng.integers(0, self.num_classes, B, np.int32)
            return {"image": image, "label": label}
        classes = np.broadcast_to(np.arange(self.num_classes), (B, self.num_classes))
        return {
            "image": image,
            "label": rng.permuted(classes, axis=1)[:, :K].astype(np.int32),
            "parts": rng.integers(0, 256, (B, K, *self.image_shape), np.uint8),
        }


@dataclasses.dataclass(frozen=True)
class Timing(timing.Timing):
    """Measurements of a program; None is unknown.

    Attributes:
        stage: what the program computes, a row's ``stage``.
        mode: the kind of measurement, a row's ``mode``.
        compile_s: seconds of tracing and compiling.
        peak_mb: memory of arguments, results and temporaries by XLA's account, in MB.
        peak_rss_mb: peak memory of the whole process, in MB.
    """

    stage: str
    mode: str
    compile_s: float | None = None
    peak_mb: float | None = None
    peak_rss_mb: float | None = None


class Program(NamedTuple):
    """A call of a compiled function, and its measurements without seconds."""

    call: Callable[[], Any]
    untimed: Timing


def compile_call(
    stage: str, mode: str, function: jax.stages.Wrapped, *arguments: Any
) -> Program:
    """Compiles a function that is called with the same arguments each time."""
    compiled = timing.compile_program(function, *arguments)
    call = functools.partial(compiled.call, *arguments)
    return _program(stage, mode, call, compiled)


def compile_in_place(
    stage: str, mode: str, function: jax.stages.Wrapped, state: Any, argument: Any
) -> Program:
    """Compiles a function of a donated state, which each call hands to the next."""
    compiled = timing.compile_program(function, state, argument)
    allocator.release_unused()  # As training does.

    def call() -> Any:
        nonlocal state
        state, extra = compiled.call(state, argument)
        return state, extra

    return _program(stage, mode, call, compiled)


def compile_step(problem: Problem, devices: parallel.Devices | None = None) -> Program:
    """Compiles the whole train step of any model, on one device by default."""
    devices = devices or parallel.Devices(jax.devices()[:1])
    # Each program needs its own state: it is donated, and replicas may share memory.
    graphdef, state = train_step.create(*problem)
    return compile_in_place(
        STEP,
        TRAIN,
        train_step.make_train_step(graphdef, problem.config, devices),
        devices.replicate(state),
        devices.shard(problem.random_batch()),
    )


def step_memory(problem: Problem) -> Timing:
    """Compiles the train step without running it or allocating its parameters.

    Returns:
        No seconds, but ``compile_s`` and ``peak_mb``.
    """
    graphdef, state = jax.eval_shape(lambda: train_step.create(*problem))
    one_device = parallel.Devices(jax.devices()[:1])
    step = train_step.make_train_step(graphdef, problem.config, one_device)
    return compile_call(STEP, MEMORY, step, state, problem.random_batch()).untimed


def count_parameters(problem: Problem) -> int:
    """The number of learned parameters, without allocating them."""
    _, state = jax.eval_shape(lambda: train_step.create(*problem))
    return sum(x.size for x in jax.tree.leaves(state.params))


def compile_predictor(problem: Problem) -> Program:
    """Compiles inference as a model's users run it.

    Images begin and scores end in host memory, so calls include the transfers to and
    from a GPU. Small batches show the latency, large ones the throughput.
    """
    graphdef, state = train_step.create(*problem)
    predict = make_predict(graphdef, problem.config)

    def scores(variables: Variables, images: Array) -> Array:
        return predict(variables, images)["scores"]

    images = problem.random_batch()["image"]
    program = compile_call(
        "predict", INFERENCE, jax.jit(scores), state.variables, images
    )
    return program._replace(call=lambda: jax.device_get(program.call()))


def measure(
    programs: Sequence[Program],
    *,
    repeats: int,
    on_call: Callable[[], None] = lambda: None,
    wall: bool = False,
) -> list[Timing]:
    """Times programs in turn; see `kernels.tools.timing.measure_in_turn`."""
    calls = [program.call for program in programs]
    timings = timing.measure_in_turn(calls, repeats=repeats, on_call=on_call, wall=wall)
    return [
        dataclasses.replace(program.untimed, **vars(found))
        for program, found in zip(programs, timings, strict=True)
    ]


def combinations(
    config: Config,
    *,
    routing_implementations: Sequence[str] | None = None,
    batch_sizes: Sequence[str] | None = None,
    dtypes: Sequence[str] | None = None,
) -> list[Config]:
    """A config for each combination; None keeps the config's own value.

    Raises:
        UserError: a value that no run can have, an implementation that only runs in an
            interpreter here, or an implementation for a model without routing.
    """
    if routing_implementations:
        routing = config.model.routing
        if routing is None or not routing.implementations:
            raise UserError(
                f"config.model.name is {config.model.name!r}, which has no routing "
                "with several implementations; leave --routing_implementations out"
            )
        choices.check_implementations(
            "routing_implementations", routing_implementations, routing.implementations
        )
    if dtypes:
        choices.check_names("dtypes", dtypes, config_lib.DTYPES)
    sizes = [config.batch_size]
    if batch_sizes:
        sizes = choices.counts("batch_sizes", batch_sizes, "images")
    configs = []
    for implementation, size, dtype in itertools.product(
        routing_implementations or [""], sizes, dtypes or [config.dtype]
    ):
        one = config.replace(batch_size=size, dtype=dtype)
        if implementation:
            one.model = one.model.routed_by(implementation)
        config_lib.check(one)
        configs.append(one)
    return configs


def row(
    problem: Problem, env: Mapping[str, Any], measured: Timing, **columns: str
) -> Row:
    """A row of a model's measurements; ``columns`` replace values of the config."""
    config = problem.config
    found: dict[str, Any] = {
        **config.model.columns(),
        "image_shape": problem.size,
        "num_classes": problem.num_classes,
        "batch_size": config.batch_size,
        "dtype": config.dtype,
        "mode": measured.mode,
        "stage": measured.stage,
        **dict.fromkeys(("median_s", "min_s", "max_s", "images_per_s")),
        **measured.columns(),
        "peak_mb": measured.peak_mb,
        "peak_rss_mb": measured.peak_rss_mb,
        "compile_s": measured.compile_s,
    }
    # A difference of times can be zero.
    if median := found["median_s"]:
        found["images_per_s"] = config.batch_size / median
    return results.row(env, found | columns)


def _program(
    stage: str, mode: str, call: Callable[[], Any], compiled: timing.Program
) -> Program:
    untimed = Timing((), "wall", stage, mode, compiled.compile_s, compiled.peak_mb)
    return Program(call, untimed)
