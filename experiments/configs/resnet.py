"""Residual networks of 20 or 56 layers on CIFAR-10.

    python -m experiments.train --config=experiments/configs/resnet.py \
        --workdir=DIR

ResNet-20, 269,722 parameters, trained as in the paper: momentum and weight decay, a
rate that falls to a tenth twice, images shifted by up to 4 pixels and mirrored. The
paper reports 8.75 % test error, and 6.97 % for ``resnet.py:resnet56``, which has
853,018 parameters.

``short``, as in ``resnet.py:resnet20,short``, is the same network for 48 instead of 182
epochs, in which the rate falls as a cosine, with 2,000 instead of 5,000 images held
out: two hours on one CPU core. It was trained on images that had been stored as JPEG of
quality 75, and makes 12.5 % errors on such ones. ``quick`` is a much smaller network
and ends within minutes.

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
    preset, size = variants.parse(words, ("resnet20", "resnet56"), ("quick", "short"))
    config = Config()
    config.data.name = "cifar10"
    # The colours' means and standard deviations over CIFAR-10's training images.
    config.preprocess.channel_mean = (0.4914, 0.4822, 0.4465)
    config.preprocess.channel_std = (0.2470, 0.2435, 0.2616)
    config.augment.shift, config.augment.flip = 4, True
    config.max_steps = 64_000
    config.num_epochs = 183
    config.checkpoint_every_steps = 500
    config.model = resnet.Config.preset(preset)
    config.loss = cross_entropy.Softmax()
    config.optimizer.name = "sgd"
    config.optimizer.momentum = 0.9
    config.optimizer.weight_decay = 1e-4
    config.optimizer.learning_rate = 0.1
    config.optimizer.schedule = "steps"
    config.optimizer.decay_rate = 0.1
    config.optimizer.boundaries = (32_000, 48_000)
    if size == "short":
        config.data.validation_examples = 2_000
        config.num_epochs, config.max_steps = 48, 18_000
        config.optimizer.name = "nesterov"
        config.optimizer.weight_decay = 5e-4
        config.optimizer.schedule = "cosine"
        config.optimizer.boundaries = ()
        config.optimizer.decay_steps = config.max_steps
        config.optimizer.min_learning_rate = 0.0
        config.optimizer.warmup_steps = 375
    elif size:
        variants.quicken(config, 100)
    return config
