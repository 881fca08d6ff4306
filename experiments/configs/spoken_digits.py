"""Networks of one dimension on spoken digits: CNNs and a CapsNet.

    python -m experiments.train --config=experiments/configs/spoken_digits.py \
        --config.data.path=recordings.zip --workdir=DIR

Needs the recordings of the Free Spoken Digit Dataset, the folder ``recordings`` of its
repository or a zip file of it. The test set is the official one, recordings 0 .. 4 of
each digit by each speaker; 300 of the other 2,700 are held out for validation.
``--config.data.held_out_speaker=theo`` tests on a speaker whom the network has never
heard, in place of the official split.

The presets:

``spoken_digits.py:cnn``, the default
    Three convolutions along time and their mean. 1.3 % test error (one seed, 4 of 300).
``spoken_digits.py:deeper_cnn``
    A fourth convolution, and dropout: all 300 test recordings right (one seed), within
    six minutes on one CPU core; 22 to 34 % error on a speaker who is held out.
``spoken_digits.py:capsnet``, ``spoken_digits.py:pooled_capsnet``
    CapsNet with time in place of the plane of an image, 14.0 % test error; and with
    the first convolutions and the pooling of the CNN, 2.3 % (one seed each).
``spoken_digits.py:f``, ``a_f``, ``a_b_f``, ``a_pool_b_f``
    The figure sequence that explains such networks, see
    `capsjax.models.cnns.audio_cnn`: 73.3, 8.7, 5.0 and 6.0 % test error.

In training a recording is moved by up to a tenth of a second and made louder or softer,
by the contrast: silence is black.

``quick``, as in ``spoken_digits.py:capsnet,quick``, is a much smaller network and ends
within a minute.
"""

from capsjax.config import Config
from capsjax.losses import cross_entropy
from capsjax.models.capsules import audio_capsnet
from capsjax.models.cnns import audio_cnn
from experiments.configs import variants

_CAPSNETS = {"capsnet": "audio", "pooled_capsnet": "pooled"}
_FIGURE = ("f", "a_f", "a_b_f", "a_pool_b_f")


def get_config(words: str = "") -> Config:
    """The config; ``words`` are a preset (``"cnn"`` if none), and ``"quick"``."""
    preset, quick = variants.parse(words, ("cnn", "deeper_cnn", *_CAPSNETS, *_FIGURE))
    config = Config()
    config.data.name = "spoken_digits"
    config.data.validation_examples = 300
    config.augment.shift = 800
    config.augment.contrast = (0.5, 1.5)
    config.batch_size = 32
    config.num_epochs = 40
    config.log_every_steps = 75  # One row for each epoch.
    if preset in _CAPSNETS:
        config.model = audio_capsnet.Config.preset(_CAPSNETS[preset])
        config.optimizer.learning_rate = 1e-3
    else:
        network = {"cnn": "audio", "deeper_cnn": "deeper"}.get(preset, preset)
        config.model = audio_cnn.Config.preset(network)
        config.loss = cross_entropy.Softmax(label_smoothing=0.1)
        config.optimizer.name = "adamw"
        config.optimizer.weight_decay = 0.02
        config.optimizer.learning_rate = 1e-3 if preset in _FIGURE else 3e-3
    config.optimizer.schedule = "cosine"
    config.optimizer.decay_steps = 3_000  # All epochs of 2,400 recordings.
    config.optimizer.min_learning_rate = 0.0
    config.optimizer.warmup_steps = 75
    if quick:
        variants.quicken(config, 20)
    return config
