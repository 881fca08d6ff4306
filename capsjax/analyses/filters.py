"""What a network has learned to look for: filters, feature maps, preferred images.

- The filters of the first layer, before training and after.
- What each layer with windows receives for a test image: features by depth.
- Images in [0, 1] that gradient ascent makes for a class or for a unit.

References:
    Krizhevsky, Sutskever and Hinton 2012, figure 3, for filters; Erhan, Bengio,
    Courville and Vincent 2009, "Visualizing Higher-Layer Features of a Deep Network".
"""

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx
from jaxtyping import Array, Float

from capsjax import models
from capsjax.analyses import couplings, layer_graph
from capsjax.analyses.layer_graph import CAPSULES, CONVOLUTION, POOLING
from capsjax.config import Config
from capsjax.errors import NotApplicableError
from capsjax.layers import Conv, recording
from capsjax.layers.recording import Call
from capsjax.models import Variables
from capsjax.routings import Capsules
from capsjax.training import augment

# Of the objective of `preferred`, for each pixel and channel.
_NORM_WEIGHT, _VARIATION_WEIGHT = 0.05, 0.5
_RATE = 0.05


class Features(NamedTuple):
    """Features of one image.

    Attributes:
        name: name of the layer that receives them.
        maps: [h, w, C].
    """

    name: str
    maps: np.ndarray


class Units(NamedTuple):
    """Some channels of a layer, at the place in the middle.

    Attributes:
        layer: its name.
        channels: numbers of the channels.
    """

    layer: str
    channels: tuple[int, ...]


def first_filters(
    graphdef: nnx.GraphDef, variables: Variables, image_shape: tuple[int, int, int]
) -> tuple[str, np.ndarray, int]:
    """The filters of the first convolution that sees the images.

    Returns:
        Its name, its kernel [K, K, C, F], and the number of groups into which the
        convolution above it divides these filters.

    Raises:
        NotApplicableError: there is none, or not of two dimensions.
    """
    nodes = layer_graph.trace(graphdef, variables, image_shape)
    convs = _convolutions(graphdef, variables)
    own = [n for n in nodes if n.kind == CONVOLUTION and not n.before]
    if not own:
        raise NotApplicableError("no convolution sees the images")
    above = [n.name for n in nodes if n.kind == CONVOLUTION and n.before]
    groups = convs[above[0]].groups if above else 1
    name = own[0].name
    kernel = convs[name].kernel[...]
    if kernel.ndim != 4:
        raise NotApplicableError(f"the kernels of {name} are no pictures")
    return name, np.asarray(kernel), groups


def unit_range(pictures: np.ndarray) -> np.ndarray:
    """Pictures [N, ...], each scaled to [0, 1] by its own minimum and maximum."""
    flat = pictures.reshape(len(pictures), -1)
    low, high = flat.min(axis=1), flat.max(axis=1)
    spread = np.where(high > low, high - low, 1)
    return ((flat - low[:, None]) / spread[:, None]).reshape(pictures.shape)


def saturation(filters: np.ndarray) -> np.ndarray:
    """How colourful filters [N, K, K, 3] in [0, 1] are, by the mean over their pixels.

    The saturation of a pixel is the difference of its largest and smallest channel.
    """
    return np.mean(filters.max(axis=3) - filters.min(axis=3), axis=(1, 2))


def group_difference(
    values: np.ndarray, groups: int, *, draws: int = 10_000, seed: int = 0
) -> tuple[float, float]:
    """Whether groups of neighbouring filters differ more than random ones do.

    Args:
        values: a number for each filter, such as its saturation.
        groups: number of groups of equal size.
        draws: random divisions into groups.
        seed: their seed.

    Returns:
        The largest mean of a group less the smallest, and the share of random
        divisions (this one counted) for which it is as large.
    """

    def spread(values: np.ndarray) -> np.ndarray:
        means = values.reshape(*values.shape[:-1], groups, -1).mean(axis=-1)
        return means.max(axis=-1) - means.min(axis=-1)

    found = float(spread(values))
    rng = np.random.default_rng(seed)
    others = spread(rng.permuted(np.tile(values, (draws, 1)), axis=1))
    return found, float((1 + np.sum(others >= found - 1e-12)) / (1 + draws))


def features(
    graphdef: nnx.GraphDef, variables: Variables, image: Float[Array, "H W C"]
) -> list[Features]:
    """What each layer with windows receives for an image, after all activations.

    Capsules on a grid are shown by the lengths of their poses.
    """
    names: list[str] = []

    @jax.jit
    def run(variables: Variables, images: Array) -> list[Array]:
        model = nnx.merge(graphdef, variables.params, variables.model_state)
        found = []
        calls = recording.recorded(model, lambda: model(images))
        for number, (call, _) in enumerate(calls):
            kind = layer_graph.kind_of(call.layer)
            if kind in (CONVOLUTION, POOLING, CAPSULES):
                maps = _maps(call, calls[:number])
                if maps is not None:
                    names.append(layer_graph.shown_name(call.name))
                    found.append(maps[0])
        return found

    found = run(variables, image[None])
    return [Features(name, np.asarray(x)) for name, x in zip(names, found, strict=True)]


