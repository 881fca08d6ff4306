"""Faces: does a network care where the parts of a face are?

    python -m experiments.train --config=experiments/configs/faces.py --workdir=DIR

Drawn faces against drawings that lack a part: 9,000 images to train on, 1,000 for
validation and 2,000 to test on; nothing is downloaded. The presets are networks of
about the same cost, trained alike, so that what they say to faces whose parts are in
wrong places can be compared (`experiments.scrambled_parts`):

``faces.py:capsnet``, the default
    The CapsNet with a quarter of the channels.
``faces.py:max_pooling``
    A CNN with pooling by the largest, and the mean over the image at the end, so that
    little of the places is left; half of the channels of `pooling_cnn`.
``faces.py:average_pooling``
    The same with pooling by the mean.
``faces.py:efficient_capsnet``
    Efficient-CapsNet as for MNIST.

``capsnet`` came to 1.2 % test error, and ``max_pooling`` to 3.9 %, in 9 and 8 minutes
on a core that others used, too. ``quick``, as in ``faces.py:max_pooling,quick``, is a
much smaller network and a hundred steps.
"""

from capsjax.config import Config
from capsjax.losses import cross_entropy
from capsjax.models.capsules import capsnet, efficient_capsnet
from capsjax.models.cnns import pooling_cnn
from experiments.configs import variants

PRESETS = ("capsnet", "max_pooling", "average_pooling", "efficient_capsnet")


def get_config(words: str = "") -> Config:
    """The config; ``words`` are a preset (``"capsnet"`` if none), and ``"quick"``."""
    preset, quick = variants.parse(words, PRESETS)
    config = Config()
    config.data.name = "faces"
    config.data.validation_examples = 1_000
    config.augment.shift = 1
    config.batch_size = 64
    config.num_epochs = 12
    config.checkpoint_every_steps = 500
    if preset == "capsnet":
        config.model = capsnet.Config.preset("paper").smaller("cpu")
    elif preset == "efficient_capsnet":
        config.model = efficient_capsnet.Config.preset("mnist")
    else:
        config.model = pooling_cnn.Config.preset(preset.removesuffix("_pooling"))
        config.model = config.model.smaller("cpu")
        config.loss = cross_entropy.Softmax()
    config.optimizer.decay_rate = 0.85
    config.optimizer.decay_steps = 140  # An epoch of 9,000 images.
    if quick:
        variants.quicken(config, 100)
    return config
