"""DeepFool: the nearest boundary of the network as if it were linear, again and again.

References:
    Moosavi-Dezfooli, Fawzi and Frossard 2016, "DeepFool: a simple and accurate method
    to fool deep neural networks", algorithm 2.
"""

import dataclasses
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array

from capsjax.attacks.base import Found, Images, per_example, where
from capsjax.attacks.steps import Problem, Stepwise

# A squared gradient this small is none: the network is flat there.
_FLAT = 1e-30

# Added to the length of each step, so that steps do not vanish before a boundary that
# clipping to [0, 1] has moved away.
_LEAST_STEP = 1e-4


class _State(NamedTuple):
    """Candidate classes [B, K], the change, the images, whether the network errs."""

    candidates: Array
    change: Array
    current: Array
    success: Array


@dataclasses.dataclass(frozen=True)
class DeepFool(Stepwise):
    """Steps to the nearest linearised boundary until the network errs, L2.

    Attributes:
        steps: most steps.
        overshoot: share of the change that is added, to cross the boundary.
        classes: nearest classes in the order of the scores that are looked at; each
            costs a backward pass for each step.
    """

    steps: int = 50
    overshoot: float = 0.02
    classes: int = 10

    @property
    def passes(self) -> int:
        """Gradients that it takes at most, each with a forward pass."""
        return self.steps * self.classes

    traces = False

    @property
    def count(self) -> int:
        """The most steps."""
        return self.steps

    def begin(self, problem: Problem) -> _State:
        """The images, and the candidate classes.

        Raises:
            ValueError: the attack is to be targeted.
        """
        attacked, images, labels = problem.attacked, problem.images, problem.labels
        if attacked.targeted:
            raise ValueError("DeepFool takes the nearest class, and has no targets")
        first = attacked.logits(images)
        own = jax.nn.one_hot(labels, first.shape[1], dtype=bool)
        others = jnp.where(own, -jnp.inf, first)
        count = min(self.classes, first.shape[1]) - 1
        _, candidates = jax.lax.top_k(others, max(count, 1))
        success = attacked.success(images, labels)
        return _State(candidates, jnp.zeros_like(images), images, success)

    def step(
        self, problem: Problem, number: Array, state: _State
    ) -> tuple[_State, Array]:
        """Moves to the nearest boundary of the network as if it were linear."""
        del number
        images, labels = problem.images, problem.labels

        def differences(images: Images) -> Array:
            """Logits of the candidates less that of the label, [B, K]."""
            logits = problem.attacked.logits(images)
            chosen = jnp.take_along_axis(logits, state.candidates, axis=1)
            return chosen - jnp.take_along_axis(logits, labels[:, None], axis=1)

        values, pull = jax.vjp(differences, state.current)
        # One-hot rows pull back the gradient of each candidate's difference.
        rows = jnp.eye(values.shape[1], dtype=values.dtype)
        (gradients,) = jax.vmap(lambda row: pull(jnp.broadcast_to(row, values.shape)))(
            rows
        )
        squares = jnp.sum(jnp.square(gradients), axis=(2, 3, 4)).T
        flat = squares < _FLAT
        sizes = jnp.abs(values) / jnp.sqrt(jnp.where(flat, 1.0, squares))
        nearest = jnp.argmin(jnp.where(flat, jnp.inf, sizes), axis=1)[:, None]

        def of_nearest(x: Array) -> Array:
            return jnp.take_along_axis(x, nearest, axis=1)[:, 0]

        index = nearest.T[:, :, None, None, None]
        direction = jnp.take_along_axis(gradients, index, axis=0)[0]
        flat = of_nearest(flat)
        norm = jnp.sqrt(jnp.where(flat, 1.0, of_nearest(squares)))
        length = jnp.where(flat, 0.0, of_nearest(sizes) + _LEAST_STEP)
        factor = length / norm
        change = state.change + per_example(factor, images) * direction
        moved = jnp.clip(images + (1 + self.overshoot) * change, 0.0, 1.0)
        current = where(state.success, state.current, moved)
        success = state.success | problem.attacked.success(current, labels)
        state = _State(state.candidates, change, current, success)
        return state, jnp.max(values, axis=1)

    def finished(self, state: _State) -> Array:
        """Whether the network errs on all images."""
        return jnp.all(state.success)

    def result(self, problem: Problem, state: _State, trace: Array) -> Found:
        """The first images on the way that the network errs on.

        The given ones where it already does; the last where it never did.
        """
        del problem
        return Found(state.current, state.success, trace)
