"""Adversarial training: on the worst images in balls around the training images.

References:
    Madry et al. 2018, "Towards Deep Learning Models Resistant to Adversarial Attacks",
    section 2.1.
"""

from typing import cast

import jax
from flax import nnx
from jaxtyping import Array, Float, Int, Key

from capsjax import models
from capsjax.attacks import Attacked, ProjectedGradient
from capsjax.attacks.balls import Norm
from capsjax.config import Config
from capsjax.models import Variables
from capsjax.training import augment


def attacked_images(
    graphdef: nnx.GraphDef,
    config: Config,
    variables: Variables,
    images: Float[Array, "B h w C"],
    labels: Int[Array, " B"],
    keys: Key[Array, " B"],
) -> Float[Array, "B h w C"]:
    """The images with the largest loss that PGD finds in balls around given ones.

    The network is attacked as it is evaluated: with its running averages, and without
    anything random.

    Args:
        graphdef: the network's structure.
        config: the run's config, of which ``adversarial`` is used.
        variables: the network's variables.
        images: augmented images in [0, 1].
        labels: their classes.
        keys: random keys, one for each example.

    Returns:
        Images in [0, 1], which are constants of any gradient.
    """
    settings = config.adversarial

    def scores(variables: Variables, images: Array) -> Array:
        seen = augment.normalized(images, config.preprocess)
        return models.apply(graphdef, variables, seen, labels, config.dtype)[0].scores

    def loss(scores: Array, labels: Array) -> Array:
        return config.loss.classification(
            scores, labels, step=variables.step, train=True
        )

    attack = ProjectedGradient(
        cast(Norm, settings.norm),
        settings.steps,
        settings.step_size,
        keeps_first=False,
    )
    starts = jax.vmap(jax.random.fold_in, (0, None))(keys, 12)
    radius = jax.numpy.float32(settings.radius)
    found = attack(Attacked(scores, loss, variables), images, labels, starts, radius)
    return jax.lax.stop_gradient(found.images)
