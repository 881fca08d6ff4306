"""Random noise, the floor below every attack: the best of many draws in the ball."""

import dataclasses

import jax
import jax.numpy as jnp
from jaxtyping import Array

from capsjax.attacks import balls
from capsjax.attacks.balls import Norm
from capsjax.attacks.base import Attacked, Found, Images, Keys, Labels, where


@dataclasses.dataclass(frozen=True)
class Noise:
    """The draw with the largest objective, or the first that the network errs on.

    Attributes:
        norm: norm of the ball.
        draws: number of draws.
    """

    norm: Norm = "linf"
    draws: int = 100

    @property
    def passes(self) -> int:
        """Forward passes."""
        return self.draws

    def __call__(
        self,
        attacked: Attacked,
        images: Images,
        labels: Labels,
        keys: Keys,
        radius: Array,
    ) -> Found:
        """Draws in balls of a radius; the arguments are those of the other attacks."""

        def draw(carry, number):
            best, values, success = carry
            own = jax.vmap(jax.random.fold_in, (0, None))(keys, number)
            drawn = balls.random_points(images, own, radius, self.norm)
            new, hit = attacked.judge(drawn, labels)
            better = ~success & (hit | (new > values))
            carry = (
                where(better, drawn, best),
                jnp.where(better, new, values),
                success | hit,
            )
            return carry, new

        begin = (
            images,
            jnp.full(len(images), -jnp.inf),
            jnp.zeros(len(images), bool),
        )
        (best, _, success), trace = jax.lax.scan(draw, begin, jnp.arange(self.draws))
        return Found(best, success, trace)
