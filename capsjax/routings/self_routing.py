"""Self-routing, in which each input capsule decides by itself where it belongs.

References:
    Hahn, Pyeon and Kim 2019, "Self-Routing Capsule Networks".
"""

import dataclasses
from typing import ClassVar

import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float, Int

from capsjax.losses.base import Scores
from capsjax.routings import base
from capsjax.routings.base import Capsules, Sizes, Transform
from kernels import routing


@dataclasses.dataclass(kw_only=True, slots=True)
class Config(base.Config):
    """Config of `SelfRouting`."""

    name: ClassVar[str] = "self_routing"
    activations: ClassVar[Scores] = "activations"
    needs_activations: ClassVar[bool] = True
    has_bias: ClassVar[bool] = False
    activations_need_votes: ClassVar[bool] = False

    def build(self, sizes: Sizes, rngs: nnx.Rngs) -> "SelfRouting":
        """The plug-in's module."""
        return SelfRouting(sizes)


class SelfRouting(base.RoutingOfVotes):
    """Routes by the op `kernels.routing.self_routing.route`.

    Attributes:
        routing_weights: from the pose of each child to the logits of its coupling
            coefficients, [C, J, P] float32, zero at first.
        routing_bias: added to the logits, [C, J] float32, zero at first.
    """

    name: ClassVar[str] = Config.name
    needs_activations: ClassVar[bool] = True

    def __init__(self, sizes: Sizes):
        C, P, J, _ = sizes
        self.routing_weights = nnx.Param(jnp.zeros((C, J, P), jnp.float32))
        self.routing_bias = nnx.Param(jnp.zeros((C, J), jnp.float32))

    def route(
        self,
        votes: Float[Array, "B *N C J Q"],
        children: Capsules,
        inputs: Capsules,
        transform: Transform,
        step: Int[Array, ""] | int,
    ) -> tuple[Float[Array, "B *N J Q"], Float[Array, "B *N J"]]:
        """Poses, and activations that add up to 1 over the output capsules."""
        assert children.activations is not None
        poses = children.poses
        if children.are_matrices:
            poses = poses.reshape(*poses.shape[:-2], -1)
        return routing.self_routing.route(
            votes,
            children.activations,
            poses,
            self.routing_weights[...],
            self.routing_bias[...],
        )

    def activations_only(self, inputs: Capsules) -> Float[Array, "B J"]:
        """Activations that add up to 1 over the output capsules."""
        self.check_activations(inputs)
        assert inputs.activations is not None
        activations = inputs.activations.reshape(len(inputs.poses), -1)
        return routing.self_routing.route_activations(
            activations,
            inputs.poses.reshape(*activations.shape, -1),
            self.routing_weights[...],
            self.routing_bias[...],
        )
