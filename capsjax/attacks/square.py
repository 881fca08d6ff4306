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
from capsjax.attacks.base import Attacked, Found, Images, Keys, Labels, where

# Queries out of 10,000 after which the squares become smaller, and how much.
_HALVINGS = (10, 50, 200, 500, 1_000, 2_000, 4_000, 6_000, 8_000)


@dataclasses.dataclass(frozen=True)
class Square:
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

    def __call__(
        self,
        attacked: Attacked,
        images: Images,
        labels: Labels,
        keys: Keys,
        radius: Array,
    ) -> Found:
        """Attacks images within L-infinity balls of a radius.

        Args:
            attacked: the network, of which the objective and the scores are asked.
            images: images in [0, 1].
            labels: their classes, or the targets.
            keys: random keys, one for each image.
            radius: radius of the balls, in units of the full range, [] float32.
        """
        H, W, C = images.shape[1:]

        def signs(key: Array, shape: tuple[int, ...]) -> Array:
            return 2.0 * jax.random.bernoulli(key, shape=shape).astype(jnp.float32) - 1

        def changed(image: Array, current: Array, key: Array, side: Array) -> Array:
            places, colors = jax.random.split(key)
            limits = jnp.array([H, W]) - side + 1
            row, column = jax.random.randint(places, (2,), 0, limits)
            rows, columns = jnp.arange(H), jnp.arange(W)
            in_rows = (rows >= row) & (rows < row + side)
            in_columns = (columns >= column) & (columns < column + side)
            inside = in_rows[:, None, None] & in_columns[None, :, None]
            return jnp.where(
                inside, image + radius * signs(colors, (C,))[None, None], current
            )

        def query(carry, numbers):
            current, values, success = carry
            number, side = numbers
            own = jax.vmap(jax.random.fold_in, (0, None))(keys, number)
            moved = jax.vmap(changed, (0, 0, 0, None))(images, current, own, side)
            moved = balls.project(moved, images, radius, "linf")
            new, hit = attacked.judge(moved, labels)
            better = ~success & (hit | (new > values))
            carry = (
                where(better, moved, current),
                jnp.where(better, new, values),
                success | hit,
            )
            return carry, values

        def stripes(image: Array, key: Array) -> Array:
            return image + radius * signs(key, (1, W, C))

        start = jax.vmap(stripes)(images, keys)
        start = balls.project(start, images, radius, "linf")
        begin = (start, *attacked.judge(start, labels))
        sides = self.sides(H, W)
        numbers = (jnp.arange(1, self.queries), jnp.asarray(sides))
        (current, _, success), trace = jax.lax.scan(query, begin, numbers)
        return Found(current, success, trace)
