"""The time of each layer of a network, forward and backward, and of the whole.

Each layer is compiled by itself and called with what it receives for real images. The
layers add up to something else than the whole, which has the functions between them,
such as ReLU, and gains by being compiled as one; both are reported. Layers run as in
evaluation: batch normalisation uses its running averages.

References:
    Saitoh 2016, "Deep Learning from Scratch", section 8.3.1, after Jia 2014: where the
    time of AlexNet goes.
"""

import functools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from capsjax.analyses import layer_graph
from capsjax.layers import recording
from capsjax.models import Variables
from capsjax.runs import results
from capsjax.runs.results import Row
from kernels.tools import timing


class LayerTime(NamedTuple):
    """Median seconds of a layer, or of the whole network.

    Attributes:
        name: name of the layer.
        kind: its kind, see `layer_graph.kind_of`.
        forward: seconds of its results.
        backward: seconds of its gradients, without those of its results.
    """

    name: str
    kind: str
    forward: float
    backward: float


class Part(NamedTuple):
    """A call of a layer as a function of its parameters, other state and arrays."""

    name: str
    kind: str
    function: Callable[..., Any]
    arguments: tuple[Any, ...]


def measure(
    graphdef: nnx.GraphDef,
    variables: Variables,
    images: Float[Array, "B H W C"],
    dtype: str,
    *,
    repeats: int = 20,
    on_call: Callable[[], None] = lambda: None,
) -> tuple[list[LayerTime], LayerTime]:
    """Times all layers and the whole network in turn, on the default device.

    Args:
        graphdef: the network's structure.
        variables: its variables.
        images: images as the network sees them.
        dtype: dtype of the layers.
        repeats: timed calls of each, after one that is not timed.
        on_call: called after each call.

    Returns:
        A time for each call of a layer, in their order, and that of the whole.
    """
    params, images = jax.tree.map(
        lambda x: jnp.asarray(x, dtype), (variables.params, images)
    )
    rest = jax.tree.map(jnp.asarray, variables.model_state)
    parts = parts_of(graphdef, params, rest, images)

    def whole(params: nnx.State, rest: nnx.State, images: Array) -> Any:
        return nnx.merge(graphdef, params, rest)(images)

    parts.append(Part("whole network", "", whole, (params, rest, images)))
    calls: list[Callable[[], Any]] = []
    for number, part in enumerate(parts):
        # Nobody needs the gradient with respect to the images.
        needs_inputs = 0 < number < len(parts) - 1
        for function in (part.function, _with_gradients(part.function, needs_inputs)):
            compiled = timing.compile_program(jax.jit(function), *part.arguments).call
            calls.append(functools.partial(compiled, *part.arguments))
    seconds = [
        found.median_s
        for found in timing.measure_in_turn(calls, repeats=repeats, on_call=on_call)
    ]
    found = [
        LayerTime(part.name, part.kind, forward, max(both - forward, 0.0))
        for part, forward, both in zip(parts, seconds[::2], seconds[1::2], strict=True)
    ]
    return found[:-1], found[-1]


def count_calls(graphdef: nnx.GraphDef, variables: Variables, shape: tuple) -> int:
    """The number of programs that `measure` times."""
    return 2 * len(layer_graph.trace(graphdef, variables, shape)) + 2


def by_kind(times: Sequence[LayerTime]) -> dict[str, tuple[float, float]]:
    """Seconds forward and backward of each kind of layer, the slowest first."""
    found: dict[str, tuple[float, float]] = {}
    for one in times:
        forward, backward = found.get(one.kind, (0.0, 0.0))
        found[one.kind] = forward + one.forward, backward + one.backward
    return dict(sorted(found.items(), key=lambda item: -sum(item[1])))


def rows(times: Sequence[LayerTime], whole: LayerTime) -> list[Row]:
    """A row for each layer, for their sum and for the whole network."""
    total = LayerTime(
        "sum of the layers",
        "",
        sum(one.forward for one in times),
        sum(one.backward for one in times),
    )
    found = []
    for one in (*times, total, whole):
        columns = {
            "layer": one.name,
            "kind": one.kind,
            "forward_ms": 1e3 * one.forward,
            "backward_ms": 1e3 * one.backward,
            "percent_of_sum": 100
            * (one.forward + one.backward)
            / (total.forward + total.backward),
        }
        found.append(results.as_row(columns))
    return found


def parts_of(
    graphdef: nnx.GraphDef, params: nnx.State, rest: nnx.State, images: Array
) -> list[Part]:
    """The calls of a network's layers for some images, with what they receive."""
    about: list[tuple[recording.Call, Any, list[Any]]] = []

    @jax.jit
    def received(
        params: nnx.State, rest: nnx.State, images: Array
    ) -> list[list[Array]]:
        model = nnx.merge(graphdef, params, rest)
        found = []
        for call, _ in recording.recorded(model, lambda: model(images)):
            leaves, structure = jax.tree.flatten((call.arguments, dict(call.keywords)))
            arrays = [x for x in leaves if isinstance(x, jax.Array)]
            # What is no array is the same in each call.
            fixed = [None if isinstance(x, jax.Array) else x for x in leaves]
            about.append((call, structure, fixed))
            found.append(arrays)
        return found

    inputs = received(params, rest, images)
    layers = recording.layers_of(nnx.merge(graphdef, params, rest))
    parts = []
    for (call, structure, fixed), arrays in zip(about, inputs, strict=True):
        layer = layers.get(call.name)
        own_graph: Any = None
        own_params: Any = {}
        own_rest: Any = {}
        if layer is not None:
            own_graph, state = nnx.split(layer)
            own_params, own_rest = nnx.split_state(state, nnx.Param, ...)

        def function(
            own_params: Any,
            own_rest: Any,
            arrays: list[Array],
            call: recording.Call = call,
            own_graph: Any = own_graph,
            structure: Any = structure,
            fixed: list[Any] = fixed,
        ) -> Any:
            given = iter(arrays)
            leaves = [next(given) if x is None else x for x in fixed]
            arguments, keywords = jax.tree.unflatten(structure, leaves)
            target = call.layer
            if own_graph is not None:
                target = nnx.merge(own_graph, own_params, own_rest)
            return call._replace(layer=target, arguments=arguments, keywords=keywords)()

        parts.append(
            Part(
                layer_graph.shown_name(call.name),
                layer_graph.kind_of(call.layer),
                function,
                (own_params, own_rest, arrays),
            )
        )
    return parts


def _with_gradients(
    function: Callable[..., Any], needs_inputs: bool
) -> Callable[..., Any]:
    """The results and their gradients for the parameters, and the arrays if need be.

    What comes back from above is taken to be ones.
    """

    def forward_and_backward(params: Any, rest: Any, arrays: Any) -> Any:
        if needs_inputs:
            result, vjp = jax.vjp(lambda p, x: function(p, rest, x), params, arrays)
        else:
            result, vjp = jax.vjp(lambda p: function(p, rest, arrays), params)
        # Without the results the compiler would drop what no gradient needs.
        return result, vjp(jax.tree.map(jnp.ones_like, result))

    return forward_and_backward
