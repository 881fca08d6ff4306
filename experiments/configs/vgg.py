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
from capsjax.losses import cross_entropy
from capsjax.models.cnns import vgg
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
    config.model = vgg.Config.preset(preset)
    config.loss = cross_entropy.Softmax()
    config.optimizer.learning_rate = 1e-3
    config.optimizer.decay_steps = 500
    if quick:
        config.max_steps = 100
        config.model = config.model.smaller("quick")
    return config
