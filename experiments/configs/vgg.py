"""VGG-16 with a quarter of its channels on CIFAR-10, or its first stages on MNIST.

    python -m experiments.train --config=experiments/configs/vgg.py \
        --workdir=DIR

Thirteen 3x3 convolutions with batch normalisation and one dense layer, 923,130
parameters. There is no published number for this size; the whole network has, in
torchvision's training, 28.41 % error on ImageNet (9.62 % top-5, one crop).

``vgg.py:mnist`` has 114,778 parameters. ``quick`` is a much smaller network and ends
within minutes.

References:
    Simonyan and Zisserman 2015, "Very Deep Convolutional Networks for Large-Scale Image
    Recognition", section 2.
"""

from capsjax.config import Config
from capsjax.models.cnns import vgg
from experiments.configs import variants


def get_config(words: str = "") -> Config:
    """The config; ``words`` may be ``"cifar10"`` or ``"mnist"``, and ``"quick"``."""
    return variants.of_small_images(vgg.Config, words)
