"""The base class of losses, which declare the scores and labels that they suit."""

import dataclasses
from typing import ClassVar, Literal

from jaxtyping import Array, Float, Int

from capsjax import fields
from capsjax.fields import field

Scores = Literal["lengths", "activations", "logits"]
"""Kinds of scores [B, J]: lengths of capsules in [0, 1), activation probabilities of
capsules in [0, 1], or unbounded logits. The largest score is the prediction."""


@dataclasses.dataclass(kw_only=True, slots=True)
class Config(fields.Named):
    """Base class of the configs of losses.

    Attributes:
        takes: kinds of scores that the loss is made for.
        labels: whether images show one class, several, or either.
    """

    takes: ClassVar[tuple[Scores, ...]] = ()
    labels: ClassVar[tuple[Literal["one", "several"], ...]] = ("one",)

    reconstruction_weight: float = field(
        0.0,
        "Weight of the reconstruction's squared error, summed over pixels; "
        "for models with a decoder.",
        at_least=0,
    )

    def classification(
        self,
        scores: Float[Array, "B J"],
        labels: Int[Array, "B *K"],
        *,
        step: Int[Array, ""] | int,
        train: bool,
    ) -> Float[Array, " B"]:
        """The loss of the scores, one number for each example.

        Args:
            scores: scores of one of the kinds in ``takes``.
            labels: class of each image, or its K classes.
            step: number of training steps taken so far, for annealing.
            train: whether the loss is for training or for evaluation.
        """
        raise NotImplementedError(f"{type(self).__name__} has no loss")
