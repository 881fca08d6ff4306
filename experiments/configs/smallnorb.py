"""smallNORB: the CapsNet of the paper's section 7, and the tests on novel viewpoints.

Both cameras as two channels, halved to 48x48 pixels; random 32x32 crops in training,
the central one at test time; the network is the one for MNIST. The rest as the code
that the authors released: brightness and contrast of the whole image before the crop,
standardised images, its loss and initial values, and 6,661,200 parameters. That code
decodes the standardised image, with 2,665,984 parameters more; here there is no
decoder, since its output lies in [0, 1]. Needs the data set, which
``python -m experiments.prepare_data --dataset=smallnorb`` makes.

    python -m experiments.train --config=experiments/configs/smallnorb.py --workdir=DIR

The presets:

``smallnorb.py:official``, the default
    All photographs; the paper reports 2.7 % test error.
``smallnorb.py:azimuth``, ``smallnorb.py:elevation``
    Trains on a third of the viewpoints and tests on the others, as the paper on EM
    routing does for other networks; no error of this network is published. Compare it
    with the error on the familiar viewpoints:
    ``python -m experiments.evaluate --workdir=DIR --novel_viewpoint=azimuth_familiar``
    (or ``elevation_familiar``).

A tenth of the training photographs is held out. They show the toys of the training set,
the test photographs show others, so the error is smaller on them.

How long the authors trained on smallNORB is not published; these are 300,000 steps, as
in their code for MNIST: that is for GPUs. ``quick``, as in ``smallnorb.py:quick`` or
``smallnorb.py:azimuth,quick``, is a much smaller network for trying things out.

References:
    Sabour, Frosst and Hinton 2017, section 7; Hinton, Sabour and Frosst 2018, "Matrix
    capsules with EM routing", section 5.1 (novel viewpoints).
"""

from capsjax.config import Config
from capsjax.losses import margin
from capsjax.models.capsules import capsnet
from experiments.configs import variants


def get_config(words: str = "") -> Config:
    """The config; ``words`` are a preset (``"official"`` if none) and maybe quick."""
    preset, quick = variants.parse(words, ("official", "azimuth", "elevation"))
    config = Config()
    config.data.name = "smallnorb"
    config.data.validation_examples = 2_430
    config.num_epochs = 1_800
    config.max_steps = 300_000
    config.checkpoint_every_steps = 200
    config.preprocess.crop = 32
    config.preprocess.standardize = True
    config.augment.shift = 0
    config.augment.brightness = 63 / 255
    config.augment.contrast = (0.2, 1.8)
    config.augment.colors_before_crop = True
    config.model = capsnet.Config.preset("smallnorb")
    config.loss = margin.Config.preset("authors_code")
    if preset != "official":
        config.data.novel_viewpoint = preset
        # A third of the photographs, so three times the epochs for as many steps.
        config.data.validation_examples = 810
        config.num_epochs = 5_400
    if quick:
        variants.quicken(config, 100)
    return config
