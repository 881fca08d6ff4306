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
from capsjax.models.cnns import googlenet
from experiments.configs import variants


def get_config(words: str = "") -> Config:
    """The config; ``words`` may be ``"cifar10"`` or ``"mnist"``, and ``"quick"``."""
    return variants.of_small_images(googlenet.Config, words)
