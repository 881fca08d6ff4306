"""The attack of Carlini and Wagner: the smallest L2 change, by optimisation.

References:
    Carlini and Wagner 2017, "Towards Evaluating the Robustness of Neural Networks",
    section VI.A.
"""

import dataclasses

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float

from capsjax.attacks import balls, objectives
from capsjax.attacks.base import Attacked, Found, Images, Keys, Labels, where

# Pixels of 0 and 1 have no finite tanh; this is how far from them they start.
_EDGE = 1e-6


@dataclasses.dataclass(frozen=True)
class CarliniWagner:
    """Minimises ``|x' - x|^2 + c f(x')`` with ``x' = (tanh w + 1) / 2``.

    f is ``max(Z_y - max_other Z, -confidence)`` of the logits Z, and for targets the
    other way round. A binary search for each image finds the smallest c that succeeds.

    Attributes:
        steps: steps of Adam for each c.
        searches: values of c that are tried.
        learning_rate: Adam's.
        first: the first c.
        confidence: the margin of logits to reach.
    """

    steps: int = 1_000
    searches: int = 9
    learning_rate: float = 0.01
    first: float = 1e-3
    confidence: float = 0.0

    @property
    def passes(self) -> int:
        """Gradients that it takes, each with a forward pass."""
        return self.steps * self.searches

    def __call__(
        self, attacked: Attacked, images: Images, labels: Labels, keys: Keys
    ) -> Found:
        """Attacks images without a bound, and returns the nearest that it finds.

        Args:
            attacked: the network.
            images: images in [0, 1].
            labels: their classes, or the targets.
            keys: not used; the attack draws nothing.

        Returns:
            The nearest images that the network errs on; the given ones where it already
            does; the last try where it never did.
        """
        del keys
        adam = optax.adam(self.learning_rate)
        inside = jnp.clip(images, _EDGE, 1 - _EDGE)
        start = jnp.arctanh(2 * inside - 1)

        def loss(w: Array, c: Float[Array, " B"]) -> tuple[Array, tuple[Array, Array]]:
            current = (jnp.tanh(w) + 1) / 2
            logits = attacked.logits(current)
            reached = objectives.margin(logits, labels)
            reached = -reached if attacked.targeted else reached
            goal = jnp.maximum(-reached, -self.confidence)
            squares = jnp.sum(jnp.square(current - images), axis=(1, 2, 3))
            return jnp.sum(squares + c * goal), (current, reached)

        def step(c, carry, _):
            w, state, best, distance, found = carry
            gradients, (current, reached) = jax.grad(loss, has_aux=True)(w, c)
            new = balls.distances(current, images, "l2")
            success = attacked.success(current, labels) & (reached >= self.confidence)
            better = success & (new < distance)
            best = where(better, current, best)
            distance = jnp.where(better, new, distance)
            # Optax raises floats to integer powers, which strict promotion refuses.
            with jax.numpy_dtype_promotion("standard"):
                updates, state = adam.update(gradients, state)
            return (w + updates, state, best, distance, found | success), None

        def search(carry, _):
            c, low, high, best, distance, _ = carry
            begin = (start, adam.init(start), best, distance, jnp.zeros_like(success))
            (w, _, best, distance, found), _ = jax.lax.scan(
                lambda carry, x: step(c, carry, x), begin, length=self.steps
            )
            low, high = jnp.where(found, low, c), jnp.where(found, c, high)
            bounded = jnp.isfinite(high)
            c = jnp.where(bounded, (low + jnp.where(bounded, high, 0.0)) / 2, 10 * c)
            return (c, low, high, best, distance, (jnp.tanh(w) + 1) / 2), None

        success = attacked.success(images, labels)
        ones = jnp.ones(len(images))
        distance = jnp.where(success, 0.0, jnp.inf)
        carry = (self.first * ones, 0 * ones, jnp.inf * ones, images, distance, images)
        carry, _ = jax.lax.scan(search, carry, length=self.searches)
        *_, best, distance, last = carry
        success = jnp.isfinite(distance)
        return Found(where(success, best, last), success, jnp.zeros((0, len(images))))
