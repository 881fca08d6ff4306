"""The best images that a search without gradients has tried."""

from typing import NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from capsjax.attacks.base import Images, where
from capsjax.attacks.steps import Problem


class Best(NamedTuple):
    """The images with the largest objective, or the first that the network errs on.

    Attributes:
        images: [B, H, W, C].
        values: [B], their objectives.
        success: bool [B], whether the network errs on them as the attack wants.
    """

    images: Images
    values: Float[Array, " B"]
    success: Bool[Array, " B"]

    def tried(
        self, problem: Problem, images: Images
    ) -> tuple["Best", Float[Array, " B"]]:
        """The best after other images are tried, and the objectives of these."""
        values, hit = problem.attacked.judge(images, problem.labels)
        better = ~self.success & (hit | (values > self.values))
        best = Best(
            where(better, images, self.images),
            jnp.where(better, values, self.values),
            self.success | hit,
        )
        return best, values
