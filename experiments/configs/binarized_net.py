"""Binarized networks on MNIST, or on CIFAR-10, as the authors' code trains them.

    python -m experiments.train --config=experiments/configs/binarized_net.py \
        --workdir=DIR

Three dense layers of 4,096 units, 1,000 epochs; the paper reports 0.96 % test error on
MNIST. ``--config.model.binary_activations=false`` has real activations, and with
``--config.model.binary_weights=false`` nothing is binary.

``binarized_net.py:cifar10`` has six convolutions and takes 500 epochs; the paper
reports 11.40 % test error. Both need a GPU. ``quick`` is a much smaller network and
ends within minutes.

References:
    Courbariaux, Hubara, Soudry, El-Yaniv and Bengio 2016, "Binarized Neural Networks",
    section 2, and the authors' code.
"""

from capsjax.config import Config
from capsjax.losses import squared_hinge
from capsjax.models.cnns import binarized_net
from experiments.configs import variants


def get_config(words: str = "") -> Config:
    """The config; ``words`` may be ``"mnist"`` or ``"cifar10"``, and ``"quick"``."""
    preset, quick = variants.parse(words, ("mnist", "cifar10"))
    config = Config()
    config.augment.shift = 0
    config.model = binarized_net.Config.preset(preset)
    config.loss = squared_hinge.Config()
    config.batch_size, config.num_epochs = 100, 1_000
    config.optimizer.learning_rate = 3e-3
    steps_per_epoch = 550
    if preset == "cifar10":
        config.data.name = "cifar10"
        config.batch_size, config.num_epochs = 50, 500
        config.optimizer.learning_rate = 1e-3
        steps_per_epoch = 900
    # The rate falls to 3e-7 at the end.
    config.optimizer.min_learning_rate = 3e-7
    config.optimizer.decay_rate = 3e-7 / config.optimizer.learning_rate
    config.optimizer.decay_steps = config.num_epochs * steps_per_epoch
    if quick:
        variants.quicken(config, 100)
    return config
