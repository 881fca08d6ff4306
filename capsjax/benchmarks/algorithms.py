"""The benchmark of routing algorithms: time and memory of each in layers of capsules.

An algorithm's time counts only after its result in float32 has been compared with its
result in float64 for the first examples.
"""

import functools
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from types import MappingProxyType
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from capsjax.benchmarks import choices
from capsjax.benchmarks.routing import ERROR_BOUNDS, FORWARD, MODES, OK, WRONG
from capsjax.routings import ROUTINGS, Capsules, Config, Sizes, Transform
from capsjax.runs import results
from capsjax.runs.results import Row
from kernels.routing.votes import Windows
from kernels.tools import timing

_CHECKED_EXAMPLES = 4


class Layer(NamedTuple):
    """A layer of capsules.

    Attributes:
        grid: (H, W) of the capsules below, or () for capsules without places.
        types: capsules below, at each place.
        pose: shape of the poses below, (P,) or (d, d).
        out_types: J.
        out_dim: Q.
        windows: of a convolutional layer, or None.
    """

    grid: tuple[int, ...]
    types: int
    pose: tuple[int, ...]
    out_types: int
    out_dim: int
    windows: Windows | None = None

    @property
    def children(self) -> int:
        """C."""
        if self.windows is not None:
            return self.windows.kernel**2 * self.types
        return math.prod(self.grid) * self.types

    def arguments(self, batch_size: int) -> tuple[Capsules, Transform]:
        """Random poses, activations and transformation matrices, float32."""
        rng = np.random.default_rng(0)
        shape = (batch_size, *self.grid, self.types)
        poses = rng.normal(size=(*shape, *self.pose)) / 4
        activations = rng.uniform(0.2, 0.8, size=shape)
        d = self.pose[-1]
        last = self.pose if len(self.pose) == 2 else (self.out_dim, d)
        weights = rng.normal(size=(self.children, self.out_types, *last)) / d**0.5
        return (
            Capsules(jnp.float32(poses), jnp.float32(activations)),
            Transform(jnp.float32(weights), windows=self.windows),
        )

    def build(self, config: Config) -> nnx.Module:
        """The algorithm's module for this layer."""
        sizes = Sizes(self.children, math.prod(self.pose), self.out_types, self.out_dim)
        return config.build(sizes, nnx.Rngs(params=0))


LAYERS: Mapping[str, Layer] = MappingProxyType(
    {
        # The class capsules of CapsNet on MNIST.
        "class_capsules": Layer((6, 6), 32, (8,), 10, 16),
        # The first convolutional capsules of the small network of matrix capsules.
        "conv_capsules": Layer((14, 14), 8, (4, 4), 16, 16, Windows(3, 2)),
    }
)


class Plan(NamedTuple):
    """All measurements: ``repeats`` timed calls of each."""

    layers: Sequence[str]
    routings: Sequence[str]
    batch_sizes: Sequence[int]
    modes: Sequence[str]
    repeats: int


def make_plan(
    *,
    layers: Sequence[str],
    routings: Sequence[str],
    batch_sizes: Sequence[str],
    modes: Sequence[str],
    repeats: int,
) -> Plan:
    """Checks the flags.

    Raises:
        UserError: an unknown name, or an invalid batch size.
    """
    choices.check_names("layers", layers, LAYERS)
    choices.check_names("routings", routings, ROUTINGS)
    choices.check_names("modes", modes, MODES)
    sizes = choices.counts("batch_sizes", batch_sizes, "examples")
    return Plan(layers, routings, sizes, modes, repeats)


def run(plan: Plan, env: Mapping[str, Any]) -> Iterator[list[Row]]:
    """Measures everything in a plan.

    Args:
        plan: a plan from `make_plan`.
        env: environment from `capsjax.runs.provenance.environment`.

    Yields:
        Rows of all algorithms for a layer, batch size and mode, one after the other.
    """
    for layer in plan.layers:
        for batch_size in plan.batch_sizes:
            for mode in plan.modes:
                found = _measure(plan, layer, batch_size, mode)
                yield [results.row(env, columns) for columns in found]


