"""The recurrent CNN, for MNIST and CIFAR-10.

    python -m experiments.train --config=experiments/configs/recurrent_cnn.py \
        --workdir=DIR

The presets:

``recurrent_cnn.py:mnist``, the default
    75,018 parameters (32 channels). The paper reports 0.31 % test error, with 96
    channels, without augmentation; here digits are rotated, scaled, sheared and
    shifted.
``recurrent_cnn.py:cifar10``
    672,202 parameters (96 channels), mirrored and shifted images. The paper reports
    7.09 % test error with ``--config.model.channels=160``.

``short``, as in ``recurrent_cnn.py:mnist,short``, is the same network with batch
normalisation instead of the normalisation over channels, and without dropout: 10 epochs
in which the rate falls to zero, 12 minutes on one CPU core. ``quick`` is a much smaller
network for trying things out.

References:
    Liang and Hu 2015, "Recurrent Convolutional Neural Network for Object Recognition".
"""

from capsjax.config import Config
from capsjax.losses import cross_entropy
from capsjax.models.cnns import recurrent_cnn
from experiments.configs import variants

SIZES = ("quick", "short")


def get_config(words: str = "") -> Config:
    """The config; ``words`` are a preset (``"mnist"`` by default) and maybe a size."""
    preset, size = variants.parse(words, ("mnist", "cifar10"), SIZES)
    config = Config()
    config.data.name = preset
    config.num_epochs = 60
    config.checkpoint_every_steps = 200
    config.model = recurrent_cnn.Config.preset(preset)
    config.loss = cross_entropy.Softmax()
    config.optimizer.decay_rate = 0.92
    config.optimizer.decay_steps = 430  # An epoch of 55,000 images.
    if preset == "mnist":
        variants.move_digits(config)
    else:
        config.num_epochs = 150
        config.augment.flip = True
        config.augment.shift = 3
        config.optimizer.decay_rate = 0.97
        config.optimizer.decay_steps = 352  # An epoch of 45,000 images.
    if size == "short":
        config.model = recurrent_cnn.Config.preset(f"{preset}_short")
        config.num_epochs = 10
        config.optimizer.name = "adamw"
        config.optimizer.learning_rate = 4e-3
        config.optimizer.weight_decay = 0.01
        config.optimizer.schedule = "cosine"
        config.optimizer.warmup_steps = 200
        config.optimizer.decay_steps *= config.num_epochs
        config.optimizer.min_learning_rate = 0.0
    elif size:
        variants.quicken(config, 100)
    return config
