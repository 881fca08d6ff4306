"""MultiMNIST: two overlapping digits of different classes on 36x36 pixels.

The pairs are made from MNIST during training, new ones in each epoch; needs the data
set, which ``python -m experiments.prepare_data --dataset=mnist`` makes. The presets,
with the test error that the paper reports (table 1; both digits must be right):

``multimnist.py:paper``
    Digits shifted by up to 4 pixels; CapsNet as published with 11,361,808 parameters,
    5.2 % error with 3 routing iterations, 7.5 % with 1.
``multimnist.py:authors_code``
    Shifts of up to 6 pixels, and the released code's CapsNet; 11,361,968 parameters.
``multimnist.py:baseline``
    The paper's CNN, twice as large: 24,563,978 parameters, 8.1 % error.

    python -m experiments.train --config=experiments/configs/multimnist.py \
        --data_dir=DATA --workdir=DIR

The decoder runs once for each digit, and each of its pictures is compared with that
digit alone. Validation and test pairs are fixed, one for each digit;
``--config.data.versions_per_digit=1000`` gives the paper's 10 million test pairs (which
take 39 GB of memory). A run as long as the released code's is for GPUs. ``cpu``, as in
``multimnist.py:paper,cpu``, is a network a sixteenth as costly that learns to take
digits apart within an hour on two cores; ``quick`` ends in about a minute.

References:
    Sabour, Frosst and Hinton 2017, section 6.
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
    config.data.name = "multimnist"
    config.data.canvas = 36
    config.data.shift = 6 if preset == "authors_code" else 4
    config.augment.shift = 0
    variants.train_as_released(config)
    if preset == "baseline":
        config.model = baseline_cnn.Config.preset("multimnist")
        config.loss = cross_entropy.Sigmoid()
    else:
        config.model = capsnet.Config.preset(preset)
        config.loss = margin.Config.preset(preset)
    if size:
        variants.shrink(config, size, cpu_steps=10_000)
    return config
