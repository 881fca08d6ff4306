"""Inverted dot-product attention, whose capsules are normalised, not squashed.

References:
    Tsai, Srivastava, Goh and Salakhutdinov 2020, "Capsules with Inverted Dot-Product
    Attention Routing".
"""

import dataclasses
from typing import ClassVar

import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float, Int

from capsjax.fields import field
from capsjax.losses.base import Scores
from capsjax.routings import base
from capsjax.routings.base import Capsules, Sizes, Transform
from kernels import routing


@dataclasses.dataclass(kw_only=True, slots=True)
class Config(base.Config):
    """Config of `InvertedAttention`."""

    name: ClassVar[str] = "inverted_attention"
    activations: ClassVar[Scores | None] = None
    has_bias: ClassVar[bool] = False

    iterations: int = field(
        2, "Routing passes; 1 is uniform coupling, without attention.", at_least=1
    )

    def build(self, sizes: Sizes, rngs: nnx.Rngs) -> "InvertedAttention":
        """The plug-in's module."""
        return InvertedAttention(self, sizes)


class InvertedAttention(base.RoutingOfVotes):
    """Routes by the op `kernels.routing.inverted_attention.route`.

    All passes of this layer are made before those of the next. A network that routes
    its layers concurrently calls the op's passes itself.

    Attributes:
        norm_scale: of the layer normalisation, [Q] float32, 1 at first.
        norm_bias: of the layer normalisation, [Q] float32, 0 at first.
    """

    def __init__(self, config: Config, sizes: Sizes):
        self.iterations = config.iterations
        self.norm_scale = nnx.Param(jnp.ones(sizes.out_dim, jnp.float32))
        self.norm_bias = nnx.Param(jnp.zeros(sizes.out_dim, jnp.float32))

    def route(
        self,
        votes: Float[Array, "B *N C J Q"],
        children: Capsules,
        inputs: Capsules,
        transform: Transform,
        step: Int[Array, ""] | int,
    ) -> tuple[Float[Array, "B *N J Q"], None]:
        """Poses; the capsules have no activations."""
        poses = routing.inverted_attention.route(
            votes,
            self.norm_scale[...],
            self.norm_bias[...],
            num_iterations=self.iterations,
        )
        return poses, None
