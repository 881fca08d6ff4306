"""Network in network on MNIST, or on CIFAR-10.

    python -m experiments.train --config=experiments/configs/nin.py --workdir=DIR

349,674 parameters; the paper reports 0.47 % test error on MNIST, without augmentation.

``nin.py:cifar10`` has 966,986 parameters; the paper reports 10.41 % test error, and
8.81 % with images that are shifted and mirrored, as here. Adam trains both, in place of
the paper's steps with momentum. ``quick`` is a much smaller network and ends within
minutes.

References:
    Lin, Chen and Yan 2014, "Network In Network", section 4.
"""

from capsjax.config import Config
from capsjax.losses import cross_entropy
from capsjax.models.cnns import nin
from experiments.configs import variants


def get_config(words: str = "") -> Config:
    """The config; ``words`` may be ``"mnist"`` or ``"cifar10"``, and ``"quick"``."""
    preset, quick = variants.parse(words, ("mnist", "cifar10"))
    config = Config()
    config.model = nin.Config.preset(preset)
    config.loss = cross_entropy.Softmax()
    config.optimizer.learning_rate = 1e-3
    config.optimizer.decay_rate = 0.1
    config.augment.shift = 0
    config.num_epochs = 60
    config.optimizer.decay_steps = 12_000  # About 30 epochs.
    if preset == "cifar10":
        config.data.name = "cifar10"
        config.preprocess.standardize = True
        config.augment.shift = 4
        config.augment.flip = True
        config.num_epochs = 200
        config.optimizer.decay_steps = 35_000  # 100 epochs.
    if quick:
        variants.quicken(config, 100)
    return config
