"""Efficient-CapsNet: CapsNet's tasks with a fiftieth of its parameters.

    python -m experiments.train --config=experiments/configs/efficient_capsnet.py \
        --workdir=DIR

The presets, with the number of parameters without the decoder:

``efficient_capsnet.py:mnist``, the default
    161,824 parameters; the paper reports 0.26 % test error, mean of single networks,
    after 150 epochs with batches of 16 on images that are rotated, shifted, made
    narrower and partly erased.
``efficient_capsnet.py:multimnist``
    154,656 parameters, on pairs of overlapping digits.
``efficient_capsnet.py:smallnorb``
    151,664 parameters. Here whole images have 48x48 pixels; the paper cuts patches of
    that size from 64x64 pixels, and decodes them.

``short``, as in ``efficient_capsnet.py:mnist,short``, trains the same network for 12
epochs with a larger learning rate that decays faster, 46 minutes on one CPU core.
``quick`` is a much smaller network for trying things out.

References:
    Mazzia, Salvetti and Chiaberge 2021, "Efficient-CapsNet: capsule network with
    self-attention routing"; github.com/EscVM/Efficient-CapsNet for the settings.
"""

from capsjax.config import Config
from capsjax.losses import margin
from capsjax.models.capsules import efficient_capsnet
from experiments.configs import variants

SIZES = ("quick", "short")


def get_config(words: str = "") -> Config:
    """The config; ``words`` are a preset (``"mnist"`` by default) and maybe a size."""
    preset, size = variants.parse(words, ("mnist", "multimnist", "smallnorb"), SIZES)
    config = Config()
    config.data.name = preset
    config.augment.shift = 0
    config.batch_size = 16
    config.num_epochs = 150
    config.log_every_steps = 100
    config.checkpoint_every_steps = 1_000
    config.model = efficient_capsnet.Config.preset(preset)
    config.loss = margin.Config.preset("paper")
    config.optimizer.learning_rate = 5e-4
    config.optimizer.decay_rate = 0.97
    config.optimizer.decay_steps = 3_437  # An epoch of 55,000 images.
    config.optimizer.min_learning_rate = 5e-5
    if preset == "mnist":
        config.augment.handwriting = True
    elif preset == "multimnist":
        config.data.canvas = 36
        config.data.shift = 6
    else:
        config.data.validation_examples = 2_430
        config.preprocess.standardize = True
        config.augment.brightness = 63 / 255
        config.augment.contrast = (0.5, 1.5)
        config.optimizer.decay_steps = 1_366
    if size == "short":
        config.num_epochs = 12
        config.optimizer.learning_rate = 1e-3
        config.optimizer.decay_rate = 0.65
        config.optimizer.min_learning_rate = 5e-6
    elif size:
        config.model = config.model.smaller("quick")
        config.max_steps = 100
        config.optimizer.decay_steps = 10
    return config
