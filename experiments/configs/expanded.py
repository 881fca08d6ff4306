"""Expanded MNIST: digits at random places on 40x40 pixels, to be tested on affNIST.

Needs MNIST, which ``python -m experiments.prepare_data --dataset=mnist`` makes.
``python -m experiments.affnist`` tests the trained networks on digits that are also
rotated, sheared and scaled, unlike any training image. The presets:

``expanded.py:paper``
    CapsNet as published, 13,475,648 parameters.
``expanded.py:authors_code``
    The released code's CapsNet, 13,475,808 parameters.
``expanded.py:baseline``
    A CNN with pooling and dropout and about as many parameters, 13,461,006. The paper
    does not give its layers: the sizes are ours.

    python -m experiments.train --config=experiments/configs/expanded.py \
        --config.stop_at_validation_accuracy=0.9923 --config.evaluate_every_steps=100 \
        --data_dir=DATA --workdir=DIR

The paper stops both models at the same accuracy on expanded MNIST (99.23 and 99.22 %)
and finds 79 % accuracy on affNIST for CapsNet and 66 % for the CNN. ``cpu``, as in
``expanded.py:paper,cpu``, is a network a sixteenth as costly; ``quick`` ends in about a
minute.

References:
    Sabour, Frosst and Hinton 2017, section 5.2.
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
    config.data.name = "expanded"
    config.data.canvas = 40
    config.data.shift = 6
    config.augment.shift = 6
    variants.train_as_released(config)
    if preset == "baseline":
        config.model = baseline_cnn.Config.preset("expanded")
        config.loss = cross_entropy.Softmax()
    else:
        config.model = capsnet.Config.preset(preset)
        config.loss = margin.Config.preset(preset)
    if size:
        variants.shrink(config, size, cpu_steps=4_000)
    return config
