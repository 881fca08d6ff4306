"""A small CapsNet on scikit-learn's digits: the run of ``make demo``.

1,797 real handwritten digits of 8x8 pixels that come with scikit-learn, so nothing is
downloaded. The network is the paper's with kernels and sizes to fit.

    python -m experiments.train --config=experiments/configs/digits.py --workdir=DIR

Expect 0.7 % test error (mean of three seeds) after half a minute on two CPU cores; see
results/training.md.

``digits.py:quick`` ends within seconds and is for trying things out.
"""

from capsjax.config import Config
from capsjax.models.capsules import capsnet
from experiments.configs import variants


def get_config(words: str = "") -> Config:
    """The config; ``words`` may be ``"quick"``."""
    _, quick = variants.parse(words, presets=())
    config = Config()
    config.data.name = "digits"
    config.data.validation_examples = 180
    config.augment.shift = 1
    config.batch_size = 64
    config.num_epochs = 40
    config.log_every_steps = 19  # One row for each epoch.
    config.model = capsnet.Config.preset("digits_quick" if quick else "digits")
    # As strong for each pixel as the paper's on its 784 pixels.
    config.loss.reconstruction_weight = 0.0005 * 784 / 64
    config.optimizer.learning_rate = 3e-3
    config.optimizer.decay_steps = 30
    if quick:
        config.num_epochs = 2
    return config
