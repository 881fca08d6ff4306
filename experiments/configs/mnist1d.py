"""Networks of one dimension on MNIST-1D, whose signals are made by formulas.

    python -m experiments.train --config=experiments/configs/mnist1d.py --workdir=DIR

4,000 signals of 40 samples, 500 of which are held out for validation, and 1,000 to test
on; nothing is downloaded. In training a signal is moved by up to 6 samples, which the
authors do not do. The presets:

``mnist1d.py:cnn``, the default
    The authors' CNN, 5,335 parameters. They report 6 % test error.
``mnist1d.py:capsnet``
    A CapsNet of one dimension.

Both end within a minute or two. ``quick``, as in ``mnist1d.py:capsnet,quick``, is a
much smaller network and ends within seconds.

References:
    Greydanus and Kobak 2024, "Scaling Down Deep Learning with MNIST-1D", section 3.
"""

from capsjax.config import Config
from capsjax.losses import cross_entropy
from capsjax.models.capsules import audio_capsnet
from capsjax.models.cnns import audio_cnn
from experiments.configs import variants


def get_config(words: str = "") -> Config:
    """The config; ``words`` are a preset (``"cnn"`` if none), and ``"quick"``."""
    preset, quick = variants.parse(words, ("cnn", "capsnet"))
    config = Config()
    config.data.name = "mnist1d"
    config.data.validation_examples = 500
    config.augment.shift = 6
    config.batch_size = 100
    config.num_epochs = 170  # 6,000 steps, as the authors train.
    config.log_every_steps = 100
    if preset == "cnn":
        config.model = audio_cnn.Config.preset("mnist1d")
        config.loss = cross_entropy.Softmax()
        config.optimizer.learning_rate = 1e-2
    else:
        config.model = audio_capsnet.Config.preset("mnist1d")
        config.num_epochs = 100
        config.optimizer.learning_rate = 5e-3
    config.optimizer.decay_rate = 0.5
    config.optimizer.decay_steps = 1_000
    if quick:
        variants.quicken(config, 20)
    return config
