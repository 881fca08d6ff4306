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
from capsjax.losses import cross_entropy
from capsjax.models.cnns import alexnet
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
    config.model = alexnet.Config.preset(preset)
    config.loss = cross_entropy.Softmax()
    config.optimizer.learning_rate = 1e-3
    config.optimizer.decay_steps = 500
    if quick:
        config.max_steps = 100
        config.model = config.model.smaller("quick")
    return config
