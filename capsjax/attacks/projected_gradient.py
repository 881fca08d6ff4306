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

import jax
import jax.numpy as jnp
from jaxtyping import Array

from capsjax.attacks import balls
from capsjax.attacks.balls import Norm
from capsjax.attacks.base import Attacked, Found, Images, Keys, Labels, where


@dataclasses.dataclass(frozen=True)
class ProjectedGradient:
    """``x <- P(x + a * direction(gradient))``, P onto the ball and [0, 1].

    Attributes:
        norm: norm of the ball; the direction is the gradient's sign for ``"linf"``, the
            gradient over its length for ``"l2"``.
        steps: number of steps.
        step_size: a, as a share of the radius; 0 for 1 with one step, else
            ``2.5 / steps``, with which any point of the ball can be reached.
        random_start: starts at a random point of the ball, not at the image.
        momentum: factor of the earlier gradients in the direction; 0: none.
        keeps_first: keeps the first images of each example that the network errs on,
            and of the others those with the largest objective; if not, these of all.
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

    def __call__(
        self,
        attacked: Attacked,
        images: Images,
        labels: Labels,
        keys: Keys,
        radius: Array,
    ) -> Found:
        """Attacks images within balls of a radius.

        Args:
            attacked: the network.
            images: images in [0, 1].
            labels: their classes, or the targets.
            keys: random keys, one for each image.
            radius: radius of the balls, in units of the full range, [] float32.
        """

        def step(carry, _):
            current, momentum, best, best_values, found = carry
            look = attacked.look(current, labels)
            better = look.values > best_values
            if self.keeps_first:
                better = ~found & (look.success | better)
            best = where(better, current, best)
            best_values = jnp.where(better, look.values, best_values)
            found |= look.success
            size = jnp.mean(jnp.abs(look.gradients), axis=(1, 2, 3), keepdims=True)
            gradients = look.gradients
            if self.momentum:
                scaled = gradients / jnp.where(size > 0, size, 1.0)
                gradients = momentum = self.momentum * momentum + scaled
            moved = current + self.share * radius * balls.steepest(gradients, self.norm)
            current = balls.project(moved, images, radius, self.norm)
            return (current, momentum, best, best_values, found), look.values

        start = images
        if self.random_start:
            start = balls.random_points(images, keys, radius, self.norm)
        carry = (
            start,
            jnp.zeros_like(images),
            start,
            jnp.full(len(images), -jnp.inf),
            jnp.zeros(len(images), bool),
        )
        # The last look is at where the last step led; what it would do is not kept.
        carry, trace = jax.lax.scan(step, carry, length=self.steps + 1)
        _, _, best, _, found = carry
        return Found(best, found, trace)


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
    """Several steps with momentum, whose examples other networks err on more often."""
    return ProjectedGradient(
        norm, steps=steps, step_size=1 / steps, random_start=False, momentum=1.0
    )
