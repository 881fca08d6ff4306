"""Where a CapsNet's train step spends its time, stage by stage.

Each stage is compiled and timed by itself, on what the stages before it make of random
images, and its gradient on what the stages after it pass back. The whole step is timed
in turn with them, and so is the part of it that any implementation has: the two
convolutions alone, with their gradients and their optimizer. Stages and step need not
agree: the step alone has augmentation, accuracy and the gradient's norm, and gains by
being compiled as one; every stage has a launch of its own, which the wall clock sees
and a GPU's clock does not.
"""

import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from flax import nnx
from jaxtyping import Array

from capsjax import losses, models
from capsjax.benchmarks import programs as benchmark
from capsjax.benchmarks.programs import Program, Timing
from capsjax.config import Config
from capsjax.errors import UserError
from capsjax.runs import results
from capsjax.training import augment, optim, parallel
from capsjax.training import step as train_step
from kernels.tools import timing

OPTIMIZER, CONVOLUTIONS, STEP = "optimizer", "convolutions", "step"
FORWARD, BACKWARD, TRAIN = "forward", "backward", "train"

_Values = dict[str, Array]  # by name


class Part(NamedTuple):
    """A part of the train step that has a gradient.

    Attributes:
        name: name in the table.
        layer: layer of the model that holds its parameters, or None.
        takes: names of what it takes from the parts before.
        makes: names of what it makes.
        function: function of the parameters, by layer, of what it takes, and of the
            batch, which has no gradient.
    """

    name: str
    layer: str | None
    takes: tuple[str, ...]
    makes: tuple[str, ...]
    function: Callable[[nnx.State, _Values, _Values], _Values]


class Summary(NamedTuple):
    """Median seconds from the rows of one run.

    Attributes:
        stages: by stage, in the order of the step, and by mode.
        convolutions: of the two convolutions alone; None without stages.
        step: of the whole step.
    """

    stages: dict[str, dict[str, float]]
    convolutions: float | None
    step: float

    @property
    def total(self) -> float:
        """Seconds of all stages together."""
        return sum(sum(modes.values()) for modes in self.stages.values())

    @property
    def shares(self) -> dict[str, float]:
        """Each stage's share of all stages together; they add up to 1."""
        return {
            name: sum(modes.values()) / self.total
            for name, modes in self.stages.items()
        }


def make_parts(model: models.Model, config: Config) -> list[Part]:
    """The parts of a train step from the images to the loss.

    Args:
        model: model with stages; its layers are used, but not its parameters.
        config: config of the run. As in `capsjax.models.apply`, parameters and images
            are cast to ``config.dtype``, here within each part, and the loss is
            float32.
    """

    def part(stage: models.Stage) -> Part:
        graphdef, _ = nnx.split(getattr(model, stage.layer))
        taken_from_batch = {"images", "labels"}.intersection(stage.takes)

        def function(params: nnx.State, taken: _Values, batch: _Values) -> _Values:
            cast = jax.tree.map(lambda x: x.astype(config.dtype), params[stage.layer])
            known = {
                "images": batch["image"].astype(config.dtype),
                "labels": batch["label"],
                **taken,
            }
            layer = nnx.merge(graphdef, cast)
            made = stage.call(layer, *(known[name] for name in stage.takes))
            return dict(zip(stage.makes, made, strict=True))

        takes = tuple(name for name in stage.takes if name not in taken_from_batch)
        return Part(stage.name, stage.layer, takes, stage.makes, function)

    def loss(params: nnx.State, taken: _Values, batch: _Values) -> _Values:
        parts = losses.per_example(
            config.loss,
            taken["scores"],
            batch["label"],
            reconstructions=taken.get("reconstructions"),
            targets=batch["image"],
            train=True,
        )
        return {"loss": jnp.mean(parts["loss"])}

    stages = [part(stage) for stage in model.stages()]
    made = [name for stage in stages for name in stage.makes]
    takes = tuple(name for name in ("scores", "reconstructions") if name in made)
    return [*stages, Part("loss", None, takes, ("loss",), loss)]


def augmented(batch: train_step.Batch, config: Config) -> _Values:
    """A batch with its images as the model sees them in training, float32."""
    keys = jax.random.split(jax.random.key(config.seed), len(batch["label"]))
    for_training = jax.jit(functools.partial(augment.for_training, config=config))
    return {
        "image": for_training(jnp.asarray(batch["image"]), keys),
        "label": jnp.asarray(batch["label"]),
    }


