"""Batch-normalised maxout network in network on MNIST, or on CIFAR-10.

    python -m experiments.train --config=experiments/configs/maxout_nin.py --workdir=DIR

510,724 parameters; the paper reports 0.24 % test error on MNIST, without augmentation.
The paper's sizes for MNIST are not known here: they are those of network in network.

``maxout_nin.py:cifar10`` is the authors' network, with 1,609,508 parameters; the paper
reports 6.75 % test error with augmentation, and its authors' code 8.13 % without. Adam
trains both, in place of steps with momentum. ``quick`` is a much smaller network and
ends within minutes.

References:
    Chang and Chen 2015, "Batch-normalized Maxout Network in Network", section 4.
"""

from capsjax.config import Config
from capsjax.models.cnns import maxout_nin
from experiments.configs import nin, variants


def get_config(words: str = "") -> Config:
    """The config; ``words`` may be ``"mnist"`` or ``"cifar10"``, and ``"quick"``."""
    preset, quick = variants.parse(words, ("mnist", "cifar10"))
    config = nin.get_config(preset)
    config.model = maxout_nin.Config.preset(preset)
    if quick:
        variants.quicken(config, 100)
    return config
