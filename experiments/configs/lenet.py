"""LeNet-5 on MNIST.

    python -m experiments.train --config=experiments/configs/lenet.py --workdir=DIR

60,000 parameters, 20 epochs; the paper reports 0.95 % test error without distorted
images. Here Adam trains it, on batches of 100, with a rate that falls by a fifth with
every epoch, in place of the paper's steps by single images and second derivatives.

``lenet.py:dense`` is the form of later textbooks, in which all maps are connected and a
dense layer gives the scores: 61,706 parameters. ``quick`` is a much smaller network and
ends within a minute.

References:
    LeCun, Bottou, Bengio and Haffner 1998, "Gradient-Based Learning Applied to Document
    Recognition", section III.
"""

from capsjax.config import Config
from capsjax.losses import cross_entropy
from capsjax.models.cnns import lenet
from experiments.configs import variants


def get_config(words: str = "") -> Config:
    """The config; ``words`` may be ``"paper"`` or ``"dense"``, and ``"quick"``."""
    preset, quick = variants.parse(words, ("paper", "dense"))
    config = Config()
    config.augment.shift = 0
    config.batch_size = 100
    config.num_epochs = 20
    config.model = lenet.Config.preset(preset)
    config.loss = cross_entropy.Softmax()
    config.optimizer.learning_rate = 1e-3
    config.optimizer.decay_rate = 0.8
    config.optimizer.decay_steps = 550  # An epoch of 55,000 images.
    if quick:
        variants.quicken(config, 100)
    return config
