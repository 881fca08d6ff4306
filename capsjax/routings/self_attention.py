"""Self-attention routing, which needs no iterations.

References:
    Mazzia, Salvetti and Chiaberge 2021, "Efficient-CapsNet: capsule network with
    self-attention routing".
"""

import dataclasses
from typing import ClassVar

import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float, Int

from capsjax.routings import base
from capsjax.routings.base import Capsules, Sizes, Transform
from kernels import routing


@dataclasses.dataclass(kw_only=True, slots=True)
class Config(base.Config):
    """Config of `SelfAttention`."""

    name: ClassVar[str] = "self_attention"

    def build(self, sizes: Sizes, rngs: nnx.Rngs) -> "SelfAttention":
        """The plug-in's module."""
        return SelfAttention(sizes)


class SelfAttention(base.RoutingOfVotes):
    """Routes by the op `kernels.routing.self_attention.route`.

    Attributes:
        routing_bias: added to the coupling coefficients, [C, J] float32, zero at first.
    """

    def __init__(self, sizes: Sizes):
        self.routing_bias = nnx.Param(
            jnp.zeros((sizes.in_capsules, sizes.out_capsules), jnp.float32)
        )

    def route(
        self,
        votes: Float[Array, "B *N C J Q"],
        children: Capsules,
        inputs: Capsules,
        transform: Transform,
        step: Int[Array, ""] | int,
    ) -> tuple[Float[Array, "B *N J Q"], Float[Array, "B *N J"]]:
        """Poses, and their lengths as activations."""
        poses = routing.self_attention.route(
            votes, self.routing_bias[...], transform.bias
        )
        return poses, base.lengths(poses)
