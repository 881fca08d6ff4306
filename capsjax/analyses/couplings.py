"""Which primary capsules feed which class: coupling coefficients over the image.

A coefficient alone says little, since capsules that see nothing are coupled, too: maps
weight it by the activity of the capsule, which is the length of its pose.

References:
    Sabour, Frosst and Hinton 2017, section 2.
"""

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Float

from capsjax import layers
from capsjax.config import Config
from capsjax.errors import NotApplicableError
from capsjax.layers import recording
from capsjax.layers.recording import Call
from capsjax.models import Variables
from capsjax.routings import Capsules
from kernels.convolution import output_size


class Couplings(NamedTuple):
    """Routing of some images to the class capsules, T types of capsules at each place.

    Attributes:
        coefficients: [B, h, w, T, J] of the last iteration.
        activities: [B, h, w, T], lengths of the poses below, or their activations.
        start: coefficient of the first iteration, the same for all.
    """

    coefficients: np.ndarray
    activities: np.ndarray
    start: float

    @property
    def maps(self) -> np.ndarray:
        """[B, h, w, J]; mean coefficient of each place, weighted by activity."""
        weights = self.activities[..., None]
        sent = np.sum(self.coefficients * weights, axis=3)
        return sent / np.maximum(np.sum(weights, axis=3), 1e-12)

    @property
    def by_type(self) -> np.ndarray:
        """[B, T, J]; mean coefficient of each type, weighted by activity."""
        weights = self.activities[..., None]
        sent = np.sum(self.coefficients * weights, axis=(1, 2))
        return sent / np.maximum(np.sum(weights, axis=(1, 2)), 1e-12)


def are_known(config: Config) -> bool:
    """Whether the routing of a run's network tells its coupling coefficients."""
    routing = config.model.routing
    return routing is not None and routing.has_couplings


def couplings(
    graphdef: nnx.GraphDef, variables: Variables, images: Float[Array, "B H W C"]
) -> Couplings:
    """The routing to the class capsules of a few images, as the model sees them.

    Raises:
        NotApplicableError: the network has no routed layer whose capsules below lie on
            a grid.
    """

    @jax.jit
    def run(variables: Variables, images: Array) -> tuple[Array, Array]:
        model = nnx.merge(graphdef, variables.params, variables.model_state)
        calls = recording.recorded(model, lambda: model(images))
        routed = [
            number
            for number, (call, _) in enumerate(calls)
            if isinstance(call.layer, layers.RoutedCapsules)
        ]
        if not routed:
            raise NotApplicableError("no layer of capsules is routed")
        call, _ = calls[routed[-1]]
        inputs: Capsules = call.arguments[0]
        grid = inputs.grid or grid_below(calls[: routed[-1]], inputs)
        layer: Any = call.layer
        found = layer.couplings(inputs)
        B, I, J = found.shape
        if inputs.activations is None:
            poses = inputs.poses.reshape(B, I, -1)
            activities = jnp.linalg.norm(poses, axis=-1)
        else:
            activities = inputs.activations.reshape(B, I)
        types = I // math.prod(grid)
        return (
            found.reshape(B, *grid, types, J),
            activities.reshape(B, *grid, types),
        )

    coefficients, activities = map(np.asarray, run(variables, images))
    return Couplings(coefficients, activities, 1 / coefficients.shape[-1])


def grid_below(calls: Sequence[tuple[Call, Any]], inputs: Capsules) -> tuple[int, int]:
    """The grid of capsules that are ordered by place and type, but not laid out.

    Args:
        calls: calls of layers, see `recording.recorded`, before the one that receives
            the capsules.
        inputs: the capsules.

    Raises:
        NotApplicableError: primary capsules have not made them.
    """
    for call, _ in reversed(calls):
        if isinstance(call.layer, layers.PrimaryCapsules):
            conv = call.layer.conv
            window = conv.receptive_window
            *above, width = (
                output_size(size, window.size, window.stride, conv.padding)
                for size in call.arguments[0].shape[1:-1]
            )
            return math.prod(above), width  # A signal has one row.
        if isinstance(call.layer, layers.RoutedCapsules):
            break
    raise NotApplicableError(
        f"the {inputs.poses.shape[1]} capsules below the classes have no places"
    )
