"""Steps along the gradient within a ball: FGSM, BIM, PGD and momentum.

References:
    Goodfellow, Shlens and Szegedy 2015, "Explaining and Harnessing Adversarial
    Examples", for the one step (FGSM).
    Kurakin, Goodfellow and Bengio 2017, "Adversarial examples in the physical world",
    for several (BIM).
    Madry et al. 2018, "Towards Deep Learning Models Resistant to Adversarial Attacks",
    for random starts (PGD).
    Dong et al. 2018, "Boosting Adversarial Attacks with Momentum" (MI-FGSM).
"""

import dataclasses
from typing import NamedTuple

import jax.numpy as jnp
from jaxtyping import Array

from capsjax.attacks import balls
from capsjax.attacks.balls import Norm
from capsjax.attacks.base import Found, where
from capsjax.attacks.steps import Problem, Stepwise


class _State(NamedTuple):
    """Where the attack is, and the best images so far with their objectives."""

    current: Array
    momentum: Array
    best: Array
    best_values: Array
    found: Array
    shown: Array


@dataclasses.dataclass(frozen=True)
class ProjectedGradient(Stepwise):
    """``x <- P(x + a * direction(gradient))``, P onto the ball and [0, 1].

    Attributes:
        norm: norm of the ball; the direction is the gradient's sign for ``"linf"``, the
            gradient over its length for ``"l2"``.
        steps: number of steps.
        step_size: a, as a share of the radius; 0 for 1 with one step, else
            ``2.5 / steps``, with which any point of the ball can be reached.
        random_start: starts at a random point of the ball, not at the image.
        momentum: factor of the earlier gradients in the direction; 0: none.
        keeps_first: whether the first images of each example that the network errs on
            are kept, and only of the others those with the largest objective.
    """

    norm: Norm = "linf"
    steps: int = 40
    step_size: float = 0.0
    random_start: bool = True
    momentum: float = 0.0
    keeps_first: bool = True

    @property
    def share(self) -> float:
        """The step size as a share of the radius."""
        return self.step_size or (1.0 if self.steps == 1 else 2.5 / self.steps)

    @property
    def passes(self) -> int:
        """Gradients that it takes, each with a forward pass."""
        return self.steps + 1

    @property
    def count(self) -> int:
        """Looks: one before each step, and one at where the last step led."""
        return self.steps + 1

    def begin(self, problem: Problem) -> _State:
        """The images, or random points about them."""
        images = problem.images
        start = images
        if self.random_start:
            start = balls.random_points(images, problem.keys, problem.radius, self.norm)
        lowest = jnp.full(len(images), -jnp.inf)
        none = jnp.zeros(len(images), bool)
        return _State(start, jnp.zeros_like(images), start, lowest, none, lowest)

    def step(
        self, problem: Problem, number: Array, state: _State
    ) -> tuple[_State, Array]:
        """Looks, keeps what is better, and moves on; the last move is not looked at."""
        del number
        current, momentum, best, best_values, found, shown = state
        look = problem.attacked.look(current, problem.labels)
        better = look.values > best_values
        if self.keeps_first:
            better = ~found & (look.success | better)
            shown = jnp.where(found, shown, look.values)
        else:
            shown = look.values
        best = where(better, current, best)
        best_values = jnp.where(better, look.values, best_values)
        found = jnp.where(better, look.success, found)
        gradients = look.gradients
        if self.momentum:
            size = jnp.mean(jnp.abs(gradients), axis=(1, 2, 3), keepdims=True)
            scaled = gradients / jnp.where(size > 0, size, 1.0)
            gradients = momentum = self.momentum * momentum + scaled
        length = self.share * problem.radius
        moved = current + length * balls.steepest(gradients, self.norm)
        current = balls.project(moved, problem.images, problem.radius, self.norm)
        return _State(current, momentum, best, best_values, found, shown), shown

    def finished(self, state: _State) -> Array:
        """Whether the network errs on all images, if the first ones are kept."""
        return jnp.all(state.found) & self.keeps_first

    def result(self, problem: Problem, state: _State, trace: Array) -> Found:
        """The best images."""
        del problem
        return Found(state.best, state.found, trace)


def fgsm(norm: Norm = "linf") -> ProjectedGradient:
    """One step of the ball's radius from the image."""
    return ProjectedGradient(norm, steps=1, random_start=False)


def bim(norm: Norm = "linf", steps: int = 40) -> ProjectedGradient:
    """Several steps from the image."""
    return ProjectedGradient(norm, steps=steps, random_start=False)


def pgd(norm: Norm = "linf", steps: int = 40) -> ProjectedGradient:
    """Several steps from a random point."""
    return ProjectedGradient(norm, steps=steps)


def mi_fgsm(norm: Norm = "linf", steps: int = 10) -> ProjectedGradient:
    """Several steps with momentum, for images on which other networks err, too.

    It keeps the images with the largest objective, not those that only just succeed.
    """
    return ProjectedGradient(
        norm,
        steps=steps,
        step_size=1 / steps,
        random_start=False,
        momentum=1.0,
        keeps_first=False,
    )