def compile_step(
    config: Config, image_shape: tuple[int, int, int], num_classes: int
) -> Program:
    """Compiles the whole train step of any model, on one device.

    Args:
        config: the run's.
        image_shape: (H, W, C) of the (random) images.
        num_classes: number of classes.
    """
    raw = benchmark.random_batch(config, image_shape, num_classes)
    graphdef, state = train_step.create(config, image_shape, num_classes)
    devices = parallel.Devices(jax.devices()[:1])
    step = train_step.make_train_step(graphdef, config, devices)
    return benchmark.compile_in_place(
        STEP, TRAIN, step, devices.replicate(state), devices.shard(raw)
    )


def compile_programs(
    config: Config, image_shape: tuple[int, int, int], num_classes: int
) -> list[Program]:
    """Compiles all stages, the convolutions alone, and the whole step.

    Args:
        config: the run's; the model has stages. One device is used.
        image_shape: (H, W, C) of the (random) images.
        num_classes: number of classes.

    Returns:
        The programs in the order of the table: each stage forward and backward, the
        optimizer, the convolutions, the step.

    Raises:
        UserError: the model is not divided into stages.
    """
    if not config.model.has_stages:
        raise UserError(
            f"config.model.name is {config.model.name!r}, which is not divided into "
            "stages; leave them out with --nostages, or choose a capsnet"
        )
    raw = benchmark.random_batch(config, image_shape, num_classes)
    graphdef, state = train_step.create(config, image_shape, num_classes)
    params = state.params
    model = nnx.merge(graphdef, params, state.model_state)
    stages, batch = make_parts(model, config), augmented(raw, config)

    made: _Values = {}
    forward = {}
    for stage in stages:
        program = _compile_forward(stage, params, made, batch)
        forward[stage.name] = program
        made |= program.call()
    gradients = []
    passed_back = {"loss": jnp.ones_like(made["loss"])}
    backward = {}
    for stage in reversed(stages):
        program = _compile_backward(stage, params, made, batch, passed_back)
        backward[stage.name] = program
        _, (of_params, of_taken) = program.call()
        gradients.append(of_params)
        passed_back |= of_taken

    return [
        *(each[stage.name] for stage in stages for each in (forward, backward)),
        _compile_optimizer(config, params, nnx.merge_state(*gradients)),
        _compile_convolutions(model, config, batch["image"]),
        compile_step(config, image_shape, num_classes),
    ]


def measure(
    programs: Sequence[Program],
    *,
    repeats: int,
    on_call: Callable[[], None] = lambda: None,
) -> dict[tuple[str, str], Timing]:
    """Times programs in turn; see `kernels.tools.timing.measure_in_turn`.

    Args:
        programs: from `compile_programs`.
        repeats: timed calls of each.
        on_call: called after each call, ``repeats + 1`` times for each program.

    Returns:
        Seconds by stage and mode. A backward cannot be called without its forward: what
        is timed is both together, and the forward's median is subtracted from each call
        (never below zero). So a backward's median is a difference of medians, its
        fastest and slowest call have the spread of both together, and its memory and
        compile time are those of both.
    """
    measured = timing.measure_in_turn(
        [program.call for program in programs], repeats=repeats, on_call=on_call
    )
    timings: dict[tuple[str, str], Timing] = {}
    for program, times in zip(programs, measured, strict=True):
        seconds = times.seconds
        if program.mode == BACKWARD:
            less = timings[program.stage, FORWARD].median_s
            seconds = tuple(max(s - less, 0.0) for s in seconds)
        timings[program.stage, program.mode] = Timing(
            seconds, times.clock, program.compile_s, program.peak_mb
        )
    return timings


def summarize(rows: Sequence[Mapping[str, str]]) -> Summary:
    """The medians in the rows of one combination, as `measure` has them."""
    stages: dict[str, dict[str, float]] = {}
    for row in rows:
        stages.setdefault(row["stage"], {})[row["mode"]] = float(row["median_s"])
    step = stages.pop(STEP)[TRAIN]
    convolutions = stages.pop(CONVOLUTIONS, {TRAIN: None})[TRAIN]
    return Summary(stages, convolutions, step)


