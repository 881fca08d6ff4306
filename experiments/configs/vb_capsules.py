"""Capsules with variational Bayes routing on smallNORB.

    python -m experiments.train --config=experiments/configs/vb_capsules.py \
        --workdir=DIR

68,714 parameters in the network of matrix capsules, with batch normalisation in place
of biases. The released code's notes give 98.7 % test accuracy. It trains for 300 epochs
of 128 images with the cross entropy of the activations; here the loss is the spread
loss, with which the network of matrix capsules is trained. Random 32x32 patches of
48x48 pixels, the central one in the test.

``vb_capsules.py:large`` has 169,642 parameters. ``quick`` is a much smaller network for
trying things out.

References:
    Ribeiro, Leontidis and Kollias 2020, "Capsule Routing via Variational Bayes";
    github.com/fabio-deep/Variational-Capsule-Routing.
"""

from capsjax.config import Config
from capsjax.losses import spread
from capsjax.models.capsules import vb_capsules
from experiments.configs import variants


def get_config(words: str = "") -> Config:
    """The config; ``words`` are a preset (``"released"`` if none) and maybe quick."""
    preset, quick = variants.parse(words, ("released", "large"))
    config = Config()
    config.data.name = "smallnorb"
    config.data.validation_examples = 2_430
    config.num_epochs = 300
    config.checkpoint_every_steps = 200
    config.preprocess.crop = 32
    config.preprocess.standardize = True
    config.augment.shift = 0
    config.augment.brightness = 63 / 255
    config.augment.contrast = (0.5, 1.5)
    config.augment.colors_before_crop = True
    config.model = vb_capsules.Config.preset(preset)
    config.loss = spread.Config(margin_steps=17_000)
    if quick:
        variants.shrink(config, "quick", cpu_steps=0)
    return config
