"""Changing a few pixels to any colour: by differential evolution, or trying them all.

References:
    Su, Vargas and Sakurai 2019, "One Pixel Attack for Fooling Deep Neural Networks",
    section 3.
"""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from capsjax.attacks.base import Attacked, Found, Images, Keys, Labels
from capsjax.errors import NotApplicableError

_Candidates = tuple[Float[Array, "P n k"], Float[Array, " P"], Bool[Array, " P"]]
"""Candidates of an image, their objectives, and whether the network errs on each."""


@dataclasses.dataclass(frozen=True)
class FewPixels:
    """Differential evolution of pixels and their colours, as in the paper.

    A candidate is a row, a column and a colour for each pixel. A child is
    ``a + factor * (b - c)`` of three candidates, without crossover, and replaces its
    parent if the objective is larger. The search ends with the first success.

    Attributes:
        pixels: pixels that are changed.
        population: number of candidates.
        generations: most generations.
        factor: weight of the difference.
    """

    pixels: int = 1
    population: int = 400
    generations: int = 100
    factor: float = 0.5

    @property
    def passes(self) -> int:
        """Forward passes that it takes at most."""
        return self.population * (self.generations + 1)

    def __call__(
        self, attacked: Attacked, images: Images, labels: Labels, keys: Keys
    ) -> Found:
        """Attacks images one after another.

        Args:
            attacked: the network, of which the objective and the scores are asked.
            images: images in [0, 1].
            labels: their classes, or the targets.
            keys: random keys, one for each image.

        Returns:
            Images with the best candidate's pixels; the given ones where the network
            already errs.
        """
        return _of_each(self._of_image, attacked, images, labels, keys)

    def _of_image(
        self, attacked: Attacked, image: Array, label: Array, key: Array
    ) -> tuple[Array, Array]:
        state = _evolve(self, attacked, image, label, key, None, jnp.int32(0))
        for number in range(self.generations):
            if jnp.any(state[2]):
                break
            state = _evolve(self, attacked, image, label, key, state, jnp.int32(number))
        return _chosen(image, *state)

    def generation(
        self,
        attacked: Attacked,
        image: Array,
        label: Array,
        key: Array,
        state: _Candidates | None,
        number: Array,
    ) -> _Candidates:
        """The next generation of an image's candidates; of None the first."""

        def judge(candidates: Array) -> tuple[Array, Array]:
            changed = jax.vmap(lambda one: painted(image, one))(candidates)
            return _judged(attacked, changed, label)

        begin, own = jax.random.split(key)
        if state is None:
            candidates = self._first(begin, image.shape)
            return candidates, *judge(candidates)
        candidates, values, success = state
        drawn = jax.random.fold_in(own, number)
        children = self._children(candidates, drawn, image.shape)
        new, hit = judge(children)
        better = hit | (new > values)
        candidates = jnp.where(better[:, None, None], children, candidates)
        return candidates, jnp.where(better, new, values), success | hit

    def _first(self, key: Array, shape: tuple[int, ...]) -> Float[Array, "P n k"]:
        """Places drawn evenly, and colours from a normal distribution about grey."""
        H, W, C = shape
        places, colors = jax.random.split(key)
        size = (self.population, self.pixels)
        highest = jnp.array([[[H, W]]], jnp.float32)
        place = highest * jax.random.uniform(places, (*size, 2))
        color = (128 + 127 * jax.random.normal(colors, (*size, C))) / 255
        return _within(jnp.concatenate([place, color], axis=-1), shape)

    def _children(
        self, candidates: Float[Array, "P n k"], key: Array, shape: tuple[int, ...]
    ) -> Float[Array, "P n k"]:
        """One child for each candidate, of three others that differ."""
        P = self.population
        steps = jax.random.randint(key, (3, P), 0, jnp.array([[P], [P - 1], [P - 2]]))
        a, b, c = steps
        # Draws without repetition: each skips the places that are taken.
        b = jnp.where(b >= a, b + 1, b)
        low, high = jnp.minimum(a, b), jnp.maximum(a, b)
        c = jnp.where(c >= low, c + 1, c)
        c = jnp.where(c >= high, c + 1, c)
        children = candidates[a] + self.factor * (candidates[b] - candidates[c])
        return _within(children, shape)


