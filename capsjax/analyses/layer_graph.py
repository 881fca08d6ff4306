"""The layers of any network in the order of their calls, and what each of them takes.

The network is traced, with a name on everything that goes into a layer and comes out of
it. Between two layers are functions without variables, such as ReLU, a sum or a
reshape; whichever outputs they read, the next layer takes.
"""

import re
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx
from jax.ad_checkpoint import checkpoint_name

from capsjax import layers
from capsjax.layers import recording
from capsjax.layers.recording import Call, Window
from capsjax.models import Variables, num_parameters
from capsjax.routings import Capsules
from capsjax.routings.base import Routing

CONVOLUTION, DENSE, POOLING, NORMALIZATION, CAPSULES, OTHER = (
    "convolution",
    "dense",
    "pooling",
    "normalisation",
    "capsules",
    "other",
)
_KINDS: dict[tuple[type, ...], str] = {
    (layers.Conv,): CONVOLUTION,
    (nnx.Linear,): DENSE,
    (nnx.BatchNorm, nnx.LayerNorm, nnx.InstanceNorm): NORMALIZATION,
    (
        layers.PrimaryCapsules,
        layers.DepthwisePrimaryCapsules,
        layers.RoutedCapsules,
        layers.ConvCapsules,
        Routing,
    ): CAPSULES,
}


class Node(NamedTuple):
    """A call of a layer.

    Attributes:
        name: path of the module, or name of the function; see `recording.Call`.
        kind: kind of the layer in words, such as `CONVOLUTION`.
        before: numbers of the calls whose results it takes; none for the images.
        window: what one place of its output sees of its input; None where it has no
            window.
        parameters: its learned parameters; 0 if an earlier call has counted them.
        size_in: height and width of its input; () without places.
        size_out: those of its output.
        channels: numbers that the output has at each place.
    """

    name: str
    kind: str
    before: frozenset[int]
    window: Window | None
    parameters: int
    size_in: tuple[int, ...]
    size_out: tuple[int, ...]
    channels: int


def trace(
    graphdef: nnx.GraphDef, variables: Variables, image_shape: tuple[int, int, int]
) -> list[Node]:
    """The calls of a network's layers, without computing anything.

    Args:
        graphdef: the network's structure.
        variables: its variables, arrays or their shapes.
        image_shape: shape (H, W, C) of the images that it sees.
    """
    nodes: list[Node] = []
    counted: set[int] = set()

    def around(call: Call) -> Any:
        number = len(nodes)
        result = _tagged(
            call._replace(
                arguments=_tagged(call.arguments, f"into {number}"),
                keywords=_tagged(call.keywords, f"into {number}"),
            )(),
            f"out of {number}",
        )
        size_in, size_out = places((call.arguments, call.keywords)), places(result)
        window = call.window
        if window is None and size_in and size_in == size_out:
            window = Window(1, 1)
        first = jax.tree.leaves(result)[0]
        per_place = first.size // first.shape[0] // max(_product(size_out), 1)
        parameters = 0
        if isinstance(call.layer, nnx.Module) and id(call.layer) not in counted:
            parameters = num_parameters(call.layer)
            counted.add(id(call.layer))
        nodes.append(
            Node(
                shown_name(call.name),
                kind_of(call.layer),
                frozenset(),
                window,
                parameters,
                size_in,
                size_out,
                per_place,
            )
        )
        return result

    def run(params: nnx.State, model_state: nnx.State, images: jax.Array) -> Any:
        model = nnx.merge(graphdef, params, model_state)
        with recording.intercepted(model, around):
            return model(images).scores

    images = jax.ShapeDtypeStruct((1, *image_shape), jnp.float32)
    jaxpr = jax.make_jaxpr(run)(variables.params, variables.model_state, images)
    before: dict[int, frozenset[int]] = {}
    _flow(jaxpr.jaxpr, [frozenset()] * len(jaxpr.jaxpr.invars), before)
    return [
        node._replace(before=before.get(number, frozenset()))
        for number, node in enumerate(nodes)
    ]


def kind_of(layer: nnx.Module | Callable[..., Any]) -> str:
    """The kind of a layer in words."""
    if not isinstance(layer, nnx.Module):
        name = getattr(layer, "__name__", "")
        return POOLING if "pool" in name else NORMALIZATION if "norm" in name else OTHER
    return next(
        (kind for types, kind in _KINDS.items() if isinstance(layer, types)), OTHER
    )


def shown_name(name: str) -> str:
    """A layer's path without what wraps Flax's layers in ours."""
    return re.sub(r"(?<=norm)(\.norm)+$|(?<=norm\d)(\.norm)+$", "", name)


def places(tree: Any) -> tuple[int, ...]:
    """Height and width of the first features or capsules with places, or ()."""
    for part in jax.tree.leaves(tree, is_leaf=lambda x: isinstance(x, Capsules)):
        if isinstance(part, Capsules):
            if part.grid:
                return part.grid
        elif isinstance(part, jax.Array) and part.ndim >= 4:
            return part.shape[1:3]
    return ()


def _tagged(tree: Any, label: str) -> Any:
    def tag(x: Any) -> Any:
        is_float = isinstance(x, jax.Array) and jnp.issubdtype(x.dtype, jnp.inexact)
        return checkpoint_name(x, label) if is_float else x

    return jax.tree.map(tag, tree)


def _flow(
    jaxpr: Any, given: list[frozenset[int]], before: dict[int, frozenset[int]]
) -> list[frozenset[int]]:
    """Follows which layers' results each variable of a program depends on.

    Args:
        jaxpr: the program.
        given: layers that its arguments come from.
        before: receives the layers that each layer takes its input from.

    Returns:
        The layers that its results come from.
    """
    known = dict(zip(jaxpr.invars, given, strict=True))

    def sources(variables: Any) -> list[frozenset[int]]:
        return [
            frozenset() if hasattr(x, "val") else known.get(x, frozenset())
            for x in variables
        ]

    for equation in jaxpr.eqns:
        found = sources(equation.invars)
        union = frozenset().union(*found)
        inner = equation.params.get("jaxpr")
        inner = getattr(inner, "jaxpr", inner)
        if equation.primitive.name == "name":
            direction, _, number = equation.params["name"].rpartition(" ")
            if direction == "into":
                before[int(number)] = before.get(int(number), frozenset()) | union
            elif direction == "out of":
                union = frozenset({int(number)})
            results = [union]
        elif inner is not None and len(inner.invars) == len(found):
            results = _flow(inner, found, before)
        else:
            results = [union] * len(equation.outvars)
        known |= dict(zip(equation.outvars, results, strict=True))
    return sources(jaxpr.outvars)


def _product(sizes: tuple[int, ...]) -> int:
    return sizes[0] * sizes[1] if sizes else 1
