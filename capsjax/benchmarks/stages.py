"""The times of a CapsNet's train step, stage by stage.

Each stage is compiled and timed by itself on the outputs of the stages before it, and
its gradient on those of the stages after it. The whole step is timed in turn with them,
and so are its two convolutions alone, with gradients and optimizer, which any
implementation has. Stages and step need not agree: only the step has augmentation,
accuracy and the gradient's norm, and it gains by being compiled as one; each stage has
its own launch, which the wall clock sees and a GPU's clock does not.
"""

import dataclasses
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
from capsjax.benchmarks.programs import STEP, TRAIN, Problem, Program, Timing
from capsjax.config import Config
from capsjax.errors import UserError
from capsjax.runs import results
from capsjax.training import augment, optim
from capsjax.training import step as train_step

OPTIMIZER, CONVOLUTIONS = "optimizer", "convolutions"
FORWARD, BACKWARD = "forward", "backward"

_Values = dict[str, Array]  # by name


class Summary(NamedTuple):
    """Median seconds of the stages by mode, the convolutions if timed, and the step."""

    stages: dict[str, dict[str, float]]
    convolutions: float | None
    step: float

    @property
    def total(self) -> float:
        """Seconds of all stages together."""
        return sum(sum(modes.values()) for modes in self.stages.values())

    @property
    def shares(self) -> dict[str, float]:
        """Each stage's share of the total; they add up to 1."""
        return {
            name: sum(modes.values()) / self.total
            for name, modes in self.stages.items()
        }


def stages_of(model: models.Model, config: Config) -> list[models.Stage]:
    """The parts of a train step with a gradient, from the images to the loss."""
    stages = model.stages()
    made = {name for stage in stages for name in stage.makes}
    takes = ("scores", "labels", "targets", *({"reconstructions"} & made))

    def loss(_, scores, labels, targets, reconstructions=None):
        parts = losses.per_example(
            config.loss,
            scores,
            labels,
            reconstructions=reconstructions,
            targets=targets,
            train=True,
        )
        return (jnp.mean(parts["loss"]),)

    return [*stages, models.Stage("loss", "", takes, ("loss",), loss)]


def function_of(
    stage: models.Stage, model: models.Model, config: Config
) -> Callable[[nnx.State, _Values, _Values], _Values]:
    """A stage's function of parameters by layer, earlier results, and the batch.

    As in `capsjax.models.apply`, parameters and images are cast to ``config.dtype``,
    and the loss is float32. The model's own parameters are not used.
    """
    graphdef = nnx.graphdef(getattr(model, stage.layer)) if stage.layer else None

    def function(params: nnx.State, made: _Values, batch: _Values) -> _Values:
        layer = None
        if graphdef is not None:
            layer = nnx.merge(graphdef, _cast(params[stage.layer], config))
        known = {
            "images": batch["image"].astype(config.dtype),
            "targets": augment.targets(batch, batch["image"]),
            "labels": batch["label"],
            **made,
        }
        outputs = stage.call(layer, *(known[name] for name in stage.takes))
        return dict(zip(stage.makes, outputs, strict=True))

    return function


def augmented(batch: train_step.Batch, config: Config) -> _Values:
    """A batch with its images as the model sees them in training, float32."""
    keys = jax.random.split(jax.random.key(config.seed), len(batch["label"]))
    for_training = jax.jit(functools.partial(augment.for_training, config=config))
    others = {name: jnp.asarray(x) for name, x in batch.items() if name != "image"}
    return {"image": for_training(jnp.asarray(batch["image"]), keys), **others}


