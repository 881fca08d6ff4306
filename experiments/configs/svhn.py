"""SVHN's cropped digits: the smaller CapsNet of the paper's section 7.

32x32 colour images; 64 channels in the first convolution, 16 types of 6-D primary
capsules (8x8x16 = 1,024 capsules), 8-D class capsules; the 73,257 training images
without the extra ones. Needs the data set, which
``python -m experiments.prepare_data --dataset=svhn_cropped`` makes.

    python -m experiments.train --config=experiments/configs/svhn.py --workdir=DIR

The paper reports 4.3 % test error. It gives no further details, and the authors
released no code for SVHN; the rest is our interpretation. The settings are those of
``mnist.py:paper``: the paper speaks of the same architecture, so the decoder stays
(4,720,480 parameters, 1,004,896 without it), and a run takes as many steps. Images are
not shifted, which the paper does to MNIST only, and not standardised, because a decoder
cannot reproduce standardised images. Set ``--config.data.validation_examples=0`` to
train on all 73,257 images.

300,000 steps are for GPUs. ``svhn.py:quick`` is a much smaller network for trying
things out.

References:
    Sabour, Frosst and Hinton 2017, section 7.
"""

from capsjax.config import Config
from capsjax.models.capsules import capsnet
from experiments.configs import variants


def get_config(words: str = "") -> Config:
    """The config; ``words`` may be ``"quick"``."""
    _, quick = variants.parse(words, presets=())
    config = Config()
    config.data.name = "svhn_cropped"
    config.num_epochs = 600
    config.max_steps = 300_000
    config.checkpoint_every_steps = 200
    config.augment.shift = 0
    config.model = capsnet.Config.preset("svhn")
    if quick:
        config.max_steps = 100
        config.optimizer.decay_steps = 10
        config.model = config.model.smaller("quick")
    return config
