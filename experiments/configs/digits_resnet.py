"""A residual network with batch normalisation on scikit-learn's digits.

The form of ResNet-20, 270 thousand parameters, on 8x8 images that come with
scikit-learn, so nothing is downloaded.

    python -m experiments.train --config=experiments/configs/digits_resnet.py \
        --workdir=DIR

Expect 2.2 % test error (one seed) after two minutes on two CPU cores.

``digits_resnet.py:quick`` ends within seconds and is for trying things out.

References:
    He, Zhang, Ren and Sun 2016, "Deep Residual Learning for Image Recognition",
    section 4.2.
"""

from capsjax.config import Config
from capsjax.losses import cross_entropy
from capsjax.models.cnns import resnet
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
    # As the number above was measured.
    config.model = resnet.Config.preset("resnet20_padded_at_end")
    config.loss = cross_entropy.Softmax()
    config.optimizer.learning_rate = 3e-3
    config.optimizer.decay_steps = 30
    if quick:
        config.num_epochs = 2
        config.model = config.model.smaller("quick")
    return config
