"""CIFAR-10: the CapsNet of the paper's section 7, one model of its ensemble of seven.

24x24 patches, 64 types of primary capsules, routing with a "none of the above" choice,
no decoder; the rest as the code that the authors released: SAME padding (12x12x64 =
9,216 primary capsules, 22,476,448 parameters), random crops, flips, brightness and
contrast, standardised images, the central patch at test time. Needs the data set, which
``python -m experiments.prepare_data --dataset=cifar10`` makes.

    python -m experiments.train --config=experiments/configs/cifar10.py --workdir=DIR

The paper reports 10.6 % test error for the seven models together; single models of
public re-implementations reach 27 to 35 %. The released code takes 600,000 steps: that
is for GPUs. ``cifar10.py:quick`` is a much smaller network for trying things out.

References:
    Sabour, Frosst and Hinton 2017, section 7.
"""

from capsjax.config import Config
from capsjax.losses import margin
from capsjax.models.capsules import capsnet
from experiments.configs import variants


def get_config(words: str = "") -> Config:
    """The config; ``words`` may be ``"quick"``."""
    _, quick = variants.parse(words, presets=())
    config = Config()
    config.data.name = "cifar10"
    config.num_epochs = 1_800
    config.max_steps = 600_000
    config.checkpoint_every_steps = 200
    config.preprocess.crop = 24
    config.preprocess.standardize = True
    config.augment.shift = 0
    config.augment.flip = True
    config.augment.brightness = 63 / 255
    config.augment.contrast = (0.2, 1.8)
    config.model = capsnet.Config.preset("cifar10")
    config.loss = margin.Config.preset("authors_code")
    if quick:
        variants.quicken(config, 100)
    return config