def table(rows: Sequence[Mapping[str, str]]) -> str:
    """The rows of one combination as people read them, in milliseconds."""
    summary = summarize(rows)
    header = ("stage", "forward ms", "backward ms", "total ms", "% of sum")
    cells = [
        [
            name,
            *(
                f"{1e3 * modes[m]:.3f}" if m in modes else ""
                for m in (FORWARD, BACKWARD)
            ),
            f"{1e3 * sum(modes.values()):.3f}",
            f"{100 * summary.shares[name]:.1f}",
        ]
        for name, modes in summary.stages.items()
    ]
    lines = [results.text_table(header, cells, numeric=header[1:])]
    lines.append(
        f"the whole step takes {1e3 * summary.step:.3f} ms; the stages add up to "
        f"{summary.total / summary.step:.2f} times the step"
    )
    if summary.convolutions:
        lines.append(
            f"the convolutions alone take {1e3 * summary.convolutions:.3f} ms; the "
            f"step takes {summary.step / summary.convolutions:.2f} times as long"
        )
    return "\n".join(lines)


def _arguments(
    stage: Part, params: nnx.State, made: _Values, batch: _Values
) -> tuple[Any, ...]:
    layers = [] if stage.layer is None else [stage.layer]
    own = nnx.State({layer: params[layer] for layer in layers})
    return own, {name: made[name] for name in stage.takes}, batch


def _compile_forward(
    stage: Part, params: nnx.State, made: _Values, batch: _Values
) -> Program:
    arguments = _arguments(stage, params, made, batch)
    return benchmark.compile_call(
        stage.name, FORWARD, jax.jit(stage.function), arguments
    )


def _compile_backward(
    stage: Part,
    params: nnx.State,
    made: _Values,
    batch: _Values,
    passed_back: _Values,
) -> Program:
    """Forward and gradients, given those of what later stages take."""

    def forward_and_backward(own, taken, batch, cotangents):
        results, vjp = jax.vjp(
            lambda own, taken: stage.function(own, taken, batch), own, taken
        )
        # The results, or the compiler would leave out what no gradient needs.
        return results, vjp(cotangents)

    # Without a decoder nothing is passed back to the poses.
    cotangents = {
        name: passed_back.get(name, jnp.zeros_like(made[name])) for name in stage.makes
    }
    arguments = (*_arguments(stage, params, made, batch), cotangents)
    return benchmark.compile_call(
        stage.name, BACKWARD, jax.jit(forward_and_backward), arguments
    )


def _compile_optimizer(
    config: Config, params: nnx.State, gradients: nnx.State
) -> Program:
    update = jax.jit(_make_update(config), donate_argnums=0)
    state = _start(config, params)
    return benchmark.compile_in_place(OPTIMIZER, TRAIN, update, state, gradients)


def _compile_convolutions(
    model: models.Model, config: Config, images: Array
) -> Program:
    """The convolutions of a model, their gradients and update."""
    found = model.convolutions()
    assert found is not None  # The model has stages.
    layers, features_of = found
    graphdefs, params = zip(*map(nnx.split, layers), strict=True)
    update = _make_update(config)

    def loss(params, images):
        cast = jax.tree.map(lambda x: x.astype(config.dtype), params)
        merged = tuple(map(nnx.merge, graphdefs, cast))
        features = features_of(merged, images.astype(config.dtype))
        return jnp.mean(jnp.square(features.astype(images.dtype)))

    def step(state, images):
        value, gradients = jax.value_and_grad(loss)(state[0], images)
        return update(state, gradients)[0], value

    return benchmark.compile_in_place(
        CONVOLUTIONS,
        TRAIN,
        jax.jit(step, donate_argnums=0),
        _start(config, params),
        images,
    )


def _start(config: Config, params: Any) -> tuple[Any, optax.OptState]:
    """Parameters, copied because they are donated, and the optimizer's state."""
    params = jax.tree.map(jnp.copy, params)
    return params, optim.build(config.optimizer).init(params)


def _make_update(config: Config) -> Callable[[Any, Any], tuple[Any, None]]:
    tx = optim.build(config.optimizer)

    def update(state, gradients):
        params, opt_state = state
        with jax.numpy_dtype_promotion("standard"):  # See make_train_step.
            updates, opt_state = tx.update(gradients, opt_state, params)
        return (optax.apply_updates(params, updates), opt_state), None

    return update
