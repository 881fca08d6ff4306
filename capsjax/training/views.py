"""Several views of each image, whose scores are averaged: mirrored, cropped, augmented.

References:
    Krizhevsky, Sutskever and Hinton 2012, "ImageNet Classification with Deep
    Convolutional Neural Networks", section 4.1, for crops and mirror images.
    Sato, Nishimura and Yokoi 2015, "APAC: Augmented PAttern Classification with Neural
    Networks", for the training's own augmentation.
"""

import dataclasses
from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, UInt8

from capsjax.config import Config
from capsjax.errors import UserError
from capsjax.losses import cross_entropy
from capsjax.training import augment, parallel

NAMES = ("one", "mirror", "crops", "augmented")


@dataclasses.dataclass(frozen=True)
class Views:
    """What a model sees of each image in evaluation.

    Attributes:
        name: ``"one"`` for the image as it is; ``"mirror"`` for it and its mirror
            image; ``"crops"`` for the four corners and the middle, mirrored too;
            ``"augmented"`` for images that are drawn as in training.
        count: number of augmented views.
    """

    name: str = "one"
    count: int = 16

    def check(self, config: Config) -> None:
        """Refuses views that a run's images do not have.

        Raises:
            UserError: there is nothing to crop or to draw, or no such name.
        """
        if self.name not in NAMES:
            raise UserError(
                f"there are no views {self.name!r}; choose {' or '.join(NAMES)}"
            )
        if self.name == "crops" and not config.preprocess.crop:
            raise UserError(
                "there are no crops of whole images; the run has config.preprocess."
                "crop=0"
            )
        if self.name == "augmented" and not augment.is_random(config):
            raise UserError("the run was trained without augmentation")
        if self.count < 1:
            raise UserError(f"there are no {self.count} views; take at least 1")

    def in_words(self) -> str:
        """The name, and the number of augmented views."""
        return f"{self.count} {self.name}" if self.name == "augmented" else self.name

    def averaged(
        self,
        scores_of: Callable[[Float[Array, "B h w C"]], Float[Array, "B J"]],
        images: UInt8[Array, "B H W C"],
        config: Config,
    ) -> Float[Array, "B J"]:
        """The mean of the scores over several views.

        Logits of a softmax are averaged as logarithms of probabilities, APAC's rule;
        other scores as they are. Augmentation is a function of ``config.seed``, the
        view and the example's place in the batch.

        Args:
            scores_of: function from images, as the model sees them, to scores.
            images: pixels 0 .. 255.
            config: the run's config.
        """

        def of_view(seen: Array) -> Array:
            scores = scores_of(seen)
            softmax = isinstance(config.loss, cross_entropy.Softmax)
            return jax.nn.log_softmax(scores) if softmax else scores

        if self.name == "augmented":
            key = jax.random.key(config.seed)
            examples = parallel.example_indices(len(images))

            def drawn(view: Array) -> Array:
                own = jax.random.fold_in(key, view)
                keys = jax.vmap(jax.random.fold_in, (None, 0))(own, examples)
                return of_view(augment.for_training(images, keys, config))

            return jnp.mean(jax.lax.map(drawn, jnp.arange(self.count)), axis=0)
        parts = [images]
        if self.name == "crops":
            parts = _crops(images, config.preprocess.crop)
        seen = [
            augment.for_evaluation(view, config)
            for part in parts
            for view in (part, part[:, :, ::-1])
        ]
        return jnp.mean(jax.lax.map(of_view, jnp.stack(seen)), axis=0)


def _crops(images: UInt8[Array, "B H W C"], side: int) -> list[Array]:
    """The patches in the four corners and in the middle."""
    H, W = images.shape[1:3]
    corners = [(row, column) for row in (0, H - side) for column in (0, W - side)]
    return [
        images[:, row : row + side, column : column + side]
        for row, column in [*corners, ((H - side) // 2, (W - side) // 2)]
    ]