@dataclasses.dataclass(frozen=True)
class EveryPixel:
    """Tries each pixel with each of some values: the exact optimum over those.

    For images of one channel.

    Attributes:
        values: values in [0, 1].
    """

    values: tuple[float, ...] = tuple(number / 16 for number in range(17))

    @property
    def passes(self) -> int:
        """Forward passes for each pixel of the image."""
        return len(self.values)

    def __call__(
        self, attacked: Attacked, images: Images, labels: Labels, keys: Keys
    ) -> Found:
        """Attacks images one after another; see `FewPixels`.

        Raises:
            NotApplicableError: the images have several channels.
        """
        C = images.shape[3]
        if C != 1:
            raise NotApplicableError(
                f"all values of a pixel are tried on images of one channel, not of {C}"
            )
        return _of_each(self._of_image, attacked, images, labels, keys)

    def _of_image(
        self, attacked: Attacked, image: Array, label: Array, key: Array
    ) -> tuple[Array, Array]:
        del key
        tried = [
            _with_value(attacked, image, label, jnp.float32(value))
            for value in self.values
        ]
        candidates, values, success = map(jnp.concatenate, zip(*tried, strict=True))
        return _chosen(image, candidates, values, success)


def painted(
    image: Float[Array, "H W C"], candidate: Float[Array, "n k"]
) -> Float[Array, "H W C"]:
    """An image with some pixels changed.

    Args:
        image: the image.
        candidate: row, column and C colours of each pixel; later ones cover earlier.
    """
    for pixel in candidate:
        row, column = jnp.floor(pixel[:2]).astype(jnp.int32)
        image = image.at[row, column].set(pixel[2:])
    return image


def _within(
    candidates: Float[Array, "P n k"], shape: tuple[int, ...]
) -> Float[Array, "P n k"]:
    """Candidates whose places are in the image, and colours in [0, 1]."""
    H, W, C = shape
    highest = jnp.array([H - 0.5, W - 0.5, *[1.0] * C], jnp.float32)
    return jnp.clip(
        candidates, jnp.zeros_like(highest)[None, None], highest[None, None]
    )


def _judged(
    attacked: Attacked, images: Images, label: Int[Array, ""]
) -> tuple[Array, Array]:
    return attacked.judge(images, jnp.broadcast_to(label, len(images)))


def _best(values: Float[Array, " P"], success: Bool[Array, " P"]) -> Int[Array, ""]:
    """The successful candidate, if there is any, with the largest value."""
    among = jnp.where(success | ~jnp.any(success), values, -jnp.inf)
    return jnp.argmax(among)


def _of_each(
    of_image: Callable[[Attacked, Array, Array, Array], tuple[Array, Array]],
    attacked: Attacked,
    images: Images,
    labels: Labels,
    keys: Keys,
) -> Found:
    """Attacks image after image; those on which the network errs stay as they are."""
    found, success = [*images], [*_errs(attacked, images, labels)]
    for place, (image, label, key) in enumerate(zip(images, labels, keys, strict=True)):
        if not success[place]:
            found[place], success[place] = of_image(attacked, image, label, key)
    return Found(jnp.stack(found), jnp.stack(success), jnp.zeros((0, len(images))))


@jax.jit
def _errs(attacked: Attacked, images: Images, labels: Labels) -> Array:
    return attacked.success(images, labels)


@functools.partial(jax.jit, static_argnums=0)
def _evolve(attack: FewPixels, *arguments: Any) -> _Candidates:
    return attack.generation(*arguments)


@jax.jit
def _with_value(
    attacked: Attacked, image: Array, label: Array, value: Array
) -> _Candidates:
    """Each pixel with a value, and what the network makes of it."""
    H, W, _ = image.shape
    rows, columns = (x.ravel() for x in jnp.mgrid[:H, :W].astype(jnp.float32))
    candidates = jnp.stack([rows, columns, jnp.full_like(rows, value)], 1)[:, None]
    changed = jax.vmap(lambda one: painted(image, one))(candidates)
    return candidates, *_judged(attacked, changed, label)


@jax.jit
def _chosen(
    image: Array, candidates: Array, values: Array, success: Array
) -> tuple[Array, Array]:
    """The image with the best candidate's pixels, and whether the network errs."""
    best = _best(values, success)
    return painted(image, candidates[best]), success[best]
