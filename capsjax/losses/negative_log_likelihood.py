"""The negative log-likelihood of class capsules whose scores are shares of their sum.

References:
    Hahn, Pyeon and Kim 2019, "Self-Routing Capsule Networks", and the authors' code,
    which takes activations of self-routing and EM routing, and lengths of dynamic
    routing.
"""

import dataclasses
from typing import ClassVar

import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from capsjax.losses import base
from capsjax.losses.base import Scores

# Smaller scores count as this one: the loss and its gradient are finite in float32.
_LEAST = 1e-30


@dataclasses.dataclass(kw_only=True, slots=True)
class Config(base.Config):
    """``-log(a_t / sum_j a_j)`` of the scores a, where t is the image's class."""

    name: ClassVar[str] = "negative_log_likelihood"
    takes: ClassVar[tuple[Scores, ...]] = ("activations", "lengths")

    def classification(
        self,
        scores: Float[Array, "B J"],
        labels: Int[Array, " B"],
        *,
        step: Int[Array, ""] | int = 0,
        train: bool = False,
    ) -> Float[Array, " B"]:
        """The negative log-likelihood, one number for each example.

        A score below 1e-30 counts as 1e-30, with gradient 0.
        """
        scores = jnp.maximum(scores, jnp.asarray(_LEAST, scores.dtype))
        of_label = jnp.take_along_axis(scores, labels[:, None], axis=1)[:, 0]
        return jnp.log(jnp.sum(scores, axis=1)) - jnp.log(of_label)
