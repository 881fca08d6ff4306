"""A column of a multi-column deep neural network, for MNIST and CIFAR-10.

    python -m experiments.train --config=experiments/configs/multi_column_dnn.py \
        --workdir=DIR

The presets:

``multi_column_dnn.py:mnist``, the default
    76,040 parameters; digits are rotated, scaled, shifted and distorted anew in each
    epoch. The paper reports 0.23 % test error for 35 columns together.
``multi_column_dnn.py:cifar10``
    1,660,710 parameters; the paper reports 11.21 % test error for eight columns.

The seven kinds of columns for MNIST have ``--config.model.digit_width`` 0, 10, 12, 14,
16, 18 and 20, five seeds each; ``experiments.ensemble`` averages the predictions of
their runs. ``quick`` is a much smaller network and ends within a minute.

References:
    Ciresan, Meier and Schmidhuber 2012, "Multi-column Deep Neural Networks for Image
    Classification".
"""

from capsjax.config import Config
from capsjax.losses import cross_entropy
from capsjax.models.cnns import multi_column_dnn
from experiments.configs import variants


def get_config(words: str = "") -> Config:
    """The config; ``words`` are a preset (``"mnist"`` by default) and maybe a size."""
    preset, quick = variants.parse(words, ("mnist", "cifar10"))
    config = Config()
    config.data.name = preset
    config.num_epochs = 100
    config.checkpoint_every_steps = 2_000
    config.model = multi_column_dnn.Config.preset(preset)
    config.loss = cross_entropy.Softmax()
    config.optimizer.decay_rate = 0.955
    config.optimizer.decay_steps = 430  # An epoch of 55,000 images.
    config.augment.rotation = 15.0 if preset == "mnist" else 5.0
    config.augment.scale = (0.85, 1.15)
    config.augment.shift = 1 if preset == "mnist" else 2
    if preset == "mnist":
        config.augment.elastic.alpha = 36.0
        config.augment.elastic.sigma = 6.0
    else:
        config.optimizer.decay_steps = 352  # An epoch of 45,000 images.
    if quick:
        variants.quicken(config, 100)
    return config
