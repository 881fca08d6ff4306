"""Random noise, the floor below every attack: the best of many draws in the ball."""

import dataclasses

import jax
import jax.numpy as jnp
from jaxtyping import Array

from capsjax.attacks import balls
from capsjax.attacks.balls import Norm
from capsjax.attacks.base import Found
from capsjax.attacks.best import Best
from capsjax.attacks.steps import Problem, Stepwise


@dataclasses.dataclass(frozen=True)
class Noise(Stepwise):
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

    @property
    def count(self) -> int:
        """The draws."""
        return self.draws

    def begin(self, problem: Problem) -> Best:
        """The images, on which nothing is known."""
        images = problem.images
        return Best(
            images,
            jnp.full(len(images), -jnp.inf),
            jnp.zeros(len(images), bool),
        )

    def step(self, problem: Problem, number: Array, state: Best) -> tuple[Best, Array]:
        """Draws once for each image."""
        own = jax.vmap(jax.random.fold_in, (0, None))(problem.keys, number)
        drawn = balls.random_points(problem.images, own, problem.radius, self.norm)
        return state.tried(problem, drawn)

    def finished(self, state: Best) -> Array:
        """Whether the network errs on all images."""
        return jnp.all(state.success)

    def result(self, problem: Problem, state: Best, trace: Array) -> Found:
        """The best draws."""
        del problem
        return Found(state.images, state.success, trace)
