"""Residual networks of 20 or 56 layers on CIFAR-10.

    python -m experiments.train --config=experiments/configs/resnet.py \
        --workdir=DIR

ResNet-20, 269,722 parameters, with images shifted by up to 4 pixels and mirrored. The
paper reports 8.75 % test error, and 6.97 % for ``resnet.py:resnet56``, which has
853,018 parameters; its optimizer and learning rates are others than ours.

``quick`` is a much smaller network and ends within minutes.

References:
    He, Zhang, Ren and Sun 2016, "Deep Residual Learning for Image Recognition",
    section 4.2.
"""

from capsjax.config import Config
from capsjax.losses import cross_entropy
from capsjax.models.cnns import resnet
from experiments.configs import variants


def get_config(words: str = "") -> Config:
    """The config; ``words`` may be a preset's name, and ``"quick"``."""
    preset, quick = variants.parse(words, ("resnet20", "resnet56"))
    config = Config()
    config.data.name = "cifar10"
    config.augment.shift, config.augment.flip = 4, True
    config.num_epochs = (
        182  # 64,000 steps of 128 where 45,000 images train, as in the paper.
    )
    config.checkpoint_every_steps = 500
    config.model = resnet.Config.preset(preset)
    config.loss = cross_entropy.Softmax()
    config.optimizer.learning_rate = 1e-3
    config.optimizer.decay_steps = 500
    if quick:
        config.max_steps = 100
        config.model = config.model.smaller("quick")
    return config
