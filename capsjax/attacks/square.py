"""The square attack, which sees scores alone: random squares, kept where they help.

References:
    Andriushchenko, Croce, Flammarion and Hein 2020, "Square Attack: a query-efficient
    black-box adversarial attack via random search", section 3, for the L-infinity ball.
"""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from capsjax.attacks import balls
from capsjax.attacks.base import Found
from capsjax.attacks.best import Best
from capsjax.attacks.steps import Problem, Stepwise

# Queries out of 10,000 after which the squares become smaller, and how much.
_HALVINGS = (10, 50, 200, 500, 1_000, 2_000, 4_000, 6_000, 8_000)


@dataclasses.dataclass(frozen=True)
class Square(Stepwise):
    """Random search in an L-infinity ball, without gradients.

    Attributes:
        queries: forward passes.
        area: share of the image that the first squares cover.
    """

    queries: int = 1_000
    area: float = 0.8

    @property
    def passes(self) -> int:
        """Forward passes."""
        return self.queries

    def sides(self, height: int, width: int) -> np.ndarray:
        """Side in pixels of the square of each query, int32 [queries - 1]."""
        numbers = np.arange(1, self.queries) * 10_000 // self.queries
        halvings = np.searchsorted(_HALVINGS, numbers, side="right")
        sides = np.sqrt(self.area * 0.5**halvings * height * width)
        return np.clip(np.round(sides), 1, min(height, width)).astype(np.int32)

    @property
    def count(self) -> int:
        """The squares; the stripes before them are a query, too."""
        return self.queries - 1

    def begin(self, problem: Problem) -> Best:
        """Vertical stripes."""
        _, W, C = problem.images.shape[1:]

        def stripes(image: Array, key: Array) -> Array:
            return image + problem.radius * _signs(key, (1, W, C))

        start = jax.vmap(stripes)(problem.images, problem.keys)
        start = balls.project(start, problem.images, problem.radius, "linf")
        return Best(start, *problem.attacked.judge(start, problem.labels))

    def step(self, problem: Problem, number: Array, state: Best) -> tuple[Best, Array]:
        """A square for each image, kept where the objective rises."""
        H, W, C = problem.images.shape[1:]
        side = jnp.asarray(self.sides(H, W))[number]

        def changed(image: Array, current: Array, key: Array) -> Array:
            places, colors = jax.random.split(key)
            limits = jnp.array([H, W]) - side + 1
            row, column = jax.random.randint(places, (2,), 0, limits)
            rows, columns = jnp.arange(H), jnp.arange(W)
            in_rows = (rows >= row) & (rows < row + side)
            in_columns = (columns >= column) & (columns < column + side)
            inside = in_rows[:, None, None] & in_columns[None, :, None]
            color = problem.radius * _signs(colors, (C,))
            return jnp.where(inside, image + color[None, None], current)

        own = jax.vmap(jax.random.fold_in, (0, None))(problem.keys, number + 1)
        moved = jax.vmap(changed)(problem.images, state.images, own)
        moved = balls.project(moved, problem.images, problem.radius, "linf")
        best, _ = state.tried(problem, moved)
        return best, state.values

    def finished(self, state: Best) -> Array:
        """Whether the network errs on all images."""
        return jnp.all(state.success)

    def result(self, problem: Problem, state: Best, trace: Array) -> Found:
        """Where the squares have led."""
        del problem
        return Found(state.images, state.success, trace)


def _signs(key: Array, shape: tuple[int, ...]) -> Array:
    return 2.0 * jax.random.bernoulli(key, shape=shape).astype(jnp.float32) - 1
