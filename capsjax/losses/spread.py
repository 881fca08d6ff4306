"""The spread loss, which widens the gap between activations step by step.

References:
    Hinton, Sabour and Frosst 2018, "Matrix capsules with EM routing", section 3.1.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from capsjax.fields import field
from capsjax.losses import base
from capsjax.losses.base import Scores
from capsjax.losses.classification import presence


@dataclasses.dataclass(kw_only=True, slots=True)
class Config(base.Config):
    """``sum over i != t of max(0, m - (a_t - a_i))^2``, where t is the image's class.

    The margin m grows with the steps, so that capsules do not die early in training::

        linear:  m = first_margin + (last_margin - first_margin) min(1, x)
        sigmoid: m = first_margin + (last_margin - first_margin) logistic(
                     min(10, 8 x - 4))

    with x = step / margin_steps. Evaluation uses the margin of the step, too.
    """

    name: ClassVar[str] = "spread"
    takes: ClassVar[tuple[Scores, ...]] = ("activations", "lengths")
    PRESETS: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "paper": {},
        # m = 0.2 + 0.79 logistic(min(10, step / 50000 - 4)).
        "authors_code": {
            "schedule": "sigmoid",
            "last_margin": 0.99,
            "margin_steps": 400_000,
        },
    }

    schedule: str = field(
        "linear",
        "How the margin grows: linear as in the paper, or sigmoid as in the code that "
        "its authors released.",
        choices=("linear", "sigmoid"),
    )
    first_margin: float = field(0.2, "Margin m at first.", at_least=0, at_most=1)
    last_margin: float = field(0.9, "Margin m at last.", at_least=0, at_most=1)
    margin_steps: int = field(
        50_000,
        "Training steps in which the margin grows, which the paper does not say.",
        at_least=1,
    )

    def classification(
        self,
        scores: Float[Array, "B J"],
        labels: Int[Array, " B"],
        *,
        step: Int[Array, ""] | int = 0,
        train: bool = False,
    ) -> Float[Array, " B"]:
        """The spread loss of activations, one number for each example."""
        present = presence(labels, scores.shape[1], scores.dtype)
        of_class = jnp.sum(present * scores, axis=1, keepdims=True)
        margin = self.margin(step).astype(scores.dtype)
        spread = jax.nn.relu(margin - (of_class - scores))
        return jnp.sum((1 - present) * jnp.square(spread), axis=1)

    def margin(self, step: Int[Array, ""] | int) -> Float[Array, ""]:
        """The margin m after some training steps, float32."""
        x = jnp.asarray(step, jnp.float32) / self.margin_steps
        if self.schedule == "linear":
            share = jnp.minimum(x, 1)
        else:
            share = jax.nn.sigmoid(jnp.minimum(8 * x - 4, 10))
        return self.first_margin + (self.last_margin - self.first_margin) * share
