"""The CNNs of fractional max pooling, for MNIST and CIFAR-10.

    python -m experiments.train --config=experiments/configs/fractional_max_pooling.py \
        --workdir=DIR

The presets:

``fractional_max_pooling.py:mnist``, the default
    519,946 parameters, trained without augmentation or dropout. The paper reports
    0.44 % test error for one pass through the network, and 0.34 % for the mean of 12.
``fractional_max_pooling.py:cifar10``
    3,176,490 parameters, a fifth of the paper's channels, on 94x94 pixels; images are
    mirrored, rotated, scaled, sheared and shifted. The paper's largest network
    (``--config.model.channels=160 --config.model.dropout_rate=0.5``) has 4.50 % error
    for one pass and 3.67 % for 12. Meant for a GPU.

Evaluation takes fixed regions. ``quick`` is a much smaller network for trying things
out.

References:
    Graham 2014, "Fractional Max-Pooling".
"""

from capsjax.config import Config
from capsjax.losses import cross_entropy
from capsjax.models.cnns import fractional_max_pooling
from experiments.configs import variants


def get_config(words: str = "") -> Config:
    """The config; ``words`` are a preset (``"mnist"`` by default) and maybe a size."""
    preset, quick = variants.parse(words, ("mnist", "cifar10"))
    config = Config()
    config.data.name = preset
    config.augment.shift = 0
    config.num_epochs = 20
    config.checkpoint_every_steps = 200
    config.model = fractional_max_pooling.Config.preset(preset)
    config.loss = cross_entropy.Softmax()
    config.optimizer.decay_rate = 0.8
    config.optimizer.decay_steps = 430  # An epoch of 55,000 images.
    if preset == "cifar10":
        config.augment.rotation = 11.0
        config.augment.scale = (0.8, 1.2)
        config.augment.shear = 0.2
        config.augment.shift = 3
        config.augment.flip = True
        config.num_epochs = 200
        config.optimizer.decay_rate = 0.975
        config.optimizer.decay_steps = 352  # An epoch of 45,000 images.
    if quick:
        variants.quicken(config, 100)
    return config
