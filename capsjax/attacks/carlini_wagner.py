"""The attack of Carlini and Wagner: the smallest L2 change, by optimisation.

References:
    Carlini and Wagner 2017, "Towards Evaluating the Robustness of Neural Networks",
    section VI.A.
"""

import dataclasses
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array

from capsjax.attacks import balls, objectives
from capsjax.attacks.base import Found, Images, where
from capsjax.attacks.steps import Problem, Stepwise

# Pixels of 0 and 1 have no finite tanh; this is how far from them they start.
_EDGE = 1e-6


class _State(NamedTuple):
    """A search, and the nearest images so far.

    The arguments of tanh, Adam's state, c between its bounds, the images with their
    distances, and whether this search has found any, for each image.
    """

    w: Array
    adam: optax.OptState
    c: Array
    low: Array
    high: Array
    best: Array
    distance: Array
    found: Array


@dataclasses.dataclass(frozen=True)
class CarliniWagner(Stepwise):
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

    traces = False

    @property
    def count(self) -> int:
        """Steps of all searches."""
        return self.steps * self.searches

    def begin(self, problem: Problem) -> _State:
        """The first search; nothing is found but where the network already errs."""
        images = problem.images
        success = problem.attacked.success(images, problem.labels)
        ones = jnp.ones(len(images))
        start = _start(images)
        return _State(
            w=start,
            adam=self._adam.init(start),
            c=self.first * ones,
            low=0 * ones,
            high=jnp.inf * ones,
            best=images,
            distance=jnp.where(success, 0.0, jnp.inf),
            found=jnp.zeros_like(success),
        )

    def step(
        self, problem: Problem, number: Array, state: _State
    ) -> tuple[_State, Array]:
        """A step of Adam; the last one of a search chooses the next c."""
        attacked, images, labels = problem.attacked, problem.images, problem.labels

        def loss(w: Array) -> tuple[Array, tuple[Array, Array]]:
            current = (jnp.tanh(w) + 1) / 2
            logits = attacked.logits(current)
            reached = objectives.margin(logits, labels)
            reached = -reached if attacked.targeted else reached
            goal = jnp.maximum(-reached, -self.confidence)
            squares = jnp.sum(jnp.square(current - images), axis=(1, 2, 3))
            return jnp.sum(squares + state.c * goal), (current, reached)

        gradients, (current, reached) = jax.grad(loss, has_aux=True)(state.w)
        new = balls.distances(current, images, "l2")
        success = attacked.success(current, labels) & (reached >= self.confidence)
        better = success & (new < state.distance)
        # Optax raises floats to integer powers, which strict promotion refuses.
        with jax.numpy_dtype_promotion("standard"):
            updates, adam = self._adam.update(gradients, state.adam)
        state = state._replace(
            w=state.w + updates,
            adam=adam,
            best=where(better, current, state.best),
            distance=jnp.where(better, new, state.distance),
            found=state.found | success,
        )
        ends = (number + 1) % self.steps == 0
        last = number + 1 == self.count
        after = self._next_search(problem, state)
        state = jax.tree.map(
            lambda new, old: jnp.where(ends & ~last, new, old), after, state
        )
        return state, reached

    def _next_search(self, problem: Problem, state: _State) -> _State:
        low = jnp.where(state.found, state.low, state.c)
        high = jnp.where(state.found, state.c, state.high)
        bounded = jnp.isfinite(high)
        c = jnp.where(bounded, (low + jnp.where(bounded, high, 0.0)) / 2, 10 * state.c)
        start = _start(problem.images)
        return state._replace(
            w=start,
            adam=self._adam.init(start),
            c=c,
            low=low,
            high=high,
            found=jnp.zeros_like(state.found),
        )

    def finished(self, state: _State) -> Array:
        """Never: an image that was found may be found nearer."""
        del state
        return jnp.zeros((), bool)

    def result(self, problem: Problem, state: _State, trace: Array) -> Found:
        """The nearest images that the network errs on.

        The given ones where it already does; the last try where it never did.
        """
        del problem
        success = jnp.isfinite(state.distance)
        last = (jnp.tanh(state.w) + 1) / 2
        return Found(where(success, state.best, last), success, trace)

    @property
    def _adam(self) -> optax.GradientTransformation:
        return optax.adam(self.learning_rate)


def _start(images: Images) -> Array:
    """The images as arguments of tanh."""
    return jnp.arctanh(2 * jnp.clip(images, _EDGE, 1 - _EDGE) - 1)
