"""What an attack is given, and what it finds.

Images are float32 [B, H, W, C] in [0, 1], as the data set has them: what a network
subtracts or divides by is part of the network, so that every size is one of pixels. An
example's result depends on its image, label and key, and on no other example.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import flax.struct
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, Key

Images = Float[Array, "B H W C"]
Labels = Int[Array, " B"]
Scores = Float[Array, "B J"]
Keys = Key[Array, " B"]


def _as_they_are(scores: Scores) -> Scores:
    return scores


ScoresOf = Callable[[Any, Images], Scores]


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
        trace: [T, B], the objective before each step and at the end; it may stay as it
            is once the attack has succeeded. Empty without steps.
    """

    images: Images
    success: Bool[Array, " B"]
    trace: Float[Array, "T B"]


@flax.struct.dataclass
class Attacked:
    """A network under attack, and the attack's goal.

    Its functions take the network's variables, so that a step of an attack is compiled
    once for all networks of the same functions.

    Attributes:
        scores: function from variables and images to the network's scores [B, J]; the
            largest is the prediction.
        objective_of: function from scores and labels to what the attack raises [B].
        variables: first argument of the functions.
        logits_of: function from scores to logits [B, J].
        surrogate: another network's scores, of which the objective and its gradient are
            taken; None for the network itself.
        penalty: function from variables and images to what is subtracted from the
            objective [B].
        evades: function from variables and images to whether they also pass for clean
            ones [B]; None if nothing asks for that.
        targeted: whether ``labels`` are the classes that the network should see, not
            those that it should not.
    """

    scores: ScoresOf = flax.struct.field(pytree_node=False)
    objective_of: Callable[[Scores, Labels], Float[Array, " B"]] = flax.struct.field(
        pytree_node=False
    )
    variables: Any = None
    logits_of: Callable[[Scores], Scores] = flax.struct.field(
        pytree_node=False, default=_as_they_are
    )
    surrogate: ScoresOf | None = flax.struct.field(pytree_node=False, default=None)
    penalty: Callable[[Any, Images], Float[Array, " B"]] | None = flax.struct.field(
        pytree_node=False, default=None
    )
    evades: Callable[[Any, Images], Bool[Array, " B"]] | None = flax.struct.field(
        pytree_node=False, default=None
    )
    targeted: bool = flax.struct.field(pytree_node=False, default=False)

    def logits(self, images: Images) -> Scores:
        """Logits of the network that the objective looks at."""
        return self.logits_of((self.surrogate or self.scores)(self.variables, images))

    def judge(
        self, images: Images, labels: Labels
    ) -> tuple[Float[Array, " B"], Bool[Array, " B"]]:
        """The objective, and whether the network errs on images as the attack wants."""
        values, scores = self._objective(images, labels)
        return values, self._success(images, scores, labels)

    def success(self, images: Images, labels: Labels) -> Bool[Array, " B"]:
        """Whether the network errs on images as the attack wants."""
        return self._success(images, self.scores(self.variables, images), labels)

    def look(self, images: Images, labels: Labels) -> Look:
        """The objective, its gradient, and whether the network errs."""

        def total(images: Images) -> tuple[Array, tuple[Array, Array]]:
            values, scores = self._objective(images, labels)
            return jnp.sum(values), (values, scores)

        gradients, (values, scores) = jax.grad(total, has_aux=True)(images)
        return Look(values, gradients, self._success(images, scores, labels))

    def _objective(self, images: Images, labels: Labels) -> tuple[Array, Array]:
        """The objective, and the scores that it is one of."""
        scores = (self.surrogate or self.scores)(self.variables, images)
        values = self.objective_of(scores, labels)
        if self.penalty is not None:
            values -= self.penalty(self.variables, images)
        return values, scores

    def _success(self, images: Images, scores: Scores, labels: Labels) -> Array:
        """See `success`; ``scores`` are the network's unless there is a surrogate.

        Scores that are not finite count as failures of the attack.
        """
        if self.surrogate is not None:
            scores = self.scores(self.variables, images)
        predictions = jnp.argmax(scores, axis=1).astype(labels.dtype)
        reached = predictions == labels
        finite = jnp.all(jnp.isfinite(scores), axis=1)
        success = finite & (reached if self.targeted else ~reached)
        return (
            success
            if self.evades is None
            else success & self.evades(self.variables, images)
        )


def where(chosen: Bool[Array, " B"], first: Array, second: Array) -> Array:
    """Examples of ``first`` where chosen, else of ``second``, [B, ...]."""
    return jnp.where(jnp.expand_dims(chosen, range(1, first.ndim)), first, second)


def per_example(values: Float[Array, " B"], like: Images) -> Float[Array, "B 1 1 1"]:
    """Numbers of examples, in the rank of their images."""
    return jnp.expand_dims(values, range(1, like.ndim))