def table(rows: Sequence[Row]) -> str:
    """A table of the rows of one layer, batch size and mode for the terminal."""
    header = ["routing", "median ms", "min", "max", "temp MB", "error", ""]
    lines = []
    for row in rows:
        milliseconds = [
            f"{1e3 * row.number(name):.4g}" if row.get(name) else ""
            for name in ("median_s", "min_s", "max_s")
        ]
        outcome = "" if row["status"] == OK else f"{row['status']}: {row['reason']}"
        name = row["routing"]
        if row["routing_iterations"]:
            name += f", r = {row['routing_iterations']}"
        temp, error = row.number("temp_mb"), row.number("max_error")
        lines.append([name, *milliseconds, f"{temp:.1f}", f"{error:.1e}", outcome])
    title = "{layer}, B = {B}, {mode}".format_map(rows[0])
    return f"{title}\n{results.text_table(header, lines, numeric={*header[1:-1]})}\n"


def _measure(
    plan: Plan, layer: str, batch_size: int, mode: str
) -> list[dict[str, Any]]:
    outcomes: dict[str, dict[str, Any]] = {}
    calls: dict[str, Callable[[], Any]] = {}
    for name in plan.routings:
        config = ROUTINGS[name]()
        columns, call = _check(LAYERS[layer], config, batch_size, mode)
        outcomes[name] = {
            "layer": layer,
            "B": batch_size,
            **config.columns(),
            "mode": mode,
            "dtype": "float32",
            **columns,
        }
        if call is not None:
            calls[name] = call
    timings = timing.measure_in_turn(list(calls.values()), repeats=plan.repeats)
    for name, measured in zip(calls, timings, strict=True):
        outcomes[name] |= {"clock": measured.clock, **measured.columns()}
    return list(outcomes.values())


def _check(
    layer: Layer, config: Config, batch_size: int, mode: str
) -> tuple[dict[str, Any], Callable[[], Any] | None]:
    """Compiles an algorithm and compares its result with that in float64."""
    graphdef, state = nnx.split(layer.build(config))
    inputs, transform = layer.arguments(batch_size)
    function = jax.jit(functools.partial(_results, graphdef, mode))
    program = timing.compile_program(function, state, inputs, transform)
    found = jax.block_until_ready(program.call(state, inputs, transform))
    few = jax.tree.map(lambda x: x[:_CHECKED_EXAMPLES], inputs)
    with jax.enable_x64(True):
        wide = jax.tree.map(
            lambda x: jnp.asarray(np.asarray(x), jnp.float64), (state, few, transform)
        )
        expected = jax.device_get(jax.tree.leaves(_results(graphdef, mode, *wide)[0]))
    off = max(map(_error, jax.tree.leaves(found[0]), expected))
    columns = {
        "compile_s": program.compile_s,
        "temp_mb": program.temp_mb,
        "peak_mb": program.peak_mb,
        "max_error": off,
    }
    bound = ERROR_BOUNDS["float32"]
    if off <= bound:
        call = functools.partial(program.call, state, inputs, transform)
        return columns | {"status": OK, "reason": ""}, call
    reason = f"off by {off:.2g} of the largest value; {bound:g} is allowed"
    return columns | {"status": WRONG, "reason": reason}, None


def _error(found: jax.Array, expected: np.ndarray) -> float:
    """The largest difference of the first examples, relative to the largest value."""
    difference = np.max(np.abs(np.asarray(found)[: len(expected)] - expected))
    # Activations have no gradient where an algorithm does not read them.
    return float(difference / (np.max(np.abs(expected)) or 1))


def _results(
    graphdef: nnx.GraphDef,
    mode: str,
    state: nnx.State,
    inputs: Capsules,
    transform: Transform,
) -> tuple[Any, Any]:
    """What can be compared example by example, and what is summed over the batch.

    Output capsules; with the backward also the gradients of the input capsules; and
    those of parameters and transformation matrices.
    """

    def route(state: nnx.State, inputs: Capsules, transform: Transform) -> Capsules:
        return nnx.merge(graphdef, state)(inputs, transform)

    if mode == FORWARD:
        return route(state, inputs, transform), ()
    outputs, vjp = jax.vjp(route, state, inputs, transform)
    # No multiple of the outputs, whose lengths' gradients could vanish.
    cotangent = jax.tree.map(lambda x: jnp.cos(3 * x), outputs)
    of_state, of_inputs, of_transform = vjp(cotangent)
    return (outputs, of_inputs), (of_state, of_transform)
