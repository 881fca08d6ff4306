"""Helpers of config files: the words after the colon, and smaller variants."""

from collections.abc import Sequence
from typing import Any, Literal

from capsjax.config import Config
from capsjax.errors import UserError
from capsjax.losses import cross_entropy
from capsjax.models import base


def parse(
    words: str, presets: Sequence[str], sizes: Sequence[str] = ("quick",)
) -> tuple[str, Any]:
    """Splits ``"authors_code,quick"`` into the preset and the size.

    Args:
        words: the text after the colon in ``--config=FILE:WORDS``; may be empty.
        presets: the config's presets, of which the first is the default; may be empty.
        sizes: words for smaller networks and shorter runs.

    Returns:
        The preset ("" without presets) and the size ("" for the full one).

    Raises:
        UserError: an unknown word, or more than one preset or size.
    """
    given = [word for word in words.split(",") if word]
    size = [word for word in given if word in sizes]
    preset = [word for word in given if word not in sizes]
    if any(word not in presets for word in preset) or len(preset) > 1 or len(size) > 1:
        raise UserError(
            f"unknown preset {words!r}; choose {' or '.join([*presets, *sizes])}"
            + (
                f", or one of the presets and a size, as in {presets[0]},{sizes[0]}"
                if presets
                else ""
            )
        )
    default = presets[0] if presets else ""
    return preset[0] if preset else default, size[0] if size else ""


def train_as_released(config: Config) -> None:
    """300,000 steps, as the authors' released code trains on MNIST."""
    config.num_epochs = 700
    config.max_steps = 300_000
    config.checkpoint_every_steps = 200


def of_small_images(model: type[base.Config], words: str) -> Config:
    """A CNN made for ImageNet, at its sizes for CIFAR-10 or MNIST.

    Args:
        model: the network's config, with presets ``"cifar10"`` and ``"mnist"``.
        words: one of these presets, ``"cifar10"`` by default, and maybe ``"quick"``.
    """
    preset, quick = parse(words, ("cifar10", "mnist"))
    config = Config()
    config.data.name = preset
    if preset == "cifar10":
        config.augment.shift, config.augment.flip = 4, True
    config.num_epochs = 60 if preset == "cifar10" else 20
    config.checkpoint_every_steps = 500
    config.model = model.preset(preset)
    config.loss = cross_entropy.Softmax()
    config.optimizer.learning_rate = 1e-3
    config.optimizer.decay_steps = 500
    if quick:
        quicken(config, 100)
    return config


def move_digits(config: Config) -> None:
    """Rotates, scales, shears and shifts digits as much as a writer's hand does."""
    config.augment.rotation = 10.0
    config.augment.scale = (0.9, 1.1)
    config.augment.shear = 0.1
    config.augment.shift = 2


def quicken(config: Config, steps: int) -> None:
    """Makes the network much smaller, and ends the run after some steps."""
    config.max_steps = steps
    config.model = config.model.smaller("quick")


def shrink(config: Config, size: Literal["quick", "cpu"], cpu_steps: int) -> None:
    """Makes a run on MNIST's digits, or on what is made of them, smaller.

    Args:
        config: config of the run.
        size: ``"quick"``, to try things out; or ``"cpu"``, which a CPU trains well.
        cpu_steps: steps of 64 images that a ``"cpu"`` run takes. The learning rate
            falls to a tenth.
    """
    quick = size == "quick"
    config.model = config.model.smaller(size)
    config.max_steps = 100 if quick else cpu_steps
    config.optimizer.decay_steps = 10 if quick else cpu_steps // 56
    if not quick:
        config.batch_size = 64
        config.checkpoint_every_steps = 1_000
