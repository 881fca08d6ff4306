"""Capsules with inverted dot-product attention on a residual network, on CIFAR-10.

1,828,817 parameters, on images that are shifted by up to 4 pixels and flipped. The data
set is made by ``python -m experiments.prepare_data --dataset=cifar10``.

    python -m experiments.train --config=experiments/configs/inverted_attention.py \
        --workdir=DIR

The authors report 94.85 % accuracy, the mean of several runs of which the best has
95.14 %; and 94.73 % with one pass of routing (``--config.model.routing.iterations=1``).
They train with SGD, momentum and weight decay; here it is Adam, whose learning rate
falls to a hundredth in as many epochs, so expect somewhat less. The released code mixes
places with elements of poses in its convolutional layers; this network does not.
``--config.model.schedule=sequential`` makes all passes of a layer before those of the
next.

350 epochs are for GPUs. ``inverted_attention.py:quick`` is a much smaller network for
trying things out.

References:
    Tsai, Srivastava, Goh and Salakhutdinov 2020, "Capsules with Inverted Dot-Product
    Attention Routing", section 4.
"""

from capsjax.config import Config
from capsjax.losses import cross_entropy
from capsjax.models.capsules import inverted_attention_capsnet
from experiments.configs import variants


def get_config(words: str = "") -> Config:
    """The config; ``words`` may be ``"quick"``."""
    _, quick = variants.parse(words, presets=())
    config = Config()
    config.data.name = "cifar10"
    config.num_epochs = 350
    config.checkpoint_every_steps = 1_000
    config.preprocess.standardize = True
    config.augment.shift = 4
    config.augment.flip = True
    config.model = inverted_attention_capsnet.Config.preset("cifar10")
    config.loss = cross_entropy.Softmax()
    config.optimizer.decay_rate = 0.01
    config.optimizer.decay_steps = 122_500  # 350 epochs of 45,000 images.
    if quick:
        config.max_steps = 100
        config.optimizer.decay_steps = 10
        config.model = config.model.smaller("quick")
    return config
