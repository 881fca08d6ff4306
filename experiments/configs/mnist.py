"""MNIST: the paper's CapsNet as published and as released, and its baseline CNN.

Needs the data set, which ``python -m experiments.prepare_data --dataset=mnist`` makes.
The presets, with the error that the paper reports (table 1, 3 routing iterations with
reconstruction; on all 60,000 training images, mean of three runs):

``mnist.py:paper``
    Settings as published: 8,215,568 parameters, 0.25 % test error.
``mnist.py:authors_code``
    Settings of the code that the authors released: 8,215,728 parameters.
``mnist.py:baseline``
    The baseline CNN, 35,445,522 parameters, 0.39 % test error.

    python -m experiments.train --config=experiments/configs/mnist.py:authors_code \
        --workdir=DIR

A run as long as the released code's takes 300,000 steps, 699 epochs of 429 steps here:
that is for GPUs. A short one for a CPU, with smaller batches and a faster decay,

    --config.num_epochs=3 --config.batch_size=32 --config.optimizer.decay_steps=100

gave ``authors_code`` 0.74 % test error in 47 minutes on two busy cores
(results/training.md). Set ``--config.data.validation_examples=0`` to train on all
60,000 images as the paper does. ``quick``, as in ``mnist.py:paper,quick``, is a much
smaller network and ends in about a minute; ``cpu`` is one a sixteenth as costly, for
5,000 steps of 64 images.

References:
    Sabour, Frosst and Hinton 2017, "Dynamic Routing Between Capsules", section 5.
"""

from capsjax.config import Config
from capsjax.losses import cross_entropy, margin
from capsjax.models.capsules import capsnet
from capsjax.models.cnns import baseline_cnn
from experiments.configs import variants

SIZES = ("quick", "cpu")


def get_config(words: str = "") -> Config:
    """The config; ``words`` are a preset (``"paper"`` by default) and maybe a size."""
    preset, size = variants.parse(words, ("paper", "authors_code", "baseline"), SIZES)
    config = Config()
    variants.train_as_released(config)
    if preset == "baseline":
        config.model = baseline_cnn.Config.preset("paper")
        config.loss = cross_entropy.Softmax()
    else:
        config.model = capsnet.Config.preset(preset)
        config.loss = margin.Config.preset(preset)
    if size:
        variants.shrink(config, size, cpu_steps=5_000)
    return config
