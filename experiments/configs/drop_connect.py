"""DropConnect on MNIST, beside dropout and neither.

    python -m experiments.train --config=experiments/configs/drop_connect.py \
        --workdir=DIR

524,156 parameters, on digits that are shifted, rotated and scaled; the paper reports
0.21 % test error of five such networks that vote. How far the digits are moved, and the
steps of Adam, are ours.

``drop_connect.py:units`` drops the hidden units in place of their connections, and
``drop_connect.py:none`` nothing. ``quick`` is a much smaller network and ends within a
minute.

References:
    Wan, Zeiler, Zhang, LeCun and Fergus 2013, "Regularization of Neural Networks using
    DropConnect", section 6.1.
"""

from capsjax.config import Config
from capsjax.losses import cross_entropy
from capsjax.models.cnns import drop_connect
from experiments.configs import variants


def get_config(words: str = "") -> Config:
    """The config; ``words`` may be a preset of the network, and ``"quick"``."""
    preset, quick = variants.parse(words, tuple(drop_connect.Config.PRESETS))
    config = Config()
    config.augment.shift = 2
    config.augment.rotation = 15.0
    config.augment.scale = (0.85, 1.15)
    config.num_epochs = 100
    config.model = drop_connect.Config.preset(preset)
    config.loss = cross_entropy.Softmax()
    config.optimizer.learning_rate = 1e-3
    config.optimizer.decay_rate = 0.1
    config.optimizer.decay_steps = 20_000  # About 47 epochs.
    if quick:
        variants.quicken(config, 100)
    return config