def _maps(call: Call, before: Sequence[tuple[Call, Any]]) -> Array | None:
    """What a call receives at places, [B, h, w, C]; None without places."""
    for part in call.arguments:
        if isinstance(part, Capsules):
            try:
                grid = part.grid or couplings.grid_below(before, part)
            except NotApplicableError:
                return None
            B, P = part.poses.shape[0], part.poses.shape[1 + len(part.grid) + 1 :]
            poses = part.poses.reshape(B, *grid, -1, math.prod(P))
            return jnp.linalg.norm(poses, axis=-1)
        if isinstance(part, jax.Array) and part.ndim == 4:
            return part
    return None


def units(
    graphdef: nnx.GraphDef,
    variables: Variables,
    image_shape: tuple[int, int, int],
    *,
    layers: int,
    channels: int,
) -> list[Units]:
    """The first channels of some convolutions of images, evenly spaced by depth."""
    nodes = layer_graph.trace(graphdef, variables, image_shape)
    convs = _convolutions(graphdef, variables)
    found = {
        n.name: n for n in nodes if n.name in convs and convs[n.name].kernel.ndim == 4
    }
    chosen = [*found.values()]
    if len(chosen) > layers:
        places = np.linspace(0, len(chosen) - 1, layers).round().astype(int)
        chosen = [chosen[place] for place in places]
    return [Units(n.name, tuple(range(min(channels, n.channels)))) for n in chosen]


def preferred(
    graphdef: nnx.GraphDef,
    variables: Variables,
    config: Config,
    image_shape: tuple[int, int, int],
    *,
    classes: Sequence[int] = (),
    units: Sequence[Units] = (),
    steps: int = 200,
    seed: int = 0,
    on_step: Callable[[], None] = lambda: None,
) -> np.ndarray:
    """Images that make scores of classes, or units, as large as gradient ascent can.

    The ascent begins at grey with a little noise, stays in [0, 1] and pays for the
    distance from grey and for differences of neighbouring pixels.

    Args:
        graphdef: the network's structure.
        variables: its variables.
        config: the run's config, whose normalisation in ``preprocess`` is applied.
        image_shape: shape (H, W, C) of the images that the network sees.
        classes: classes, an image each; then come the units.
        units: units, an image each.
        steps: steps of Adam.
        seed: seed of the noise.
        on_step: called after each step.

    Returns:
        float32 [N, H, W, C] in [0, 1].
    """
    count = len(classes) + sum(len(some.channels) for some in units)

    def achieved(images: Array) -> Array:
        model = nnx.merge(graphdef, variables.params, variables.model_state)
        seen = augment.normalized(images, config.preprocess)
        outputs: dict[str, Array] = {}

        def around(call: Call) -> Array:
            result = call()
            outputs.setdefault(layer_graph.shown_name(call.name), result)
            return result

        with recording.intercepted(model, around):
            scores = model(seen).scores
        total = sum((scores[i, c] for i, c in enumerate(classes)), jnp.zeros(()))
        number = len(classes)
        for some in units:
            maps = outputs[some.layer]
            row, column = maps.shape[1] // 2, maps.shape[2] // 2
            for channel in some.channels:
                total = total + maps[number, row, column, channel]
                number += 1
        return total

    @jax.jit
    def step(images: Array, state: optax.OptState) -> tuple[Array, optax.OptState]:
        def objective(images: Array) -> Array:
            grey = jnp.sum(jnp.square(images - 0.5))
            variation = sum(
                jnp.sum(jnp.square(jnp.diff(images, axis=axis))) for axis in (1, 2)
            )
            paid = _NORM_WEIGHT * grey + _VARIATION_WEIGHT * variation
            return paid / (H * W) ** 0.5 - achieved(images)

        # Adam divides by the gradient's size, so that all images move alike.
        with jax.numpy_dtype_promotion("standard"):
            updates, state = tx.update(jax.grad(objective)(images), state, images)
        return jnp.clip(optax.apply_updates(images, updates), 0, 1), state

    H, W, _ = image_shape
    noise = jax.random.normal(jax.random.key(seed), (count, *image_shape))
    images = 0.5 + 0.01 * noise
    tx = optax.adam(_RATE)
    state = tx.init(images)
    for _ in range(steps):
        images, state = step(images, state)
        on_step()
    return np.asarray(images)


def scores_of(
    graphdef: nnx.GraphDef, variables: Variables, config: Config, images: np.ndarray
) -> np.ndarray:
    """Scores [N, J] of images [N, H, W, C] in [0, 1]."""
    seen = augment.normalized(jnp.asarray(images), config.preprocess)
    output, _ = models.apply(graphdef, variables, seen, None, config.dtype)
    return np.asarray(output.scores)


def _convolutions(graphdef: nnx.GraphDef, variables: Variables) -> dict[str, Conv]:
    model = nnx.merge(graphdef, variables.params, variables.model_state)
    return {
        layer_graph.shown_name(name): layer
        for name, layer in recording.layers_of(model).items()
        if isinstance(layer, Conv)
    }
