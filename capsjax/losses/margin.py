"""The margin loss, which compares the lengths of class capsules with two margins.

References:
    Sabour, Frosst and Hinton 2017, section 3, equation 4.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any, ClassVar, Literal

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from capsjax.fields import field
from capsjax.losses import base
from capsjax.losses.base import Scores
from capsjax.losses.classification import presence


@dataclasses.dataclass(kw_only=True, slots=True)
class Config(base.Config):
    """``L_j = T_j max(0, m+ - |v_j|)^2 + lambda (1 - T_j) max(0, |v_j| - m-)^2``."""

    name: ClassVar[str] = "margin"
    takes: ClassVar[tuple[Scores, ...]] = ("lengths", "activations")
    labels: ClassVar[tuple[Literal["one", "several"], ...]] = ("one", "several")
    PRESETS: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "paper": {},
        "authors_code": {"class_reduction": "half_mean"},
    }

    positive_margin: float = field(
        0.9, "m+, least length of a present class's capsule."
    )
    negative_margin: float = field(0.1, "m-, largest length of an absent class's.")
    absent_weight: float = field(0.5, "lambda, weight of the absent classes.")
    class_reduction: str = field(
        "sum",
        "sum of the L_j, as in the paper; or half_mean, half of their mean, as in the "
        "code that its authors released.",
        choices=("sum", "half_mean"),
    )
    reconstruction_weight: float = field(
        0.0005,
        "Weight of the reconstruction's squared error, summed over pixels.",
        at_least=0,
    )

    def classification(
        self,
        scores: Float[Array, "B J"],
        labels: Int[Array, "B *K"],
        *,
        step: Int[Array, ""] | int = 0,
        train: bool = False,
    ) -> Float[Array, " B"]:
        """The margin loss of lengths, one number for each example."""
        present = presence(labels, scores.shape[1], scores.dtype)
        losses = present * jnp.square(jax.nn.relu(self.positive_margin - scores))
        losses += (
            self.absent_weight
            * (1 - present)
            * jnp.square(jax.nn.relu(scores - self.negative_margin))
        )
        if self.class_reduction == "sum":
            return jnp.sum(losses, axis=1)
        return jnp.mean(losses, axis=1) / 2