def compile_programs(problem: Problem) -> list[Program]:
    """Compiles all stages, the convolutions alone, and the whole step, on one device.

    Returns:
        The programs in the order of the table: each stage forward and backward, the
        optimizer, the convolutions, the step.

    Raises:
        UserError: the model is not divided into stages.
    """
    config = problem.config
    if not config.model.has_stages:
        raise UserError(
            f"config.model.name is {config.model.name!r}, which is not divided into "
            "stages; leave them out with --nostages, or choose a capsnet"
        )
    graphdef, state = train_step.create(*problem)
    params = state.params
    model = nnx.merge(graphdef, params, state.model_state)
    stages = stages_of(model, config)
    functions = [function_of(stage, model, config) for stage in stages]
    batch = augmented(problem.random_batch(), config)

    def arguments(stage: models.Stage) -> tuple[nnx.State, _Values, _Values]:
        own = nnx.State({stage.layer: params[stage.layer]} if stage.layer else {})
        return own, {name: made[name] for name in stage.takes if name in made}, batch

    made: _Values = {}
    forward = {}
    for stage, function in zip(stages, functions, strict=True):
        program = benchmark.compile_call(
            stage.name, FORWARD, jax.jit(function), *arguments(stage)
        )
        forward[stage.name] = program
        made |= program.call()
    gradients = []
    passed_back = {"loss": jnp.ones_like(made["loss"])}
    backward = {}
    for stage, function in zip(reversed(stages), reversed(functions), strict=True):
        # Without a decoder nothing is passed back to the poses.
        cotangents = {
            name: passed_back.get(name, jnp.zeros_like(made[name]))
            for name in stage.makes
        }
        program = benchmark.compile_call(
            stage.name,
            BACKWARD,
            _with_gradients(function),
            *arguments(stage),
            cotangents,
        )
        backward[stage.name] = program
        _, (of_params, of_taken) = program.call()
        gradients.append(of_params)
        passed_back |= of_taken

    return [
        *(each[stage.name] for stage in stages for each in (forward, backward)),
        benchmark.compile_in_place(
            OPTIMIZER,
            TRAIN,
            jax.jit(_make_update(config), donate_argnums=0),
            _start(config, params),
            nnx.merge_state(*gradients),
        ),
        _compile_convolutions(model, config, batch["image"]),
        benchmark.compile_step(problem),
    ]


def without_forward(timings: Sequence[Timing]) -> list[Timing]:
    """Subtracts from each backward the median of its forward (never below zero).

    A backward cannot run without its forward, so both are timed together. A backward's
    median is then a difference of medians; its spread, memory and compile time are
    those of both.
    """
    forward = {x.stage: x.median_s for x in timings if x.mode == FORWARD}

    def subtracted(found: Timing) -> Timing:
        seconds = tuple(max(s - forward[found.stage], 0.0) for s in found.seconds)
        return dataclasses.replace(found, seconds=seconds)

    return [subtracted(x) if x.mode == BACKWARD else x for x in timings]


def summarize(rows: Sequence[Mapping[str, str]]) -> Summary:
    """Summarizes the rows of one combination."""
    stages: dict[str, dict[str, float]] = {}
    for row in rows:
        stages.setdefault(row["stage"], {})[row["mode"]] = float(row["median_s"])
    step = stages.pop(STEP)[TRAIN]
    convolutions = stages.pop(CONVOLUTIONS, {TRAIN: None})[TRAIN]
    return Summary(stages, convolutions, step)


def table(rows: Sequence[Mapping[str, str]]) -> str:
    """A table of the rows of one combination for the terminal, in milliseconds."""
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
    lines = [
        results.text_table(header, cells, numeric=header[1:]),
        f"the whole step takes {1e3 * summary.step:.3f} ms; the stages add up to "
        f"{summary.total / summary.step:.2f} times the step",
    ]
    if summary.convolutions:
        lines.append(
            f"the convolutions alone take {1e3 * summary.convolutions:.3f} ms; the "
            f"step takes {summary.step / summary.convolutions:.2f} times as long"
        )
    return "\n".join(lines)


def _cast(params: Any, config: Config) -> Any:
    return jax.tree.map(lambda x: x.astype(config.dtype), params)


def _with_gradients(function: Callable[..., _Values]) -> jax.stages.Wrapped:
    """A stage's results and its gradients, given those of its results."""

    def forward_and_backward(own, taken, batch, cotangents):
        results, vjp = jax.vjp(
            lambda own, taken: function(own, taken, batch), own, taken
        )
        # Without the results the compiler would drop what no gradient needs.
        return results, vjp(cotangents)

    return jax.jit(forward_and_backward)


def _compile_convolutions(
    model: models.Model, config: Config, images: Array
) -> Program:
    """Compiles a model's convolutions with their gradients and update."""
    found = model.convolutions()
    assert found is not None  # The model has stages.
    layers, features_of = found
    graphdefs, params = zip(*map(nnx.split, layers), strict=True)
    update = _make_update(config)

    def loss(params, images):
        merged = tuple(map(nnx.merge, graphdefs, _cast(params, config)))
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
    """The parameters, copied because they are donated, and the optimizer's state."""
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
