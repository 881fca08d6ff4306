"""One small CNN with seven kinds of pooling, to compare them at equal everything else.

    python -m experiments.train --config=experiments/configs/pooling_cnn.py \
        --workdir=DIR

The presets are ``max`` (the default), ``average``, ``mixed``, ``gated``, ``tree``,
``tree_gated`` (a tree first, then gates) and ``stride``, as in
``pooling_cnn.py:gated``: 139,818 parameters, and at most 24 more that the pooling
learns. The paper reports 0.29 % test error on MNIST for a tree and gates in a deeper
network; ours is smaller and sees rotated, scaled, sheared and shifted digits.

For CIFAR-10 add ``--config.data.name=cifar10 --config.augment.flip=true``. ``quick`` is
a much smaller network and ends within a minute.

References:
    Lee, Gallagher and Tu 2016, "Generalizing Pooling Functions in Convolutional Neural
    Networks: Mixed, Gated, and Tree".
"""

from capsjax.config import Config
from capsjax.losses import cross_entropy
from capsjax.models.cnns import pooling_cnn
from experiments.configs import variants


def get_config(words: str = "") -> Config:
    """The config; ``words`` may be a kind of pooling, and ``"quick"``."""
    preset, quick = variants.parse(words, pooling_cnn.POOLINGS)
    config = Config()
    variants.move_digits(config)
    config.num_epochs = 20
    config.checkpoint_every_steps = 500
    config.model = pooling_cnn.Config.preset(preset)
    config.loss = cross_entropy.Softmax()
    config.optimizer.decay_rate = 0.8
    config.optimizer.decay_steps = 430  # An epoch of 55,000 images.
    if quick:
        variants.quicken(config, 100)
    return config
