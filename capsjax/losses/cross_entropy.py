"""Cross entropies of logits, by softmax for one class or by sigmoids for several."""

import dataclasses
from typing import ClassVar, Literal

import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, Int

from capsjax.fields import field
from capsjax.losses import base
from capsjax.losses.base import Scores
from capsjax.losses.classification import presence


@dataclasses.dataclass(kw_only=True, slots=True)
class Softmax(base.Config):
    """Cross entropy of the softmax over classes."""

    name: ClassVar[str] = "cross_entropy"
    takes: ClassVar[tuple[Scores, ...]] = ("logits",)

    label_smoothing: float = field(
        0.0,
        "Share of the target that is spread evenly over all classes in training.",
        at_least=0,
        at_most=1,
    )

    def classification(
        self,
        scores: Float[Array, "B J"],
        labels: Int[Array, " B"],
        *,
        step: Int[Array, ""] | int = 0,
        train: bool = False,
    ) -> Float[Array, " B"]:
        """The cross entropy, one number for each example.

        References:
            Szegedy et al. 2016, "Rethinking the Inception Architecture for Computer
            Vision", section 7, for the smoothing.
        """
        if train and self.label_smoothing:
            targets = optax.smooth_labels(
                presence(labels, scores.shape[1], scores.dtype), self.label_smoothing
            )
            return optax.softmax_cross_entropy(scores, targets)
        return optax.softmax_cross_entropy_with_integer_labels(scores, labels)


@dataclasses.dataclass(kw_only=True, slots=True)
class Sigmoid(base.Config):
    """Sum over classes of the cross entropy of a sigmoid, for images of several."""

    name: ClassVar[str] = "sigmoid_cross_entropy"
    takes: ClassVar[tuple[Scores, ...]] = ("logits",)
    labels: ClassVar[tuple[Literal["one", "several"], ...]] = ("several",)

    def classification(
        self,
        scores: Float[Array, "B J"],
        labels: Int[Array, "B *K"],
        *,
        step: Int[Array, ""] | int = 0,
        train: bool = False,
    ) -> Float[Array, " B"]:
        """The summed cross entropy, one number for each example."""
        present = presence(labels, scores.shape[1], scores.dtype)
        return jnp.sum(optax.sigmoid_binary_cross_entropy(scores, present), axis=1)
