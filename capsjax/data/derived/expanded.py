"""Expanded MNIST: digits at random places of a larger canvas.

References:
    Sabour, Frosst and Hinton 2017, section 5.2: "a padded and translated MNIST training
    set, in which each example is an MNIST digit placed randomly on a black background
    of 40x40 pixels".
"""

import numpy as np

from capsjax.data import names
from capsjax.data.datasets import Dataset, ImageSet
from capsjax.data.derived import canvas
from capsjax.data.source import Source
from capsjax.data.splits import SPLIT_SEED


def derive(base: Dataset, source: Source) -> Dataset:
    """Makes the data set from one of digits.

    Validation and test digits lie at fixed random places. Training digits lie in the
    middle: ``config.augment.shift`` moves them, to another place in each epoch.

    Args:
        base: digits, already split.
        source: the data set's arguments: `canvas` and `shift`, 40 and 6 in the paper.

    Raises:
        UserError: the digits do not fit on the canvas.
    """
    canvas.check(base.train, source.canvas, source.shift, f"expanded {base.name}")
    return Dataset(
        name="expanded",
        train=ImageSet(
            canvas.centre(base.train.images, source.canvas), base.train.labels
        ),
        validation=_placed(base.validation, source, seed=3),
        test=_placed(base.test, source, seed=4),
        class_names=base.class_names,
        provenance=(
            f"digits on {source.canvas}x{source.canvas}, those of validation and test "
            f"shifted by up to {source.shift} pixels; made of {base.provenance}"
        ),
        content=base.content,
        data_dir=base.data_dir,
        title=names.derived("expanded", base.title),
    )


def _placed(digits: ImageSet, source: Source, seed: int) -> ImageSet:
    rng = np.random.default_rng((SPLIT_SEED, seed))
    shifts = rng.integers(-source.shift, source.shift + 1, (len(digits), 2))
    centred = canvas.centre(digits.images, source.canvas)
    return ImageSet(canvas.shift(centred, shifts), digits.labels)
