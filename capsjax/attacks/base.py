"""What an attack is given, and what it finds.

Images are float32 [B, H, W, C] in [0, 1], as the data set has them: what a network
subtracts or divides by is part of the network, so that every size is one of pixels. An
example's result depends on its image, label and key, and on no other example.
"""

import dataclasses
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, Key

Images = Float[Array, "B H W C"]
Labels = Int[Array, " B"]
Scores = Float[Array, "B J"]
Keys = Key[Array, " B"]

ScoresOf = Callable[[Images], Scores]
Objective = Callable[[Images, Labels], Float[Array, " B"]]


class Look(NamedTuple):
    """What an attack sees of the network at some images.

    Attributes:
        values: [B], the objective, which the attack raises.
        gradients: [B, H, W, C], of each value by its own image.
        success: bool [B], whether the network errs as the attack wants.
    """

    values: Float[Array, " B"]
    gradients: Images
    success: Bool[Array, " B"]


class Found(NamedTuple):
    """What an attack has found.

    Attributes:
        images: [B, H, W, C] in [0, 1], at the distance that the attack allows. Where it
            did not succeed, its best try.
        success: bool [B], whether the network errs on them as the attack wants.
        trace: [T, B], the objective before each step; empty without steps.
    """

    images: Images
    success: Bool[Array, " B"]
    trace: Float[Array, "T B"]


@dataclasses.dataclass(frozen=True)
class Attacked:
    """A network under attack, and the attack's goal.

    Attributes:
        scores: function from images to the network's scores [B, J]; the largest is the
            prediction.
        objective: function from images and labels to what the attack raises [B]. It
            may be that of another network, for the sake of its gradient.
        logits: function from images to logits [B, J], of the network that ``objective``
            looks at.
        evades: function from images to whether they also pass for clean ones [B]; None
            if nothing asks for that.
        targeted: whether ``labels`` are the classes that the network should see, not
            those that it should not.
    """

    scores: ScoresOf
    objective: Objective
    logits: ScoresOf
    evades: Callable[[Images], Bool[Array, " B"]] | None = None
    targeted: bool = False

    def success(self, images: Images, labels: Labels) -> Bool[Array, " B"]:
        """Whether the network errs on images as the attack wants.

        Scores that are not finite count as failures of the attack.
        """
        scores = self.scores(images)
        predictions = jnp.argmax(scores, axis=1).astype(labels.dtype)
        reached = predictions == labels
        finite = jnp.all(jnp.isfinite(scores), axis=1)
        success = finite & (reached if self.targeted else ~reached)
        return success if self.evades is None else success & self.evades(images)

    def look(self, images: Images, labels: Labels) -> Look:
        """The objective, its gradient, and whether the network errs."""

        def total(images: Images) -> tuple[Array, Array]:
            values = self.objective(images, labels)
            return jnp.sum(values), values

        gradients, values = jax.grad(total, has_aux=True)(images)
        return Look(values, gradients, self.success(images, labels))


def where(chosen: Bool[Array, " B"], first: Array, second: Array) -> Array:
    """Examples of ``first`` where chosen, else of ``second``, [B, ...]."""
    return jnp.where(jnp.expand_dims(chosen, range(1, first.ndim)), first, second)


def per_example(values: Float[Array, " B"], like: Images) -> Float[Array, "B 1 1 1"]:
    """Numbers of examples, in the rank of their images."""
    return jnp.expand_dims(values, range(1, like.ndim))
