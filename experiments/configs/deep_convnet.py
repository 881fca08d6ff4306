"""The deep CNN of a textbook on MNIST, as its authors train it.

    python -m experiments.train --config=experiments/configs/deep_convnet.py \
        --workdir=DIR

123,552 parameters, 20 epochs of batches of 100 without augmentation; the book reports
0.62 % test error, of a network that was chosen with the test images. Here 5,000
training images are held out instead.

``deep_convnet.py:annealed`` lets the learning rate fall by a fifth with every epoch,
which the book names among the ways to a better network. ``quick`` is a much smaller
network and ends within a minute.

References:
    Saitoh 2016, "Deep Learning from Scratch", section 8.1.
"""

from capsjax.config import Config
from capsjax.losses import cross_entropy
from capsjax.models.cnns import deep_convnet
from experiments.configs import variants


def get_config(words: str = "") -> Config:
    """The config; ``words`` may be ``"annealed"``, and ``"quick"``."""
    preset, quick = variants.parse(words, ("textbook", "annealed"))
    config = Config()
    config.augment.shift = 0
    config.batch_size = 100
    config.num_epochs = 20
    config.checkpoint_every_steps = 500
    config.model = deep_convnet.Config()
    config.loss = cross_entropy.Softmax()
    config.optimizer.learning_rate = 1e-3
    config.optimizer.decay_rate = 0.8 if preset == "annealed" else 1.0
    config.optimizer.decay_steps = 550  # An epoch of 55,000 images.
    if quick:
        variants.quicken(config, 100)
    return config
