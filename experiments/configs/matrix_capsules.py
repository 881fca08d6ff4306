"""Matrix capsules with EM routing on smallNORB and MNIST.

    python -m experiments.train --config=experiments/configs/matrix_capsules.py \
        --workdir=DIR

The presets:

``matrix_capsules.py:smallnorb``, the default
    317,194 parameters; the paper reports 1.8 % test error with 3 iterations, and 1.4 %
    when several patches of each test image are averaged. No reimplementation from the
    paper alone is known to reach this. Random 32x32 patches of 48x48 pixels, the
    central one in the test.
``matrix_capsules.py:small``
    The same with 68,754 parameters, for which the paper reports 2.2 %.
``matrix_capsules.py:mnist``
    The large network on whole 28x28 images; the paper reports 0.44 %.

How long the authors trained is not published: here it is 300,000 steps of 64 images,
for GPUs. ``cpu``, as in ``matrix_capsules.py:mnist,cpu``, is the network with half of
the types for 5,000 steps; ``quick`` is for trying things out. The spread loss's margin
grows over the first third of the steps.

References:
    Hinton, Sabour and Frosst 2018, "Matrix capsules with EM routing", sections 4 and 5;
    learning rate and decay as in A. Gritzman's implementation.
"""

from capsjax.config import Config
from capsjax.losses import spread
from capsjax.models.capsules import matrix_capsules
from experiments.configs import variants

SIZES = ("quick", "cpu")


def get_config(words: str = "") -> Config:
    """The config; ``words`` are a preset (``"smallnorb"`` if none) and maybe a size."""
    preset, size = variants.parse(words, ("smallnorb", "small", "mnist"), SIZES)
    config = Config()
    config.batch_size = 64
    config.num_epochs = 900
    config.max_steps = 300_000
    config.checkpoint_every_steps = 200
    config.model = matrix_capsules.Config.preset(
        "small" if preset == "small" else "large"
    )
    config.loss = spread.Config()
    config.optimizer.learning_rate = 3e-3
    config.optimizer.decay_rate = 0.96
    config.optimizer.decay_steps = 20_000
    if preset != "mnist":
        config.data.name = "smallnorb"
        config.data.validation_examples = 2_430
        config.preprocess.crop = 32
        config.preprocess.standardize = True
        config.augment.shift = 0
        config.augment.brightness = 63 / 255
        config.augment.contrast = (0.5, 1.5)
        config.augment.colors_before_crop = True
    if size:
        variants.shrink(config, size, cpu_steps=5_000)
    config.loss.margin_steps = config.max_steps // 3
    return config
