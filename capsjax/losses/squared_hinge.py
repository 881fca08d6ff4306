"""The squared hinge loss, of one classifier for each class against the others.

References:
    Courbariaux et al. 2016, "Binarized Neural Networks", section 2, and the authors'
    code.
"""

import dataclasses
from typing import ClassVar

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from capsjax.losses import base
from capsjax.losses.base import Scores
from capsjax.losses.classification import presence


@dataclasses.dataclass(kw_only=True, slots=True)
class Config(base.Config):
    """``mean over classes of max(0, 1 - t_j y_j)^2``, t = 1 for the class, else -1."""

    name: ClassVar[str] = "squared_hinge"
    takes: ClassVar[tuple[Scores, ...]] = ("logits",)

    def classification(
        self,
        scores: Float[Array, "B J"],
        labels: Int[Array, " B"],
        *,
        step: Int[Array, ""] | int = 0,
        train: bool = False,
    ) -> Float[Array, " B"]:
        """The squared hinge loss, one number for each example."""
        target = 2 * presence(labels, scores.shape[1], scores.dtype) - 1
        return jnp.mean(jnp.square(jax.nn.relu(1 - target * scores)), axis=1)
