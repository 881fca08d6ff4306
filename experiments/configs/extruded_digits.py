"""Solid digits in three dimensions, and viewpoints that training does not have.

Digits become plates in a cube of 16x16x16 voxels, turned about random axes: by up to
30 degrees in training, by 30 to 90 in testing, see `capsjax.data.derived.extruded`.
Made of MNIST, which ``python -m experiments.prepare_data --dataset=mnist`` makes;
``--config.data.base=digits`` takes scikit-learn's digits, with fewer
``--config.data.validation_examples``.

    python -m experiments.train --config=experiments/configs/extruded_digits.py \
        --workdir=DIR

The presets:

``extruded_digits.py:cnn``, the default
    Three-dimensional convolutions, 146,090 parameters.
``extruded_digits.py:capsnet``
    CapsNet, whose convolutions see the depth as channels; without a decoder, 558,272
    parameters.

No error is published. Compare the error on the novel turns with that on the familiar
ones, of networks that are equally good on these, say at 3 % error: ``python -m
experiments.evaluate --workdir=DIR --novel_viewpoint=azimuth_familiar``. Training is
stopped by nothing of the novel turns: validation digits have familiar ones.

``quick``, as in ``extruded_digits.py:capsnet,quick``, is a much smaller network and a
hundred steps.
"""

from capsjax.config import Config
from capsjax.losses import cross_entropy
from capsjax.models.capsules import capsnet
from capsjax.models.cnns import voxel_cnn
from experiments.configs import variants


def get_config(words: str = "") -> Config:
    """The config; ``words`` are a preset (``"cnn"`` if none), and ``"quick"``."""
    preset, quick = variants.parse(words, ("cnn", "capsnet"))
    config = Config()
    config.data.name = "extruded"
    config.data.novel_viewpoint = "azimuth"
    config.augment.shift = 0
    config.num_epochs = 10
    config.checkpoint_every_steps = 200
    if preset == "cnn":
        config.model = voxel_cnn.Config()
        config.loss = cross_entropy.Softmax()
    else:
        config.model = capsnet.Config.preset("voxels")
    config.optimizer.decay_steps = 100
    if quick:
        variants.quicken(config, 100)
    return config
