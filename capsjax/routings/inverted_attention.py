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
from kernels.routing import blocks


@dataclasses.dataclass(kw_only=True, slots=True)
class Config(base.Config):
    """Config of `InvertedAttention`."""

    name: ClassVar[str] = "inverted_attention"
    activations: ClassVar[Scores | None] = None
    has_bias: ClassVar[bool] = False
    concurrent: ClassVar[bool] = True

    iterations: int = field(
        2, "Routing passes; 1 is uniform coupling, without attention.", at_least=1
    )

    def build(self, sizes: Sizes, rngs: nnx.Rngs) -> "InvertedAttention":
        """The plug-in's module."""
        return InvertedAttention(self, sizes)


class InvertedAttention(base.RoutingOfVotes):
    """Routes by the op `kernels.routing.inverted_attention.route`.

    A call makes all passes of this layer. A network that routes its layers concurrently
    makes them one by one.

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

    def make_pass(
        self,
        inputs: Capsules,
        transform: Transform,
        previous: Capsules | None = None,
    ) -> Capsules:
        """Poses, from coupling coefficients 1/J if there was no pass before."""
        norm = self.norm_scale[...], self.norm_bias[...]

        def route(given: tuple[Capsules, Capsules | None]) -> Array:
            inputs, previous = given
            votes = transform.votes(transform.children(inputs))
            if previous is None:
                return routing.inverted_attention.first_pass(votes, *norm)
            poses = previous.poses.reshape(*votes.shape[:-3], *votes.shape[-2:])
            return routing.inverted_attention.next_pass(votes, poses, *norm)

        size = transform.votes_bytes(inputs)
        poses = blocks.over_examples(route, (inputs, previous), size)
        return Capsules(base.shaped_like(inputs, poses))
