"""Inception modules on CIFAR-10 or MNIST: a small GoogLeNet.

    python -m experiments.train --config=experiments/configs/googlenet.py \
        --workdir=DIR

A 3x3 convolution and the modules 3a, 3b, 4a and 4e with half of their channels and
batch normalisation, without auxiliary heads: 451,626 parameters. There is no published
number for this size; the paper reports 6.67 % error (top-5) on ImageNet, by 7 whole
networks and 144 crops.

``googlenet.py:mnist`` has a quarter of the channels and 114,506 parameters. ``quick``
is a much smaller network and ends within minutes.

References:
    Szegedy et al. 2015, "Going Deeper with Convolutions", table 1.
"""

from capsjax.config import Config
from capsjax.losses import cross_entropy
from capsjax.models.cnns import googlenet
from experiments.configs import variants


def get_config(words: str = "") -> Config:
    """The config; ``words`` may be ``"cifar10"`` or ``"mnist"``, and ``"quick"``."""
    preset, quick = variants.parse(words, ("cifar10", "mnist"))
    config = Config()
    config.data.name = preset
    if preset == "cifar10":
        config.augment.shift, config.augment.flip = 4, True
    config.num_epochs = 60 if preset == "cifar10" else 20
    config.checkpoint_every_steps = 500
    config.model = googlenet.Config.preset(preset)
    config.loss = cross_entropy.Softmax()
    config.optimizer.learning_rate = 1e-3
    config.optimizer.decay_steps = 500
    if quick:
        config.max_steps = 100
        config.model = config.model.smaller("quick")
    return config
