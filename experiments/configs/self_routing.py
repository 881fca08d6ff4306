"""Self-routing capsules on a residual network, on CIFAR-10 and SVHN.

    python -m experiments.train --config=experiments/configs/self_routing.py \
        --workdir=DIR

The presets, both with 931,664 parameters; the data set is made by
``python -m experiments.prepare_data --dataset=cifar10``, or ``svhn_cropped``:

``self_routing.py:cifar10``, the default
    Images are shifted by up to 4 pixels and flipped.
``self_routing.py:svhn``
    The 73,257 training images without the extra ones, shifted.

The paper compares with other routing, and with heads without capsules::

    --config.model.capsule_layers=2
    --config.model.routing.name=dynamic
    --config.model.routing.name=em --config.model.matrices=true
    --config.model.head=average_pooling --config.loss.name=cross_entropy

The last, without capsules, is ResNet-20, for which He et al. report 8.75 % test error
on CIFAR-10. The authors train with SGD, momentum and weight decay, for 350 epochs on
CIFAR-10 and 200 on SVHN; here it is Adam, whose learning rate falls to a hundredth in
as many epochs, so expect more errors. That is for GPUs. ``quick``, as in
``self_routing.py:svhn,quick``, is for trying things out.

References:
    Hahn, Pyeon and Kim 2019, "Self-Routing Capsule Networks", section 5.
"""

from capsjax.config import Config
from capsjax.losses import negative_log_likelihood
from capsjax.models.capsules import self_routing_resnet
from experiments.configs import variants


def get_config(words: str = "") -> Config:
    """The config; ``words`` are a preset (``"cifar10"`` if none) and maybe a size."""
    preset, quick = variants.parse(words, ("cifar10", "svhn"))
    config = Config()
    config.batch_size = 64
    config.checkpoint_every_steps = 1_000
    config.preprocess.standardize = True
    config.augment.shift = 4
    config.model = self_routing_resnet.Config()
    config.loss = negative_log_likelihood.Config()
    config.optimizer.decay_rate = 0.01
    if preset == "cifar10":
        config.data.name = "cifar10"
        config.num_epochs = 350
        config.augment.flip = True
        config.optimizer.decay_steps = 246_000  # 350 epochs of 45,000 images.
    else:
        config.data.name = "svhn_cropped"
        config.num_epochs = 200
        config.optimizer.decay_steps = 213_000  # 200 epochs of 68,257 images.
    if quick:
        config.max_steps = 100
        config.optimizer.decay_steps = 10
        config.model = config.model.smaller("quick")
    return config
