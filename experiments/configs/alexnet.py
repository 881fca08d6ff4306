"""AlexNet for small images, on CIFAR-10 or MNIST.

    python -m experiments.train --config=experiments/configs/alexnet.py \
        --workdir=DIR

The paper's five convolutions, two groups and response normalisation with 5x5 kernels
and 64 channels, 427,466 parameters. The paper reports 11 % test error on CIFAR-10 for a
network of four layers, 13 % without the normalisation; this one's size is ours.

``alexnet.py:mnist`` has 85,322 parameters. ``quick`` is a much smaller network and
ends within minutes.

References:
    Krizhevsky, Sutskever and Hinton 2012, "ImageNet Classification with Deep
    Convolutional Neural Networks", section 3.3.
"""

from capsjax.config import Config
from capsjax.models.cnns import alexnet
from experiments.configs import variants


def get_config(words: str = "") -> Config:
    """The config; ``words`` may be ``"cifar10"`` or ``"mnist"``, and ``"quick"``."""
    return variants.of_small_images(alexnet.Config, words)
